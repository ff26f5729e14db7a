//! What changes while roles run: certificates, passwords; and what `probe` and the roles measure of the line.

use std::fs;
use std::io::Write as _;

use crate::support::app::{App, Holds, Role, text, wait_for};
use crate::support::certificates::Authority;
use crate::support::node::{PASSWORD, USER};
use crate::support::postgres::{Database, Server};
use crate::support::secure::Secure;

const NEXT: &str = "n3xt#/pässword";

/// An export of which more and more is in the file.
struct Growing {
    path: String,
    whole: Vec<u8>,
    holds: Holds,
}

impl Growing {
    fn new(app: &App) -> Self {
        let (made, holds) = app.export("whole", 4, 60, 9);
        let growing = Self { path: text(&app.dir.path().join("growing.csv")).to_owned(), whole: fs::read(made).unwrap(), holds };
        fs::write(&growing.path, b"").unwrap();
        growing
    }

    /// Grows by the next third of its lines; how many rows it has then.
    fn grow(&self, third: usize) -> i64 {
        let lines: Vec<&[u8]> = self.whole.split_inclusive(|byte| *byte == b'\n').collect();
        let (from, to) = (lines.len() * third / 3, lines.len() * (third + 1) / 3);
        let mut file = fs::OpenOptions::new().append(true).open(&self.path).unwrap();
        file.write_all(&lines[from..to].concat()).unwrap();
        to as i64 - 1
    }
}

async fn arrive(database: &Database, rows: i64) {
    wait_for(&format!("{rows} rows"), || async { Holds::stored(database, "default").await.rows() >= rows }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_passwords_are_changed_without_a_restart() {
    let server = Secure::start();
    let database = Server::shared().empty_database().await;
    let file = server.certificates.path("password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let told = |app: App| app.with("REDIS_PASSWORD", "").with("REDIS_PASSWORD_FILE", text(&file));
    let (edge, central) = (told(server.app("")), told(server.app(&database.url)));
    let growing = Growing::new(&edge);
    let rows = growing.grow(0);
    let mut roles = [edge.start(&["stream", "--follow", "--csv", &growing.path]), central.start(&["collect"])];
    arrive(&database, rows).await;
    let wan = |role: &Role| role.metric("telemetry_wan_bytes_total").unwrap_or_default();
    let before: Vec<f64> = roles.iter().map(wan).collect();

    // Another authority, another certificate on either side; and nobody keeps an old connection.
    server.certificates.put_all(&Authority::new("the next"));
    server.reload();
    server.node.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    arrive(&database, growing.grow(1)).await;

    // Another password; the old one is no longer good. Only this connection is left, and who comes again needs the new one.
    fs::write(&file, format!("{NEXT}\n")).unwrap();
    let (new, old) = (format!(">{NEXT}"), format!("<{PASSWORD}"));
    let rotate: [&[&str]; 2] = [&["ACL", "SETUSER", USER, &new, &old], &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]];
    server.node.try_commands(&rotate).unwrap();
    growing.grow(2);
    growing.holds.arrive(&database, "default").await;

    wait_for("bytes that are counted", || async { roles.iter().zip(&before).all(|(role, before)| wan(role) > *before) }).await;
    for role in &mut roles {
        assert!(role.ended().is_none(), "{}", role.log());
        for secret in [PASSWORD, NEXT, "PRIVATE KEY"] {
            assert!(!role.log().contains(secret), "no secret in the log");
        }
    }
    let shown = central.run(&["config", "show"]).exits(0);
    assert!(![PASSWORD, NEXT, "PRIVATE KEY"].iter().any(|secret| shown.stdout.contains(secret)), "{}", shown.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_measures_each_step() {
    let server = Secure::start();
    let app = server.app("").with("TELEMETRY__PROBE__INTERVAL", "200ms");
    let role = app.start(&["probe", "--cluster", "edge-a"]);
    let node = format!("localhost:{}", server.node.port);
    let rounds = |step: &str| {
        let (_, text) = role.get("/metrics")?;
        let line = text.lines().find(|line| {
            line.starts_with("telemetry_probe_seconds_count")
                && [step, &node].iter().all(|word| line.contains(&format!("\"{word}\"")))
        })?;
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    for step in ["resolve", "connect", "tls", "round_trip"] {
        wait_for(step, || async { rounds(step).is_some_and(|rounds| rounds >= 2.0) }).await;
    }
    let (_, metrics) = role.get("/metrics").unwrap();
    let line = |begins: &str, words: &[&str]| {
        let found = metrics.lines().find(|line| line.starts_with(begins) && words.iter().all(|word| line.contains(word)));
        found
            .unwrap_or_else(|| panic!("{begins} {words:?} is not in\n{metrics}"))
            .rsplit(' ')
            .next()
            .unwrap()
            .parse::<f64>()
            .unwrap()
    };
    assert!(line("telemetry_clock_ahead_seconds{", &[&node]).abs() < 60.0, "the same clock");
    assert!(line("cross_cluster_latency_seconds_count{", &["component=\"probe\"", "source_cluster=\"edge-a\""]) >= 2.0);
    let up = || role.metric("message_queue_connection_status");
    assert_eq!(up(), Some(1.0));
    server.node.kill();
    wait_for("a line that shows as lost", || async { up() == Some(0.0) }).await;
    server.node.restart();
    wait_for("a line that is back", || async { up() == Some(1.0) }).await;
}
