//! Passwords and certificates: of any characters, and changed under roles that run.

use crate::support::app::{App, text};
use crate::support::redis::RedisServer;

/// As in a URL: every byte that is not a letter or a digit in its escaped form.
fn encoded(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[test]
fn passwords_may_have_any_characters() {
    let redis = RedisServer::start();
    let app = App::new("", "");
    let (csv, _) = app.export("a.csv", 1, 1, 1);
    let file = app.dir.path().join("password");
    for password in ["two words", " a\"b'c ", "back\\slash\\x41", "100%41", "a@b:c/d?e#f", "pässwörd–密码", "\"", "'\t'"] {
        redis.ok(&["ACL", "SETUSER", "telemetry", "reset", "on", &format!(">{password}"), "~{telemetry:*", "+@all"]);
        std::fs::write(&file, format!("{password}\n")).unwrap();
        let user = redis.url().replace("//", "//telemetry@");
        let url = redis.url().replace("//", &format!("//telemetry:{}@", encoded(password)));
        for (url, variable, value) in
            [(&url, "CLUSTER_NAME", "x"), (&user, "REDIS_PASSWORD", password), (&user, "REDIS_PASSWORD_FILE", text(&file))]
        {
            let done = App::new(url, "").with(variable, value).run(&["stream", "--csv", &csv]);
            assert_eq!(done.code, Some(0), "{password} by {variable}: {}", done.stderr);
            assert!(!done.stderr.contains(password) || password.len() < 2, "no secret in the log: {}", done.stderr);
        }
    }
    // The default user has a password and no name.
    redis.ok(&["ACL", "SETUSER", "default", "resetpass", ">two \"words\""]);
    let done = App::new(&redis.url(), "").with("REDIS_PASSWORD", "two \"words\"").run(&["stream", "--csv", &csv]);
    done.exits(0);
}
