//! The real program: exit codes and what it says. The roles' own behaviour is tested with the roles.

use std::net::TcpListener;
use std::process::{Command, Output};

fn telemetry() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetry"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["TELEMETRY_", "REDIS_", "DATABASE_", "DB_", "CLUSTER_NAME"].iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let output = telemetry().args(arguments).envs(variables.iter().copied()).output().expect("the program starts");
    said(output)
}

fn said(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it says UTF-8");
    (output.status.code().expect("it exits"), text(output.stdout), text(output.stderr))
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    for arguments in [&[][..], &["no-such-command"], &["stream", "--no-such-flag"], &["replay"], &["stream", "--until", "never"]]
    {
        let (code, _, stderr) = run(arguments, &[]);
        assert_eq!(code, 2, "{arguments:?}: {stderr}");
        assert!(!stderr.is_empty());
    }
    let (code, stdout, _) = run(&["stream", "--help"], &[]);
    assert!(code == 0 && stdout.contains("--csv") && stdout.contains("Examples"), "{stdout}");
    assert_eq!(run(&["--version"], &[]).0, 0);
}

#[test]
fn global_flags_work_before_and_after_the_command() {
    for arguments in [["--log-level", "debug", "config", "show"], ["config", "show", "--log-level", "debug"]] {
        let (code, stdout, stderr) = run(&arguments, &[]);
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains("level = \"debug\"") && stdout.contains("# --log-level"), "{stdout}");
    }
}

#[test]
fn a_broken_configuration_is_2_in_one_clear_message() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.toml");
    std::fs::write(&path, "[redis]\npasword = 'hunter2'\n").unwrap();
    let (code, stdout, stderr) = run(&["config", "check", "--config", path.to_str().unwrap()], &[]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    for word in ["error: ", "edge.toml", "line 2, column 1", "^^^^^^^", "did you mean `password`"] {
        assert!(stderr.contains(word), "{word}: {stderr}");
    }
    assert!(!stderr.contains("hunter2"), "{stderr}");

    let (code, _, stderr) = run(&["config", "check"], &[("TELEMETRY__BATCH__MAX_ROWS", "many")]);
    assert!(code == 2 && stderr.contains("TELEMETRY__BATCH__MAX_ROWS") && stderr.starts_with("error: "), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");

    let (code, _, stderr) = run(&["config", "check"], &[("REDIS_URL", "http://u:hunter2@x")]);
    assert!(code == 2 && stderr.contains("REDIS_URL") && !stderr.contains("hunter2"), "{stderr}");
    assert_eq!(run(&["config", "check"], &[("REDIS_URL", "redis://x")]).0, 0);
}

#[test]
fn secrets_are_in_no_output() {
    let variables =
        [("REDIS_URL", "redis://u:hunter2@h"), ("REDIS_PASSWORD", "hunter2"), ("DATABASE_URL", "postgres://u:hunter2@h/d")];
    let (code, stdout, stderr) = run(&["config", "show"], &variables);
    assert!(code == 0 && stdout.contains("<redacted>"), "{stderr}");
    assert!(!stdout.contains("hunter2") && !stderr.contains("hunter2"), "{stdout}{stderr}");
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let variables = [("REDIS_URL", "redis://127.0.0.1:1"), ("DATABASE_URL", "postgres://u@127.0.0.1:1/d")];
    let (code, _, stderr) = run(&["collect", "--admin-listen", &address], &variables);
    assert_eq!(code, 2, "{stderr}");
    for word in ["error: ", "admin.listen", "--admin-listen", &address] {
        assert!(stderr.contains(word), "{word}: {stderr}");
    }
}

#[test]
fn schema_and_completions_need_no_configuration() {
    let broken = [("TELEMETRY__NO__SUCH", "1")];
    let (code, stdout, _) = run(&["config", "schema"], &broken);
    assert_eq!(code, 0);
    let schema: serde_json::Value = serde_json::from_str(&stdout).expect("it is JSON");
    assert_eq!(schema["properties"]["batch"]["properties"]["max_rows"]["default"], 65_536);
    assert_eq!(schema["additionalProperties"], false);
    let (code, stdout, _) = run(&["completions", "bash"], &broken);
    assert!(code == 0 && stdout.contains("dead-letters"));
}

#[test]
fn an_error_about_a_name_stays_on_its_line_and_rings_no_bell() {
    let (code, _, stderr) = run(&["stream", "--csv", "no\nerror: forged\u{1b}[2J\u{7}"], &[("REDIS_URL", "redis://127.0.0.1:1")]);
    assert_ne!(code, 0);
    assert!(!stderr.contains(['\u{1b}', '\u{7}']) && !stderr.lines().any(|line| line.starts_with("error: forged")), "{stderr:?}");
}
