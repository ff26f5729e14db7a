//! Retention and the disk budget beside everything else: what the commands, the collectors and the API say of it.

use serde_json::{Value, json};

use crate::serve::Serving;
use crate::support::app::{App, Role, wait_for};
use crate::support::place::{Place, ready};

const RAW: &str = "TELEMETRY__STORE__RETENTION__RAW";

async fn tables(place: &Place) -> i64 {
    let client = place.database.client().await;
    let sql = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname ~ '^sample_[a-z0-9_]+_[0-9]{8}$'";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

fn sum(report: &Value, column: &str) -> i64 {
    report["sources"].as_array().unwrap().iter().map(|source| source[column].as_i64().unwrap()).sum()
}

fn stop(mut role: Role) {
    role.signal("TERM");
    assert_eq!(role.wait(), 0, "{}", role.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn days_that_are_past_their_time_are_dropped_and_accounted_for() {
    let mut place = Place::new().await;
    let (csv, holds) = place.app.export("a.csv", 3, 50, 1);
    let collect = place.app.start_with("TELEMETRY__STORE__MAINTENANCE", "off", &["collect"]);
    place.stream(&csv, "lab", &["--until", "stored"]).exits(0);
    stop(collect);
    let rows = holds.rows();
    assert_eq!(place.rows("lab").await, rows);

    let nothing = place.app.run(&["compact", "--dry-run"]).exits(0).stdout;
    assert!(!nothing.contains("store.retention"), "off unless it is set: {nothing}");
    place.app = place.app.with(RAW, "30d");
    let shown = place.app.run(&["compact", "--dry-run"]).exits(0).stdout;
    assert!(shown.contains("2025-01-01  samples") && shown.contains("Would be dropped"), "{shown}");
    assert!(shown.contains("Nothing to pack"), "what would be dropped is not packed: {shown}");
    assert!(place.rows("lab").await == rows && tables(&place).await > 0, "nothing was changed");
    let done = place.app.run(&["compact"]).exits(0).stdout;
    assert!(done.contains("1 day is dropped ("), "{done}");
    assert_eq!((place.rows("lab").await, tables(&place).await), (0, 0));
    let report = place.audit();
    assert_eq!((sum(&report, "stored"), sum(&report, "expired"), &report["closes"]), (rows, 0, &json!(true)), "{report}");

    // Everything again from its start, and another export of that day.
    let collect = place.app.start(&["collect"]);
    place.app.run(&["replay", "--all"]).exits(0);
    place.stream(&csv, "lab", &["--until", "stored"]).exits(0);
    let (late, more) = place.app.export("b.csv", 4, 20, 9);
    for _ in 0..2 {
        place.stream(&late, "lab", &["--until", "stored"]).exits(0);
        place.app.run(&["replay", "--all"]).exits(0);
    }
    let report = place.audit();
    assert_eq!((sum(&report, "stored"), sum(&report, "expired")), (rows + more.rows(), more.rows()), "{report}");
    assert_eq!((place.rows("lab").await, tables(&place).await), (0, 0), "no place is made for what is late");
    assert!(collect.metric("telemetry_rows_expired_total").is_some_and(|expired| expired as i64 == more.rows()));
    let shown = place.app.run(&["audit"]).exits(0).stdout;
    assert!(shown.lines().next().is_some_and(|head| head.contains("missing  expired  conflicts")), "{shown}");

    let serving = Serving::start(App::new(&place.redis.url(), &place.database.url), &["serve"]).await;
    let pipeline = serving.ask("/api/v1/pipeline").json();
    assert_eq!(sum(&pipeline, "expired"), more.rows(), "{pipeline}");
    let gpu = serving.ask("/api/v1/gpus?limit=1").json();
    if let Some(gpu) = gpu["data"][0]["uuid"].as_str() {
        let answer = serving.ask(&format!("/api/v1/gpus/{gpu}/telemetry"));
        assert_eq!((answer.status, answer.json()["data"].as_array().map(Vec::len)), (200, Some(0)));
    }
    stop(collect);
}

#[tokio::test(flavor = "multi_thread")]
async fn collectors_drop_in_the_background_and_warn_of_the_budget() {
    let mut place = Place::new().await;
    for (key, value) in [("MAINTENANCE_INTERVAL", "1s"), ("MAINTENANCE_DELAY", "1s"), ("DISK_BUDGET", "10GiB")] {
        place.app = place.app.with(&format!("TELEMETRY__STORE__{key}"), value);
    }
    let (csv, holds) = place.app.export("a.csv", 3, 50, 1);
    let collect = place.app.start(&["collect"]);
    place.stream(&csv, "lab", &["--until", "stored"]).exits(0);
    wait_for("the size of the store", || async {
        collect.metric("telemetry_store_bytes{form=\"packed\"}").is_some_and(|bytes| bytes > 0.0)
    })
    .await;
    assert_eq!(collect.metric("telemetry_store_budget_bytes"), Some((10u64 << 30) as f64));
    assert!(!collect.log().contains("store.disk_budget"), "{}", collect.log());
    let steps = |place: &Place| place.app.run(&["check"]).stdout;
    assert!(steps(&place).contains("disk budget   the samples take"), "{}", steps(&place));
    stop(collect);

    place.app = place.app.with("TELEMETRY__STORE__DISK_BUDGET", "1KiB").with(RAW, "30d");
    let collectors = [place.app.start(&["collect"]), place.app.start(&["collect"])];
    for collect in &collectors {
        ready(collect).await;
    }
    let said = |what: &str| collectors.iter().map(|role| role.log().matches(what).count()).sum::<usize>();
    wait_for("a day that goes", || async { tables(&place).await == 0 }).await;
    wait_for("what is said of it", || async { said("dropped a day that was past its time") > 0 }).await;
    assert_eq!(place.rows("lab").await, 0);
    assert!(holds.rows() > 0 && place.audit()["closes"] == json!(true));
    for role in &collectors {
        assert_eq!(role.metric("telemetry_store_maintenance_failures_total"), Some(0.0), "{}", role.log());
    }
    let dropped: f64 = collectors.iter().filter_map(|role| role.metric("telemetry_store_days_dropped_total")).sum();
    assert_eq!(dropped, 1.0);

    // A little is stored again: of today.
    let now = telemetry::model::TimeMs::now();
    let live = place.app.dir.path().join("live.csv");
    let head = std::fs::read_to_string(&csv).unwrap().lines().take(2).collect::<Vec<_>>().join("\n");
    let line = head.lines().nth(1).unwrap().to_owned();
    let mut cells: Vec<String> = line.split(',').map(str::to_owned).collect();
    cells[0] = format!("\"{now}\"");
    std::fs::write(&live, format!("{}\n{}\n", head.lines().next().unwrap(), cells.join(","))).unwrap();
    place.stream(live.to_str().unwrap(), "lab", &["--until", "stored"]).exits(0);
    wait_for("a warning", || async { said("store.disk_budget is used up") > 0 }).await;
    let shown = steps(&place);
    assert!(shown.contains("warning  postgres  disk budget") && shown.contains("store.retention"), "{shown}");
    assert_eq!(place.rows("lab").await, 1);
}
