//! The readable content of a dead letter: its source, its series, and its first rows.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::batch::{self, Batch, Dictionary};
use crate::model::Series;
use crate::printable;
use crate::roles::{say, table};
use crate::store::DeadLetter;

/// A dead letter, as far as it can be decoded.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    id: i64,
    buried: String,
    source: String,
    first_row: u64,
    end_row: u64,
    reason: String,
    payload_bytes: usize,
    /// Why the payload cannot be decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    undecodable: Option<String>,
    /// The dictionaries of the batch, and whether each can be decoded.
    dictionaries: Vec<Named>,
    #[serde(flatten)]
    content: Option<Content>,
}

#[derive(Debug, Serialize)]
struct Named {
    digest: String,
    /// Why the dictionary cannot be decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct Content {
    cluster: String,
    name: String,
    /// When its streamer closed the batch.
    closed: String,
    samples: usize,
    series_count: usize,
    /// The series with the most samples first.
    series: Vec<SeriesShown>,
    /// The rows in the order of the file.
    rows: Vec<RowShown>,
    rejected: BTreeMap<&'static str, usize>,
}

/// A series. Its labels are empty where the dictionary cannot be decoded.
#[derive(Clone, Debug, Default, Serialize)]
struct SeriesShown {
    samples: usize,
    metric: String,
    hostname: String,
    gpu_index: Option<u32>,
    uuid: String,
    namespace: String,
    pod: String,
}

#[derive(Debug, Serialize)]
struct RowShown {
    row: u64,
    time: String,
    metric: String,
    hostname: String,
    gpu_index: Option<u32>,
    value: f64,
}

impl Shown {
    /// Decodes a letter, with at most `most` series and rows.
    pub(super) fn new(letter: &DeadLetter, most: usize) -> Self {
        let mut shown = Self {
            id: letter.id,
            buried: letter.buried.map(|time| time.to_string()).unwrap_or_default(),
            source: letter.source.to_string(),
            first_row: letter.rows.first,
            end_row: letter.rows.end,
            reason: letter.reason.clone(),
            payload_bytes: letter.payload.len(),
            undecodable: None,
            dictionaries: Vec::new(),
            content: None,
        };
        match batch::decode(&letter.payload) {
            Err(error) => shown.undecodable = Some(error.to_string()),
            Ok(batch) => {
                let known: Vec<Result<Dictionary, String>> =
                    batch.header.dictionaries.iter().map(|digest| dictionary(letter, *digest)).collect();
                let named = |(digest, read): (&crate::model::DictionaryId, &Result<Dictionary, String>)| Named {
                    digest: digest.to_string(),
                    problem: read.as_ref().err().cloned(),
                };
                shown.dictionaries = batch.header.dictionaries.iter().zip(&known).map(named).collect();
                shown.content = Some(Content::new(&batch, &known, most));
            }
        }
        shown
    }

    /// The letter as text.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        let rows = say::rows(crate::model::RowRange { first: self.first_row, end: self.end_row });
        let mut line = |name: &str, what: &str| {
            let _ = writeln!(out, "{name:<11} {}", printable::line(what));
        };
        line("dead letter", &self.id.to_string());
        line("buried", &self.buried);
        line("source", &self.source);
        line("rows", &rows);
        line("reason", &self.reason);
        line("payload", &format!("{} bytes", self.payload_bytes));
        if let Some(why) = &self.undecodable {
            line("content", &format!("cannot be decoded: {why}"));
        }
        for Named { digest, problem } in &self.dictionaries {
            line("dictionary", &format!("{digest}{}", problem.as_ref().map(|p| format!(": {p}")).unwrap_or_default()));
        }
        if let Some(content) = &self.content {
            content.say(&mut out);
        }
        out
    }
}

fn dictionary(letter: &DeadLetter, digest: crate::model::DictionaryId) -> Result<Dictionary, String> {
    let kept = letter.dictionaries.iter().find(|(d, _)| *d == digest);
    let (_, bytes) = kept.ok_or("not stored with the letter; `retry` looks for it in Redis")?;
    Dictionary::decode(bytes, digest).map_err(|error| error.to_string())
}

