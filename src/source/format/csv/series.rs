//! From a row's identity to its series: the raw bytes of everything but time and value are hashed, and parsed once per hash.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use csv_async::ByteRecord;
use xxhash_rust::xxh3::xxh3_128_with_secret;

use super::header::{Header, Role};
use super::quotes::unquote;
use crate::model::{Metric, Reason, Series, metric};
use crate::source::format::labels;

/// What a series costs in memory beside its text, roughly.
const SERIES_OVERHEAD: usize = 512;
/// A table is full when its series take this much on average, even if there are fewer of them.
const SERIES_BYTES: usize = 4096;

/// The cells of a record, the `\r` of a CRLF line end taken off the last one.
#[derive(Clone, Copy)]
pub(super) struct Cells<'a> {
    record: &'a ByteRecord,
    crlf: bool,
}

impl<'a> Cells<'a> {
    pub(super) fn new(record: &'a ByteRecord, crlf: bool) -> Self {
        Self { record, crlf }
    }

    pub(super) fn get(self, at: usize) -> &'a [u8] {
        let cell = self.record.get(at).unwrap_or_default();
        if self.crlf && at + 1 == self.record.len() { cell.strip_suffix(b"\r").unwrap_or(cell) } else { cell }
    }
}

/// What is known of an identity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolved {
    /// Its series, or why none of its rows can become a sample.
    pub(super) outcome: Result<u32, Reason>,
    /// Its metric, if the catalogue has it.
    pub(super) metric: Option<&'static Metric>,
}

/// Keys that are hashes already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            self.0 ^= u64::from(*byte) << (i % 8 * 8);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

type ByHash<V> = HashMap<u128, V, BuildHasherDefault<Hashed>>;

/// The series met so far, bounded.
pub(super) struct Table {
    by_identity: ByHash<Resolved>,
    /// Identities that differ only in how they are written share a series.
    by_key: ByHash<u32>,
    series: Vec<Series>,
    bytes: usize,
    max: usize,
    /// Random for each table: nobody can prepare rows whose identities collide.
    secret: [u8; 192],
    scratch: Vec<u8>,
}

impl Table {
    pub(super) fn new(max: usize) -> Self {
        let mut secret = [0; 192];
        rand::fill(&mut secret[..]);
        Self {
            by_identity: ByHash::default(),
            by_key: ByHash::default(),
            series: Vec::new(),
            bytes: 0,
            max: max.max(1),
            secret,
            scratch: Vec::with_capacity(1024),
        }
    }

    pub(super) fn series(&self) -> &[Series] {
        &self.series
    }

    /// Another header is in force: the same cells say something else now. Series keep their indexes.
    pub(super) fn forget_identities(&mut self) {
        self.by_identity = ByHash::default();
    }

    pub(super) fn clear(&mut self) {
        self.by_identity = ByHash::default();
        self.by_key = ByHash::default();
        self.series = Vec::new();
        self.bytes = 0;
    }

    /// What is known of a row's identity; `None` if it is new and the table is full. The record has as many cells as the header.
    pub(super) fn resolve(&mut self, header: &Header, cells: Cells<'_>, max_cell: usize) -> Option<Resolved> {
        let identity = self.identity(header, cells.record);
        if let Some(known) = self.by_identity.get(&identity) {
            return Some(*known);
        }
        if self.by_identity.len() >= self.max || self.bytes >= self.max.saturating_mul(SERIES_BYTES) {
            return None;
        }
        let resolved = match Draft::read(header, cells, max_cell) {
            Ok(series) => Resolved { metric: metric(&series.metric), outcome: Ok(self.intern(series)) },
            Err(reason) => Resolved { metric: None, outcome: Err(reason) },
        };
        self.by_identity.insert(identity, resolved);
        Some(resolved)
    }

    fn intern(&mut self, series: Series) -> u32 {
        let next = u32::try_from(self.series.len()).unwrap_or(u32::MAX);
        let index = *self.by_key.entry(series.key("").to_u128()).or_insert(next);
        if index == next {
            let text: usize = series.labels.iter().map(|(k, v)| k.len() + v.len() + 48).sum();
            let workload = [&series.metric, &series.pod, &series.namespace, &series.container];
            self.bytes +=
                SERIES_OVERHEAD + text + series.gpu.text_bytes() + workload.iter().map(|name| name.len()).sum::<usize>();
            self.series.push(series);
        }
        index
    }

    /// The hash of all cells that are part of the identity, with their lengths.
    fn identity(&mut self, header: &Header, record: &ByteRecord) -> u128 {
        let scratch = &mut self.scratch;
        scratch.clear();
        let bytes = record.as_slice();
        let (mut from, mut first) = (0, 0);
        for &passing in header.passing.iter().chain([&record.len()]) {
            let until = record.range(passing).unwrap_or(bytes.len()..bytes.len());
            scratch.extend_from_slice(&bytes[from..until.start]);
            // Where each cell ends, so that cells cannot pass text to one another.
            for cell in first..passing {
                let end = record.range(cell).map_or(0, |r| r.end - from);
                scratch.extend_from_slice(&(end as u32).to_le_bytes());
            }
            (from, first) = (until.end, passing + 1);
        }
        xxh3_128_with_secret(scratch, &self.secret)
    }
}

