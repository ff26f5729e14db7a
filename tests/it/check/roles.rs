//! What waiting can help: a role says it on /readyz, stays, and goes on by itself.

use crate::support::app::{App, Role, wait_for};
use crate::support::node::PASSWORD;
use crate::support::redis::RedisServer;
use crate::support::secure::Secure;

pub(super) async fn waits(role: &mut Role, words: &[&str]) {
    let seen: &Role = role;
    let said = || seen.get("/readyz").is_some_and(|(status, text)| status == 503 && words.iter().all(|word| text.contains(word)));
    wait_for(&format!("/readyz with {words:?}"), || async { said() }).await;
    assert!(role.ended().is_none(), "{}", role.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    let redis = RedisServer::start();
    redis.kill();
    let app = App::new(&redis.url(), "");
    let (csv, _) = app.export("a.csv", 2, 10, 1);
    let mut role = app.start(&["stream", "--csv", &csv]);
    waits(&mut role, &["redis", &format!("127.0.0.1:{}", redis.port()), "refused"]).await;
    redis.restart();
    assert_eq!(role.wait(), 0, "{}", role.log());

    let app = App::new("redis://no-such-host.invalid:6379", "");
    let mut role = app.start(&["stream", "--csv", &csv]);
    waits(&mut role, &["no-such-host.invalid", "does not resolve", "DNS"]).await;
    role.signal("TERM");
    assert_eq!(role.wait(), 1, "stopped before the end: {}", role.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_certificate_has_expired_is_waited_for() {
    let server = Secure::start();
    server.show_expired();
    let app = server.app("");
    let (csv, _) = app.export("a.csv", 2, 10, 1);
    let mut role = app.start(&["stream", "--csv", &csv]);
    waits(&mut role, &["certificate", "has expired", "renew it on the server"]).await;
    server.show_for("localhost");
    assert_eq!(role.wait(), 0, "{}", role.log());
    assert!(!role.log().contains(PASSWORD), "no secret in the log");
}
