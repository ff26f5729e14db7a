//! The operator's commands that look at queue and store: `top`, `audit`, `dead-letters`, `groups`, `replay`.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::app::{App, Done, Holds, text, wait_for};
use crate::support::cluster::{Cluster, Options};
use crate::support::postgres::{Server, free_port};
use crate::support::redis::{RedisServer, Reply};

/// What a command says as JSON.
#[track_caller]
fn said(done: &Done) -> Value {
    serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", done.stdout, done.stderr))
}

/// The line of a text that has all these words.
#[track_caller]
fn line<'a>(text: &'a str, words: &[&str]) -> &'a str {
    text.lines()
        .find(|line| words.iter().all(|word| line.contains(word)))
        .unwrap_or_else(|| panic!("no line has {words:?}:\n{text}"))
}

fn top(app: &App) -> Done {
    app.run(&["top", "--once", "--interval", "100ms"])
}

#[tokio::test(flavor = "multi_thread")]
async fn top_shows_an_edge_what_redis_knows() {
    let redis = RedisServer::start_with(&["--maxmemory", "100mb"]);
    let edge = App::new(&redis.url(), "");
    let (csv, holds) = edge.export("a.csv", 4, 100, 1);
    edge.run(&["stream", "--csv", &csv, "--cluster", "e"]).exits(0);
    let shown = top(&edge).exits(0).stdout;
    line(&shown, &["published 0 rows/s", "waiting 1 batch, the oldest for"]);
    line(&shown, &["Redis 127.0.0.1", "up for", " of 100.0 MiB", "noeviction"]);
    line(&shown, &["PostgreSQL", "not configured (DATABASE_URL)"]);
    line(&shown, &["collectors (ours)", "no active consumer"]);
    let rows = indicatif::HumanCount(holds.rows() as u64).to_string();
    let source = line(&shown, &[&rows]);
    assert_eq!(source.matches(&rows).count(), 2, "as many are published as are behind: {source}");
    // An address that answers nothing is no reason to show less.
    let nowhere = App::new(&redis.url(), &format!("postgres://postgres@127.0.0.1:{}/x", free_port()));
    let shown = top(&nowhere).exits(0).stdout;
    line(&shown, &["PostgreSQL 127.0.0.1", "DOWN for", "refused"]);
    line(&shown, &[&rows]);
    // Eviction may throw parts of the queue away; it is said which policy there is.
    redis.ok(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    line(&top(&edge).exits(0).stdout, &["allkeys-lru"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn top_says_who_is_at_work_and_how_far_all_is() {
    let redis = RedisServer::start();
    let database = Server::shared().empty_database().await;
    let app = App::new(&redis.url(), &database.url);
    // Before there is a schema.
    line(&top(&app).exits(0).stdout, &["PostgreSQL 127.0.0.1", "up for", "telemetry migrate"]);
    let _collect = app.start(&["collect"]);
    let (csv, holds) = app.export("a.csv", 4, 100, 1);
    app.run(&["stream", "--csv", &csv, "--cluster", "edge-t", "--until", "stored"]).exits(0);
    let shown = top(&app).exits(0).stdout;
    let rows = indicatif::HumanCount(holds.rows() as u64).to_string();
    assert_eq!(line(&shown, &["edge-t", "a.csv"]).matches(&rows).count(), 2, "published and stored:\n{shown}");
    line(&shown, &["collectors (ours)", "active"]);
    line(&shown, &["PostgreSQL 127.0.0.1", "up for"]);
    line(&shown, &["waiting 0 batches"]);
    // While rows come there is a rate.
    let (live, _) = app.export("live.csv", 16, 3_000, 2);
    let _stream = app.start(&["stream", "--csv", &live, "--cluster", "edge-u", "--rate", "2000"]);
    wait_for("a rate", || async {
        let shown = app.run(&["top", "--once", "--interval", "2s"]).exits(0).stdout;
        let summary = line(&shown, &["published"]);
        !summary.contains("published 0 ") && !summary.contains("stored 0 ")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn top_says_when_redis_is_away_and_refuses_what_is_wrong() {
    let nowhere = App::new(&format!("redis://127.0.0.1:{}", free_port()), "");
    let done = top(&nowhere).exits(1);
    line(&done.stdout, &["Redis 127.0.0.1", "DOWN for", "refused"]);
    let redis = RedisServer::start_with(&["--requirepass", "secret-of-this-test"]);
    let done = App::new(&redis.url(), "").run(&["top", "--once"]).exits(2).says(&["password"]);
    assert_eq!(done.stdout, "");
    App::new("", "").run(&["top", "--once"]).exits(2).says(&["REDIS_URL"]);
}

/// `top` in a terminal of its own; what is pressed is written to it.
struct Terminal {
    child: std::process::Child,
    pid: std::path::PathBuf,
}

impl Terminal {
    fn open(app: &App, columns: u16, lines: u16) -> Self {
        let pid = app.dir.path().join("pid");
        let program = env!("CARGO_BIN_EXE_telemetry");
        let inside = format!("stty cols {columns} rows {lines}; echo $$ > {}; exec {program} top --interval 100ms", text(&pid));
        // With the environment of the program.
        let mut outer = app.command(&[]);
        let mut script = std::process::Command::new("script");
        script.args(["-qfec", &inside, "/dev/null"]).env_clear();
        for (name, value) in std::env::vars_os() {
            script.env(name, value);
        }
        for (name, value) in outer.stdin(Stdio::null()).get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        let child = script
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::from(std::fs::File::create(app.dir.path().join("screen")).unwrap()))
            .stderr(Stdio::null())
            .spawn()
            .expect("script (bsdutils) is there");
        Self { child, pid }
    }

    fn press(&mut self, keys: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(keys.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    fn signal(&self, name: &str) {
        let pid = std::fs::read_to_string(&self.pid).unwrap();
        let kill = format!("kill -{name} {}", pid.trim());
        assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }
}

/// Everything that was written to the terminal so far.
fn screen(app: &App) -> String {
    String::from_utf8_lossy(&std::fs::read(app.dir.path().join("screen")).unwrap_or_default()).into_owned()
}

const TAKEN: &str = "\u{1b}[?1049h";
const GIVEN_BACK: &str = "\u{1b}[?1049l";

#[tokio::test(flavor = "multi_thread")]
async fn top_takes_the_terminal_and_gives_it_back() {
    let redis = RedisServer::start();
    for end in ["q", "TERM", "INT"] {
        let app = App::new(&redis.url(), "");
        let mut terminal = Terminal::open(&app, 100, 30);
        // Words, not lines: blanks are jumped over.
        wait_for("a first screen", || async { screen(&app).contains("(DATABASE_URL)") }).await;
        assert!(screen(&app).contains(TAKEN) && !screen(&app).contains(GIVEN_BACK));
        terminal.press("?");
        wait_for("the help", || async { screen(&app).contains("another") }).await;
        terminal.press("?3p");
        wait_for("a pause", || async { screen(&app).contains("PAUSED") }).await;
        match end {
            "q" => terminal.press("q"),
            signal => terminal.signal(signal),
        }
        let status = terminal.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{end}: {}", screen(&app));
        assert!(screen(&app).contains(GIVEN_BACK), "{end}: the terminal is as it was");
        assert!(!screen(&app).contains("panic"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_group_has_its_own_account_and_can_be_retired() {
    let redis = RedisServer::start();
    let (ours, theirs) = (Server::shared().empty_database().await, Server::shared().empty_database().await);
    let app = App::new(&redis.url(), &ours.url);
    let archive = App::new(&redis.url(), &theirs.url).with("TELEMETRY__REDIS__GROUP", "archive");
    let mut collect = app.start(&["collect"]);
    let mut late = archive.start(&["collect"]);
    // A group sees what is kept from when it is there: what the other has done with before that is gone.
    wait_for("the group", || async { late.get("/readyz").is_some_and(|(status, _)| status == 200) }).await;
    let (csv, holds) = app.export("a.csv", 4, 50, 1);
    app.run(&["stream", "--csv", &csv, "--cluster", "g", "--until", "stored"]).exits(0);
    holds.arrive(&theirs, "g").await;
    late.signal("TERM");
    assert_eq!(late.wait(), 0, "{}", late.log());

    // It rests; the other goes on.
    let (more, more_holds) = app.export("b.csv", 4, 60, 2);
    app.run(&["stream", "--csv", &more, "--cluster", "g", "--until", "stored"]).exits(0);
    let account = said(&app.run(&["audit", "--json"]).exits(0));
    assert_eq!((&account["group"], &account["closes"]), (&json!("collectors"), &json!(true)));
    let account = said(&archive.run(&["audit", "--json"]).exits(0));
    let queued: Vec<_> = account["sources"].as_array().unwrap().iter().map(|s| s["queued"].as_i64().unwrap()).collect();
    assert_eq!(queued.iter().sum::<i64>(), more_holds.rows(), "{account}");
    line(&app.run(&["audit"]).exits(0).stdout, &["for the group `archive` alone", "telemetry groups list"]);
    let list = said(&app.run(&["groups", "list", "--json"]).exits(0));
    let group = list.as_array().unwrap().iter().find(|g| g["group"] == "archive").unwrap();
    assert_eq!((&group["ours"], &group["batches"], &group["active_consumers"]), (&json!(false), &json!(1), &json!(0)));
    assert_eq!(group["holds"].as_array().unwrap().len(), 1, "{group}");
    wait_for("its lag in the other's metrics", || async {
        collect.metric("telemetry_group_lag_entries{group=\"archive\"}") == Some(1.0)
            && collect.metric("telemetry_group_lag_seconds{group=\"archive\"}").is_some_and(|seconds| seconds > 0.0)
            && collect.metric("telemetry_lag_entries") == Some(0.0)
    })
    .await;
    line(&top(&app).exits(0).stdout, &["held by archive"]);

    // What one group has stored says nothing of the other: it goes on where it was.
    let mut late = archive.start(&["collect"]);
    holds.plus(&more_holds).arrive(&theirs, "g").await;
    app.run(&["groups", "retire", "archive"]).exits(1).says(&["is active", "--force"]);
    late.kill();
    let (last, last_holds) = app.export("c.csv", 4, 70, 3);
    app.run(&["stream", "--csv", &last, "--cluster", "g", "--until", "stored"]).exits(0);
    app.run(&["groups", "retire", "collectors"]).exits(1).says(&["the group of this configuration", "--force"]);
    app.run(&["groups", "retire", "nobody"]).exits(1).says(&["no group `nobody`", "groups list"]);
    let done = app.run(&["groups", "retire", "archive", "--force"]).exits(0);
    assert!(
        done.stdout.contains("It had not acknowledged 1 batch; 1 batch was kept for it alone and is deleted from Redis"),
        "{}",
        done.stdout
    );
    let list = said(&app.run(&["groups", "list", "--json"]).exits(0));
    assert_eq!(list.as_array().unwrap().iter().map(|g| g["group"].clone()).collect::<Vec<_>>(), [json!("collectors")]);
    wait_for("a lag of 0", || async { collect.metric("telemetry_group_lag_seconds{group=\"archive\"}") == Some(0.0) }).await;
    // Nothing of ours went with it.
    said(&app.run(&["audit", "--json"]).exits(0));
    assert_eq!(Holds::stored(&ours, "g").await.rows(), Holds::stored(&theirs, "g").await.rows() + last_holds.rows());
    let account = said(&archive.run(&["audit", "--json"]).exits(1));
    let missing: i64 = account["sources"].as_array().unwrap().iter().map(|s| s["missing"].as_i64().unwrap()).sum();
    assert_eq!(missing, last_holds.rows(), "what a retired group has not read is missing in its store: {account}");
    assert!(collect.ended().is_none(), "{}", collect.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_cluster_each_node_is_shown_and_audit_goes_on_when_one_is_away() {
    let cluster = Cluster::start_with(Options { full_coverage: false, ..Options::default() });
    let database = Server::shared().empty_database().await;
    let app =
        |database: &str| cluster.variables().iter().fold(App::new("", database), |app, (name, value)| app.with(name, value));
    let (edge, app) = (app(""), app(&database.url));
    let mut collect = app.start(&["collect"]);
    // Enough sources for every node.
    let mut all = Holds::default();
    for n in 0..12 {
        let (csv, holds) = edge.export(&format!("{n}.csv"), 1, 5, n + 1);
        edge.run(&["stream", "--csv", &csv, "--cluster", "c", "--until", "stored"]).exits(0);
        all = all.plus(&holds);
    }
    all.arrive(&database, "c").await;
    let shown = top(&edge).exits(0).stdout;
    let masters = cluster.masters();
    for node in &masters {
        line(&shown, &["Redis", &format!(":{}", cluster.place(*node).client_port), "up for", "noeviction", "partition "]);
    }
    assert_eq!(said(&app.run(&["audit", "--json"]).exits(0))["sources"].as_array().unwrap().len(), 12);
    collect.signal("TERM");
    assert_eq!(collect.wait(), 0, "{}", collect.log());

    // A whole shard goes.
    // Not the one that the URL names.
    let dead = masters.iter().copied().find(|node| *node != 0).unwrap();
    for node in cluster.replicas_of(dead).into_iter().chain([dead]) {
        cluster.kill(node);
    }
    // It is shown where the others say it is, also to who did not see it before.
    let away = format!("localhost:{}", cluster.place(dead).client_port);
    let shown = top(&edge).exits(0).stdout;
    line(&shown, &[&format!("Redis {away} "), "DOWN for", "refused", "partition "]);
    let (nodes, partitions) = shown.split_once("\nPartitions\n").unwrap();
    assert_eq!(nodes.lines().filter(|line| line.starts_with("Redis ")).count(), 3, "{shown}");
    line(partitions, &[&away, "refused"]);
    for node in masters.iter().filter(|node| **node != dead) {
        line(&shown, &["Redis", &format!(":{}", cluster.place(*node).client_port), "up for", "partition "]);
    }
    let account = said(&app.run(&["audit", "--json"]).exits(1));
    let sources = account["sources"].as_array().unwrap();
    assert_eq!(sources.len(), 12, "{account}");
    let (unknown, known): (Vec<_>, Vec<_>) = sources.iter().partition(|s| s["unknown"].is_string());
    assert!(!unknown.is_empty() && known.iter().all(|s| s["closes"] == json!(true)) && !known.is_empty(), "{account}");
    let text = app.run(&["audit"]).exits(1).stdout;
    line(&text, &["does not answer"]);
    line(&text, &["Part of the queue does not answer"]);
}

/// Adds a copy of the first entry that waits, of which its own batch says otherwise.
const FORGE: &str = "for _, stream in ipairs(redis.call('KEYS', '*:stream')) do \
    local entry = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1] \
    if entry then local f = {} for i = 1, #entry[2], 2 do f[entry[2][i]] = entry[2][i + 1] end \
    redis.call('XADD', stream, '*', 's', ARGV[1], 'f', f['f'], 'e', f['e'], 'd', f['d']) end end";

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_shown_retried_and_dropped() {
    let redis = RedisServer::start();
    let database = Server::shared().empty_database().await;
    let app = App::new(&redis.url(), &database.url).with("TELEMETRY__BATCH__MAX_ROWS", "100");
    app.run(&["migrate"]).exits(0);
    assert_eq!(app.run(&["dead-letters", "list"]).exits(0).stdout, "There are no dead letters.\n");
    assert_eq!(said(&app.run(&["dead-letters", "list", "--json"]).exits(0)), json!([]));
    let (csv, holds) = app.export("a.csv", 2, 10, 1);
    app.run(&["stream", "--csv", &csv, "--cluster", "d"]).exits(0);
    let stranger = "0".repeat(31) + "8";
    redis.ok(&["EVAL", FORGE, "0", &stranger]);
    // Redis has lost a dictionary.
    let Reply::List(keys) = redis.command(&["KEYS", "*:dict:*"]) else { panic!("keys") };
    let [Reply::Text(dictionary)] = keys.as_slice() else { panic!("one dictionary: {keys:?}") };
    redis.ok(&["RENAME", dictionary, "hidden"]);

    let collect = app.start(&["collect"]);
    let list = || said(&app.run(&["dead-letters", "list", "--json"]).exits(0)).as_array().unwrap().clone();
    // The forged one, and each batch of the file.
    wait_for("dead letters", || async { list().len() == 1 + (holds.rows() as usize).div_ceil(100) }).await;
    let letters = list();
    wait_for("their number", || async { collect.metric("telemetry_dead_letters_kept") == Some(letters.len() as f64) }).await;
    let account = said(&app.run(&["audit", "--json"]).exits(0));
    let of_file = account["sources"].as_array().unwrap().iter().find(|s| s["source"] != *stranger).unwrap().clone();
    assert_eq!((&of_file["dead"], &of_file["queued"]), (&json!(holds.rows()), &json!(0)));
    assert_eq!(of_file["dead_letters"].as_array().unwrap().len(), letters.len() - 1);
    line(&app.run(&["audit"]).exits(0).stdout, &["in dead letter", "rows 0–"]);

    // Without its dictionary a batch says how much it has, not of what.
    let of =
        |source: &str| letters.iter().find(|l| (l["source"] == *stranger) == (source == stranger)).unwrap()["id"].to_string();
    let id = of("the file");
    let shown = said(&app.run(&["dead-letters", "show", &id, "--json"]).exits(0));
    assert_eq!((&shown["cluster"], &shown["samples"]), (&json!("d"), &json!(100)));
    assert!(shown["dictionaries"][0]["problem"].as_str().unwrap().contains("not stored with the letter"), "{shown}");
    app.run(&["dead-letters", "retry", &id]).exits(1).says(&["neither in the letter nor in Redis", "telemetry replay --source"]);
    redis.ok(&["RENAME", "hidden", dictionary]);
    let retried = said(&app.run(&["dead-letters", "retry", "--all", "--json"]).exits(1));
    let outcomes = retried.as_array().unwrap();
    assert_eq!(outcomes.len(), letters.len());
    let stored: i64 = outcomes.iter().filter_map(|o| o["stored"].as_i64()).sum();
    assert_eq!(stored, holds.rows());
    let failed: Vec<_> = outcomes.iter().filter(|o| o["error"].is_string()).collect();
    assert_eq!(failed.len(), 1, "the forged one says itself what it is: {retried}");
    holds.arrive(&database, "d").await;

    let id = list()[0]["id"].to_string();
    assert_eq!(id, of(&stranger));
    let shown = app.run(&["dead-letters", "show", &id, "--rows", "3"]).exits(0).stdout;
    line(&shown, &["reason", "the entry says rows"]);
    line(&shown, &["content", "of cluster d", "samples of"]);
    app.run(&["dead-letters", "show", "0"]).exits(1).says(&["there is no dead letter 0", "dead-letters list"]);
    let dropped = said(&app.run(&["dead-letters", "drop", "--all", "--json"]).exits(0));
    assert_eq!(
        dropped,
        json!([{"id": id.parse::<i64>().unwrap(), "outcome": "dropped", "source": stranger, "first_row": 0, "end_row": 100}])
    );
    assert_eq!(list(), Vec::<Value>::new());
    line(&app.run(&["audit", "--differences"]).exits(0).stdout, &["100 given up by `dead-letters drop`: rows 0–99"]);
    wait_for("none any more", || async { collect.metric("telemetry_dead_letters_kept") == Some(0.0) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_read_of_a_dead_letter_is_shown() {
    let redis = RedisServer::start();
    let database = Server::shared().empty_database().await;
    let app = App::new(&redis.url(), &database.url);
    let (csv, _) = app.export("a.csv", 2, 10, 1);
    app.run(&["stream", "--csv", &csv, "--cluster", "d"]).exits(0);
    redis.ok(&["EVAL", FORGE, "0", &("0".repeat(31) + "8")]);
    let _collect = app.start(&["collect"]);
    wait_for("a dead letter", || async {
        let list = app.run(&["dead-letters", "list", "--json"]);
        list.code == Some(0) && said(&list).as_array().unwrap().len() == 1
    })
    .await;
    let id = said(&app.run(&["dead-letters", "list", "--json"]))[0]["id"].to_string();
    let all = said(&app.run(&["dead-letters", "show", &id, "--json"]).exits(0));
    let csv = std::fs::read_to_string(&csv).unwrap();
    let rows: Vec<Vec<&str>> = csv.lines().skip(1).map(|l| l.splitn(12, ',').map(|c| c.trim_matches('"')).collect()).collect();
    assert_eq!(all["rows"].as_array().unwrap().len(), rows.len());
    for (shown, row) in all["rows"].as_array().unwrap().iter().zip(&rows) {
        assert_eq!((&shown["metric"], &shown["hostname"]), (&json!(row[1]), &json!(row[6])));
        assert_eq!(shown["value"].as_f64(), row[10].parse().ok());
    }
    assert_eq!(all["series_count"].as_u64(), Some(all["series"].as_array().unwrap().len() as u64));
    let few = app.run(&["dead-letters", "show", &id, "--rows", "2"]).exits(0).stdout;
    line(&few, &["rows (the first 2 of"]);
    line(&few, &[rows[1][1], rows[1][6]]);
    // Its rows are those of a source that has none else; sent under their own name they are stored.
    line(&app.run(&["dead-letters", "list"]).exits(0).stdout, &[&id, "the entry says rows"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_says_what_it_did_and_what_it_does_not_know() {
    let redis = RedisServer::start();
    let database = Server::shared().empty_database().await;
    let app = App::new(&redis.url(), &database.url);
    let _collect = app.start(&["collect"]);
    let (csv, holds) = app.export("a.csv", 2, 10, 1);
    app.run(&["stream", "--csv", &csv, "--cluster", "r", "--until", "stored"]).exits(0);
    let source = said(&app.run(&["audit", "--json"]).exits(0))["sources"][0]["source"].as_str().unwrap().to_owned();
    let unknown = "f".repeat(32);
    let done =
        app.run(&["replay", "--source", &unknown, "--source", &source]).exits(1).says(&["does not know the source", &unknown]);
    assert!(done.stdout.contains("1 source is set back"), "{}", done.stdout);
    app.run(&["stream", "--csv", &csv, "--cluster", "r", "--until", "stored"]).exits(0);
    holds.arrive(&database, "r").await;
    let done = app.run(&["replay", "--all"]).exits(0);
    assert!(done.stdout.contains("1 source is set back"), "{}", done.stdout);
    said(&app.run(&["audit", "--json"]).exits(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_with_control_characters_forge_no_line_and_reach_no_terminal() {
    const NASTY: &str = "a\nFORGED line\u{1b}[2J\u{9b}31m\u{202e}";
    let redis = RedisServer::start();
    let database = Server::shared().empty_database().await;
    let app = App::new(&redis.url(), &database.url);
    let collect = app.start(&["collect"]);
    let (csv, _) = app.export("a.csv", 1, 5, 1);
    let path = app.dir.path().join(format!("{NASTY}.csv"));
    std::fs::rename(&csv, &path).unwrap();
    let harmless = |output: &str| {
        assert!(!output.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{output:?}");
        assert!(!output.lines().any(|line| line.trim_start().starts_with("FORGED")), "{output}");
    };
    let streamed = app.run(&["stream", "--csv", text(&path), "--cluster", "g", "--until", "stored"]).exits(0);
    harmless(&streamed.stderr);
    redis.ok(&["XGROUP", "CREATE", "{telemetry:0}:stream", NASTY, "0", "MKSTREAM"]);
    for command in [&["audit"][..], &["audit", "--json"], &["top", "--once"], &["groups", "list"], &["groups", "list", "--json"]]
    {
        let done = app.run(command);
        assert_eq!(done.code, Some(0), "{command:?}: {}", done.stderr);
        harmless(&done.stdout);
        assert!(done.stdout.contains("\\u001b[2J"), "{command:?}: {}", done.stdout);
    }
    let missing = app.run(&["stream", "--csv", &format!("{}/b{NASTY}", text(app.dir.path()))]);
    assert_ne!(missing.code, Some(0));
    harmless(&missing.stderr);
    harmless(&collect.log());
}

/// A window of an export that was saved again elsewhere adds nothing; a value that contradicts another is kept beside it, and listed.
#[tokio::test(flavor = "multi_thread")]
async fn audit_lists_conflicts() {
    let redis = RedisServer::start();
    let database = Server::shared().empty_database().await;
    let app = App::new(&redis.url(), &database.url);
    let (csv, holds) = app.export("a.csv", 4, 60, 1);
    let export = std::fs::read_to_string(&csv).unwrap();
    let lines: Vec<&str> = export.lines().collect();
    let write = |name: &str, lines: &[&str], end: &str| {
        let path = app.dir.path().join(name);
        std::fs::write(&path, lines.iter().map(|line| format!("{line}{end}")).collect::<String>()).unwrap();
        text(&path).to_owned()
    };
    let window = write("window.csv", &[&lines[..1], &lines[lines.len() / 3..]].concat(), "\r\n");
    let mut cells: Vec<&str> = lines[lines.len() - 1].split(',').collect();
    let (is, other) = (cells[10].trim_matches('"').parse::<f64>().expect("a value"), "123456.75");
    cells[10] = other;
    let contradicts = write("other.csv", &[lines[0], &cells.join(",")], "\n");

    let collect = app.start(&["collect"]);
    for file in [&csv, &window, &csv] {
        app.run(&["stream", "--csv", file, "--cluster", "e", "--until", "stored"]).exits(0);
        holds.arrive(&database, "e").await;
    }
    let report = said(&app.run(&["audit", "--json", "--conflicts"]).exits(0));
    assert_eq!((&report["conflicts"], &report["more_conflicts"]), (&json!([]), &json!(false)), "{report}");
    let sum = |report: &Value, column: &str| -> i64 {
        report["sources"].as_array().unwrap().iter().map(|source| source[column].as_i64().unwrap()).sum()
    };
    assert_eq!(sum(&report, "stored") - sum(&report, "duplicate"), holds.rows(), "{report}");

    app.run(&["stream", "--csv", &contradicts, "--cluster", "e", "--until", "stored"]).exits(0);
    let report = said(&app.run(&["audit", "--json", "--conflicts"]).exits(0));
    assert_eq!((sum(&report, "conflicts"), report["conflicts"].as_array().unwrap().len()), (1, 1), "{report}");
    assert_eq!(report["conflicts"][0]["values"], json!([is, 123_456.75]));
    let [metric, gpu] = [cells[1], cells[4]].map(|cell| cell.trim_matches('"'));
    assert_eq!((&report["conflicts"][0]["metric"], &report["conflicts"][0]["gpu"]), (&json!(metric), &json!(gpu)));
    let shown = app.run(&["audit", "--conflicts"]).exits(0).stdout;
    line(&shown, &[metric, gpu, &format!("{is}, {other}")]);
    line(&shown, &["cluster", "missing", "conflicts"]);
    assert_eq!(said(&app.run(&["audit", "--json"]).exits(0)).get("conflicts"), None);
    wait_for("a metric", || async { collect.metric("telemetry_conflicts_total") == Some(1.0) }).await;
}
