//! Programs of two releases on one schema, forth and back; migrations on tables that are full and in use.

use bytes::Bytes;
use telemetry::model::Digest;
use telemetry::store::{DeadLetter, Limit, Reader, Store, StoreError, conflicts};
use tokio_postgres::Client;

use super::rows::{Content, plain};
use crate::support::postgres::{Database, Server};

const STATEMENTS: &str = include_str!("fixtures/release-0.1.0.sql");
/// The migrations of release 0.1.0; applied ones never change.
const MIGRATIONS: [(i32, &str, &str); 2] = [
    (1, "begin", include_str!("../../../src/store/postgres/migrations/0001_begin.sql")),
    (2, "read", include_str!("../../../src/store/postgres/migrations/0002_read.sql")),
];

/// Makes the schema as release 0.1.0 does, up to a version.
pub async fn made_by_0_1_0(version: usize) -> (Database, Client) {
    let database = Server::shared().empty_database().await;
    let client = database.client().await;
    let table = "CREATE TABLE schema_migration (version int PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, \
                 applied_at timestamptz NOT NULL DEFAULT now())";
    client.batch_execute(table).await.expect("a table");
    for (version, name, sql) in &MIGRATIONS[..version] {
        client.batch_execute(sql).await.expect(name);
        let note = "INSERT INTO schema_migration (version, name, checksum) VALUES ($1, $2, $3)";
        client.execute(note, &[version, name, &Digest::of(sql.as_bytes()).to_string()]).await.expect("noted");
    }
    (database, client)
}

