//! What the pipeline speaks of: series, samples, positions, ranges of rows, reasons to reject. No I/O in here.

pub mod exact;
mod id;
mod metric;
mod names;
mod partition;
mod reason;
mod rows;
mod series;
mod time;
mod value;

pub use id::{BlockId, DictionaryId, Digest, FamilyId, GpuId, GroupId, SeriesId, SourceId};
pub use metric::{Metric, MetricKind, catalogue, metric};
pub use names::{aliases, catalogue_name, names_of};
pub use partition::{Partition, Partitions};
pub use reason::Reason;
pub use rows::{Position, RowRange, RowSet};
pub use series::{Gpu, Series};
pub use time::{IntervalMs, MAX_TIME, MIN_TIME, TimeMs, parse_time};
pub use value::{BadValue, parse_value};
