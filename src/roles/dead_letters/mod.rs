//! `telemetry dead-letters`: lists, shows, retries and drops batches that cannot be stored because of their content.

mod show;

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use serde::Serialize;

use super::say;
use crate::batch::{self, Dictionary};
use crate::cli;
use crate::config::Config;
use crate::model::{DictionaryId, RowSet};
use crate::runtime::{Exit, Lifecycle};
use crate::store::postgres::PostgresStore;
use crate::store::{DeadLetter, Incoming, Store};
use crate::transport::Consumer;
use crate::transport::redis::RedisTransport;

/// Runs the command.
pub async fn run(config: Arc<Config>, _: Lifecycle, what: cli::DeadLetters) -> anyhow::Result<Exit> {
    let store = PostgresStore::connect(&super::postgres(&config)?)?;
    match what {
        cli::DeadLetters::List { json } => list(&store, json).await?,
        cli::DeadLetters::Show { id, rows, json } => {
            let shown = show::Shown::new(&find(&store, id).await?, if json { usize::MAX } else { rows });
            if json {
                super::print_json(&shown)?;
            } else {
                super::print(&shown.text())?;
            }
        }
        cli::DeadLetters::Retry { which, json } => {
            let ids = which.ids(&store).await?;
            let mut outcomes = Vec::new();
            for id in ids {
                outcomes.push(Outcome::of(id, retry(&config, &store, id).await));
                say_outcome(&outcomes, json)?;
            }
            return ended(&outcomes, json);
        }
        cli::DeadLetters::Drop { which, json } => {
            let ids = which.ids(&store).await?;
            let mut outcomes = Vec::new();
            for id in ids {
                outcomes.push(Outcome::of(id, give_up(&store, id).await));
                say_outcome(&outcomes, json)?;
            }
            return ended(&outcomes, json);
        }
    }
    Ok(Exit::Done)
}

impl cli::Letters {
    /// The numbers of the selected dead letters.
    async fn ids(self, store: &dyn Store) -> anyhow::Result<Vec<i64>> {
        if self.all { Ok(store.dead_letters().await?.iter().map(|letter| letter.id).collect()) } else { Ok(self.ids) }
    }
}

