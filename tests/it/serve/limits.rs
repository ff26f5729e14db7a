//! Who may ask, how much, how slowly.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Serving, app, write};
use crate::support::app::{App, text, wait_for};
use crate::support::http::{drain, get, send};
use crate::support::postgres::free_port;

// sha256("secret") and sha256("other")
const SECRET: &str = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b grafana";
const OTHER: &str = "sha256:d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa laptop";

async fn small(app: App) -> Serving {
    let (csv, holds) = app.export("a.csv", 2, 10, 1);
    Serving::all(app, &[&csv], holds.rows()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_token_may_ask_and_new_ones_need_no_restart() {
    let app = app();
    let file = app.dir.path().join("tokens");
    write(&file, &format!("{SECRET}\n"));
    let app = app.with("TELEMETRY_API_TOKENS_FILE", text(&file));
    let serving = Serving::start(app, &["all"]).await;
    for path in ["/api/v1/gpus", "/metrics", "/api/v1/nothing", "//api/v1/gpus", "/docs/../api/v1/gpus"] {
        let answer = serving.ask(path);
        answer.problem(401, &["Bearer"]);
        assert!(answer.header("www-authenticate").is_some());
    }
    for path in ["/", "/docs/", "/openapi.json", "/livez", "/readyz"] {
        assert_eq!(serving.ask(path).status, 200, "{path}");
    }
    assert_eq!(serving.ask_with("/api/v1/gpus", &["Authorization: Bearer secret"]).status, 200);
    for _ in 0..50 {
        serving.ask_with("/api/v1/gpus", &["Authorization: Bearer other"]).problem(401, &["not valid"]);
    }
    assert_eq!(serving.role.log().matches("was denied").count(), 1, "said once:\n{}", serving.role.log());
    assert!(!serving.role.log().contains("Bearer") && !serving.role.log().contains("secret"));
    write(&file, &format!("{SECRET}\n{OTHER}\n"));
    let other = || get(serving.port, "/api/v1/gpus", &["Authorization: Bearer other"]).is_some_and(|answer| answer.status == 200);
    wait_for("the new token", || async { other() }).await;
    // A fault in the file takes nothing away.
    write(&file, "nonsense\n");
    wait_for("the fault is noticed", || async { other() && serving.role.log().contains("line 1") }).await;
    assert!(other());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_others_reach_needs_tokens() {
    let port = free_port();
    let listen = format!("0.0.0.0:{port}");
    let done = app().run(&["all", "--listen", &listen, "--admin-listen", "off"]).exits(2);
    let done = done.says(&["http.listen", "--listen", "http.tokens_file", "--insecure-open"]);
    assert_eq!(done.stderr.lines().filter(|line| !line.contains(" INFO ")).count(), 1, "{}", done.stderr);
    let app = app();
    let role = app.start(&["all", "--listen", &listen, "--insecure-open"]);
    let serving = Serving { app, role, port };
    wait_for("a server", || async { serving.get("/api/v1/gpus").is_some_and(|answer| answer.status == 200) }).await;
    assert!(serving.role.log().contains("WARN") && serving.role.log().contains("http.insecure_open"));
    let missing = App::new("", "").with("TELEMETRY_API_TOKENS_FILE", "/does/not/exist");
    missing.run(&["all", "--admin-listen", "off"]).exits(2).says(&["http.tokens_file", "/does/not/exist"]);
    let busy = App::new("", "").run(&["all", "--listen", &format!("127.0.0.1:{port}"), "--admin-listen", "off"]);
    busy.exits(2).says(&["http.listen", &port.to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_is_refused() {
    let serving = small(app()).await;
    let long = format!("/api/v1/gpus?model={}", "x".repeat(20_000));
    serving.ask(&long).problem(414, &["http.max_uri_bytes"]);
    let port = serving.port;
    let body = send(port, "GET /api/v1/gpus HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello")
        .unwrap();
    body.problem(413, &["no body"]);
    for method in ["POST", "DELETE", "PATCH"] {
        let request =
            format!("{method} /api/v1/gpus HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let answer = send(port, &request).unwrap();
        answer.problem(405, &["GET"]);
        assert!(answer.header("allow").unwrap().contains("GET"));
    }
    let flood: String = (0..5000).map(|n| format!("x-{n}: y\r\n")).collect();
    for request in [
        format!("GET /api/v1/gpus HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{flood}\r\n"),
        format!("GET /api/v1/gpus HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nx: {}\r\n\r\n", "y".repeat(100_000)),
        "nonsense\r\n\r\n".to_owned(),
        "GET /api/v1/gpus HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(),
        "GET /api/v1/gpus HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n".to_owned(),
    ] {
        let answer = send(port, &request);
        assert!(answer.as_ref().is_none_or(|answer| (400..500).contains(&answer.status)), "{answer:?}");
    }
    for path in [
        "/../../etc/passwd",
        "/assets/../../Cargo.toml",
        "/assets/%2e%2e/%2e%2e/Cargo.toml",
        "/docs/..%2f..%2fCargo.toml",
        "/%00",
    ] {
        let answer = serving.ask(path);
        assert!(answer.status == 404 || answer.status == 400, "{path}: {}", answer.status);
    }
    assert_eq!(serving.ask("/api/v1/gpus").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_is_told_to_wait() {
    let app = app().with("TELEMETRY__HTTP__RATE", "1").with("TELEMETRY__HTTP__BURST", "5");
    let serving = Serving::start(app, &["all"]).await;
    let refused = (0..20).map(|_| serving.ask("/api/v1/clusters")).find(|answer| answer.status == 429).expect("a limit");
    refused.problem(429, &["http.rate"]);
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    assert_eq!(serving.ask("/livez").status, 200, "whoever looks after the process is not limited");
}

/// Whether the server closes this connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_silent_clients_disturb_nobody() {
    let app = app().with("TELEMETRY__HTTP__HEAD_TIMEOUT", "1s").with("TELEMETRY__HTTP__MAX_CONNECTIONS", "8");
    let serving = small(app).await;
    let connect = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(("127.0.0.1", serving.port)).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    // More than there may be: those that send nothing, and those that never end, make room.
    let mut silent: Vec<TcpStream> =
        (0..40).map(|n| connect(if n % 2 == 0 { b"" } else { b"GET /api/v1/gpus HTTP/1.1\r\nHost: localhost\r\nx: " })).collect();
    assert_eq!(serving.ask("/api/v1/gpus").status, 200);
    for stream in &mut silent {
        assert!(is_closed(stream), "it is cut off");
    }
    let mut half = connect(b"GET /api/v1/gpus HTTP/1.1\r\nHost: localhost\r\n\r\n");
    half.shutdown(Shutdown::Write).unwrap();
    assert!(is_closed(&mut half));
    assert_eq!(serving.ask("/api/v1/gpus").status, 200);
}

/// A server with a GPU whose download does not fit into any buffer.
async fn long_download(app: App) -> (Serving, String) {
    let (csv, holds) = app.export("long.csv", 1, 30_000, 1);
    let serving = Serving::all(app, &[&csv], holds.rows()).await;
    let gpus = serving.pages("/api/v1/gpus", 10);
    let path = format!("/api/v1/gpus/{}/telemetry", gpus[0]["uuid"].as_str().unwrap());
    (serving, path)
}

fn begin(serving: &Serving, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", serving.port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n\r\n").unwrap();
    let mut first = [0; 64];
    stream.read_exact(&mut first).unwrap();
    assert!(first.starts_with(b"HTTP/1.1 200"));
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_is_cut_off() {
    let (serving, path) = long_download(app().with("TELEMETRY__HTTP__STALL_TIMEOUT", "1s")).await;
    let mut stalled = begin(&serving, &path);
    wait_for("it is cut off", || async { serving.role.metric("telemetry_http_connections") == Some(0.0) }).await;
    // What the system had buffered, and then an end that is not that of the answer.
    stalled.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut rest = Vec::new();
    let _ = stalled.read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"), "a part must not look like the whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_do_not_hold_up_the_end() {
    let (mut serving, path) = long_download(app().with("TELEMETRY__HTTP__STOP_GRACE", "1s")).await;
    let (bytes, whole) = drain(serving.port, &path, &["Accept: application/x-ndjson"]);
    assert!(whole && bytes > 20_000_000, "{bytes}");
    let streams: Vec<TcpStream> = (0..4).map(|_| begin(&serving, &path)).collect();
    let idle = TcpStream::connect(("127.0.0.1", serving.port)).unwrap();
    serving.role.signal("TERM");
    assert_eq!(serving.role.wait(), 0, "{}", serving.role.log());
    assert!(serving.role.log().contains("cut off"), "{}", serving.role.log());
    drop((streams, idle));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_drips_is_cut_off_and_health_stays_quick() {
    let app = app()
        .with("TELEMETRY__HTTP__STALL_TIMEOUT", "2s")
        .with("TELEMETRY__HTTP__MIN_TRANSFER_RATE", "1MiB")
        .with("TELEMETRY__HTTP__MAX_CONNECTIONS", "16")
        .with("TELEMETRY__HTTP__QUERY_MEMORY_CLIENT_PERCENT", "100")
        .with("TELEMETRY__HTTP__MAX_CONNECTIONS_PER_CLIENT", "8");
    let (serving, path) = long_download(app).await;
    let mut slow: Vec<TcpStream> = (0..8).map(|_| begin(&serving, &path)).collect();
    // This client has as many as it may: it learns so, and health is answered all the same.
    let more = serving.ask("/api/v1/gpus");
    more.problem(503, &["http.max_connections_per_client"]);
    assert!(more.header("retry-after").is_some());
    assert_eq!((serving.ask("/livez").status, serving.ask("/readyz").status), (200, 200));
    // A little at a time: never stalled, and never done.
    let cut_off = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&cut_off);
    let drip = tokio::task::spawn_blocking(move || {
        let mut piece = [0; 2048];
        while !seen.load(Ordering::Relaxed) {
            slow.retain_mut(|stream| stream.read(&mut piece).is_ok_and(|n| n > 0));
            std::thread::sleep(Duration::from_millis(20));
        }
        // What the system had buffered, and then an end.
        slow.into_iter().map(|mut stream| stream.read_to_end(&mut Vec::new())).count()
    });
    wait_for("they are cut off", || async { serving.role.metric("telemetry_http_connections") == Some(0.0) }).await;
    cut_off.store(true, Ordering::Relaxed);
    drip.await.unwrap();
    assert_eq!(serving.ask("/api/v1/gpus").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_sites_do_not_read_an_open_server() {
    let serving = small(app()).await;
    let ask = |host: &str, lines: &str, path: &str| {
        send(serving.port, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{lines}\r\n")).unwrap()
    };
    for host in ["localhost", "127.0.0.1:8080", "[::1]", "app.localhost:1"] {
        assert_eq!(ask(host, "", "/api/v1/gpus").status, 200, "{host}");
    }
    for path in ["/api/v1/gpus", "/metrics", "/openapi.json"] {
        ask("evil.example", "", path).problem(403, &["http.tokens_file", "--insecure-open"]);
    }
    assert_eq!(ask("evil.example", "", "/livez").status, 200);
    ask("localhost", "Sec-Fetch-Site: cross-site\r\n", "/api/v1/gpus").problem(403, &["http.cors_origins"]);
    ask("localhost", "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n", "/api/v1/gpus").problem(403, &[]);
    for lines in ["Sec-Fetch-Site: same-origin\r\n", "Sec-Fetch-Site: none\r\n"] {
        assert_eq!(ask("localhost", lines, "/api/v1/gpus").status, 200, "{lines}");
    }
    let link = ask("localhost", "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n", "/");
    assert_eq!(link.status, 200, "a link on another site leads to the page");
    drop(serving);

    // Asked for: any name, and pages of configured origins.
    let app =
        app().with("TELEMETRY__HTTP__INSECURE_OPEN", "true").with("TELEMETRY__HTTP__CORS_ORIGINS", "https://grafana.example");
    let serving = Serving::start(app, &["all"]).await;
    let ask = |lines: &str| {
        send(serving.port, &format!("GET /api/v1/gpus HTTP/1.1\r\nHost: gpus.example\r\nConnection: close\r\n{lines}\r\n"))
            .unwrap()
    };
    assert_eq!(ask("").status, 200);
    assert_eq!(ask("Sec-Fetch-Site: cross-site\r\nOrigin: https://grafana.example\r\n").status, 200);
    ask("Sec-Fetch-Site: cross-site\r\nOrigin: https://evil.example\r\n").problem(403, &["http.cors_origins"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_each_client_has_a_rate_of_its_own() {
    let app = app()
        .with("TELEMETRY__HTTP__RATE", "1")
        .with("TELEMETRY__HTTP__BURST", "3")
        .with("TELEMETRY__HTTP__TRUSTED_PROXIES", "127.0.0.0/8,::1");
    let serving = Serving::start(app, &["all"]).await;
    let asks = |client: &str| serving.ask_with("/api/v1/clusters", &[&format!("X-Forwarded-For: {client}")]).status;
    let flood: Vec<u16> = (0..8).map(|n| asks(&format!("203.0.113.{n}, 198.51.100.1"))).collect();
    assert!(flood.contains(&429), "what a client invents on the left gives it no new rate: {flood:?}");
    assert_eq!(asks("198.51.100.2"), 200, "another client");
    let wrong = App::new("", "").with("TELEMETRY__HTTP__TRUSTED_PROXIES", "proxy.example");
    wrong.run(&["config", "check"]).exits(2).says(&["TRUSTED_PROXIES", "10.0.0.0/8"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_share_a_budget_of_memory() {
    let app = app()
        .with("TELEMETRY__HTTP__QUERY_MEMORY", "64MiB")
        .with("TELEMETRY__HTTP__QUERY_QUEUE_TIMEOUT", "100ms")
        .with("TELEMETRY__HTTP__TRUSTED_PROXIES", "127.0.0.0/8,::1");
    let (serving, path) = long_download(app).await;
    // Downloads that nobody takes, until there is no memory for another one: it is refused, or one that has begun is broken off.
    const MANY: usize = 40;
    let mut held = Vec::new();
    let mut refused = None;
    while held.len() < MANY && refused.is_none() {
        let mut stream = TcpStream::connect(("127.0.0.1", serving.port)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-ndjson\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        if first == *b"HTTP/1.1 503" {
            let mut rest = String::new();
            stream.read_to_string(&mut rest).unwrap();
            refused = Some(rest.to_ascii_lowercase());
        } else {
            assert_eq!(&first, b"HTTP/1.1 200");
            held.push(stream);
        }
    }
    match refused {
        Some(refused) => assert!(refused.contains("retry-after:") && refused.contains("http.query_memory"), "{refused}"),
        None => {
            // The memory of one that is broken off went to the next.
            let is_whole = |stream: &mut TcpStream| {
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).is_ok() && answer.ends_with(b"\r\n0\r\n\r\n")
            };
            let whole = held.iter_mut().map(is_whole).filter(|whole| *whole).count();
            assert!(whole < MANY, "none of so many had to wait for memory");
        }
    }
    // Another client has its own share of it.
    let other = get(serving.port, &path, &["Accept: text/csv", "X-Forwarded-For: 198.51.100.2"]).expect("an answer");
    assert_eq!(other.status, 200, "{}", other.text());
    // Pages have a part of their own, and what is given back is there for the next.
    assert_eq!(serving.ask("/api/v1/telemetry/latest").status, 200);
    drop(held);
    wait_for("a download", || async {
        get(serving.port, &path, &["Accept: text/csv"]).is_some_and(|answer| answer.status == 200)
    })
    .await;
}
