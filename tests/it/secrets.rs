//! Passwords and certificates: of any characters, and changed under roles that run. Rotation reaches Redis and the file one after the
//! other, in whatever order, and nobody falls meanwhile.

use std::io::Write as _;
use std::path::Path;

use telemetry::transport::redis::RedisTransport;
use telemetry::watched::Secret;

use crate::serve::Serving;
use crate::support::app::{App, Holds, Role, text, wait_for};
use crate::support::certificates::Authority;
use crate::support::node::PASSWORD;
use crate::support::postgres::{Database, Server};
use crate::support::redis::{RedisServer, config};
use crate::support::secure::Secure;
use crate::support::sentinel::Sentinel;

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

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_changed_since_it_was_read_is_read_again() {
    let redis = RedisServer::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "former").unwrap();
    redis.ok(&["ACL", "SETUSER", "edge", "on", ">latter", "~*", "+@all"]);
    let mut config = config(&redis.url());
    config.username = Some("edge".to_owned());
    config.password = Some(Secret::file("contents of a file", file.path().to_owned()).unwrap());
    // It is not looked at again so soon, but for a reason.
    std::fs::write(file.path(), "latter").unwrap();
    RedisTransport::connect(&config).await.expect("the new one is good");
    // One that is wrong and did not change is the end of it.
    redis.ok(&["ACL", "SETUSER", "edge", "resetpass", ">another"]);
    let error = RedisTransport::connect(&config).await.err().unwrap();
    assert!(!error.is_transient() && error.to_string().contains("`edge` is wrong"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_in_a_file_is_seen_when_it_is_made_and_again_when_it_changes() {
    let redis = RedisServer::start();
    redis.ok(&["ACL", "SETUSER", "telemetry", "on", ">hunter2", "~*", "+@all"]);
    let app = App::new(&redis.url().replace("//", "//telemetry@"), "");
    let (tokens, password) = (app.dir.path().join("tokens"), app.dir.path().join("password"));
    let write = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
    let good = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b grafana\n";
    write(&tokens, good);
    write(&password, "hunter2\n");
    let app = app.with("TELEMETRY_API_TOKENS_FILE", text(&tokens)).with("REDIS_PASSWORD_FILE", text(&password));
    let serving = Serving::start(app, &["all"]).await;
    // From here on nobody asks for anything, and no connection is made.
    let fails = |wanted: f64| {
        ["tokens", "contents of redis.password_file"]
            .iter()
            .all(|what| serving.role.metric(&format!("telemetry_reload_failed{{what=\"{what}\"}}")) == Some(wanted))
    };
    wait_for("both are looked at", || async { fails(0.0) }).await;
    write(&tokens, "");
    write(&password, "");
    wait_for("both faults are seen", || async { fails(1.0) }).await;
    write(&tokens, "sha256:typo grafana\n");
    wait_for("the typo is said, too", || async { serving.role.log().contains("line 1") }).await;
    assert!(fails(1.0), "{:?}", serving.role.get("/metrics"));
    let log = serving.role.log();
    assert!(log.contains("contains no token") && log.contains("password is empty") && !log.contains("hunter2"), "{log}");
    write(&tokens, good);
    write(&password, "hunter2\n");
    wait_for("both are well again", || async { fails(0.0) }).await;
}

/// A streamer that follows a file and a collector, whose rows are counted.
struct Running {
    database: Database,
    stream: Role,
    collect: Role,
    edge: App,
    _central: App,
    followed: std::fs::File,
    expected: Holds,
    seed: u64,
}

impl Running {
    /// Starts both, and waits for the first rows.
    async fn start(app: impl Fn(&str) -> App) -> Self {
        let database = Server::shared().empty_database().await;
        let (edge, central) = (app(""), app(&database.url));
        let followed = std::fs::File::create(edge.dir.path().join("live.csv")).unwrap();
        let stream = edge.start(&["stream", "--follow", "--cluster", "edge", "--csv", "live.csv"]);
        let collect = central.start(&["collect", "--cluster", "central"]);
        let mut running =
            Self { database, stream, collect, edge, _central: central, followed, expected: Holds::default(), seed: 0 };
        running.write();
        running.arrive().await;
        running
    }

    /// More rows into the followed file.
    fn write(&mut self) {
        self.seed += 1;
        let (csv, holds) = self.edge.export("next.export", 2, 20, self.seed);
        let bytes = std::fs::read(csv).unwrap();
        let header = bytes.iter().position(|b| *b == b'\n').unwrap() + 1;
        self.followed.write_all(if self.seed == 1 { &bytes } else { &bytes[header..] }).unwrap();
        self.expected = std::mem::take(&mut self.expected).plus(&holds);
    }

    async fn arrive(&self) {
        self.expected.arrive(&self.database, "edge").await;
    }

    /// Waits until both say at /readyz that they wait, for this reason.
    async fn wait(&mut self, words: &[&str]) {
        for role in [&mut self.stream, &mut self.collect] {
            let said = |role: &Role| {
                role.get("/readyz").is_some_and(|(code, text)| code == 503 && words.iter().all(|w| text.contains(w)))
            };
            wait_for(&format!("/readyz with {words:?}"), || async { said(role) }).await;
            assert!(role.ended().is_none(), "{}", role.log());
        }
    }

    /// Ends both, in good order. What they wrote.
    fn end(mut self) -> String {
        for role in [&mut self.stream, &mut self.collect] {
            role.signal("TERM");
            assert_eq!(role.wait(), 0, "{}", role.log());
        }
        format!("{}{}", self.stream.log(), self.collect.log())
    }
}

/// As Kubernetes does it: another file in the same place.
fn put(file: &Path, content: &str) {
    let next = file.with_extension("next");
    std::fs::write(&next, content).unwrap();
    std::fs::rename(next, file).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_rotated_under_running_roles() {
    let redis = RedisServer::start();
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("password");
    let allow = |password: &str| {
        redis.ok(&["ACL", "SETUSER", "telemetry", "reset", "on", &format!(">{password}"), "~{telemetry:*", "+@all"]);
        // Who is logged in stays so, however the password changes.
        redis.command(&["CLIENT", "KILL", "USER", "telemetry"]);
    };
    allow("s3cret-one");
    put(&file, "s3cret-one");
    let url = redis.url().replace("//", "//telemetry@");
    let mut running = Running::start(|database| App::new(&url, database).with("REDIS_PASSWORD_FILE", text(&file))).await;

    // First in Redis: the file follows up to a minute later.
    allow("s3cret-two");
    running.write();
    running.wait(&["the password of user `telemetry` is wrong", "accepted earlier; retrying", "REDIS_PASSWORD"]).await;
    put(&file, "s3cret-two");
    running.arrive().await;

    // First in the file.
    put(&file, "s3cret-three");
    redis.command(&["CLIENT", "KILL", "USER", "telemetry"]);
    running.write();
    running.wait(&["the password of user `telemetry` is wrong", "accepted earlier; retrying"]).await;
    allow("s3cret-three");
    running.arrive().await;

    let log = running.end();
    assert!(!log.contains("s3cret"), "no secret in the log: {log}");
}

/// The ids of the connections that the roles have; Redis counts them.
fn connections(server: &Secure) -> Vec<u64> {
    let said = server.node.command(&["CLIENT", "LIST", "TYPE", "normal"]);
    // But for the one that asks.
    let roles = said.lines().filter(|line| !line.contains("cmd=client"));
    roles.filter_map(|line| line.strip_prefix("id=")?.split(' ').next()?.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_by_those_of_another_authority() {
    let server = Secure::start();
    let mut running = Running::start(|database| server.app(database)).await;
    let (former, latter) = (server.certificates.authority(), Authority::new("the next authority"));
    let renewed = |since: u64| {
        let server = &server;
        async move {
            let old = || connections(server).into_iter().filter(|id| *id <= since).count();
            wait_for("new connections", || async { old() == 0 }).await;
        }
    };
    let newest = || connections(&server).into_iter().max().expect("roles that are connected");

    // Both are trusted, then those of the new one are shown, then the old one is trusted no more.
    let before = newest();
    server.certificates.trust(&[former, &latter]);
    server.reload();
    running.write();
    renewed(before).await;
    running.arrive().await;

    let before = newest();
    server.certificates.show(&latter);
    server.reload();
    running.write();
    renewed(before).await;
    running.arrive().await;

    let before = newest();
    server.certificates.trust(&[&latter]);
    server.reload();
    running.write();
    renewed(before).await;
    running.arrive().await;

    // Also where every connection breaks off now.
    server.node.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    running.write();
    running.arrive().await;
    let log = running.end();
    for words in [PASSWORD, "PRIVATE KEY", "panic"] {
        assert!(!log.contains(words), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_have_users_of_their_own() {
    let all = Sentinel::start(false);
    for server in all.servers() {
        server.ok(&["ACL", "SETUSER", "telemetry", "on", ">at servers", "~{telemetry:*", "+@all"]);
    }
    for sentinel in all.sentinels() {
        sentinel.ok(&["ACL", "SETUSER", "watcher", "on", ">at sentinels", "+@all"]);
    }
    let mut running = Running::start(|database| {
        App::new("", database)
            .with_all(all.variables())
            .with("REDIS_USERNAME", "telemetry")
            .with("REDIS_PASSWORD", "at servers")
            .with("TELEMETRY__REDIS__SENTINEL_USERNAME", "watcher")
            .with("TELEMETRY__REDIS__SENTINEL_PASSWORD", "at sentinels")
            .with("TELEMETRY__REDIS__TOPOLOGY_REFRESH", "1s")
    })
    .await;
    // Roles that run ask again, and must be let in there again.
    all.fail_over();
    all.wait_until_whole();
    running.write();
    running.arrive().await;
    running.end();
}
