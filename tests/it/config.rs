//! Layers, strictness, secrets, and the files and documents that are shipped.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use secrecy::ExposeSecret;
use telemetry::config::{self, Config, ConfigError, Flag, WELL_KNOWN};
use telemetry::roles::reference;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn from_variables(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    config::load(&[], variables(pairs), &[])
}

fn from_text(text: &str) -> Result<Config, ConfigError> {
    let (_directory, path) = written(text);
    config::load(&[path], [], &[])
}

fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.toml");
    std::fs::write(&path, text).unwrap();
    (directory, path)
}

#[test]
fn each_layer_goes_before_the_one_below_it() {
    let (_a, first) = written("cluster = 'file'\n[batch]\nmax_rows = 1\nin_flight = 1\nmax_age = '1s'\nmax_bytes = 2048\n");
    let (_b, second) = written("# a comment\n\n[batch]\nin_flight = 2\nmax_age = '2s'\nmax_bytes = '2KiB'\n");
    let environment = variables(&[("TELEMETRY__BATCH__MAX_AGE", "3s"), ("TELEMETRY__BATCH__MAX_BYTES", "3KiB")]);
    let flags = [Flag { key: "batch.max_bytes", name: "--max-bytes", value: "4KiB".into() }];
    let config = config::load(&[first.clone(), second.clone()], environment, &flags).unwrap();

    let batch = &config.batch;
    assert_eq!((batch.max_rows, batch.in_flight, batch.max_age.as_secs(), batch.max_bytes), (1, 2, 3, 4096));
    assert_eq!(batch.compression_level, 3);
    assert_eq!(config.cluster, "file");
    let origin = |key: &str| config.origin(key).to_string();
    assert_eq!(origin("batch.max_rows"), format!("{}:3", first.display()));
    assert_eq!(origin("batch.in_flight"), format!("{}:4", second.display()));
    assert_eq!(origin("batch.max_age"), "TELEMETRY__BATCH__MAX_AGE");
    assert_eq!(origin("batch.max_bytes"), "--max-bytes");
    assert_eq!(origin("batch.compression_level"), "default");
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let config = from_variables(&[("REDIS_URL", ""), ("TELEMETRY__BATCH__MAX_ROWS", ""), ("CLUSTER_NAME", "")]).unwrap();
    assert_eq!(config.cluster, "default");
    let error = config.redis().unwrap_err().to_string();
    assert!(error.contains("REDIS_URL"), "{error}");
    let error = config.postgres().unwrap_err().to_string();
    assert!(error.contains("DATABASE_URL"), "{error}");
}

#[test]
fn a_password_of_digits_stays_text() {
    let config = from_variables(&[("REDIS_URL", "redis://h"), ("REDIS_PASSWORD", "0123"), ("REDIS_USERNAME", "5")]).unwrap();
    let redis = config.redis().unwrap();
    assert_eq!(redis.password.unwrap().get().expose_secret(), "0123");
    assert_eq!(redis.username.as_deref(), Some("5"));
}

#[test]
fn a_key_s_own_variable_goes_before_the_well_known_one() {
    let config = from_variables(&[("TELEMETRY__CLUSTER", "own"), ("CLUSTER_NAME", "known")]).unwrap();
    assert_eq!(config.cluster, "own");
}

#[test]
fn lists_in_variables_have_two_spellings() {
    for text in ["a.csv,b c.csv", "a.csv, b c.csv", r#"["a.csv", "b c.csv"]"#] {
        assert_eq!(from_variables(&[("TELEMETRY__STREAM__CSV", text)]).unwrap().stream.csv, ["a.csv", "b c.csv"]);
    }
    assert_eq!(from_variables(&[("TELEMETRY__STREAM__CSV", "[ab]*.csv")]).unwrap().stream.csv, ["[ab]*.csv"]);
}

#[test]
fn password_files_are_read_without_their_line_end_and_named_when_they_cannot_be() {
    let (_directory, path) = written("hunter2\n");
    let path = path.to_str().unwrap();
    let config = from_variables(&[("DATABASE_URL", "postgres://u@h/d"), ("DB_PASSWORD_FILE", path)]).unwrap();
    assert_eq!(config.postgres().unwrap().password.unwrap().get().expose_secret(), "hunter2");

    let config = from_variables(&[("REDIS_URL", "redis://h"), ("REDIS_PASSWORD_FILE", "/no/such/file")]).unwrap();
    let error = config.redis().unwrap_err().to_string();
    assert!(error.contains("REDIS_PASSWORD_FILE") && error.contains("/no/such/file"), "{error}");
}

