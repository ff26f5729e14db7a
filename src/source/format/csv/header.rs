//! The header: which column says what, in any order, case and variant.

use std::sync::Arc;

use super::quotes::unquote;
use crate::model::Digest;
use crate::source::SourceError;

/// What a column says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Timestamp,
    Value,
    Metric,
    Uuid,
    Hostname,
    Index,
    Device,
    Model,
    Driver,
    PciBusId,
    MigProfile,
    MigInstance,
    Pod,
    Namespace,
    Container,
    ExportedPod,
    ExportedNamespace,
    ExportedContainer,
    LabelsRaw,
    /// Anything else with a name: a label of that name.
    Label(String),
    /// A column without a name says nothing (spreadsheets and pandas write a row number there).
    Unnamed,
}

impl Role {
    fn of(name: &str) -> Self {
        let plain: String = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
        match plain.as_str() {
            "timestamp" => Self::Timestamp,
            "value" => Self::Value,
            "metricname" | "metric" => Self::Metric,
            "name" if name == "__name__" => Self::Metric,
            "uuid" | "gpuuuid" => Self::Uuid,
            "hostname" => Self::Hostname,
            "gpuid" | "gpu" => Self::Index,
            "device" => Self::Device,
            "modelname" => Self::Model,
            "driverversion" | "dcgmfidriverversion" => Self::Driver,
            "pcibusid" => Self::PciBusId,
            "gpuiprofile" => Self::MigProfile,
            "gpuiid" => Self::MigInstance,
            "pod" | "podname" => Self::Pod,
            "namespace" | "podnamespace" => Self::Namespace,
            "container" | "containername" => Self::Container,
            "exportedpod" => Self::ExportedPod,
            "exportednamespace" => Self::ExportedNamespace,
            "exportedcontainer" => Self::ExportedContainer,
            "labelsraw" => Self::LabelsRaw,
            _ if name.is_empty() => Self::Unnamed,
            _ => Self::Label(name.to_owned()),
        }
    }

    /// What a label of that name in `labels_raw` says; labels have the same variants as columns.
    pub(super) fn of_label(name: &str) -> Self {
        match Self::of(name) {
            // These are columns only: a label that happens to be called so is an ordinary one.
            Self::Timestamp | Self::Value | Self::LabelsRaw => Self::Label(name.to_owned()),
            role => role,
        }
    }
}

/// The columns of a file.
#[derive(Debug)]
pub(super) struct Header {
    /// What each column says.
    pub(super) roles: Vec<Role>,
    /// Where the time is.
    pub(super) timestamp: usize,
    /// Where the value is.
    pub(super) value: usize,
    /// The columns that are not part of a series' identity, sorted.
    pub(super) passing: Vec<usize>,
    /// Of the columns' names.
    pub(super) digest: [u8; 16],
}

impl Header {
    /// Reads the cells of a header record.
    pub(super) fn new(name: &str, cells: &[&[u8]]) -> Result<Self, SourceError> {
        let not_text = |reason: &str| SourceError::NotText { name: name.to_owned(), reason: reason.to_owned() };
        let mut names = Vec::with_capacity(cells.len());
        for cell in cells {
            if cell.contains(&0) {
                if is_utf16(cells[0]) {
                    return Err(SourceError::Utf16 { name: name.to_owned() });
                }
                return Err(not_text("its first line has NUL bytes (binary data, or UTF-16)"));
            }
            let column = std::str::from_utf8(cell).map_err(|_| not_text("its first line is not UTF-8"))?;
            // Files that were put together bring their byte order marks along.
            let column = column.trim().trim_start_matches('\u{feff}');
            names.push(unquote(column).unwrap_or_else(|| column.into()));
        }
        let names: Vec<&str> = names.iter().map(|column| column.trim()).collect();
        if names.iter().any(|n| n.contains(['\r', '\n'])) {
            return Err(not_text("a column's name has a line end in it (an unclosed quote, or lines that end with a bare CR)"));
        }
        let roles: Vec<Role> = names.iter().map(|n| Role::of(n)).collect();
        let find = |wanted: &Role| roles.iter().position(|r| r == wanted);
        let needed = [
            ("timestamp", find(&Role::Timestamp)),
            ("metric_name", find(&Role::Metric)),
            ("uuid", find(&Role::Uuid)),
            ("value", find(&Role::Value)),
        ];
        // A line that names none of them is a row: that it says something twice is no fault of it.
        let is_header = needed.iter().any(|(_, at)| at.is_some());
        for (i, role) in roles.iter().enumerate().filter(|_| is_header) {
            if let Some(j) = roles[..i].iter().position(|r| r == role && *r != Role::Unnamed) {
                let (first, second) = (names[j].to_owned(), names[i].to_owned());
                return Err(SourceError::DuplicateColumn { name: name.to_owned(), first, second });
            }
        }
        if let [(_, Some(timestamp)), (_, Some(_)), (_, Some(_)), (_, Some(value))] = needed {
            let passes = |i: &usize| matches!(roles[*i], Role::Timestamp | Role::Value | Role::Unnamed);
            let passing = (0..roles.len()).filter(passes).collect();
            // Which role a column has is told by its name; no name has a line end.
            let digest = Digest::of_parts(&[names.join("\n").as_bytes()]).to_bytes();
            return Ok(Self { roles, timestamp, value, passing, digest });
        }
        let missing: Vec<&str> = needed.iter().filter(|(_, at)| at.is_none()).map(|(name, _)| *name).collect();
        let mut found: String = names.join(", ").chars().take(200).collect();
        if found.len() < names.join(", ").len() {
            found.push('…');
        }
        Err(SourceError::MissingColumns { name: name.to_owned(), missing: missing.join(", "), found, hint: hint(&names) })
    }
}

