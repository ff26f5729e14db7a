//! Contents for tests: rows as a source has them, and batches cut out of them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use telemetry::batch::{Batch, BatchParts, Dictionary, Header, Reject, Run};
use telemetry::model::{DictionaryId, Digest, FamilyId, Gpu, Reason, RowRange, Series, SourceId, TimeMs};
use telemetry::store::{Incoming, Reader, SourceLedger, Store};

/// 2025-01-15T00:00:00Z.
pub const DAY: i64 = 1_736_899_200_000;

/// A row of a source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Row {
    Sample { series: u32, time: i64, value: f64 },
    Rejected(Reason),
}

pub fn sample(series: u32, time: i64, value: f64) -> Row {
    Row::Sample { series, time, value }
}

/// A source and what it has.
#[derive(Clone, Debug)]
pub struct Content {
    pub source: SourceId,
    pub family: FamilyId,
    pub cluster: String,
    pub rows: Vec<Row>,
}

/// How often each (cluster, GPU, metric, time, value bits) is there.
pub type Multiset = BTreeMap<(String, String, String, i64, u64), usize>;

/// A store under test: how to open it (again), and what is in it by other means than its own.
#[async_trait]
pub trait Harness: Send + Sync {
    fn open(&self) -> Arc<dyn Store>;
    fn reader(&self) -> Arc<dyn Reader>;
    /// Times and values of conflicts, and whether there are more.
    async fn conflicts(&self, limit: usize) -> (Vec<(i64, Vec<f64>)>, bool);
    async fn samples(&self) -> Multiset;
    /// Source, row, line, reason of every rejected row, sorted.
    async fn rejected(&self) -> Vec<(SourceId, u64, u64, Reason)>;
}

pub fn series(n: u32) -> Series {
    Series {
        metric: format!("METRIC_{}", n % 5),
        gpu: Gpu { uuid: format!("GPU-{}", n / 5), hostname: "host".into(), index: Some(n / 5), ..Gpu::default() },
        namespace: if n.is_multiple_of(2) { String::new() } else { "research".into() },
        labels: vec![("job".into(), "dcgm".into())],
        ..Series::default()
    }
}

/// The source of this name.
pub fn source(name: &str) -> SourceId {
    SourceId::from_digest(Digest::of(name.as_bytes()))
}

impl Content {
    pub fn new(name: &str, rows: Vec<Row>) -> Self {
        let source = source(name);
        Self { source, family: FamilyId::of_source(source), cluster: "edge".into(), rows }
    }

    /// The same rows under another id of one family.
    pub fn sibling(&self, name: &str) -> Self {
        Self { source: source(name), ..self.clone() }
    }

    pub fn of_family(mut self, name: &str) -> Self {
        self.family = FamilyId::from_digest(Digest::of(name.as_bytes()));
        self
    }

    /// The batch of some rows; runs by series, in row order.
    pub fn batch(&self, range: Range<usize>) -> Incoming {
        let mut by_series: BTreeMap<u32, Vec<(u64, i64, f64)>> = BTreeMap::new();
        let mut rejects = Vec::new();
        for at in range.clone() {
            match self.rows[at] {
                Row::Sample { series, time, value } => by_series.entry(series).or_default().push((at as u64, time, value)),
                Row::Rejected(reason) => rejects.push(Reject { row: at as u64, line: at as u64 + 2, reason }),
            }
        }
        let dictionary = Dictionary::new(&by_series.keys().map(|n| series(*n)).collect::<Vec<_>>());
        let id = DictionaryId::of(format!("{dictionary:?}").as_bytes());
        let mut batch = BatchParts {
            header: Header {
                source: self.source,
                family: self.family,
                cluster: self.cluster.clone(),
                name: "file.csv".into(),
                created_ms: TimeMs::from_millis(DAY),
                dictionaries: vec![id],
            },
            rows: RowRange { first: range.start as u64, end: range.end as u64 },
            runs: Vec::new(),
            row: Vec::new(),
            time_ms: Vec::new(),
            value: Vec::new(),
            rejects,
        };
        for (index, samples) in by_series.values().enumerate() {
            let index = u32::try_from(index).expect("few series");
            batch.runs.push(Run { dictionary: 0, index, start: batch.row.len(), len: samples.len() });
            for (row, time, value) in samples {
                batch.row.push(*row);
                batch.time_ms.push(TimeMs::from_millis(*time));
                batch.value.push(*value);
            }
        }
        Incoming::new(Batch::new(batch).expect("a batch"), vec![Arc::new(dictionary)]).expect("its series")
    }

