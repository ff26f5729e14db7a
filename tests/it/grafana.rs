//! The dashboard in `examples/grafana` asks PostgreSQL what it can answer: every statement is run as the role that the README has Grafana
//! use, with Grafana's macros and variables as it fills them in.

use serde_json::Value;
use telemetry::model::TimeMs;
use tokio_postgres::SimpleQueryMessage;

use crate::support::app::{App, text};
use crate::support::postgres::{Database, PASSWORD, Server};
use crate::support::redis::RedisServer;

/// What Grafana's PostgreSQL data source makes of a statement.
fn filled_in(sql: &str, from: TimeMs, to: TimeMs) -> String {
    sql.replace("$__timeFilter(ts)", &format!("ts BETWEEN '{from}' AND '{to}'"))
        .replace("$__timeFrom()", &format!("'{from}'"))
        .replace("$__timeTo()", &format!("'{to}'"))
        .replace("$cluster", "'edge-a','edge-b'")
}

/// The statements: (title, statement).
fn statements(dashboard: &Value) -> Vec<(String, String)> {
    let said = |value: &Value| value.as_str().expect("a text").to_owned();
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let panels = list(&dashboard["panels"]).into_iter().flat_map(|panel| {
        list(&panel["targets"]).into_iter().map(|target| (said(&panel["title"]), said(&target["rawSql"]))).collect::<Vec<_>>()
    });
    let variables = list(&dashboard["templating"]["list"]);
    let variables = variables.iter().filter(|variable| variable["type"] == "query");
    panels.chain(variables.map(|variable| (said(&variable["name"]), said(&variable["query"])))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_has_an_answer() {
    let (redis, database) = (RedisServer::start(), Server::shared().empty_database().await);
    let app = App::new(&redis.url(), &database.url);
    let _collect = app.start(&["collect"]);
    let now = TimeMs::now();
    let begin = now.plus_millis(-20 * 60_000).to_string();
    for cluster in ["edge-a", "edge-b"] {
        let done = app.run(&["generate", "--gpus", "4", "--duration", "20m", "--interval", "15s", "--start", &begin]).exits(0);
        // No GPU of a made-up fleet fails.
        let failure = done.stdout.lines().last().expect("rows").replace("DCGM_FI_DEV_MEM_CLOCK", "DCGM_FI_DEV_XID_ERRORS");
        let csv = app.dir.path().join(format!("{cluster}.csv"));
        std::fs::write(&csv, format!("{}{failure}\n", done.stdout)).expect("written");
        app.run(&["stream", "--csv", text(&csv), "--cluster", cluster, "--until", "stored"]).exits(0);
    }
    let role = format!("grafana_{}", database.name());
    let owner = database.client().await;
    owner.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")).await.expect("a role");
    app.run(&["migrate", "--grant-read", &role]).exits(0);
    let client = Database { url: database.url.replace("//postgres:", &format!("//{role}:")) }.client().await;

    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/grafana/gpu-fleet-postgresql.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("the dashboard")).expect("JSON");
    let statements = statements(&dashboard);
    assert!(statements.len() > 8, "{statements:?}");
    for (title, sql) in statements {
        let sql = filled_in(&sql, now.plus_millis(-3_600_000), now);
        let answer = client.simple_query(&sql).await.unwrap_or_else(|error| panic!("{title}: {error:?}\n{sql}"));
        let rows: Vec<_> = answer
            .iter()
            .filter_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None })
            .collect();
        assert!(!rows.is_empty(), "{title}: no rows\n{sql}");
        assert!(
            rows.iter().all(|row| row.columns().iter().zip(0..).any(|(_, at)| row.get(at).is_some())),
            "{title}: only nulls\n{sql}"
        );
    }
    owner.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.expect("dropped");
}
