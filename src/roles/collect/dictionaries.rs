//! Dictionaries that were read, by digest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::batch::{DecodeError, Dictionary};
use crate::model::{DictionaryId, Partition};
use crate::transport::{Consumer, TransportError};

/// Encoded bytes and texts kept at most; beyond it everything is let go and read again as it is needed.
const MAX_BYTES: usize = 48 << 20;
/// What a series costs in memory beside its encoded bytes: a dozen strings.
const SERIES_BYTES: usize = 700;

/// A dictionary and its bytes.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) dictionary: Arc<Dictionary>,
    pub(super) bytes: Bytes,
}

/// Why a batch's dictionaries could not be had.
#[derive(Debug)]
pub(super) enum Lack {
    /// The queue cannot be asked now.
    Queue(TransportError),
    /// The queue does not have it.
    Missing(DictionaryId),
    /// It is damaged.
    Damaged(DecodeError),
}

#[derive(Default)]
struct Kept {
    known: HashMap<DictionaryId, Known>,
    bytes: usize,
}

/// Dictionaries by digest: content never changes under a digest, so partitions share it.
#[derive(Default)]
pub(super) struct Cache(Mutex<Kept>);

impl Cache {
    /// All of these, from memory or from the queue.
    pub(super) async fn resolve(
        &self,
        queue: &dyn Consumer,
        partition: Partition,
        digests: &[DictionaryId],
    ) -> Result<Vec<Known>, Lack> {
        let mut out = Vec::with_capacity(digests.len());
        for &digest in digests {
            let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).known.get(&digest).cloned();
            out.push(match kept {
                Some(known) => known,
                None => {
                    let bytes = queue.dictionary(partition, digest).await.map_err(Lack::Queue)?.ok_or(Lack::Missing(digest))?;
                    self.learn(digest, bytes).map_err(Lack::Damaged)?
                }
            });
        }
        Ok(out)
    }

    fn learn(&self, digest: DictionaryId, bytes: Bytes) -> Result<Known, DecodeError> {
        let known = Known { dictionary: Arc::new(Dictionary::decode(&bytes, digest)?), bytes };
        let cost = known.bytes.len() + known.dictionary.series.len() * SERIES_BYTES;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.bytes + cost > MAX_BYTES {
            *kept = Kept::default();
        }
        kept.bytes += cost;
        kept.known.insert(digest, known.clone());
        Ok(known)
    }
}
