//! Files that are followed, and what others do to them: replaced, truncated, unreadable for a while.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::app::{Role, text, wait_for};
use crate::support::place::{Place, ready};

const HEADER: &str = "timestamp,metric_name,uuid,value\n";

/// Where files are followed and what comes of them is stored.
struct Following {
    place: Place,
    _collect: Role,
}

impl Following {
    async fn new() -> Self {
        let place = Place::new().await;
        let collect = place.app.start(&["collect"]);
        Self { place, _collect: collect }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.app.dir.path().join(name)
    }

    fn follow(&self, path: &Path, more: &[&str]) -> Role {
        self.place.app.start(&arguments(path, more))
    }

    async fn arrive(&self, rows: i64) {
        self.place.arrive("f", rows).await;
    }
}

fn arguments<'a>(path: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["stream", "--csv", text(path), "--cluster", "f", "--follow"], more].concat()
}

fn row(i: u32) -> String {
    format!("2025-07-18T20:{:02}:{:02}Z,DCGM_FI_DEV_GPU_UTIL,GPU-1,{}\n", i / 60, i % 60, i % 100)
}

fn rows(range: std::ops::Range<u32>) -> String {
    range.map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_is_written_anew_and_moved_over_the_former_one_is_read_to_its_end() {
    let following = Following::new().await;
    let (path, next) = (following.path("x.csv"), following.path(".next"));
    let replace = |length: u32| {
        std::fs::write(&next, HEADER.to_owned() + &rows(0..length)).unwrap();
        std::fs::rename(&next, &path).unwrap();
    };
    replace(3);
    let stream = following.follow(&path, &[]);
    following.arrive(3).await;
    // Faster than the former file is let go of, so that several are read at the same time. The pace is the case.
    for (length, pause) in (4..24).zip([100, 300, 200, 350, 150, 400].into_iter().cycle()) {
        replace(length);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    following.arrive(23).await;
    assert!(!stream.log().contains("ERROR"), "{}", stream.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_columns_go_on_where_a_file_is_emptied_under_its_writer() {
    for (append, hole) in [(true, false), (false, true)] {
        let following = Following::new().await;
        let path = following.path("g.csv");
        let mut writer = std::fs::File::options().create(true).append(append).write(true).open(&path).unwrap();
        // More than what is read at once, so that the hole is too.
        let first = HEADER.to_owned() + &rows(0..3_000);
        writer.write_all(first.as_bytes()).unwrap();
        let stream = following.follow(&path, &[]);
        following.arrive(3_000).await;
        // copytruncate: the rest of the line that the logger had in hand comes first, then its next lines.
        std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        writer.write_all(row(3_000).as_bytes()).unwrap();
        following.arrive(3_001).await;
        writer.write_all(row(3_001).as_bytes()).unwrap();
        following.arrive(3_002).await;
        assert_eq!(std::fs::read(&path).unwrap()[0] == 0, hole, "as the case wants it");
        assert!(!stream.log().contains("ERROR"), "{}", stream.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_a_header_is_read_by_configured_columns() {
    let following = Following::new().await;
    let path = following.path("bare.csv");
    std::fs::write(&path, rows(0..5)).unwrap();
    let run = |columns: &str| {
        let mut command = following.place.app.command(&["stream", "--csv", text(&path), "--cluster", "f", "--until", "stored"]);
        let output = command.env("TELEMETRY__STREAM__COLUMNS", columns).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run("[\"timestamp\",\"metric_name\",\"uuid\",\"value\"]");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(following.place.rows("f").await, 5);
    let (code, said) = run("[\"timestamp\",\"metric_name\",\"value\"]");
    assert!(code == Some(2) || code == Some(1), "{said}");
    assert!(said.contains("stream.columns") && said.contains("uuid"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_read_is_tried_again_and_said_once() {
    let following = Following::new().await;
    let directory = following.path("many");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("0.csv"), HEADER.to_owned() + &row(0)).unwrap();
    let stream = following.follow(&directory, &[]);
    following.arrive(1).await;
    // No file more may be opened.
    let limit = |files: &str| {
        let pid = stream.pid().to_string();
        assert!(Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={files}:")]).status().unwrap().success());
    };
    let open = std::fs::read_dir(format!("/proc/{}/fd", stream.pid())).unwrap().count();
    limit(&open.to_string());
    for i in 1..41 {
        std::fs::write(directory.join(format!("{i}.csv")), HEADER.to_owned() + &row(i)).unwrap();
    }
    wait_for("a warning", || async { stream.log().contains("/40.csv: Too many open files") }).await;
    // What is gone keeps nobody waiting.
    std::fs::remove_file(directory.join("40.csv")).unwrap();
    limit("1024");
    following.arrive(40).await;
    wait_for("readiness", || async { stream.get("/readyz").is_some_and(|(status, _)| status == 200) }).await;
    assert_eq!(stream.metric("telemetry_source_files_unreadable"), Some(0.0));
    for i in 1..40 {
        let said = stream.log().lines().filter(|line| line.contains(&format!("/{i}.csv: Too many"))).count();
        assert!(said <= 1, "{}", stream.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_files_and_our_own_rejects_are_passed_over() {
    let following = Following::new().await;
    let directory = following.path("exports");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("a.csv"), HEADER.to_owned() + &row(0) + "x\n").unwrap();
    std::fs::write(directory.join("._a.csv"), [0, 5, 22, 7]).unwrap();
    std::fs::write(directory.join(".b.csv.tmp.csv"), "half").unwrap();
    let rejects = directory.join("rejects.csv");
    for pattern in [text(&directory), &format!("{}/*.csv", directory.display())] {
        for _ in 0..2 {
            let arguments = ["stream", "--csv", pattern, "--cluster", "f", "--rejects", text(&rejects), "--until", "stored"];
            following.place.app.run(&arguments).exits(0);
        }
    }
    assert_eq!(following.place.rows("f").await, 1);
    assert!(std::fs::read_to_string(&rejects).unwrap().contains("short_row"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_that_nobody_writes_to_holds_nobody_up() {
    let following = Following::new().await;
    let fifo = following.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut stream = following.place.app.start(&["stream", "--csv", text(&fifo), "--cluster", "f"]);
    wait_for("a connection", || async { stream.log().contains("connected to Redis") }).await;
    stream.signal("TERM");
    assert_eq!(stream.wait(), 1);
    assert!(!stream.log().contains("WARN") && !stream.log().contains("ERROR"), "it waited for its deadline: {}", stream.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_in_the_middle_costs_no_row() {
    let following = Following::new().await;
    let path = following.path("hole.csv");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all((HEADER.to_owned() + &row(0)).as_bytes()).unwrap();
    file.seek(SeekFrom::Current(5 << 20)).unwrap();
    file.write_all(row(1).as_bytes()).unwrap();
    file.write_all(b"\0\0\0").unwrap();
    file.write_all(row(2).as_bytes()).unwrap();
    file.write_all(&[0; 100]).unwrap();
    let done = following.place.app.run(&["stream", "--csv", text(&path), "--cluster", "f", "--until", "stored"]).exits(0);
    assert!(done.stderr.contains("rejected=0"), "{}", done.stderr);
    assert_eq!(following.place.rows("f").await, 3);
}

/// A row of a file.
fn row_of(file: u32, i: u32) -> String {
    format!("2025-07-18T21:00:{i:02}Z,DCGM_FI_DEV_GPU_UTIL,GPU-{file},{i}\n")
}

fn append(path: &Path, text: &str) {
    std::fs::File::options().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_files_than_may_be_open_are_read_and_read_on_whatever_becomes_of_them() {
    const FILES: u32 = 300;
    let following = Following::new().await;
    let directory = following.path("many");
    std::fs::create_dir(&directory).unwrap();
    let path = |i: u32| directory.join(format!("{i}.csv"));
    let whole = |i: u32, rows: u32| HEADER.to_owned() + &(0..rows).map(|n| row_of(i, n)).collect::<String>();
    for i in 0..FILES {
        std::fs::write(path(i), whole(i, 2)).unwrap();
    }
    let stream = following.place.app.start_with_descriptors(64, &arguments(&directory, &[]));
    following.arrive(2 * i64::from(FILES)).await;
    // They grow.
    for i in 0..FILES {
        append(&path(i), &row_of(i, 2));
    }
    following.arrive(3 * i64::from(FILES)).await;
    // They are renamed to what no pattern matches, and their writers write on.
    let renamed = |i: u32| directory.join(format!("{i}.csv.1"));
    for i in 0..FILES {
        std::fs::rename(path(i), renamed(i)).unwrap();
        append(&renamed(i), &row_of(i, 3));
    }
    following.arrive(4 * i64::from(FILES)).await;
    // Others take their places, and longer versions of those are moved over them.
    for i in 0..FILES {
        std::fs::write(path(i), HEADER.to_owned() + &row_of(i, 4)).unwrap();
    }
    following.arrive(5 * i64::from(FILES)).await;
    for i in 0..FILES {
        std::fs::write(directory.join(".next"), HEADER.to_owned() + &row_of(i, 4) + &row_of(i, 5)).unwrap();
        std::fs::rename(directory.join(".next"), path(i)).unwrap();
    }
    following.arrive(6 * i64::from(FILES)).await;
    // They are emptied, and their writers do not repeat the header.
    for i in 0..FILES {
        std::fs::File::options().write(true).open(path(i)).unwrap().set_len(0).unwrap();
        append(&path(i), &row_of(i, 6));
    }
    following.arrive(7 * i64::from(FILES)).await;
    ready(&stream).await;
    assert_eq!(stream.metric("telemetry_source_files_unreadable").unwrap_or(0.0), 0.0);
    assert!(!stream.log().contains("Too many") && !stream.log().contains("ERROR"), "{}", stream.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_closed_are_sent_again_where_redis_has_lost_them() {
    const FILES: u32 = 12;
    let following = Following::new().await;
    let directory = following.path("many");
    std::fs::create_dir(&directory).unwrap();
    for i in 0..FILES {
        std::fs::write(directory.join(format!("{i}.csv")), HEADER.to_owned() + &row_of(i, 0)).unwrap();
    }
    let app = &following.place.app;
    let stream = app.start_with("TELEMETRY__STREAM__MAX_OPEN_FILES", "3", &arguments(&directory, &[]));
    following.arrive(i64::from(FILES)).await;
    following.place.redis.ok(&["FLUSHALL"]);
    wait_for("all files to be sent again", || async {
        stream.log().matches("Redis has lost what it knew of this source").count() >= FILES as usize
    })
    .await;
    following.arrive(i64::from(FILES)).await;
    for i in 0..FILES {
        append(&directory.join(format!("{i}.csv")), &row_of(i, 1));
    }
    following.arrive(2 * i64::from(FILES)).await;
}

/// The queue lets go of the dictionaries that nothing in it refers to, after a while; the next batch may bring a new one.
#[tokio::test(flavor = "multi_thread")]
async fn new_and_former_series_go_on_together_after_a_quiet_time() {
    const SWEEP: &str =
        "local n = 0 for _, key in ipairs(redis.call('KEYS', '*:dict:*')) do n = n + redis.call('DEL', key) end return n";
    let following = Following::new().await;
    let path = following.path("quiet.csv");
    std::fs::write(&path, HEADER.to_owned() + &rows(0..3)).unwrap();
    let stream = following.follow(&path, &[]);
    following.arrive(3).await;
    assert_eq!(following.place.redis.int(&["EVAL", SWEEP, "0"]), 1);
    // Written at once, so that they are one batch.
    append(&path, &(row(3) + &row_of(7, 3)));
    following.arrive(5).await;
    assert!(!stream.log().contains("WARN"), "{}", stream.log());
}