    /// The same so many milliseconds later.
    pub fn shifted(mut self, ms: i64) -> Self {
        for row in &mut self.rows {
            if let Row::Sample { time, .. } = row {
                *time += ms;
            }
        }
        self
    }

    pub fn all(&self) -> Incoming {
        self.batch(0..self.rows.len())
    }

    /// The samples that a store has of it: each once.
    pub fn samples(&self) -> Multiset {
        let mut set = Multiset::new();
        for row in &self.rows {
            if let Row::Sample { series: n, time, value } = row {
                let series = series(*n);
                set.insert((self.cluster.clone(), series.gpu.uuid, series.metric, *time, value.to_bits()), 1);
            }
        }
        set
    }

    pub fn rejects(&self) -> Vec<(SourceId, u64, u64, Reason)> {
        let rejected = self.rows.iter().enumerate().filter_map(|(at, row)| match row {
            Row::Rejected(reason) => Some((self.source, at as u64, at as u64 + 2, *reason)),
            Row::Sample { .. } => None,
        });
        rejected.collect()
    }
}

/// A batch with some samples of each of these series, a second apart, each with its time of day in seconds as value.
pub fn batch(name: &str, all: &[Series], from: i64, samples: usize) -> Incoming {
    let dictionary = Dictionary::new(all);
    let rows = (all.len() * samples) as u64;
    let mut parts = BatchParts {
        header: Header {
            source: source(name),
            family: FamilyId::of_source(source(name)),
            cluster: "edge".into(),
            name: name.into(),
            created_ms: TimeMs::from_millis(DAY),
            dictionaries: vec![DictionaryId::of(format!("{dictionary:?}").as_bytes())],
        },
        rows: RowRange { first: 0, end: rows },
        runs: Vec::new(),
        row: (0..rows).collect(),
        time_ms: Vec::new(),
        value: Vec::new(),
        rejects: Vec::new(),
    };
    for index in 0..all.len() {
        parts.runs.push(Run { dictionary: 0, index: index as u32, start: index * samples, len: samples });
        for at in 0..samples as i64 {
            parts.time_ms.push(TimeMs::from_millis(DAY + (from + at) * 1000));
            parts.value.push((from + at) as f64);
        }
    }
    Incoming::new(Batch::new(parts).expect("a batch"), vec![Arc::new(dictionary)]).expect("its series")
}

/// What a store has of both together.
pub fn union(a: &Multiset, b: &Multiset) -> Multiset {
    a.iter().chain(b).map(|(sample, _)| (sample.clone(), 1)).collect()
}

/// What a store says of its conflicts, see [`Harness::conflicts`].
pub async fn conflicts_of(store: &(impl Store + Reader), limit: usize) -> (Vec<(i64, Vec<f64>)>, bool) {
    let (found, more) = telemetry::store::conflicts(store, limit).await.expect("conflicts");
    for conflict in &found {
        assert_eq!((conflict.of.cluster.as_str(), conflict.of.hostname.as_str()), ("edge", "host"));
    }
    (found.into_iter().map(|conflict| (conflict.time.as_millis(), conflict.values)).collect(), more)
}

/// `n` rows over some series: regular times, and now and then a reject.
pub fn plain(n: usize) -> Vec<Row> {
    (0..n)
        .map(|at| {
            if at % 11 == 5 {
                return Row::Rejected(if at % 2 == 0 { Reason::EmptyValue } else { Reason::BadTime });
            }
            sample((at % 7) as u32, DAY + (at / 7) as i64 * 10_000, at as f64 * 0.5)
        })
        .collect()
}

/// The ledger, after checking that every sum in it closes.
pub async fn ledger(store: &dyn Store) -> Vec<SourceLedger> {
    let ledger = store.ledger().await.expect("a ledger");
    for entry in &ledger {
        let rejected: u64 = entry.rejected.values().sum();
        assert_eq!(entry.valid + rejected, entry.covered.len(), "{entry:?}");
        assert!(entry.duplicate + entry.expired <= entry.valid, "{entry:?}");
    }
    ledger
}
