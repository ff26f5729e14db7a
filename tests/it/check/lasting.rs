//! What `probe` and the roles measure of the line.

use crate::support::app::wait_for;
use crate::support::secure::Secure;

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
