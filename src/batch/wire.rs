//! The protobuf messages inside an envelope, and the envelope itself.
//!
//! Envelope: three magic bytes, one version byte, one zstd frame that states its content's size and carries a checksum.
//! A field is never renumbered; a change that an older reader would misread raises the version.

use bytes::Bytes;

use super::DecodeError;

/// What a batch may decompress to, bytes: 16 M rows' worth, far above `batch.max_rows`; it bounds what a forged frame can cost.
pub const MAX_DECODED_BYTES: usize = 64 << 20;

/// Columns of a batch, grouped by series. `dd` = deltas of deltas, `carried` = the state goes on from run to run, so that the
/// regular scrape of many series costs next to nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BatchMessage {
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub source: Bytes,
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub family: Bytes,
    #[prost(string, tag = "3")]
    pub cluster: String,
    #[prost(string, tag = "4")]
    pub name: String,
    #[prost(int64, tag = "5")]
    pub created_ms: i64,
    #[prost(uint64, tag = "6")]
    pub first_row: u64,
    #[prost(uint64, tag = "7")]
    pub rows: u64,
    /// 16 bytes each.
    #[prost(bytes = "bytes", repeated, tag = "8")]
    pub dictionaries: Vec<Bytes>,
    /// Dictionary of each run, ascending: differences.
    #[prost(uint32, repeated, tag = "9")]
    pub run_dictionary: Vec<u32>,
    /// Index in the dictionary: differences.
    #[prost(sint64, repeated, tag = "10")]
    pub run_index: Vec<i64>,
    #[prost(uint32, repeated, tag = "11")]
    pub run_len: Vec<u32>,
    /// First row of each run, less `first_row`: differences.
    #[prost(sint64, repeated, tag = "12")]
    pub run_row: Vec<i64>,
    /// The other rows: dd, carried.
    #[prost(sint64, repeated, tag = "13")]
    pub row_dd: Vec<i64>,
    /// First time of each run: differences.
    #[prost(sint64, repeated, tag = "14")]
    pub run_time: Vec<i64>,
    /// The other times: dd, carried.
    #[prost(sint64, repeated, tag = "15")]
    pub time_dd: Vec<i64>,
    /// How each run's values are written, see `values`.
    #[prost(uint32, repeated, tag = "16")]
    pub run_scale: Vec<u32>,
    /// Scaled integers: differences, from 0 in each run.
    #[prost(sint64, repeated, tag = "17")]
    pub scaled: Vec<i64>,
    /// Corrections in units of the last place.
    #[prost(sint64, repeated, tag = "18")]
    pub ulps: Vec<i64>,
    /// Bits of values that are no short decimals.
    #[prost(fixed64, repeated, tag = "19")]
    pub bits: Vec<u64>,
    /// Rejected rows, less `first_row`: differences.
    #[prost(uint64, repeated, tag = "20")]
    pub reject_row: Vec<u64>,
    /// Their lines: differences.
    #[prost(sint64, repeated, tag = "21")]
    pub reject_line: Vec<i64>,
    #[prost(uint32, repeated, tag = "22")]
    pub reject_reason: Vec<u32>,
}

/// A dictionary: every text once, and numbers that refer to the texts.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DictionaryMessage {
    /// Text 0 is the empty one.
    #[prost(string, repeated, tag = "1")]
    pub texts: Vec<String>,
    /// 9 numbers a GPU: uuid, hostname, index + 1 (0 = none), device, model, driver, PCI bus id, MIG profile, MIG instance.
    #[prost(uint32, repeated, tag = "2")]
    pub gpus: Vec<u32>,
    /// For each series: gpu, metric, namespace, pod, container, number of labels, then name and value of each.
    #[prost(uint32, repeated, tag = "3")]
    pub series: Vec<u32>,
}

/// Wraps a message.
pub(super) fn seal(magic: [u8; 3], version: u8, message: &impl prost::Message, level: i32) -> Bytes {
    let plain = message.encode_to_vec();
    let mut sealed = Vec::with_capacity(4 + plain.len() / 2);
    sealed.extend_from_slice(&magic);
    sealed.push(version);
    let frame = zstd::bulk::Compressor::new(level).and_then(|mut compressor| {
        compressor.include_checksum(true)?;
        compressor.include_contentsize(true)?;
        compressor.compress(&plain)
    });
    // Compressing from memory into a buffer of the bound's size fails only where memory does.
    sealed.extend_from_slice(&frame.expect("zstd compresses any bytes at the levels that the configuration admits"));
    Bytes::from(sealed)
}

/// Unwraps a message.
pub(super) fn open<M: prost::Message + Default>(magic: [u8; 3], version: u8, sealed: &[u8]) -> Result<M, DecodeError> {
    let Some((head, frame)) = sealed.split_at_checked(4) else { return Err(DecodeError::Truncated) };
    if head[..3] != magic {
        return Err(DecodeError::Magic);
    }
    if head[3] != version {
        return Err(DecodeError::Version { found: head[3], known: version });
    }
    let size = match zstd::zstd_safe::get_frame_content_size(frame) {
        Ok(Some(size)) => usize::try_from(size).unwrap_or(usize::MAX),
        _ => return Err(DecodeError::Frame("it does not state its size".into())),
    };
    if size > MAX_DECODED_BYTES {
        return Err(DecodeError::TooLarge(size));
    }
    let plain = zstd::bulk::decompress(frame, size).map_err(|e| DecodeError::Frame(e.to_string()))?;
    M::decode(plain.as_slice()).map_err(|e| DecodeError::Message(e.to_string()))
}
