//! Maintenance beside everything else: what is packed in the background or by the command, answers stay the same.

use crate::serve::Serving;
use crate::support::app::{App, Holds, wait_for};
use crate::support::place::{Place, ready};

/// The rows as they were committed.
const UNPACKED: &str = "(SELECT FROM sample_chunk UNION ALL SELECT FROM sample_slab) u";

async fn count(place: &Place, table: &str) -> i64 {
    let client = place.database.client().await;
    let rows = client.query(&format!("SELECT count(*) FROM {table}"), &[]).await;
    rows.map_or(-1, |rows| rows[0].get(0))
}

/// What SQL says of a cluster, in every column.
async fn sums(place: &Place) -> String {
    let client = place.database.client().await;
    let row = client
        .query_one(
            "SELECT string_agg(line::text, '; ' ORDER BY line) FROM (SELECT metric_name, count(*), sum(value::numeric), min(ts), max(ts), \
             count(DISTINCT gpu_uuid) FROM samples GROUP BY 1) line",
            &[],
        )
        .await
        .unwrap();
    row.get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn compact_changes_no_answer_of_sql_and_of_the_api() {
    let place = Place::new().await;
    let (csv, holds) = place.app.export("a.csv", 3, 50, 1);
    let mut collect = place.app.start_with("TELEMETRY__STORE__MAINTENANCE", "off", &["collect"]);
    place.stream(&csv, "lab", &["--until", "stored"]).exits(0);
    collect.signal("TERM");
    assert_eq!(collect.wait(), 0, "{}", collect.log());
    let serving = Serving::start(App::new("", &place.database.url), &["serve"]).await;
    let gpu = serving.ask("/api/v1/gpus?limit=1").json()["data"][0]["uuid"].as_str().unwrap().to_owned();
    let questions = [
        format!("/api/v1/gpus/{gpu}/telemetry"),
        format!("/api/v1/gpus/{gpu}/telemetry?order=desc&limit=7"),
        format!("/api/v1/gpus/{gpu}/telemetry?step=1m&agg=p95"),
        "/api/v1/telemetry/latest?metric=DCGM_FI_DEV_GPU_TEMP".to_owned(),
        "/api/v1/telemetry/aggregate?metric=DCGM_FI_DEV_GPU_TEMP&group_by=hostname&step=5m".to_owned(),
    ];
    let answers = || -> Vec<(u16, String)> {
        let ask = |question: &String| {
            let answer = serving.ask_with(question, &["Accept: text/csv, application/json"]);
            (answer.status, answer.text().to_owned())
        };
        questions.iter().map(ask).collect()
    };
    let (before, sums_before) = (answers(), sums(&place).await);
    assert!(before.iter().all(|(status, _)| *status == 200), "{before:?}");

    place.app.run(&["compact"]).exits(0);
    assert_eq!(count(&place, UNPACKED).await, 0);
    assert_eq!(Holds::stored(&place.database, "lab").await, holds);
    assert_eq!((answers(), sums(&place).await), (before, sums_before));
    // The same rows from another file: they are found in the packed rows, and not stored again.
    let text = std::fs::read_to_string(&csv).unwrap().replace('\n', "\r\n");
    let again = place.app.dir.path().join("crlf.csv");
    std::fs::write(&again, text).unwrap();
    let _collect = place.app.start_with("TELEMETRY__STORE__MAINTENANCE", "off", &["collect"]);
    place.stream(again.to_str().unwrap(), "lab", &["--until", "stored"]).exits(0);
    assert_eq!(Holds::stored(&place.database, "lab").await, holds);
    assert_eq!(count(&place, UNPACKED).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn collectors_pack_in_the_background_unless_it_is_off() {
    let mut place = Place::new().await;
    for (key, value) in [("INTERVAL", "1s"), ("DELAY", "1s")] {
        place.app = place.app.with(&format!("TELEMETRY__STORE__MAINTENANCE_{key}"), value);
    }
    let (csv, holds) = place.app.export("a.csv", 3, 50, 1);
    let mut off = place.app.start_with("TELEMETRY__STORE__MAINTENANCE", "off", &["collect"]);
    ready(&off).await;
    place.stream(&csv, "lab", &["--until", "stored"]).exits(0);
    wait_for("sizes of the store", || async {
        off.metric("telemetry_store_bytes{form=\"chunk\"}").is_some_and(|bytes| bytes > 0.0)
    })
    .await;
    assert_eq!(off.metric("telemetry_store_samples_packed_total"), Some(0.0));
    assert!(count(&place, UNPACKED).await > 0);
    assert!(off.log().contains("store.maintenance is off"), "{}", off.log());
    off.signal("TERM");
    assert_eq!(off.wait(), 0, "{}", off.log());

    let collectors = [place.app.start(&["collect"]), place.app.start(&["collect"])];
    wait_for("that everything is packed", || async { count(&place, UNPACKED).await == 0 }).await;
    assert_eq!(Holds::stored(&place.database, "lab").await, holds);
    let packed = || collectors.iter().filter_map(|role| role.metric("telemetry_store_samples_packed_total")).sum::<f64>();
    wait_for("the count of it", || async { packed() >= holds.rows() as f64 }).await;
    // What comes late is packed, too.
    let (csv, more) = place.app.export("b.csv", 4, 20, 9);
    place.stream(&csv, "lab", &["--until", "stored"]).exits(0);
    wait_for("that everything is packed", || async { count(&place, UNPACKED).await == 0 }).await;
    assert!(more.rows() > 0 && place.audit()["closes"] == serde_json::json!(true));
    for role in &collectors {
        assert_eq!(role.metric("telemetry_store_maintenance_failures_total"), Some(0.0), "{}", role.log());
    }
}
