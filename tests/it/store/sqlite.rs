//! The suite on SQLite, and what is SQLite's alone: a directory, one process at a time, files that are not ours.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use telemetry::model::{Reason, SeriesId, SourceId, TimeMs};
use telemetry::store::sqlite::SqliteStore;
use telemetry::store::{ChunkRange, DeadLetter, GpuFilter, Ids, Limit, Reader, SeriesFilter, SnapshotFor, Store, StoreError};
use tempfile::TempDir;

use super::rows::*;
use super::{conformance, histories, maintenance, names, once, reading, retention};

struct Sqlite {
    dir: TempDir,
    store: Arc<SqliteStore>,
}

impl Sqlite {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(dir.path()).unwrap());
        Self { dir, store }
    }
}

#[async_trait]
impl Harness for Sqlite {
    fn open(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::clone(&self.store) as Arc<dyn Reader>
    }

    async fn conflicts(&self, limit: usize) -> (Vec<(i64, Vec<f64>)>, bool) {
        conflicts_of(&*self.store, limit).await
    }

    async fn samples(&self) -> Multiset {
        let series = self.store.series(&SeriesFilter::default(), SeriesId::default(), Limit::rows(usize::MAX)).await.unwrap();
        let gpus = self.store.gpus(&GpuFilter::default(), None, Limit::rows(usize::MAX)).await.unwrap();
        let (from, before) = (TimeMs::MIN, TimeMs::MAX);
        let all = ChunkRange { begins_from: from, begins_before: before, ends_from: from, ends_before: before };
        let ids: Vec<Ids> = series.iter().map(|series| series.ids()).collect();
        let mut samples = Multiset::new();
        let mut snapshot = self.store.snapshot(SnapshotFor::Page, Duration::from_secs(10)).await.unwrap();
        for chunk in snapshot.chunks(&ids, &all, usize::MAX).await.unwrap().unwrap() {
            let series = series.iter().find(|series| series.id == chunk.series).unwrap();
            let place = &gpus.iter().find(|gpu| gpu.ids.contains(&series.gpu_id)).unwrap().place;
            for (time, value) in chunk.times.iter().zip(&chunk.values) {
                let key = (place.cluster.clone(), place.uuid.clone(), series.metric.clone(), time.as_millis(), value.to_bits());
                *samples.entry(key).or_default() += 1;
            }
        }
        samples
    }

    async fn rejected(&self) -> Vec<(SourceId, u64, u64, Reason)> {
        let connection = rusqlite::Connection::open(self.dir.path().join("telemetry.sqlite")).unwrap();
        let mut statement = connection.prepare("SELECT hex(source_id), row, line, reason FROM reject ORDER BY 1, 2").unwrap();
        let rows = statement.query_map([], |row| {
            let source = row.get::<_, String>(0)?.to_lowercase().parse().expect("an id");
            let reason = Reason::from_code(row.get(3)?).expect("a reason");
            Ok((source, row.get::<_, i64>(1)?.cast_unsigned(), row.get::<_, i64>(2)?.cast_unsigned(), reason))
        });
        rows.unwrap().collect::<Result<_, _>>().unwrap()
    }
}

super::suite! { Sqlite::new }

/// The words that opening a directory is refused with.
fn refusal(dir: &Path) -> String {
    match SqliteStore::open(dir).expect_err("it is refused") {
        StoreError::Refused { endpoint, reason } => format!("{endpoint}: {reason}"),
        StoreError::Schema(text) | StoreError::Version(text) => text,
        other => panic!("{other:?}"),
    }
}

