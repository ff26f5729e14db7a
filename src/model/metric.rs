//! The DCGM metric catalogue. Stub: being written.

/// How a metric behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only grows until the GPU is reset.
    Counter,
}

/// What is known of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Name, as dcgm-exporter has it.
    pub name: &'static str,
    /// Unit, as in `formats`.
    pub unit: &'static str,
    /// What it says.
    pub description: &'static str,
    /// Gauge or counter.
    pub kind: Kind,
    /// Plausible values, both bounds included; outside is rejected as `out_of_range`.
    pub range: (f64, f64),
}

/// Every metric the catalogue knows.
#[must_use]
pub fn catalogue() -> &'static [Metric] {
    &[]
}

/// One metric by name.
#[must_use]
pub fn metric(name: &str) -> Option<&'static Metric> {
    catalogue().iter().find(|m| m.name == name)
}