/// The outcome for one dead letter.
#[derive(Debug, Serialize)]
struct Outcome {
    id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    done: Option<Done>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum Done {
    /// The rows are in the store.
    Stored { stored: u64, duplicate: u64, expired: u64, rejected: u64 },
    /// The rows are given up.
    Dropped { source: String, first_row: u64, end_row: u64 },
}

impl Outcome {
    fn of(id: i64, done: anyhow::Result<Done>) -> Self {
        match done {
            Ok(done) => Self { id, error: None, done: Some(done) },
            Err(error) => Self { id, error: Some(format!("{error:#}")), done: None },
        }
    }
}

/// Prints the last outcome as text, as soon as it is known.
fn say_outcome(outcomes: &[Outcome], json: bool) -> anyhow::Result<()> {
    let Some(Outcome { id, error, done }) = outcomes.last().filter(|_| !json) else { return Ok(()) };
    match (error, done) {
        (Some(error), _) => super::print_error(&format!("dead letter {id}: {error}")),
        (None, Some(Done::Stored { stored, duplicate, expired, rejected })) => {
            let expired = if *expired > 0 { format!("{expired} expired, ") } else { String::new() };
            super::print(&format!(
                "dead letter {id}: stored {}; {duplicate} already stored, {expired}{} rejected\n",
                say::counted(*stored, "sample", "samples"),
                say::counted(*rejected, "row", "rows"),
            ))?;
        }
        (None, Some(Done::Dropped { source, first_row, end_row })) => {
            let rows = say::rows(crate::model::RowRange { first: *first_row, end: *end_row });
            super::print(&format!("dead letter {id}: dropped; rows {rows} of source {source} are given up\n"))?;
        }
        (None, None) => {}
    }
    Ok(())
}

fn ended(outcomes: &[Outcome], json: bool) -> anyhow::Result<Exit> {
    if json {
        super::print_json(outcomes)?;
    } else if outcomes.is_empty() {
        super::print("There are no dead letters.\n")?;
    }
    // All letters are tried, also after one has failed.
    Ok(if outcomes.iter().all(|outcome| outcome.error.is_none()) { Exit::Done } else { Exit::Failed })
}

async fn find(store: &dyn Store, id: i64) -> anyhow::Result<DeadLetter> {
    store
        .dead_letter(id)
        .await?
        .with_context(|| format!("there is no dead letter {id}; `telemetry dead-letters list` lists them"))
}

async fn give_up(store: &dyn Store, id: i64) -> anyhow::Result<Done> {
    let letter = find(store, id).await?;
    if !store.drop_letter(id).await? {
        bail!("the letter no longer exists: another process has retried or dropped it");
    }
    Ok(Done::Dropped { source: letter.source.to_string(), first_row: letter.rows.first, end_row: letter.rows.end })
}

/// A dead letter in a list.
#[derive(Serialize)]
struct Listed {
    id: i64,
    buried: String,
    cluster: String,
    name: String,
    source: String,
    first_row: u64,
    end_row: u64,
    /// Whether its rows have arrived again and are stored, so that the letter can be dropped.
    stored_since: bool,
    reason: String,
}

async fn list(store: &dyn Store, json: bool) -> anyhow::Result<()> {
    let letters = store.dead_letters().await?;
    let known: HashMap<_, _> =
        if letters.is_empty() { HashMap::new() } else { store.ledger().await?.into_iter().map(|l| (l.source, l)).collect() };
    let listed: Vec<Listed> = letters
        .into_iter()
        .map(|l| {
            let of = known.get(&l.source);
            Listed {
                id: l.id,
                buried: l.buried.map(|time| time.to_string()).unwrap_or_default(),
                cluster: of.map(|s| s.cluster.clone()).unwrap_or_default(),
                name: of.map(|s| s.name.clone()).unwrap_or_default(),
                source: l.source.to_string(),
                first_row: l.rows.first,
                end_row: l.rows.end,
                stored_since: of.is_some_and(|s| RowSet::from(l.rows).minus(&s.covered).is_empty()),
                reason: l.reason,
            }
        })
        .collect();
    if json {
        return super::print_json(&listed);
    }
    if listed.is_empty() {
        return super::print("There are no dead letters.\n");
    }
    let mut rows = vec![["id", "buried", "cluster", "name", "source", "rows", "reason"].map(String::from)];
    rows.extend(listed.into_iter().map(|l| {
        let range = say::rows(crate::model::RowRange { first: l.first_row, end: l.end_row });
        let reason = if l.stored_since { format!("(stored meanwhile: drop it) {}", l.reason) } else { l.reason };
        [l.id.to_string(), l.buried, l.cluster, l.name, l.source, range, reason]
    }));
    super::print(&super::table::render(&rows))
}

async fn retry(config: &Config, store: &dyn Store, id: i64) -> anyhow::Result<Done> {
    let letter = find(store, id).await?;
    let batch = batch::decode(&letter.payload).context("it still cannot be decoded")?;
    let mut dictionaries = Vec::new();
    for &digest in &batch.header.dictionaries {
        let bytes = match letter.dictionaries.iter().find(|(d, _)| *d == digest) {
            Some((_, bytes)) => bytes.clone(),
            None => from_queue(config, &letter, digest).await?,
        };
        dictionaries.push(Arc::new(Dictionary::decode(&bytes, digest).context("its dictionary cannot be decoded")?));
    }
    let incoming = Incoming::new(batch, dictionaries).context("it still cannot be decoded")?;
    let committed = store.revive(id, &incoming).await.context("it still cannot be stored")?;
    Ok(Done::Stored {
        stored: committed.stored.values().sum(),
        duplicate: committed.duplicate,
        expired: committed.expired,
        rejected: committed.rejected,
    })
}

/// Reads a dictionary that the letter was kept without from the queue, which may have received it meanwhile.
async fn from_queue(config: &Config, letter: &DeadLetter, digest: DictionaryId) -> anyhow::Result<Bytes> {
    let queue = RedisTransport::connect(&config.redis()?).await?;
    queue.dictionary(letter.source.partition(Consumer::partitions(&*queue)), digest).await?.with_context(|| {
        format!(
            "its dictionary {digest} is neither in the letter nor in Redis; send the source again with `telemetry replay --source {}`, \
             then drop the letter",
            letter.source
        )
    })
}
