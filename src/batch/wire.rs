//! The protobuf messages inside an envelope, and the envelope itself.
//!
//! Envelope: three magic bytes, one version byte, one zstd frame that states its content's size and carries a checksum.
//! A field is never renumbered; a change that an older reader would misread raises the version.

use bytes::Bytes;
use prost::encoding::{WireType, decode_key, decode_varint};

use super::DecodeError;
use super::limits::{GPU_NUMBERS, MAX_CLUSTER_BYTES, MAX_DICTIONARIES, MAX_NAME_BYTES, MAX_ROWS, MAX_SERIES, MAX_TEXT_BYTES};

/// What one compressed frame may hold, bytes: twice what `batch.max_bytes` can be set to.
pub const MAX_FRAME_BYTES: usize = 32 << 20;

/// How many elements a field of a message may have, and how long each may be. Compressed bytes are cheap, what they unfold to is
/// not: this is checked on the encoded message, before anything is allocated for it.
pub(super) struct Bound {
    pub name: &'static str,
    pub shape: Shape,
    pub elements: usize,
}

/// How a field's elements stand in a message.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// Varints, packed or one by one.
    Numbers,
    /// Eight bytes each, packed or one by one.
    Fixed,
    /// Texts or bytes, each of so many bytes at most.
    Texts(usize),
}

/// A message whose fields are bounded.
pub(super) trait Bounded: prost::Message + Default {
    /// The bound of each field, by tag: the first is that of tag 1.
    const BOUNDS: &'static [Bound];
}

const fn numbers(name: &'static str, elements: usize) -> Bound {
    Bound { name, shape: Shape::Numbers, elements }
}

const fn texts(name: &'static str, elements: usize, bytes: usize) -> Bound {
    Bound { name, shape: Shape::Texts(bytes), elements }
}

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

impl Bounded for BatchMessage {
    const BOUNDS: &'static [Bound] = &[
        texts("source", 1, 16),
        texts("family", 1, 16),
        texts("cluster", 1, MAX_CLUSTER_BYTES),
        texts("name", 1, MAX_NAME_BYTES),
        numbers("created_ms", 1),
        numbers("first_row", 1),
        numbers("rows", 1),
        texts("dictionaries", MAX_DICTIONARIES, 16),
        numbers("run_dictionary", MAX_ROWS),
        numbers("run_index", MAX_ROWS),
        numbers("run_len", MAX_ROWS),
        numbers("run_row", MAX_ROWS),
        numbers("row_dd", MAX_ROWS),
        numbers("run_time", MAX_ROWS),
        numbers("time_dd", MAX_ROWS),
        numbers("run_scale", MAX_ROWS),
        numbers("scaled", MAX_ROWS),
        numbers("ulps", MAX_ROWS),
        Bound { name: "bits", shape: Shape::Fixed, elements: MAX_ROWS },
        numbers("reject_row", MAX_ROWS),
        numbers("reject_line", MAX_ROWS),
        numbers("reject_reason", MAX_ROWS),
    ];
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
    /// The GPUs whose index is the greatest there is: index + 1 has no room for it.
    #[prost(uint32, repeated, tag = "4")]
    pub greatest_index: Vec<u32>,
}

impl Bounded for DictionaryMessage {
    const BOUNDS: &'static [Bound] = &[
        texts("texts", 1 << 20, MAX_TEXT_BYTES),
        numbers("gpus", GPU_NUMBERS * MAX_SERIES),
        numbers("series", 1 << 22),
        numbers("greatest_index", MAX_SERIES),
    ];
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

/// What the frame of an envelope holds, bytes, by its own account; `None` where it gives none.
#[must_use]
pub fn frame_bytes(sealed: &[u8]) -> Option<usize> {
    let frame = sealed.get(4..)?;
    zstd::zstd_safe::get_frame_content_size(frame).ok().flatten().and_then(|size| usize::try_from(size).ok())
}

/// Unwraps a message.
pub(super) fn open<M: Bounded>(magic: [u8; 3], version: u8, sealed: &[u8]) -> Result<M, DecodeError> {
    let Some((head, frame)) = sealed.split_at_checked(4) else { return Err(DecodeError::Truncated) };
    if head[..3] != magic {
        return Err(DecodeError::Magic);
    }
    if head[3] != version {
        return Err(DecodeError::Version { found: head[3], known: version });
    }
    let size = frame_bytes(sealed).ok_or_else(|| DecodeError::Frame("it does not state its size".into()))?;
    if size > MAX_FRAME_BYTES {
        return Err(DecodeError::TooLarge(size));
    }
    let plain = zstd::bulk::decompress(frame, size).map_err(|e| DecodeError::Frame(e.to_string()))?;
    check_bounds(&plain, M::BOUNDS)?;
    M::decode(plain.as_slice()).map_err(|e| DecodeError::Message(e.to_string()))
}

/// Whether every field of an encoded message keeps its bound. Unknown fields are passed over, as they are by the decoder.
fn check_bounds(mut message: &[u8], bounds: &[Bound]) -> Result<(), DecodeError> {
    let damaged = |e: prost::DecodeError| DecodeError::Message(e.to_string());
    let short = || DecodeError::Message("a field ends too early".into());
    let mut counts = vec![0usize; bounds.len()];
    while !message.is_empty() {
        let (tag, wire_type) = decode_key(&mut message).map_err(damaged)?;
        let field = tag as usize - 1;
        let bound = bounds.get(field);
        let more = match wire_type {
            WireType::Varint => decode_varint(&mut message).map(|_| 1).map_err(damaged)?,
            WireType::SixtyFourBit => message.split_off(..8).map(|_| 1).ok_or_else(short)?,
            WireType::ThirtyTwoBit => message.split_off(..4).map(|_| 1).ok_or_else(short)?,
            WireType::LengthDelimited => {
                let len = usize::try_from(decode_varint(&mut message).map_err(damaged)?).map_err(|_| short())?;
                let content = message.split_off(..len).ok_or_else(short)?;
                match bound.map(|bound| bound.shape) {
                    Some(Shape::Numbers) => content.iter().filter(|byte| **byte < 0x80).count(),
                    Some(Shape::Fixed) => content.len() / 8,
                    Some(Shape::Texts(longest)) if content.len() > longest => {
                        return Err(DecodeError::TooLong { field: bounds[field].name, bytes: len, limit: longest });
                    }
                    Some(Shape::Texts(_)) | None => 1,
                }
            }
            WireType::StartGroup | WireType::EndGroup => return Err(DecodeError::Message("it has groups".into())),
        };
        if let Some(bound) = bound {
            counts[field] += more;
            if counts[field] > bound.elements {
                return Err(DecodeError::TooMany { field: bound.name, limit: bound.elements });
            }
        }
    }
    Ok(())
}
