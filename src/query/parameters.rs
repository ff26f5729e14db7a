//! The parameters of the API's requests. Each type here is what a request is read into and what describes it: a field that is added is
//! read, and stands in /openapi.json.

use serde::Deserialize;
use utoipa::IntoParams;

use super::{QueryError, Result};

/// A whole number as it was given; a value that is empty is wrong, not left out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "String")]
pub struct WholeNumber(Option<String>);

impl From<String> for WholeNumber {
    fn from(text: String) -> Self {
        Self(Some(text))
    }
}

/// A page of a list.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageParams {
    /// Rows of a page.
    #[param(minimum = 1, maximum = 10000, default = 100, value_type = Option<u32>)]
    #[serde(default)]
    pub limit: WholeNumber,
    /// `next_cursor` of the page before, with the other parameters as they were.
    #[param(max_length = 1024)]
    pub cursor: Option<String>,
}

/// A page of the sources of the pipeline.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PipelineParams {
    /// Sources of a page; as many as there may be where it is not given.
    #[param(minimum = 1, maximum = 10000, value_type = Option<u32>)]
    #[serde(default)]
    pub limit: WholeNumber,
    /// `next_cursor` of the page before.
    #[param(max_length = 1024)]
    pub cursor: Option<String>,
}

/// Which GPUs.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FilterParams {
    /// Edge cluster.
    #[param(max_length = 1024, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    pub cluster: Option<String>,
    /// Host.
    #[param(max_length = 1024, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    pub hostname: Option<String>,
    /// Model name.
    #[param(max_length = 1024, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    pub model: Option<String>,
    /// Those that a workload in this namespace has used.
    #[param(max_length = 1024, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    pub namespace: Option<String>,
}

/// Which cluster.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ClusterParam {
    /// Edge cluster.
    #[param(max_length = 1024, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    pub cluster: Option<String>,
}

/// Which metrics.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct MetricsParam {
    /// Metrics, repeated or separated by commas; all where none is given.
    #[param(style = Form, explode, value_type = Option<Vec<String>>)]
    #[serde(default)]
    pub metric: Vec<String>,
}

/// Which samples.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TelemetryParams {
    /// The first instant: RFC 3339, or `now-5m`.
    #[param(
        max_length = 64,
        pattern = "^([0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[T ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])|now([+-][0-9]{1,5}(ms|s|m|h|d))?)$"
    )]
    pub start_time: Option<String>,
    /// The last instant, included.
    #[param(
        max_length = 64,
        pattern = "^([0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[T ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])|now([+-][0-9]{1,5}(ms|s|m|h|d))?)$"
    )]
    pub end_time: Option<String>,
    /// Metrics, repeated or separated by commas; all where none is given.
    #[param(style = Form, explode, value_type = Option<Vec<String>>)]
    #[serde(default)]
    pub metric: Vec<String>,
    /// Which end comes first.
    #[param(pattern = "^(asc|desc)$", default = "asc")]
    pub order: Option<String>,
    /// Rows: of JSON 100 where it is not given, of NDJSON and CSV all.
    #[param(minimum = 1, maximum = 10000, value_type = Option<u32>)]
    #[serde(default)]
    pub limit: WholeNumber,
    /// `next_cursor` of the page before, with the other parameters as they were.
    #[param(max_length = 1024)]
    pub cursor: Option<String>,
    /// One row per series and step of this length: `30s`, `1m`, `1h`.
    #[param(max_length = 32, pattern = "^[0-9]+(ms|s|m|h|d)$")]
    pub step: Option<String>,
    /// What becomes of the samples in a step.
    #[param(pattern = "^(avg|min|max|sum|count|last|p50|p95|p99)$", default = "avg")]
    pub agg: Option<String>,
}

/// What is grouped, and how.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AggregateParams {
    /// One metric.
    #[param(min_length = 1, max_length = 1024, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]+$")]
    pub metric: String,
    /// What is grouped by. With namespace and pod, what a GPU measured while it was theirs.
    #[param(pattern = "^(cluster|hostname|gpu|model|namespace|pod)$", default = "cluster")]
    pub group_by: Option<String>,
    /// How the GPUs of a group become one value. Over time, each GPU becomes one value first: its least, greatest or last for
    /// min, max and last, its mean otherwise (of all its samples, whatever ran on it); so `sum` adds GPUs up, and percentiles are over
    /// GPUs. With `group_by=gpu` percentiles are over samples. `count` gives the number of samples.
    #[param(pattern = "^(avg|min|max|sum|count|last|p50|p95|p99)$", default = "avg")]
    pub agg: Option<String>,
    /// The length of a step; the whole range where it is not given.
    #[param(max_length = 32, pattern = "^[0-9]+(ms|s|m|h|d)$")]
    pub step: Option<String>,
    /// The first instant; an hour before the end where it is not given.
    #[param(
        max_length = 64,
        pattern = "^([0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[T ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])|now([+-][0-9]{1,5}(ms|s|m|h|d))?)$"
    )]
    pub start_time: Option<String>,
    /// The last instant, included; the newest sample's where it is not given.
    #[param(
        max_length = 64,
        pattern = "^([0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[T ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])|now([+-][0-9]{1,5}(ms|s|m|h|d))?)$"
    )]
    pub end_time: Option<String>,
}

impl WholeNumber {
    /// The number, within bounds; `None` where it is not given.
    ///
    /// # Errors
    ///
    /// It is not a number, or outside of them.
    pub(super) fn within(&self, name: &str, least: u64, most: u64) -> Result<Option<u64>> {
        let Some(text) = &self.0 else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse::<u64>().ok().filter(|_| digits) {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(QueryError::bad(name, format!("`{text}` is not a whole number from {least} to {most}"))),
        }
    }
}