/// A series being put together from columns and labels.
#[derive(Default)]
struct Draft {
    series: Series,
    index: String,
    /// Pod, namespace and container as the bare names have them.
    bare: [String; 3],
    /// The same as `exported_…`: if any of those is there, the bare ones are the exporter's own.
    exported: Option<[String; 3]>,
}

const WORKLOAD: [&str; 3] = ["pod", "namespace", "container"];

impl Draft {
    fn read(header: &Header, cells: Cells<'_>, max_cell: usize) -> Result<Series, Reason> {
        let mut draft = Self::default();
        let mut labels_raw = Cow::Borrowed("");
        for (at, role) in header.roles.iter().enumerate() {
            if matches!(role, Role::Timestamp | Role::Value | Role::Unnamed) {
                continue;
            }
            let cell = cells.get(at).trim_ascii();
            let too_long = match role {
                // It is not kept as one text.
                Role::LabelsRaw => false,
                Role::Label(name) => name.len() > max_cell || cell.len() > max_cell,
                _ => cell.len() > max_cell,
            };
            if too_long {
                return Err(Reason::CellTooLong);
            }
            // PostgreSQL cannot keep NUL in a text either.
            let text = std::str::from_utf8(cell).ok().filter(|t| !t.contains('\0')).ok_or(Reason::BadUtf8)?;
            match (role, unquote(text)) {
                (Role::LabelsRaw, unquoted) => labels_raw = unquoted.unwrap_or(Cow::Borrowed(text)),
                // A further column's text is kept as it is.
                (Role::Label(_), None) => draft.column(role, text),
                (_, Some(text)) => draft.column(role, text.trim_ascii()),
                (_, None) => return Err(Reason::TornRecord),
            }
        }
        if draft.series.metric.is_empty() {
            return Err(Reason::NoMetric);
        }
        if draft.series.gpu.uuid.is_empty() {
            return Err(Reason::NoUuid);
        }
        for (name, value) in labels::parse(&labels_raw).unwrap_or_default() {
            if name.len() > max_cell || value.len() > max_cell {
                return Err(Reason::CellTooLong);
            }
            // To Prometheus an empty label is no label.
            if !value.is_empty() {
                draft.label(name, value);
            }
        }
        Ok(draft.finish())
    }

    /// Where a role's text is kept; `None` for those that are not a plain text.
    fn slot(&mut self, role: &Role) -> Option<&mut String> {
        let gpu = &mut self.series.gpu;
        Some(match role {
            Role::Metric => &mut self.series.metric,
            Role::Uuid => &mut gpu.uuid,
            Role::Hostname => &mut gpu.hostname,
            Role::Index => &mut self.index,
            Role::Device => &mut gpu.device,
            Role::Model => &mut gpu.model,
            Role::Driver => &mut gpu.driver_version,
            Role::PciBusId => &mut gpu.pci_bus_id,
            Role::MigProfile => &mut gpu.mig_profile,
            Role::MigInstance => &mut gpu.mig_instance,
            Role::Pod => &mut self.bare[0],
            Role::Namespace => &mut self.bare[1],
            Role::Container => &mut self.bare[2],
            Role::ExportedPod => &mut self.exported.get_or_insert_default()[0],
            Role::ExportedNamespace => &mut self.exported.get_or_insert_default()[1],
            Role::ExportedContainer => &mut self.exported.get_or_insert_default()[2],
            Role::Timestamp | Role::Value | Role::LabelsRaw | Role::Label(_) | Role::Unnamed => return None,
        })
    }

    fn column(&mut self, role: &Role, text: &str) {
        if let Some(slot) = self.slot(role) {
            text.clone_into(slot);
        } else if let Role::Label(name) = role
            && !text.is_empty()
        {
            self.series.labels.push((name.clone(), text.to_owned()));
        }
    }

    /// A label fills what no column says; one that repeats a column is left out, and so is the metric's name.
    fn label(&mut self, name: &str, value: String) {
        if name == "__name__" {
            return;
        }
        let role = Role::of_label(name);
        let workload = matches!(role, Role::Pod | Role::Namespace | Role::Container);
        match self.slot(&role) {
            Some(slot) if slot.is_empty() => *slot = value,
            Some(slot) if workload && *slot != value => self.series.labels.push((name.to_owned(), value)),
            Some(_) => {}
            None => self.series.labels.push((name.to_owned(), value)),
        }
    }

    fn finish(self) -> Series {
        let Self { mut series, index, bare, exported } = self;
        let labels = &mut series.labels;
        series.gpu.index = index.parse().ok();
        if series.gpu.index.is_none() && !index.is_empty() {
            labels.push(("gpu_id".to_owned(), index));
        }
        let [pod, namespace, container] = match exported {
            None => bare,
            Some(workload) => {
                for ((name, exporters), own) in WORKLOAD.into_iter().zip(bare).zip(&workload) {
                    if !exporters.is_empty() && exporters != *own {
                        labels.push((name.to_owned(), exporters));
                    }
                }
                workload
            }
        };
        (series.pod, series.namespace, series.container) = (pod, namespace, container);
        // Sorted by name, and each name once: the one that came first, columns before labels.
        series.labels.sort_by(|a, b| a.0.cmp(&b.0));
        series.labels.dedup_by(|later, first| later.0 == first.0);
        series
    }
}