impl Content {
    fn new(batch: &Batch, known: &[Result<Dictionary, String>], most: usize) -> Self {
        let series_of = |run: &batch::Run| {
            let dictionary = known.get(run.dictionary as usize)?.as_ref().ok()?;
            dictionary.get(run.index as usize)
        };
        let mut series: Vec<SeriesShown> =
            batch.runs.iter().map(|run| SeriesShown::new(run.len, series_of(run).as_ref())).collect();
        series.sort_by_key(|s| std::cmp::Reverse(s.samples));
        series.truncate(most);

        let mut samples: Vec<(u64, usize, &batch::Run)> = batch
            .runs
            .iter()
            .flat_map(|run| (run.start..run.start + run.len).map(move |at| (at, run)))
            .map(|(at, run)| (batch.row[at], at, run))
            .collect();
        samples.sort_unstable_by_key(|(row, ..)| *row);
        let row = |(row, at, run): &(u64, usize, &batch::Run)| {
            let SeriesShown { metric, hostname, gpu_index, .. } = SeriesShown::new(0, series_of(run).as_ref());
            RowShown { row: *row, time: batch.time_ms[*at].to_string(), metric, hostname, gpu_index, value: batch.value[*at] }
        };
        let mut rejected = BTreeMap::new();
        for reject in &batch.rejects {
            *rejected.entry(reject.reason.name()).or_default() += 1;
        }
        Self {
            cluster: batch.header.cluster.clone(),
            name: batch.header.name.clone(),
            closed: batch.header.created_ms.to_string(),
            samples: batch.row.len(),
            series_count: batch.runs.len(),
            rows: samples.iter().take(most).map(row).collect(),
            series,
            rejected,
        }
    }

    fn say(&self, out: &mut String) {
        let Self { cluster, name, closed, samples, series_count, .. } = self;
        let rejected: usize = self.rejected.values().sum();
        let _ = writeln!(
            out,
            "content     {} of cluster {}, closed {closed}: {samples} samples of {series_count} series, {rejected} rejected rows",
            printable::line(name),
            printable::line(cluster)
        );
        for (reason, rows) in &self.rejected {
            let _ = writeln!(out, "rejected    {rows} × {reason}");
        }
        let index = |index: Option<u32>| index.map(|i| i.to_string()).unwrap_or_default();
        let unknown = |text: &str| if text.is_empty() { "?".to_owned() } else { text.to_owned() };
        if !self.series.is_empty() {
            let mut rows = vec![["samples", "metric", "host", "gpu", "uuid", "namespace", "pod"].map(String::from)];
            rows.extend(self.series.iter().cloned().map(|s| {
                [s.samples.to_string(), unknown(&s.metric), s.hostname, index(s.gpu_index), s.uuid, s.namespace, s.pod]
            }));
            let shown = if self.series.len() < *series_count {
                format!(" (the first {} of {series_count})", self.series.len())
            } else {
                String::new()
            };
            let _ = write!(out, "\nseries{shown}\n{}", table::render_whole(&rows));
        }
        if !self.rows.is_empty() {
            let mut rows = vec![["row", "time", "metric", "host", "gpu", "value"].map(String::from)];
            rows.extend(self.rows.iter().map(|r| {
                let (row, value) = (r.row.to_string(), r.value.to_string());
                [row, r.time.clone(), unknown(&r.metric), r.hostname.clone(), index(r.gpu_index), value]
            }));
            let shown =
                if self.rows.len() < *samples { format!(" (the first {} of {samples})", self.rows.len()) } else { String::new() };
            let _ = write!(out, "\nrows{shown}\n{}", table::render_whole(&rows));
        }
    }
}

impl SeriesShown {
    fn new(samples: usize, series: Option<&Series>) -> Self {
        let Some(series) = series else { return Self { samples, ..Self::default() } };
        Self {
            samples,
            metric: series.metric.clone(),
            hostname: series.gpu.hostname.clone(),
            gpu_index: series.gpu.index,
            uuid: series.gpu.uuid.clone(),
            namespace: series.namespace.clone(),
            pod: series.pod.clone(),
        }
    }
}