#[test]
fn the_consumer_s_name_is_its_own_and_stays() {
    let one = from_variables(&[("REDIS_URL", "redis://h")]).unwrap();
    let two = from_variables(&[("REDIS_URL", "redis://h")]).unwrap();
    assert_eq!(one.redis().unwrap().consumer, one.redis().unwrap().consumer);
    assert_ne!(one.redis().unwrap().consumer, two.redis().unwrap().consumer);
}

/// What is set, and what the refusal must say.
const REFUSED: &[(&str, &str, &[&str])] = &[
    ("TELEMETRY_REDIS_PARTITIONS", "3", &["TELEMETRY_REDIS_PARTITIONS", "did you mean TELEMETRY__REDIS__PARTITIONS?"]),
    ("TELEMETRY__BATCH__MAX_ROWS", "0", &["batch.max_rows", "TELEMETRY__BATCH__MAX_ROWS", "0"]),
    ("TELEMETRY__BATCH__MAX_ROWS", "many", &["TELEMETRY__BATCH__MAX_ROWS", "many", "whole number"]),
    ("TELEMETRY__BATCH__MAX_ROWS", "-1", &["TELEMETRY__BATCH__MAX_ROWS", "-1"]),
    ("TELEMETRY__BATCH__MAX_ROWS", "99999999999999999999", &["TELEMETRY__BATCH__MAX_ROWS"]),
    ("TELEMETRY__BATCH__MAX_AGE", "5", &["TELEMETRY__BATCH__MAX_AGE", "duration"]),
    ("TELEMETRY__BATCH__MAX_AGE", "0s", &["batch.max_age", "too short"]),
    ("TELEMETRY__BATCH__MAX_BYTES", "a lot", &["TELEMETRY__BATCH__MAX_BYTES", "size"]),
    ("TELEMETRY__BATCH__COMPRESSION_LEVEL", "23", &["batch.compression_level", "1 to 22"]),
    ("TELEMETRY__REDIS__PARTITIONS", "0", &["redis.partitions", "1 to 1024"]),
    ("TELEMETRY__REDIS__PARTITIONS", "70000", &["TELEMETRY__REDIS__PARTITIONS"]),
    ("TELEMETRY__REDIS__PREFIX", "a{b}", &["redis.prefix"]),
    ("TELEMETRY__REDIS__RECONNECT_MIN", "1h", &["redis.reconnect_min", "redis.reconnect_max"]),
    ("TELEMETRY__STREAM__FOLLOW", "perhaps", &["TELEMETRY__STREAM__FOLLOW", "perhaps", "true"]),
    ("TELEMETRY__STREAM__UNTIL", "doomsday", &["TELEMETRY__STREAM__UNTIL", "queued", "stored"]),
    ("TELEMETRY__STREAM__MAX_CELL_BYTES", "1GiB", &["stream.max_cell_bytes"]),
    ("TELEMETRY__LOG__LEVEL", "loud", &["log.level", "loud", "debug"]),
    ("TELEMETRY__ADMIN__LISTEN", "9464", &["TELEMETRY__ADMIN__LISTEN", "9464", "IP:PORT"]),
    ("TELEMETRY__COLLECT__WRITERS", "0", &["collect.writers"]),
    ("TELEMETRY__NO__SUCH", "1", &["TELEMETRY__NO__SUCH", "no such key"]),
    ("TELEMETRY__BATCH__MAX_ROW", "1", &["TELEMETRY__BATCH__MAX_ROW", "did you mean TELEMETRY__BATCH__MAX_ROWS"]),
    ("CLUSTER_NAME", " a", &["cluster", "CLUSTER_NAME"]),
];

#[test]
fn a_bad_variable_is_refused_by_name() {
    for (name, value, words) in REFUSED {
        let error = from_variables(&[(name, value)]).expect_err(name).to_string();
        for word in *words {
            assert!(error.contains(word), "{name}={value}: `{word}` is missing in: {error}");
        }
    }
}