fn file_of(dir: &Path) -> PathBuf {
    dir.join("telemetry.sqlite")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_is_there_after_reopening() {
    let Sqlite { dir, store } = Sqlite::new().await;
    let content = Content::new("a", plain(200));
    store.commit(&[content.batch(0..120)]).await.unwrap();
    let id = store.id().await.unwrap();
    drop(store);
    let store = Arc::new(SqliteStore::open(dir.path()).unwrap());
    assert_eq!(store.id().await.unwrap(), id);
    assert_eq!(store.settled(&[content.source]).await.unwrap(), [(content.source, 120)]);
    store.commit(&[content.all()]).await.unwrap();
    assert_eq!(store.commit(&[Content::new("saved again", plain(200)).all()]).await.unwrap().stored.len(), 0);
    assert_eq!(Sqlite { dir, store }.samples().await, content.samples());
}

#[tokio::test]
async fn a_directory_has_one_process() {
    let Sqlite { dir, store } = Sqlite::new().await;
    let said = refusal(dir.path());
    assert!(said.contains(dir.path().to_str().unwrap()) && said.contains(&format!("process {}", std::process::id())), "{said}");
    store.ping().await.unwrap();
    drop(store);
    SqliteStore::open(dir.path()).unwrap();
}

#[tokio::test]
async fn what_is_not_ours_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = file_of(dir.path());
    let foreign = tempfile::tempdir().unwrap();
    let other = foreign.path().join("other");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    for bytes in [b"a shopping list".to_vec(), std::fs::read(&other).unwrap()] {
        std::fs::write(&file, &bytes).unwrap();
        let said = refusal(dir.path());
        assert!(said.contains("is not telemetry's") && said.contains("--data-dir"), "{said}");
        assert_eq!(std::fs::read(&file).unwrap(), bytes);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was made beside it");
    }
}

