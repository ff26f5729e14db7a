//! `telemetry dead-letters`: batches that could not be stored for a reason of their own.

use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;

use crate::batch::{self, Dictionary};
use crate::cli;
use crate::config::Config;
use crate::model::Digest;
use crate::runtime::{Exit, Lifecycle};
use crate::store::postgres::PostgresStore;
use crate::store::{Committed, DeadLetter, Incoming, Store};
use crate::transport::redis::RedisTransport;
use crate::transport::{Consumer, Partition};

/// Runs the command.
pub async fn run(config: Arc<Config>, _: Lifecycle, what: cli::DeadLetters) -> anyhow::Result<Exit> {
    let store = PostgresStore::connect(&config.postgres()?)?;
    match what {
        cli::DeadLetters::List { json } => list(&store, json).await?,
        cli::DeadLetters::Show { id } => show(&find(&store, id).await?),
        cli::DeadLetters::Retry { ids, all } => {
            let ids = if all { store.dead_letters().await?.iter().map(|l| l.id).collect() } else { ids };
            return retry_each(&config, &store, &ids).await;
        }
        cli::DeadLetters::Drop { ids } => {
            for id in ids {
                drop_one(&store, id).await?;
            }
        }
    }
    Ok(Exit::Done)
}

async fn drop_one(store: &dyn Store, id: i64) -> anyhow::Result<()> {
    let letter = find(store, id).await?;
    if !store.drop_letter(id).await? {
        bail!("dead letter {id} is gone: somebody else has retried or dropped it");
    }
    println!("dead letter {id}: dropped; rows {} of source {} are given up", letter.rows, letter.source);
    Ok(())
}

/// Each is tried, also after one that failed.
async fn retry_each(config: &Config, store: &dyn Store, ids: &[i64]) -> anyhow::Result<Exit> {
    let mut exit = Exit::Done;
    for &id in ids {
        match retry(config, store, id).await {
            Ok(what) => println!("dead letter {id}: {what}"),
            Err(error) => {
                eprintln!("error: dead letter {id}: {error:#}");
                exit = Exit::Failed;
            }
        }
    }
    if ids.is_empty() {
        println!("There are no dead letters.");
    }
    Ok(exit)
}

async fn find(store: &dyn Store, id: i64) -> anyhow::Result<DeadLetter> {
    store
        .dead_letter(id)
        .await?
        .with_context(|| format!("there is no dead letter {id}; `telemetry dead-letters list` shows those there are"))
}

fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |t| t.to_string())
}

async fn list(store: &dyn Store, json: bool) -> anyhow::Result<()> {
    let letters = store.dead_letters().await?;
    if json {
        let all: Vec<_> = letters
            .iter()
            .map(|l| {
                serde_json::json!({
                    "id": l.id, "buried": time(l.buried_ms), "source": l.source.to_string(),
                    "first_row": l.rows.first, "end_row": l.rows.end, "reason": l.reason,
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    if letters.is_empty() {
        println!("There are no dead letters.");
        return Ok(());
    }
    let mut rows = vec![["id", "buried", "source", "rows", "reason"].map(String::from)];
    rows.extend(
        letters.iter().map(|l| [l.id.to_string(), time(l.buried_ms), l.source.to_string(), l.rows.to_string(), l.reason.clone()]),
    );
    print!("{}", super::table::render(&rows));
    Ok(())
}

fn show(letter: &DeadLetter) {
    println!(
        "dead letter {}\nburied      {}\nsource      {}\nrows        {}",
        letter.id,
        time(letter.buried_ms),
        letter.source,
        letter.rows
    );
    println!("reason      {}\npayload     {} bytes", letter.reason, letter.payload.len());
    for (digest, bytes) in &letter.dictionaries {
        println!("dictionary  {digest}, {} bytes", bytes.len());
    }
    match batch::decode(&letter.payload) {
        Err(error) => println!("content     cannot be decoded: {error}"),
        Ok(batch) => {
            let (samples, rejects) = (batch.row.len(), batch.rejects.len());
            println!(
                "content     {} ({}), {samples} samples of {} series, {rejects} rejected rows",
                batch.header.name,
                batch.header.cluster,
                batch.runs.len()
            );
        }
    }
}

async fn retry(config: &Config, store: &dyn Store, id: i64) -> anyhow::Result<String> {
    let letter = find(store, id).await?;
    let batch = batch::decode(&letter.payload).context("it still cannot be decoded")?;
    let mut dictionaries = Vec::new();
    for &digest in &batch.header.dictionaries {
        let bytes = match letter.dictionaries.iter().find(|(d, _)| *d == digest) {
            Some((_, bytes)) => bytes.clone(),
            None => from_queue(config, &letter, digest).await?,
        };
        dictionaries.push(Arc::new(Dictionary::decode(&bytes, digest).context("its dictionary")?));
    }
    batch.check(&dictionaries).context("it still cannot be decoded")?;
    let committed = store.revive(id, &Incoming { batch, dictionaries }).await.context("it still cannot be stored")?;
    let stored: u64 = committed.stored.values().sum();
    let Committed { duplicate, rejected, .. } = committed;
    Ok(format!("stored {stored} samples; {duplicate} were there already, {rejected} rows are rejected ones"))
}

/// The letter was kept without this dictionary; the queue may have got it since.
async fn from_queue(config: &Config, letter: &DeadLetter, digest: Digest) -> anyhow::Result<Bytes> {
    let queue = RedisTransport::connect(&config.redis()?).await?;
    let partition = letter.source.0 % u128::from(Consumer::partitions(&*queue));
    queue.dictionary(partition as Partition, digest).await?.with_context(|| {
        format!(
            "dictionary {digest} of dead letter {} is neither with it nor in Redis; \
             `telemetry replay --source {}` has the source sent again, then drop the letter",
            letter.id, letter.source
        )
    })
}