#[test]
fn a_bad_url_is_refused_by_name_and_never_printed() {
    for (name, url) in [
        ("REDIS_URL", "http://u:hunter2@x"),
        ("REDIS_URL", "hunter2"),
        ("REDIS_URL", "redis://u:hunter2@h:port"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", "rediss://u:hunter2@h:0"),
        ("REDIS_URL", "redis://u:hunter2@h\n"),
        ("DATABASE_URL", " postgres://u:hunter2@h/d"),
        ("DATABASE_URL", "mysql://u:hunter2@x/d"),
        ("DATABASE_URL", "host=h password=hunter2"),
    ] {
        let config = from_variables(&[(name, url)]).unwrap();
        let error = config.check().expect_err(url).to_string();
        assert!(error.contains(name) && !error.contains("hunter2"), "{url}: {error}");
        assert!(!config.show().contains("hunter2") && !format!("{config:?}").contains("hunter2"), "{url}");
    }
    let error = from_variables(&[("REDIS_URL", "redis://h"), ("REDIS_CA_CERT", "/ca.crt")]).unwrap().redis().unwrap_err();
    assert!(error.to_string().contains("REDIS_CA_CERT") && error.to_string().contains("TLS is off"), "{error}");
    let encrypted = from_variables(&[("REDIS_URL", "redis://h"), ("REDIS_CA_CERT", "/ca.crt"), ("REDIS_TLS_ENABLED", "true")]);
    assert!(encrypted.unwrap().redis().unwrap().tls.enabled);
}

#[test]
fn a_bad_file_is_refused_with_line_column_and_caret() {
    for (text, words) in [
        ("[batch]\nmax_row = 1\n", &["line 2, column 1", "^^^^^^^", "unknown field `max_row`", "did you mean `max_rows`"][..]),
        ("[batch]\nmax_rows = 'x'\n", &["line 2, column 12", "max_rows = 'x'", "^^^", "whole number"]),
        ("[bach]\n", &["line 1", "unknown field `bach`", "did you mean `batch`"]),
        ("batch = 3\n", &["a table"]),
        ("[batch\n", &["line 1"]),
        ("[batch]\nmax_rows = 1\nmax_rows = 2\n", &["line 3", "duplicate"]),
        ("[stream]\npoll = 5\n", &["line 2", "duration"]),
    ] {
        let error = from_text(text).expect_err(text).to_string();
        for word in words {
            assert!(error.contains(word), "{text}: `{word}` is missing in: {error}");
        }
        assert!(error.contains("t.toml"), "{error}");
    }
    let error = config::load(&[PathBuf::from("/no/such.toml")], [], &[]).unwrap_err().to_string();
    assert!(error.contains("/no/such.toml") && error.contains("cannot be read"), "{error}");
}

#[test]
fn a_limit_in_a_file_is_refused_with_file_and_line() {
    let error = from_text("\n[collect]\nwriters = 0\n").unwrap_err().to_string();
    assert!(error.contains("t.toml:3") && error.contains("collect.writers"), "{error}");
}

#[test]
fn a_file_s_secrets_are_in_no_error() {
    for text in [
        "[redis]\npasword = 'hunter2'\n",
        "[redis]\npassword = 'hunter2\n",
        "[redis]\npassword = hunter2\n",
        "[redis]\npassword = ['hunter2']\n",
        "[redis]\nurl = { hunter2 = 1 }\n",
        "redis.password = { hunter2 = 1 }\n",
        "redis = { url = 'redis://:hunter2@h', pasword = 'hunter2' }\n",
        "[redis]\nprefix = 'redis://:hunter2@h' 'x'\n",
        "[redis]\npassword = '''\nhunter2\n",
        "[redis]\npassword = 'x'\nhunter2\n",
    ] {
        let error = from_text(text).expect_err(text).to_string();
        assert!(!error.contains("hunter2"), "{text}: {error}");
        assert!(error.contains("line "), "{error}");
    }
}

#[test]
fn show_says_where_values_came_from_and_can_be_read_again() {
    let (_directory, path) = written("[collect]\nwriters = 7\n");
    let environment =
        variables(&[("REDIS_URL", "redis://u:hunter2@h:1"), ("REDIS_PASSWORD", "hunter2"), ("DB_PASSWORD", "hunter2")]);
    let shown = config::load(std::slice::from_ref(&path), environment, &[]).unwrap().show();
    assert!(!shown.contains("hunter2"), "{shown}");
    let line =
        |begin: &str| shown.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("no {begin} in {shown}"));
    assert!(line("url = \"redis://u:<redacted>@h:1\"").ends_with("# REDIS_URL"));
    assert!(line("writers = 7").ends_with(&format!("{}:2", path.display())));
    assert!(line("pool_size").ends_with("# default"));
    assert_eq!(shown.matches("password = \"<redacted>\"").count(), 2);

    let again = from_text(&shown).unwrap();
    assert_eq!(again.collect.writers, 7);
    for key in config::keys() {
        let name = key.path.rsplit('.').next().unwrap();
        let set = |line: &&str| line.starts_with(&format!("{name} = ")) || line.starts_with(&format!("# {name} is not set"));
        assert!(shown.lines().any(|line| set(&line)), "{} is not shown", key.path);
    }
}