#[tokio::test]
async fn a_newer_version_is_refused_and_left_alone() {
    let Sqlite { dir, store } = Sqlite::new().await;
    drop(store);
    let connection = rusqlite::Connection::open(file_of(dir.path())).unwrap();
    connection.execute_batch("PRAGMA user_version = 99; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(connection);
    let before = std::fs::read(file_of(dir.path())).unwrap();
    let said = refusal(dir.path());
    assert!(said.contains("version 99") && said.contains("upgrade telemetry"), "{said}");
    assert_eq!(std::fs::read(file_of(dir.path())).unwrap(), before);
}

#[tokio::test]
async fn letters_of_release_0_1_0_are_kept_and_known_again() {
    let dir = tempfile::tempdir().unwrap();
    let new = include_str!("../../../src/store/sqlite/schema.sql");
    let old =
        new.replace("    payload_digest BLOB,\n    UNIQUE (source_id, rows, payload_digest)", "    UNIQUE (source_id, rows)");
    assert_ne!(old, new);
    let keep = "INSERT INTO dead_letter (source_id, rows, reason, payload, buried_ms) VALUES (?1, '[0,5)', 'why', ?2, 7) ON CONFLICT DO NOTHING";
    let id = source("a");
    let client = || rusqlite::Connection::open(file_of(dir.path())).unwrap();
    let connection = client();
    connection.execute_batch(&format!("PRAGMA application_id = 1196447092; {old}; PRAGMA user_version = 1")).unwrap();
    connection.execute("INSERT INTO store VALUES (1, 'a store', 0)", ()).unwrap();
    for payload in [b"one", b"two"] {
        connection.execute(keep, (&id.to_bytes()[..], &payload[..])).unwrap();
    }
    let others = "INSERT INTO dead_dictionary VALUES (1, 0, zeroblob(16), x'0102'); \
                  INSERT INTO dead_letter (source_id, rows, reason, payload, buried_ms) VALUES (zeroblob(16), '[0,1)', '', '', 0); \
                  DELETE FROM dead_letter WHERE id > 1";
    connection.execute_batch(others).unwrap();
    let given: i64 =
        connection.query_row("SELECT seq FROM sqlite_sequence WHERE name = 'dead_letter'", [], |row| row.get(0)).unwrap();
    drop(connection);

    let store = SqliteStore::open(dir.path()).unwrap();
    let letter = store.dead_letter(1).await.unwrap().expect("it is kept");
    assert_eq!((&letter.payload[..], letter.dictionaries.len(), letter.source), (&b"one"[..], 1, id));
    let other = DeadLetter { payload: Bytes::from_static(b"two"), ..letter.clone() };
    let both = [(letter, "0/1-1".to_owned()), (other, "0/1-2".to_owned())];
    assert_eq!(store.bury_all(&both).await.unwrap().kept, [false, true]);
    let ids: Vec<i64> = store.dead_letters().await.unwrap().iter().map(|letter| letter.id).collect();
    assert!(matches!(ids[..], [1, second] if second > given), "ids are not given out again: {ids:?}, {given}");
    drop(store);

    // The old one uses what the new one has made, and back.
    client().execute(keep, (&id.to_bytes()[..], &b"three"[..])).unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let third = DeadLetter { payload: Bytes::from_static(b"three"), ..both[0].0.clone() };
    assert_eq!(store.bury_all(&[(third, "0/1-3".to_owned())]).await.unwrap().kept, [false]);
    assert_eq!(store.dead_letters().await.unwrap().len(), 3);
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for dir in [file.path().to_owned(), file.path().join("below"), PathBuf::from("/proc/telemetry")] {
        let said = refusal(&dir);
        assert!(said.contains(dir.to_str().unwrap()) && said.contains("--data-dir"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_away_ends_the_work_and_disturbs_nobody() {
    let h = Sqlite::new().await;
    let content = Content::new("a", plain(5000));
    h.store.commit(&[content.all()]).await.unwrap();
    let ids: Vec<Ids> = h
        .store
        .series(&SeriesFilter::default(), SeriesId::default(), Limit::rows(1000))
        .await
        .unwrap()
        .iter()
        .map(|s| s.ids())
        .collect();
    let many: Vec<Ids> = ids.iter().copied().cycle().take(200_000).collect();
    let (from, before) = (TimeMs::MIN, TimeMs::MAX);
    let all = ChunkRange { begins_from: from, begins_before: before, ends_from: from, ends_before: before };
    for _ in 0..16 {
        // Far more than can be read in that time: it is interrupted, and its connection serves the next.
        let mut snapshot = h.store.snapshot(SnapshotFor::Page, Duration::from_secs(10)).await.unwrap();
        let long = snapshot.chunks(&many, &all, usize::MAX);
        assert!(tokio::time::timeout(Duration::from_millis(5), long).await.is_err());
    }
    assert_eq!(h.samples().await, content.samples());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_chunks_become_full_ones_and_the_same_value_counts() {
    let sqlite = Sqlite::new().await;
    let store = sqlite.open();
    let hour = 3_600_000;
    // 5,000 samples of one series, ten to a commit, and the last time again with other values.
    let mut rows: Vec<Row> = (0..5000).map(|at| sample(0, DAY + at * 1000, at as f64)).collect();
    rows.extend((1..=4).map(|value| sample(0, DAY + 4_999_000, f64::from(value) / 8.0)));
    let content = Content::new("a", rows);
    for from in (0..content.rows.len()).step_by(10) {
        store.commit(&[content.batch(from..(from + 10).min(content.rows.len()))]).await.expect("a commit");
    }
    let (before, reader) = (sqlite.samples().await, sqlite.reader());
    let series = reader.series(&SeriesFilter::default(), SeriesId::default(), Limit::rows(10)).await.unwrap()[0].ids();
    let newest = async || {
        reader
            .snapshot(SnapshotFor::Page, Duration::from_secs(30))
            .await
            .unwrap()
            .latest(&[series], TimeMs::MIN, TimeMs::MAX)
            .await
            .unwrap()[0]
            .value
    };
    assert_eq!(newest().await, 0.5);
    let connection = rusqlite::Connection::open(sqlite.dir.path().join("telemetry.sqlite")).unwrap();
    let chunks = || connection.query_row("SELECT count(*) FROM chunk", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(chunks(), 501);

    // An hour that is closed, then all of it.
    let done = maintenance::pack(&*store, DAY + hour).await;
    assert_eq!((done.samples, done.rows_before, done.rows_after), (3600, 360, 1));
    let done = maintenance::pack(&*store, DAY + 2 * hour).await;
    assert_eq!((done.samples, done.rows_after), (5004, 2));
    assert_eq!(chunks(), 2);
    assert_eq!((sqlite.samples().await, newest().await), (before.clone(), 0.5));
    assert_eq!(maintenance::pack(&*store, DAY + 2 * hour).await.samples, 0, "there is nothing left to do");

    // One that is damaged stays as it is, and is named.
    let late = Content::new("late", vec![sample(0, DAY + 4_999_000, 9.0)]);
    store.commit(&[late.all()]).await.expect("a commit");
    connection.execute_batch("UPDATE chunk SET n = n + 1 WHERE id = (SELECT min(id) FROM chunk)").unwrap();
    let done = maintenance::pack(&*store, DAY + 2 * hour).await;
    assert!(done.damaged.len() == 1 && done.damaged[0].contains("is damaged"), "{done:?}");
    assert_eq!(newest().await, 9.0);
}