/// Runs what release 0.1.0 would, on a day of January 2025, for three samples.
async fn run_0_1_0(client: &Client, day: u32) {
    // It refuses a schema in which it finds what it does not know.
    let known: Vec<(i32, String)> =
        MIGRATIONS.iter().map(|(version, _, sql)| (*version, Digest::of(sql.as_bytes()).to_string())).collect();
    let rows = client.query("SELECT version, checksum FROM schema_migration ORDER BY version", &[]).await.expect("rows");
    let found: Vec<(i32, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(found, known, "what it finds in schema_migration");
    let sql = STATEMENTS
        .replace("{day}", &format!("2025-01-{day:02}"))
        .replace("{next}", &format!("2025-01-{:02}", day + 1))
        .replace("{name}", &format!("sample_chunk_202501{day:02}"))
        .replace("{row}", &(day * 10).to_string())
        .replace("{end}", &(day * 10 + 4).to_string());
    client.batch_execute(&sql).await.expect("the statements of release 0.1.0");
}

async fn count(client: &Client, from: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {from}"), &[]).await.expect("a count").get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_of_two_releases_use_one_schema() {
    let (database, client) = made_by_0_1_0(2).await;
    run_0_1_0(&client, 10).await;

    // A new server reads before anybody has migrated; a new collector migrates, and stores.
    let reader = database.store();
    reader.ready().await.expect("ready");
    assert_eq!(reader.metrics("", Limit::rows(1000)).await.expect("read"), ["DCGM_FI_DEV_GPU_UTIL"]);
    let entries = Store::ledger(&reader).await.expect("a ledger");
    assert_eq!(entries.iter().map(|entry| (entry.valid, entry.conflict)).collect::<Vec<_>>(), [(3, 0)]);
    assert_eq!(Reader::ledger(&reader, None, Limit::rows(10)).await.expect("a ledger"), entries);
    assert_eq!(conflicts(&reader, 10).await.expect("none"), (Vec::new(), false));
    let store = database.store();
    store.migrate().await.expect("migrated");

    // A letter that the old one has kept, and another one of the same rows.
    let kept = store.dead_letters().await.expect("letters").remove(0);
    let kept = store.dead_letter(kept.id).await.expect("a letter").expect("it is there");
    let other = DeadLetter { payload: Bytes::from_static(b"other"), ..kept.clone() };
    let both = [(kept, "0/1-1".to_owned()), (other, "0/1-2".to_owned())];
    assert_eq!(store.bury_all(&both).await.expect("buried").kept, [false, true]);
    assert_eq!(store.bury_all(&both).await.expect("buried").kept, [false, false]);

    // The old ones go on beside it, and after it is taken back.
    let again = "INSERT INTO dead_letter (source_id, rows, reason, payload, dictionary_digests, dictionaries, entry) \
                 SELECT source_id, rows, reason, 'further', '{}', '{}', entry FROM dead_letter LIMIT 1 \
                 ON CONFLICT (source_id, rows) DO NOTHING";
    assert_eq!(client.execute(again, &[]).await.expect("understood"), 0, "the old one keeps no further one");
    assert_eq!(count(&client, "dead_letter").await, 2, "and sees both");
    let retried = "DELETE FROM dead_letter WHERE id = (SELECT max(id) FROM dead_letter) RETURNING payload";
    assert_eq!(client.query_one(retried, &[]).await.expect("one").get::<_, &[u8]>(0), b"other");
    run_0_1_0(&client, 11).await;
    assert_eq!(count(&client, "samples").await, 6);

    // Once a new one has written, they are refused: by what they find when they start, and, where they still run, when they commit.
    let content = Content::new("a", plain(50));
    store.commit(&[content.all()]).await.expect("stored");
    let new = i64::try_from(content.samples().values().sum::<usize>()).expect("few");
    assert_eq!(count(&client, "samples").await, 6 + new);
    let unknown = count(&client, "schema_migration WHERE version > 2").await;
    assert_eq!(unknown, 1);
    assert!(client.batch_execute(&seen_by_0_1_0("2025-01-12 10:00:00+00")).await.is_err(), "it would be history");
    // The reader that was there before goes on, too.
    let ledger = Store::ledger(&reader).await.expect("a ledger");
    assert_eq!(ledger.len(), 2);
    store.commit(&[Content::new("b", plain(20)).all()]).await.expect("stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_schema_is_used_unless_it_says_that_it_cannot_be() {
    let database = Server::shared().database().await;
    let client = database.client().await;
    client.batch_execute("INSERT INTO schema_step VALUES (98, 'later', 'x', 3)").await.expect("noted");
    let store = database.store();
    store.migrate().await.expect("nothing to do");
    store.commit(&[Content::new("a", plain(5)).all()]).await.expect("stored");
    database.store().ready().await.expect("ready");

    client.batch_execute("INSERT INTO schema_step VALUES (99, 'later still', 'x', 98)").await.expect("noted");
    let refused = database.store().ready().await.expect_err("refused");
    let said = refused.to_string();
    assert!(
        matches!(refused, StoreError::Version(_)) && said.contains("version 99") && said.contains("upgrade telemetry"),
        "{said}"
    );
    assert!(matches!(database.store().migrate().await, Err(StoreError::Version(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_programs_are_told_before_there_are_packed_rows() {
    let (database, client) = made_by_0_1_0(2).await;
    let store = database.store();
    store.migrate().await.expect("migrated");
    run_0_1_0(&client, 10).await;
    for _ in 0..2 {
        store.announce_packed_rows().await.expect("announced");
    }
    // Where release 0.1.0 looks, and where later ones do: what they do not know refuses those that know less.
    let known: i64 = client.query_one("SELECT max(version)::bigint FROM schema_migration", &[]).await.expect("a version").get(0);
    let step =
        client.query_one("SELECT version, compatible_from FROM schema_step WHERE name = 'packed'", &[]).await.expect("a step");
    assert_eq!((known, step.get::<_, i32>(0), step.get::<_, i32>(1)), (6, 6, 6));
    let again = database.store();
    again.migrate().await.expect("nothing to do");
    again.ready().await.expect("this one knows them");
    again.commit(&[Content::new("a", plain(20)).all()]).await.expect("stored");
}

/// What release 0.1.0 says at the end of a commit: when its samples of the only GPU end.
fn seen_by_0_1_0(until: &str) -> String {
    format!("UPDATE gpu g SET first_seen = least(g.first_seen, '{until}'), last_seen = greatest(g.last_seen, '{until}')")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_collectors_are_waited_for_and_then_kept_out() {
    let (database, client) = made_by_0_1_0(2).await;
    let store = std::sync::Arc::new(database.store());
    store.migrate().await.expect("migrated");
    run_0_1_0(&client, 10).await;
    // One of them is in the middle of a commit.
    let older = database.client().await;
    older.batch_execute(&format!("BEGIN; {}", seen_by_0_1_0("2025-01-10 12:00:00+00"))).await.expect("begun");
    let announcing = tokio::spawn({
        let store = store.clone();
        async move { store.announce_live_form().await }
    });
    let waits = "pg_locks WHERE NOT granted AND relation = 'gpu'::regclass AND mode = 'ShareRowExclusiveLock'";
    crate::support::app::wait_for("an announcement that waits", || async { count(&client, waits).await > 0 }).await;
    // Another one comes too late.
    let late = database.client().await;
    let late = tokio::spawn(async move { late.batch_execute(&seen_by_0_1_0("2025-01-10 13:00:00+00")).await });
    let waits = "pg_locks WHERE NOT granted AND relation = 'gpu'::regclass AND mode = 'RowExclusiveLock'";
    crate::support::app::wait_for("a commit that waits", || async { count(&client, waits).await > 0 }).await;
    assert_eq!(count(&client, "gpu_block").await, 0);
    older.batch_execute("COMMIT").await.expect("not held up");
    announcing.await.expect("no panic").expect("announced");
    let said = |refused: tokio_postgres::Error| refused.as_db_error().expect("an answer").message().to_owned();
    let refused = said(late.await.expect("no panic").expect_err("refused"));
    assert!(refused.contains("upgrade telemetry"), "{refused}");
    let new_series = "INSERT INTO series (key, gpu_id, metric) SELECT gen_random_uuid(), id, 'X' FROM gpu";
    let refused = said(client.batch_execute(new_series).await.expect_err("refused"));
    assert!(refused.contains("upgrade telemetry"), "{refused}");
    // What was written before is known: of 16 GPUs, one has samples.
    let block = "SELECT b.id, cardinality(b.first_seen), array_remove(b.first_seen, NULL) = ARRAY[g.first_seen] \
                   FROM gpu_block b, gpu g WHERE b.last_seen[(g.id & 15) + 1] = '2025-01-10 12:00:00+00'";
    let block = client.query_one(block, &[]).await.expect("the block");
    assert_eq!((block.get::<_, i64>(0), block.get::<_, i32>(1), block.get::<_, bool>(2)), (0, 16, true));
    // Programs that start are refused by what the schema says, if they do not know it.
    let known: i64 = client.query_one("SELECT max(version)::bigint FROM schema_migration", &[]).await.expect("a version").get(0);
    assert_eq!(known, 7);
    let again = database.store();
    again.migrate().await.expect("nothing to do");
    again.announce_live_form().await.expect("nothing to do");
    again.ready().await.expect("this one knows it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_is_replaced_while_rows_are_written_and_after_an_interruption() {
    let (database, client) = made_by_0_1_0(1).await;
    run_statements_of_a_writer(&client).await;
    // An earlier attempt was killed in the middle of the second partition.
    client
        .batch_execute(
            "CREATE INDEX sample_chunk_series_next ON ONLY sample_chunk (series_id, t_max, t_min); \
             CREATE INDEX sample_chunk_20250101_sample_chunk_series_next ON sample_chunk_20250101 (series_id, t_max, t_min); \
             ALTER INDEX sample_chunk_series_next ATTACH PARTITION sample_chunk_20250101_sample_chunk_series_next; \
             CREATE INDEX sample_chunk_20250102_sample_chunk_series_next ON sample_chunk_20250102 (series_id, t_max, t_min); \
             UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'sample_chunk_20250102_sample_chunk_series_next'::regclass",
        )
        .await
        .expect("half an index");
    // A writer that has a transaction open when it begins is waited for, and not held up.
    let writer = database.client().await;
    writer.batch_execute("BEGIN; INSERT INTO sample_chunk (series_id, t_min, t_max, n, \"values\") VALUES (1, '2025-01-03', '2025-01-03', 1, '{1}')").await.expect("written");
    let store = std::sync::Arc::new(database.store());
    let migrating = tokio::spawn({
        let store = store.clone();
        async move { store.migrate().await }
    });
    crate::support::app::wait_for("an index that waits for the writer", || async {
        count(&client, "pg_stat_progress_create_index").await > 0
    })
    .await;
    writer.batch_execute("INSERT INTO sample_chunk (series_id, t_min, t_max, n, \"values\") VALUES (1, '2025-01-03', '2025-01-03', 1, '{2}'); COMMIT").await.expect("not held up");
    migrating.await.expect("no panic").expect("migrated");
    let definition: String =
        client.query_one("SELECT pg_get_indexdef('sample_chunk_series'::regclass)", &[]).await.expect("the index").get(0);
    assert!(definition.contains("(series_id, t_max, t_min)"), "{definition}");
    assert_eq!(count(&client, "pg_index WHERE NOT indisvalid").await, 0);
    assert_eq!(count(&client, "pg_inherits WHERE inhparent = 'sample_chunk_series'::regclass").await, 4);
    assert_eq!(count(&client, "sample_chunk").await, 6);

    // Killed when all was done but for the note of it, and so before those that follow.
    let forget = "DELETE FROM schema_migration WHERE version = 2; DELETE FROM schema_step; DROP TABLE dead_letter_same_rows; \
                  ALTER TABLE source DROP COLUMN conflict; DROP TABLE sample_conflict; ALTER TABLE gpu DROP COLUMN commit_token; \
                  DROP TABLE gpu_block, series_set, metric, metric_list, workload, sample_slab CASCADE; \
                  DROP FUNCTION refuse_older_collectors CASCADE; \
                  DROP FUNCTION samples_5m_between, samples_1h_between; DROP TABLE sample_rollup_5m, sample_rollup_1h, metric_kind CASCADE; \
                  DROP FUNCTION rollup_columns, hour_of_day, hour_at, day_of, float8_of_sum CASCADE; \
                  DROP VIEW IF EXISTS samples_5m, samples_1h, rollup_place_5m, rollup_place_1h, unrolled_place_5m, unrolled_place_1h CASCADE; \
                  DROP FUNCTION IF EXISTS samples_between; DROP VIEW IF EXISTS samples, sample_place, packed_sample; \
                  DROP FUNCTION float8_of_bits; DROP TABLE sample_packed";
    client.batch_execute(forget).await.expect("not noted");
    database.store().migrate().await.expect("migrated");
    assert_eq!(count(&client, "pg_inherits WHERE inhparent = 'sample_chunk_series'::regclass").await, 4);
}

async fn run_statements_of_a_writer(client: &Client) {
    for day in 1..=4 {
        let next = day + 1;
        client
            .batch_execute(&format!(
                "CREATE TABLE sample_chunk_2025010{day} PARTITION OF sample_chunk FOR VALUES FROM ('2025-01-0{day} 00:00:00+00') TO ('2025-01-0{next} 00:00:00+00'); \
                 INSERT INTO sample_chunk (series_id, t_min, t_max, n, \"values\") VALUES (1, '2025-01-0{day} 12:00:00+00', '2025-01-0{day} 12:00:00+00', 1, '{{1}}')"
            ))
            .await
            .expect("a day");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_asked_for_in_sql_locks_no_other() {
    let database = Server::shared().database().await;
    let client = database.client().await;
    run_statements_of_a_writer(&client).await;
    client.batch_execute("BEGIN").await.expect("begun");
    client.query("SELECT * FROM samples_between('2025-01-02 10:00:00+00', '2025-01-02 11:00:00+00')", &[]).await.expect("rows");
    let locked = "pg_locks l JOIN pg_inherits i ON i.inhrelid = l.relation WHERE i.inhparent = 'sample_chunk'::regclass AND l.pid = pg_backend_pid()";
    assert_eq!(count(&client, locked).await, 1, "the partition of the day");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_path_that_leads_nowhere_is_said() {
    let database = Server::shared().empty_database().await;
    let url = format!("{}?options=-csearch_path%3Dnowhere", database.url);
    let said = Database { url }.store().migrate().await.expect_err("no schema").to_string();
    for words in ["search_path", "nowhere", "CREATE SCHEMA"] {
        assert!(said.contains(words), "`{words}` is not in: {said}");
    }
    assert!(!said.contains("telemetry migrate"), "{said}");
}