/// The columns of a content, for one that does not name them: a file that was truncated under its writer, or one without a header.
#[derive(Clone, Debug)]
pub struct Columns(pub(super) Arc<Header>);

impl Columns {
    /// Columns of given names, in order.
    ///
    /// # Errors
    /// A needed one is missing, or two mean the same.
    pub fn named(names: &[String]) -> Result<Self, SourceError> {
        let cells: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
        Header::new("stream.columns", &cells).map(|header| Self(Arc::new(header)))
    }

    /// Whether a content's first record can be a row of these columns, and is no header of its own.
    pub(super) fn fits(&self, cells: &[&[u8]]) -> bool {
        const NEEDED: [Role; 4] = [Role::Timestamp, Role::Metric, Role::Uuid, Role::Value];
        let names_a_column = |cell: &&[u8]| std::str::from_utf8(cell).is_ok_and(|text| NEEDED.contains(&Role::of(text.trim())));
        cells.len() == self.0.roles.len() && !cells.iter().any(names_a_column)
    }
}

/// Whether a line that was cut at commas and line ends is UTF-16: a mark, or every second byte of ASCII is 0.
fn is_utf16(first: &[u8]) -> bool {
    let every_second = |from: usize| first.iter().skip(from).step_by(2).all(|byte| *byte == 0);
    first.starts_with(b"\xff\xfe") || first.starts_with(b"\xfe\xff") || (first.len() > 2 && (every_second(0) || every_second(1)))
}

const NEEDS: &str = "the first line must name the columns, among them timestamp, metric_name, uuid and value";

/// What a file without the needed columns looks like, and what to do.
fn hint(names: &[&str]) -> String {
    let any = |test: &dyn Fn(&str) -> bool| names.iter().any(|n| test(n));
    let first = names.first().copied().unwrap_or_default();
    let lower = first.to_lowercase();
    if first.starts_with("# HELP") || first.starts_with("# TYPE") || (first.contains('{') && first.contains('=')) {
        "; this looks like an exporter's /metrics page, not CSV".to_owned()
    } else if lower.starts_with('#') && ["gpu", "entity"].iter().any(|word| lower.contains(word)) {
        "; this looks like the output of `nvidia-smi dmon` or `dcgmi dmon`, not CSV".to_owned()
    } else if first.starts_with('#') {
        format!("; it begins with a comment or a heading: {NEEDS}")
    } else if let Some(separator) = other_separator(names) {
        format!("; its cells seem to be separated by {separator}: separate them by commas")
    } else if any(&|n| n.contains("utilization.") || n.ends_with("[W]") || n.ends_with("[MiB]") || n.ends_with("[%]")) {
        "; this looks like `nvidia-smi --query-gpu` output; one row per sample with timestamp, metric_name, uuid, value is needed"
            .to_owned()
    } else if let Some((found, meant)) = misspelt(names) {
        format!("; is `{found}` meant to be `{meant}`?")
    } else if names.len() > 2 && has(names, &Role::Timestamp) && !has(names, &Role::Value) && !has(names, &Role::Metric) {
        "; this looks like one column per metric; one row per sample with timestamp, metric_name, uuid, value is needed"
            .to_owned()
    } else if [Role::Timestamp, Role::Metric, Role::Uuid, Role::Value].iter().any(|role| has(names, role)) {
        format!("; {NEEDS}")
    } else {
        format!("; {NEEDS}. If the file has no such line, name its columns in order with stream.columns")
    }
}

fn has(names: &[&str], role: &Role) -> bool {
    names.iter().any(|name| Role::of(name) == *role)
}

/// What separates the cells of a line that has no comma, if its parts name columns.
fn other_separator(names: &[&str]) -> Option<&'static str> {
    let [line] = names else { return None };
    let separators = [(';', "semicolons"), ('\t', "tabs"), ('|', "`|`")];
    let (_, words) = separators.into_iter().find(|(separator, _)| {
        let parts: Vec<&str> = line.split(*separator).map(|part| part.trim().trim_matches('"')).collect();
        parts.len() > 1 && (has(&parts, &Role::Timestamp) || has(&parts, &Role::Value) || parts.len() > 3)
    })?;
    Some(words)
}

/// A column that is nearly called like one that is missing, and that one.
fn misspelt<'a>(names: &[&'a str]) -> Option<(&'a str, &'static str)> {
    let needed = [
        ("timestamp", Role::Timestamp),
        ("metric_name", Role::Metric),
        ("metric", Role::Metric),
        ("uuid", Role::Uuid),
        ("value", Role::Value),
    ];
    let missing = || needed.iter().filter(|(_, role)| !has(names, role)).map(|(name, _)| *name);
    names.iter().filter(|name| matches!(Role::of(name), Role::Label(_))).find_map(|found| {
        let lower = found.to_lowercase();
        let near = |wanted: &str| strsim::osa_distance(&lower, wanted) <= (wanted.len() / 4).max(1);
        missing().find(|wanted| near(wanted)).map(|wanted| (*found, wanted))
    })
}
