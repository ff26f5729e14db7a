//! What is answered is what the file says.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use telemetry::model::TimeMs;

use super::{Serving, app};
use crate::support::app::wait_for;
use crate::support::http::send;
use crate::support::postgres::Server;

/// A line of an export.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    time: String,
    metric: String,
    uuid: String,
    host: String,
    value: f64,
}

fn lines(path: &str) -> Vec<Line> {
    let text = std::fs::read_to_string(path).unwrap();
    let line = |line: &str| {
        let cells: Vec<&str> = line.splitn(12, ',').map(|cell| cell.trim_matches('"')).collect();
        let [time, metric, uuid, host] = [0, 1, 4, 6].map(|at| cells[at].to_owned());
        Line { time, metric, uuid, host, value: cells[10].parse().unwrap() }
    };
    text.lines().skip(1).map(line).collect()
}

async fn serving() -> (Serving, Vec<Line>) {
    let app = app();
    let (csv, holds) = app.export("fleet.csv", 12, 90, 5);
    let lines = lines(&csv);
    (Serving::all(app, &[&csv], holds.rows()).await, lines)
}

/// A time in ms.
fn at(time: &str) -> i64 {
    telemetry::query::parse_time_parameter(time, TimeMs::EPOCH).unwrap().as_millis()
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_else(|| panic!("{key} of {row}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_whole_whatever_the_page() {
    let (serving, lines) = serving().await;
    let uuids: BTreeSet<&str> = lines.iter().map(|line| line.uuid.as_str()).collect();
    let hosts: BTreeSet<&str> = lines.iter().map(|line| line.host.as_str()).collect();
    let all = serving.pages("/api/v1/gpus", 1000);
    assert_eq!(all.iter().map(|gpu| text(gpu, "uuid")).collect::<BTreeSet<_>>(), uuids);
    assert_eq!(all.len(), uuids.len());
    for limit in [1, 5] {
        assert_eq!(serving.pages("/api/v1/gpus", limit), all, "pages of {limit}");
    }
    let found = serving.pages("/api/v1/hosts?cluster=lab", 1);
    assert_eq!(found.iter().map(|host| text(host, "hostname")).collect::<BTreeSet<_>>(), hosts);
    let host = text(&found[0], "hostname");
    let of_host = serving.pages(&format!("/api/v1/hosts/{host}/gpus"), 3);
    assert_eq!(of_host.len(), lines.iter().filter(|l| l.host == host).map(|l| &l.uuid).collect::<BTreeSet<_>>().len());
    assert_eq!(serving.pages("/api/v1/gpus?cluster=elsewhere", 10), Vec::<Value>::new());
    serving.ask("/api/v1/hosts/nowhere/gpus").problem(404, &["nowhere"]);

    let clusters = serving.ask("/api/v1/clusters").json();
    assert_eq!(clusters["data"][0]["name"], "lab");
    assert_eq!(clusters["data"][0]["gpus"], json!(uuids.len()));
    let metrics: BTreeSet<&str> = lines.iter().map(|line| line.metric.as_str()).collect();
    let catalogue = serving.ask("/api/v1/metrics").json();
    let stored: BTreeSet<&str> =
        catalogue["data"].as_array().unwrap().iter().filter(|m| m["stored"] == true).map(|m| text(m, "name")).collect();
    assert_eq!(stored, metrics);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_the_file_s_in_every_form() {
    let (serving, lines) = serving().await;
    let uuid = lines[7].uuid.clone();
    let mut expected: Vec<(i64, String, f64)> =
        lines.iter().filter(|l| l.uuid == uuid).map(|l| (at(&l.time), l.metric.clone(), l.value)).collect();
    let sorted = |rows: &mut Vec<(i64, String, f64)>| rows.sort_by(|a, b| a.partial_cmp(b).expect("no NaN"));
    sorted(&mut expected);
    let row = |row: &Value| (at(text(row, "timestamp")), text(row, "metric_name").to_owned(), row["value"].as_f64().unwrap());
    let path = format!("/api/v1/gpus/{uuid}/telemetry");

    let pages = serving.pages(&path, 37);
    assert!(pages.is_sorted_by_key(|row| at(text(row, "timestamp"))));
    let mut found: Vec<_> = pages.iter().map(row).collect();
    sorted(&mut found);
    assert!(found == expected, "{} rows, {} expected", found.len(), expected.len());
    let mut backwards = serving.pages(&format!("{path}?order=desc"), 41);
    backwards.reverse();
    assert!(backwards == pages);

    let ndjson = serving.ask_with(&path, &["Accept: application/x-ndjson"]);
    assert_eq!(ndjson.header("content-type"), Some("application/x-ndjson"));
    let streamed: Vec<Value> = ndjson.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(streamed == pages);
    let csv = serving.ask_with(&path, &["Accept: text/csv"]);
    let mut csv_lines = csv.text().lines();
    assert!(csv_lines.next().unwrap().starts_with("timestamp,metric_name,value,"));
    for (line, page) in csv_lines.by_ref().zip(&pages) {
        let (time, metric, value) = row(page);
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!((at(cells[0]), cells[1], cells[2].parse::<f64>().unwrap()), (time, metric.as_str(), value));
    }
    assert_eq!(csv.text().lines().count(), pages.len() + 1);

    // Both ends belong to the range, and a metric restricts.
    let (first, last) = (expected[3].0, expected[expected.len() / 2].0);
    let metric = &expected[0].1;
    let some = serving.pages(
        &format!("{path}?start_time={}&end_time={}&metric={metric}", TimeMs::from_millis(first), TimeMs::from_millis(last)),
        1000,
    );
    let wanted = expected.iter().filter(|(time, name, _)| (first..=last).contains(time) && name == metric).count();
    assert_eq!(some.len(), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_latest_and_groups_are_computed_from_the_samples() {
    let (serving, lines) = serving().await;
    let metric = "DCGM_FI_DEV_POWER_USAGE";
    let uuid = &lines[0].uuid;
    let of_gpu: Vec<&Line> = lines.iter().filter(|l| &l.uuid == uuid && l.metric == metric).collect();
    let mut by_minute: BTreeMap<&str, f64> = BTreeMap::new();
    for line in &of_gpu {
        let most = by_minute.entry(&line.time[..16]).or_insert(f64::MIN);
        *most = most.max(line.value);
    }
    let steps = serving.pages(&format!("/api/v1/gpus/{uuid}/telemetry?metric={metric}&step=1m&agg=max"), 100);
    // A GPU's workloads are series of their own: the greatest of all of them.
    let mut found: BTreeMap<&str, f64> = BTreeMap::new();
    for row in &steps {
        let most = found.entry(&text(row, "timestamp")[..16]).or_insert(f64::MIN);
        *most = most.max(row["value"].as_f64().unwrap());
    }
    assert_eq!(found, by_minute);

    let gpu = serving.ask(&format!("/api/v1/gpus/{uuid}")).json();
    assert_eq!(text(&gpu, "uuid"), uuid);
    let latest =
        gpu["latest"].as_array().unwrap().iter().filter(|v| v["metric_name"] == metric).max_by_key(|v| at(text(v, "timestamp")));
    let newest = of_gpu.iter().max_by_key(|line| at(&line.time)).unwrap();
    assert_eq!(
        (text(latest.unwrap(), "timestamp"), latest.unwrap()["value"].as_f64()),
        (newest.time.as_str(), Some(newest.value))
    );

    let rows = serving.pages(&format!("/api/v1/telemetry/latest?metric={metric}"), 5);
    let uuids: BTreeSet<&str> = lines.iter().map(|line| line.uuid.as_str()).collect();
    assert_eq!(rows.iter().map(|row| text(row, "uuid")).collect::<BTreeSet<_>>(), uuids);
    let counted = serving.pages(&format!("/api/v1/telemetry/aggregate?metric={metric}&group_by=hostname&agg=count"), 100);
    let counted: f64 = counted.iter().map(|row| row["value"].as_f64().unwrap()).sum();
    assert_eq!(counted, lines.iter().filter(|line| line.metric == metric).count() as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_parameter_is_named() {
    let (serving, lines) = serving().await;
    let telemetry = format!("/api/v1/gpus/{}/telemetry", lines[0].uuid);
    for (path, parameter) in [
        ("/api/v1/gpus?limit=0", "limit"),
        ("/api/v1/gpus?limit=10001", "limit"),
        ("/api/v1/gpus?limit=-1", "limit"),
        ("/api/v1/gpus?limit=1&limit=2", "limit"),
        ("/api/v1/gpus?cursor=zz", "cursor"),
        ("/api/v1/gpus?cluser=lab", "cluser"),
        ("/api/v1/gpus?cluster=%ff", "cluster"),
        ("/api/v1/gpus?cluster=%00", "cluster"),
        ("/api/v1/hosts?hostnam=x", "hostnam"),
        ("/api/v1/telemetry/aggregate", "metric"),
        ("/api/v1/telemetry/aggregate?metric=a&group_by=colour", "group_by"),
        ("/api/v1/telemetry/aggregate?metric=a&agg=mode", "agg"),
        (&format!("{telemetry}?start_time=yesterday"), "start_time"),
        (&format!("{telemetry}?end_time=2025-13-01T00:00:00Z"), "end_time"),
        (&format!("{telemetry}?start_time=now&end_time=now-1h"), "end_time"),
        (&format!("{telemetry}?order=up"), "order"),
        (&format!("{telemetry}?step=0s"), "step"),
        (&format!("{telemetry}?step=1m&agg=mean"), "agg"),
        (&format!("{telemetry}?step=1ms&start_time=2025-01-01T00:00:00Z&end_time=2025-12-31T00:00:00Z"), "step"),
    ] {
        let problem = serving.ask(path).problem(400, &[]);
        assert_eq!(problem["parameter"], parameter, "{path}: {problem}");
    }
    serving.ask("/api/v1/gpus/GPU-none/telemetry").problem(404, &["GPU-none"]);
    serving.ask("/api/v1/gpus/GPU-none").problem(404, &["GPU-none"]);
    serving.ask("/api/v1/nothing").problem(404, &["/docs"]);
    serving.ask_with(&telemetry, &["Accept: image/png"]).problem(406, &["text/csv"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_http_is_there() {
    let (serving, _) = serving().await;
    let first = serving.ask("/api/v1/metrics");
    let tag = first.header("etag").unwrap().to_owned();
    let again = serving.ask_with("/api/v1/metrics", &[&format!("If-None-Match: {tag}")]);
    assert_eq!((again.status, again.body.len()), (304, 0));
    let head = send(serving.port, "HEAD /api/v1/gpus HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0));
    let packed = serving.ask_with("/api/v1/metrics", &["Accept-Encoding: gzip"]);
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert!(packed.body.len() < first.body.len() / 2);
    assert_eq!(serving.ask_with("/api/v1/gpus", &["X-Request-Id: mine-1"]).header("x-request-id"), Some("mine-1"));
    for (name, value) in [("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("referrer-policy", "no-referrer")]
    {
        assert_eq!(first.header(name), Some(value));
    }
    let cors = serving.ask_with("/api/v1/gpus", &["Origin: https://evil.example"]);
    assert_eq!(cors.header("access-control-allow-origin"), None, "off unless configured");

    let page = serving.ask("/");
    assert!(page.header("content-security-policy").unwrap().contains("script-src 'self'"));
    assert!(page.text().contains("<html"));
    assert!(serving.ask("/docs/").text().contains("swagger"));
    let initializer = serving.ask("/docs/swagger-initializer.js");
    assert!(initializer.text().contains("/openapi.json") && !initializer.text().contains("https://"), "{}", initializer.text());
    let description = serving.ask("/openapi.json").json();
    assert!(text(&description, "openapi").starts_with("3.1"));
    for path in ["/api/v1/clusters", "/api/v1/gpus/{id}/telemetry", "/api/v1/telemetry/aggregate", "/api/v1/pipeline"] {
        assert!(description["paths"][path]["get"].is_object(), "{path}");
    }
    assert!(serving.ask("/metrics").text().contains("telemetry_http_requests_total"));
    assert_eq!((serving.ask("/livez").status, serving.ask("/healthz").status), (200, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_come_in_the_form_that_the_client_takes_and_once() {
    let (serving, _) = serving().await;
    let links = |page: &str| {
        let named = page.split('"').filter_map(|text| text.strip_prefix("./").or((text == "index.css").then_some(text)));
        named.map(str::to_owned).collect::<Vec<_>>()
    };
    let docs = links(serving.ask("/docs/").text());
    assert!(docs.len() >= 6, "{docs:?}");
    let docs = docs.iter().map(|name| format!("/docs/{name}")).chain(["/docs/", "/docs/LICENSE"].map(str::to_owned));
    let page = links(serving.ask("/").text()).into_iter().map(|name| format!("/{name}")).chain(["/".to_owned()]);
    for path in docs.chain(page) {
        let plain = serving.ask(&path);
        assert_eq!((plain.status, plain.header("content-encoding")), (200, None), "{path}");
        let packed = serving.ask_with(&path, &["Accept-Encoding: gzip, br"]);
        assert_eq!(packed.status, 200, "{path}");
        if packed.header("content-encoding").is_some() {
            assert_eq!(packed.header("content-encoding"), Some("gzip"), "{path}");
            assert_eq!(packed.header("vary"), Some("accept-encoding"), "{path}");
            assert!(packed.body.len() < plain.body.len(), "{path}");
            assert_eq!(unzip(&packed.body).await, plain.body, "{path}");
        } else {
            assert_eq!(packed.body, plain.body, "{path}");
        }
        for (answer, accept) in [(&plain, "Accept-Encoding: identity"), (&packed, "Accept-Encoding: gzip")] {
            assert_eq!(answer.header("content-type"), plain.header("content-type"), "{path}");
            assert!(answer.header("content-security-policy").unwrap().contains("script-src 'self'"), "{path}");
            let tag = answer.header("etag").unwrap_or_else(|| panic!("{path} has no tag"));
            let known = serving.ask_with(&path, &[accept, &format!("If-None-Match: {tag}")]);
            assert_eq!((known.status, known.body.len(), known.header("etag")), (304, 0, Some(tag)), "{path}");
        }
    }
    let bundle = serving.ask_with("/docs/swagger-ui-bundle.js", &["Accept-Encoding: gzip"]);
    assert_eq!(bundle.header("content-encoding"), Some("gzip"));
    serving.ask("/docs/swagger-ui-es-bundle.js").problem(404, &["no such file"]);
}

async fn unzip(packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut decoder = async_compression::tokio::bufread::GzipDecoder::new(packed);
    tokio::io::AsyncReadExt::read_to_end(&mut decoder, &mut bytes).await.unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_is_503_and_comes_back() {
    let server = Server::start();
    let database = server.empty_database().await;
    let app = crate::support::app::App::new("", &database.url);
    let (csv, holds) = app.export("a.csv", 2, 20, 1);
    drop(Serving::all(app, &[&csv], holds.rows()).await);
    let serving = Serving::start(crate::support::app::App::new("", &database.url), &["serve"]).await;
    let before = serving.pages("/api/v1/gpus", 100);
    assert_eq!(before.len(), 2);
    server.crash();
    let away = serving.ask("/api/v1/gpus");
    away.problem(503, &["the database is unavailable"]);
    assert!(away.header("retry-after").is_some());
    wait_for("it is not ready", || async { serving.ask("/readyz").status == 503 }).await;
    // Where it is, what it is called and what it said is for whoever runs the server.
    for answer in [&away, &serving.ask("/readyz"), &serving.ask("/healthz"), &serving.ask("/api/v1/pipeline")] {
        for secret in ["127.0.0.1", &server.port.to_string(), &database.name(), "os error", "refused", "57P"] {
            assert!(!answer.text().contains(secret), "{secret}: {}", answer.text());
        }
    }
    assert_eq!(serving.ask("/readyz").text(), "postgresql: not ready\n");
    let (status, said) = serving.role.get("/readyz").unwrap();
    assert!(status == 503 && said.contains(&server.port.to_string()), "the admin server says more: {said}");
    assert_eq!(serving.ask("/livez").status, 200);
    server.start_again();
    wait_for("it answers again", || async { serving.get("/api/v1/gpus").is_some_and(|answer| answer.status == 200) }).await;
    assert_eq!(serving.pages("/api/v1/gpus", 100), before);
    assert_eq!(serving.ask("/readyz").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_wrong_configuration() {
    let database = Server::shared().empty_database().await;
    let wrong = crate::support::app::App::new("", &database.url).with("DB_PASSWORD", "not-this-one");
    let done = wrong.run(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"]).exits(2);
    let done = done.says(&["DB_PASSWORD", "cannot be used"]);
    assert!(!done.stderr.contains("not-this-one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_nobody_has_made_yet_is_awaited() {
    let database = Server::shared().empty_database().await;
    let app = crate::support::app::App::new("", &database.url);
    let port = crate::support::postgres::free_port();
    let role = app.start(&["serve", "--listen", &format!("127.0.0.1:{port}")]);
    let serving = Serving { app, role, port };
    wait_for("a server", || async { serving.get("/livez").is_some_and(|answer| answer.status == 200) }).await;
    serving.ask("/api/v1/gpus").problem(503, &["schema"]);
    assert!(serving.role.get("/readyz").unwrap().1.contains("telemetry migrate"));
    serving.app.run(&["migrate"]).exits(0);
    wait_for("it is ready", || async { serving.get("/readyz").is_some_and(|answer| answer.status == 200) }).await;
    assert_eq!(serving.ask("/api/v1/gpus").json()["data"], json!([]));
}

/// A GPU that ran several pods is one GPU: its mean is that of all its samples, and a sum adds it once.
#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_counts_once_whatever_ran_on_it() {
    let app = app();
    let mut csv =
        "timestamp,metric_name,gpu_id,device,uuid,modelName,Hostname,container,pod,namespace,value,labels_raw\n".to_owned();
    // One GPU draws 700 W under a pod for 50 s, then 100 W under ten others for a second each; its neighbour 300 W all the time.
    for second in 0..60_u32 {
        let (pod, watts) = if second < 50 { ("long".to_owned(), 700) } else { (format!("short-{second}"), 100) };
        for (uuid, pod, watts) in [("GPU-a", pod.as_str(), watts), ("GPU-b", "", 300)] {
            let space = if pod.is_empty() { "" } else { "ml" };
            csv += &format!("2025-01-01T00:00:{second:02}Z,W,0,nvidia0,{uuid},M,h,,{pod},{space},{watts},\n");
        }
    }
    let path = app.dir.path().join("pods.csv");
    std::fs::write(&path, csv).unwrap();
    let serving = Serving::all(app, &[path.to_str().unwrap()], 120).await;
    let ask = |rest: &str| {
        let rows = serving.pages(&format!("/api/v1/telemetry/aggregate?metric=W&{rest}"), 3);
        rows.iter().map(|row| (row["value"].as_f64().unwrap(), row["gpus"].as_u64(), row["samples"].as_u64())).collect::<Vec<_>>()
    };
    assert_eq!(ask("agg=sum"), [(600.0 + 300.0, Some(2), Some(120))]);
    assert_eq!(ask("agg=avg&step=1h"), [(450.0, Some(2), Some(120))]);
    assert_eq!(ask("agg=max&group_by=hostname"), [(700.0, Some(2), Some(120))]);
    assert_eq!(ask("agg=last"), [(300.0, Some(2), Some(120))]);
    assert_eq!(ask("agg=sum&group_by=gpu"), [(600.0, Some(1), Some(60)), (300.0, Some(1), Some(60))]);
    assert_eq!(ask("agg=p50&group_by=gpu"), [(700.0, Some(1), Some(60)), (300.0, Some(1), Some(60))]);
    assert_eq!(ask("agg=sum&step=30s"), [(1000.0, Some(2), Some(60)), (500.0 + 300.0, Some(2), Some(60))]);
    // Of a namespace is what was measured while a pod of it ran.
    assert_eq!(ask("agg=sum&group_by=namespace&namespace=ml"), [(600.0, Some(1), Some(60))]);
    assert_eq!(ask("agg=avg&group_by=pod&namespace=ml").len(), 11);
}

/// What a request may ask for is what its description says, of every path.
#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_those_that_are_described() {
    let (serving, _) = serving().await;
    let description = serving.ask("/openapi.json").json();
    let mut checked = 0;
    for (path, operations) in description["paths"].as_object().unwrap() {
        let parameters = operations["get"]["parameters"].as_array().cloned().unwrap_or_default();
        let of = |place: &str| {
            parameters.iter().filter(|one| one["in"] == place).map(|one| text(one, "name").to_owned()).collect::<Vec<_>>()
        };
        let (described, required) = (of("query"), if path.contains("aggregate") { "metric=W&" } else { "" });
        let asked = path.replace("{id}", "GPU-none").replace("{host}", "none");
        let problem = serving.ask(&format!("{asked}?{required}nonsense=1")).problem(400, &["nonsense"]);
        let known = text(&problem, "detail").rsplit_once("there are: ").map_or("", |(_, known)| known);
        let known: BTreeSet<&str> = known.split(", ").filter(|name| !name.is_empty()).collect();
        assert_eq!(known, described.iter().map(String::as_str).collect::<BTreeSet<_>>(), "{path}");
        checked += 1;
    }
    assert!(checked >= 11, "{checked}");
}
