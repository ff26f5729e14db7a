//! What a batch and a dictionary may hold. Encoder, decoder and the checks of the configuration use the same numbers.

/// Rows of a batch. The default of `batch.max_rows` is a sixteenth of it.
pub const MAX_ROWS: usize = 1 << 20;
/// Bytes of a cluster's name: what a DNS name may have.
pub const MAX_CLUSTER_BYTES: usize = 253;
/// Bytes of a source's name for people; a longer one is cut.
pub const MAX_NAME_BYTES: usize = 4096;
/// Dictionaries that one batch may name.
pub const MAX_DICTIONARIES: usize = 512;
/// Series of one dictionary, and what `batch.max_new_series` can be set to.
pub const MAX_SERIES: usize = 1 << 16;
/// Series that a batch may bring for the first time, and series of one merged dictionary, unless `batch.max_new_series` is set.
pub const DEFAULT_NEW_SERIES: usize = 4096;
/// Bytes of one text of a dictionary, and what `stream.max_cell_bytes` can be set to.
pub const MAX_TEXT_BYTES: usize = 1 << 16;
/// Memory that a decoded dictionary may take, bytes: its numbers may refer to one long text again and again.
pub const MAX_DICTIONARY_MEMORY: usize = 64 << 20;

/// Numbers that describe a GPU in a dictionary.
pub(super) const GPU_NUMBERS: usize = 9;