#[test]
fn the_shipped_defaults_are_the_built_in_ones_key_by_key() {
    let shipped: toml::Table = toml::from_str(config::DEFAULT_TOML).unwrap();
    for key in config::keys() {
        let value = key.path.split('.').try_fold(toml::Value::Table(shipped.clone()), |value, part| value.get(part).cloned());
        let (section, name) = key.path.rsplit_once('.').unwrap_or(("", &key.path));
        let Some(default) = key.default else {
            assert_eq!(value, None, "{} is not set by default", key.path);
            let part = config::DEFAULT_TOML.split(&format!("[{section}]")).nth(1).unwrap_or_default();
            let part = part.split("\n[").next().unwrap_or_default();
            assert!(part.contains(&format!("\n# {name} = ")), "{} is not mentioned in config/default.toml", key.path);
            continue;
        };
        let value = value.unwrap_or_else(|| panic!("{} is missing in config/default.toml", key.path));
        let alone = |value: String| from_text(&with_section(section, &format!("{name} = {value}"))).unwrap();
        let built_in = Config::default();
        assert_eq!(masked(&alone(value.to_string())), masked(&built_in), "{}", key.path);
        assert_eq!(masked(&alone(default)), masked(&built_in), "{}", key.path);
    }
}

fn with_section(section: &str, line: &str) -> String {
    if section.is_empty() { line.to_owned() } else { format!("[{section}]\n{line}") }
}

/// The values alone: what `show` prints without the origins.
fn masked(config: &Config) -> String {
    config.show().lines().map(|line| line.split("  # ").next().unwrap_or_default().trim_end().to_owned() + "\n").collect()
}

#[test]
fn every_shipped_file_is_good() {
    let mut seen = 0;
    for directory in ["config", "examples"] {
        let Ok(entries) = std::fs::read_dir(root().join(directory)) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "toml")) {
            let config = config::load(std::slice::from_ref(&path), [], &[]).unwrap_or_else(|error| panic!("{error}"));
            config.check().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            seen += 1;
        }
    }
    assert!(seen >= 3, "config/default.toml, edge.toml and central.toml are shipped, {seen} were found");
}

#[test]
fn the_reference_is_what_the_code_says() {
    for (name, text) in reference::documents() {
        let path = root().join("docs/reference").join(name);
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(written, text, "{} is not what the code says: run `make reference`", path.display());
    }
}

#[test]
fn every_key_is_described_and_every_well_known_variable_has_one() {
    let keys = config::keys();
    for key in &keys {
        assert!(key.description.len() > 5, "{} has no description", key.path);
    }
    for (name, path) in WELL_KNOWN {
        assert!(keys.iter().any(|key| key.path == path), "{name} sets {path}, which is no key");
    }
    assert!(keys.len() > 50);
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(\\[(redis|batch|stream)\\]\n)?([a-z_.]{1,9} ?=? ?['\"\\[{]?[a-zé0-9]{0,5}['\"\\]}]?\r?\n?){0,5}") {
        let _ = from_text(&text);
    }

    #[test]
    fn no_variable_makes_the_reader_panic(name in "TELEMETRY__[A-Z_]{0,20}", value in "\\PC{0,20}") {
        let _ = from_variables(&[(&name, &value)]);
    }
}
