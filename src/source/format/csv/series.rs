//! From a row's cells to its series: the raw bytes of everything but time and value are hashed, and parsed once per hash.

use std::borrow::Cow;

use csv_async::ByteRecord;
use xxhash_rust::xxh3::xxh3_128_with_secret;

use super::header::{Header, Role};
use super::quotes::unquote;
use crate::model::{Reason, Series};
use crate::source::format::labels;
use crate::source::table::Secret;

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

/// The hash of all cells that are part of the identity, with their lengths, as this header reads them.
pub(super) fn identity(header: &Header, record: &ByteRecord, scratch: &mut Vec<u8>, secret: &Secret) -> u128 {
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
    // Under another header the same cells say something else.
    scratch.extend_from_slice(&header.digest);
    xxh3_128_with_secret(scratch, secret)
}

/// The series that a record's cells say, or why its rows are no samples. The record has as many cells as the header.
pub(super) fn read(header: &Header, cells: Cells<'_>, max_cell: usize) -> Result<Series, Reason> {
    Draft::read(header, cells, max_cell)
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
