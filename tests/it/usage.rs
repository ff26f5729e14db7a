//! What the program says to somebody who uses it wrongly: which code it ends with, and whether the message helps.

use std::net::TcpListener;
use std::os::unix::fs::symlink;

use crate::serve::Serving;
use crate::support::app::{App, text, wait_for};

const HEADER: &str = "timestamp,metric_name,uuid,value\n";

/// A streamer that never gets as far as its queue.
fn app() -> App {
    App::new("redis://127.0.0.1:1", "")
}

#[test]
fn a_rejects_file_that_is_an_input_is_refused_under_every_name() {
    let app = app();
    let path = |name: &str| app.dir.path().join(name);
    let data = HEADER.to_owned() + "short\n";
    std::fs::create_dir(path("exports")).unwrap();
    std::fs::write(path("exports/a.csv"), &data).unwrap();
    std::fs::hard_link(path("exports/a.csv"), path("hard")).unwrap();
    symlink(path("exports/a.csv"), path("soft")).unwrap();
    for rejects in ["exports/a.csv", "./exports/../exports/a.csv", "hard", "soft"] {
        for input in ["exports/a.csv", "hard", "soft", "exports", "exports/*.csv", "ex*/a.csv"] {
            for more in [&[][..], &["--follow", "--admin-listen", "off"]] {
                let done = app.run(&[&["stream", "--csv", input, "--rejects", rejects], more].concat());
                done.exits(2).says(&["stream.rejects (--rejects)", rejects, input, "a file of their own"]);
            }
        }
    }
    // One that does not exist yet would be taken in by following it.
    let follow = ["stream", "--follow", "--admin-listen", "off", "--csv", "new.csv", "--rejects", "./new.csv"];
    app.run(&follow).exits(2).says(&["new.csv", "the input `new.csv` itself"]);
    let mut command = app.command(&["stream", "--csv", "-", "--rejects", "hard"]);
    let output = command.stdin(std::fs::File::open(path("exports/a.csv")).unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_to_string(path("exports/a.csv")).unwrap(), data, "nothing was added to the data");
    assert!(!path("new.csv").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_rejects_in_a_followed_directory_is_never_read_whatever_it_is_called() {
    let app = App::new("", "");
    let exports = app.dir.path().join("exports");
    std::fs::create_dir(&exports).unwrap();
    std::fs::write(exports.join("a.csv"), HEADER.to_owned() + "2025-07-18T20:42:34Z,M,GPU-1,1\nshort\n").unwrap();
    let rejects = exports.join("rejects.csv");
    std::fs::write(&rejects, "").unwrap();
    std::fs::hard_link(&rejects, exports.join("another.csv")).unwrap();
    let arguments = ["all", "--csv", text(&exports), "--follow", "--rejects", text(&rejects)];
    let serving = Serving::start(app, &arguments).await;
    let pipeline = || serving.ask("/api/v1/pipeline").json();
    wait_for("the row", || async { pipeline()["sources"].as_array().is_some_and(|sources| !sources.is_empty()) }).await;
    // A file that comes after it: by the time that one is stored, the rejects were found by several scans.
    wait_for("the reject", || async { std::fs::read_to_string(&rejects).unwrap().contains("short_row") }).await;
    std::fs::write(exports.join("z.csv"), HEADER.to_owned() + "2025-07-18T20:42:35Z,M,GPU-2,1\n").unwrap();
    wait_for("the next file", || async { pipeline()["sources"].as_array().is_some_and(|sources| sources.len() >= 2) }).await;
    assert_eq!(pipeline()["sources"].as_array().unwrap().len(), 2, "{}", pipeline());
}

#[test]
fn what_a_flag_wants_is_said() {
    let app = app();
    let address = "127.0.0.1:8080, 0.0.0.0:8080";
    for (arguments, words) in [
        (&["serve", "--listen", "localhost:8081"][..], &["localhost:8081", "IP:PORT", address][..]),
        (&["all", "--listen", ":80"], &[":80", "IP:PORT", address]),
        (&["demo", "--listen", "80"], &["IP:PORT", address]),
        (&["stream", "--csv", "a", "--rate", "abc"], &["abc", "whole number of rows per second", "5000"]),
        (&["generate", "--start", "yesterday"], &["yesterday", "RFC 3339", "2025-01-01T00:00:00Z"]),
        (&["dead-letters", "retry"], &["IDS", "--all"]),
        (&["dead-letters", "drop", "1", "--all"], &["--all", "cannot be used with"]),
        (&["stream", "--csv", "none*.csv"], &["none*.csv matches no file", "--follow"]),
        (&["stream", "--csv", "."], &[". is an empty directory", "--follow"]),
    ] {
        let done = app.run(arguments);
        assert_eq!(done.code, Some(if words[0].contains(['*', '.']) && arguments[0] == "stream" { 1 } else { 2 }), "{done:?}");
        done.says(words);
    }
}

#[test]
fn a_port_that_is_taken_is_2_for_every_role() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let app = App::new("redis://127.0.0.1:1", "postgres://u@127.0.0.1:1/d");
    for role in ["collect", "probe", "serve", "all"] {
        let done = app.run(&[role, "--admin-listen", &address]).exits(2);
        done.says(&["admin.listen (--admin-listen)", "cannot listen on", &address]);
    }
}

#[test]
fn a_check_of_a_wrong_configuration_is_2_and_says_it_once() {
    for (redis, database, key) in [
        ("", "http://u@h/d", "postgres.url"),
        ("http://h", "", "redis.url"),
        ("", "postgres://u@127.0.0.1:1/d?sslmode=never", "postgres.url"),
        ("redis://127.0.0.1:1", "http://u@h/d", "postgres.url"),
    ] {
        let app = App::new(redis, database);
        for form in [&["check"][..], &["check", "--json"]] {
            let done = app.run(form).exits(2);
            let shown = done.stdout.clone() + &done.stderr;
            assert_eq!(shown.matches(key).count(), 1, "{shown}");
        }
    }
    App::new("redis://127.0.0.1:1", "").run(&["check"]).exits(1);
}

#[test]
fn config_check_says_what_it_read_and_helps_with_a_key() {
    let app = App::new("", "");
    let write = |name: &str, text: &str| std::fs::write(app.dir.path().join(name), text).unwrap();
    write("a.toml", "cluster = 'a'\n");
    write("b.toml", "cluster = 'b'\n");
    let done = app.run(&["config", "check", "--config", "a.toml", "--config", "b.toml"]).exits(0);
    assert!(done.stdout.contains("a.toml, b.toml"), "{}", done.stdout);
    let done = app.run(&["config", "check"]).exits(0);
    assert!(done.stdout.contains("no file"), "{}", done.stdout);
    write("c.toml", "[stream]\ncvs = ['/data']\n");
    app.run(&["config", "check", "--config", "c.toml"]).exits(2).says(&["did you mean `csv`?", "cvs = ['/data']"]);
    for secret in ["pasword = 'hunter2'", "apitoken = 'hunter2'", "con = 'password=hunter2'", "uri = 'redis://u:hunter2@h'"] {
        write("d.toml", &format!("[redis]\n{secret}\n"));
        let done = app.run(&["config", "check", "--config", "d.toml"]).exits(2);
        assert!(!done.stderr.contains("hunter2") && done.stderr.contains("<redacted>"), "{}", done.stderr);
    }
}

#[test]
fn a_log_in_json_ends_in_json() {
    let app = App::new("", "");
    let csv = app.dir.path().join("bad.csv");
    std::fs::write(&csv, "no header\n").unwrap();
    let json = ["--log-format", "json"];
    for (app, arguments, words) in [
        (&app, &["serve"][..], "postgres.url is not set"),
        (&app, &["stream", "--config", "gone.toml"], "gone.toml"),
        (&app, &["stream", "--csv", "gone\n.csv"], "redis.url"),
    ] {
        let done = app.run(&[arguments, &json].concat());
        assert!(!done.stderr.is_empty());
        let lines: Vec<serde_json::Value> =
            done.stderr.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{}", done.stderr))).collect();
        let last = lines.last().unwrap();
        assert_eq!(last["level"], "ERROR");
        assert!(last["message"].as_str().unwrap().contains(words) && last["timestamp"].is_string(), "{last}");
    }
    let done = App::new("", "").with("TELEMETRY__LOG__FORMAT", "json").run(&["serve"]).exits(2);
    assert!(done.stderr.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{}", done.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_says_what_it_cannot_read_until_its_end() {
    let app = App::new("", "");
    std::fs::write(app.dir.path().join("bad.csv"), "a;b\n").unwrap();
    std::fs::write(app.dir.path().join("only-a-header.csv"), HEADER).unwrap();
    let listen = format!("127.0.0.1:{}", crate::support::postgres::free_port());
    let mut role = app.start(&["all", "--csv", "bad.csv", "only-a-header.csv", "--listen", &listen]);
    wait_for("the fault in /readyz", || async {
        role.get("/readyz").is_some_and(|(status, body)| status == 503 && body.contains("input: 1 of the 2 sources could not"))
    })
    .await;
    role.signal("TERM");
    assert_eq!(role.wait(), 1, "{}", role.log());
    assert!(role.log().contains("WARN") && role.log().contains("only-a-header.csv has a header and no rows"), "{}", role.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_without_input_serves_what_is_stored_and_says_so() {
    let mut serving = Serving::start(App::new("", ""), &["all"]).await;
    assert!(serving.role.log().contains("WARN"), "{}", serving.role.log());
    assert!(serving.role.log().contains("nothing to stream (--csv is not given)"), "{}", serving.role.log());
    serving.role.signal("TERM");
    assert_eq!(serving.role.wait(), 0);
}
