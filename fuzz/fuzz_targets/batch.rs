//! Any bytes as a batch or as a dictionary: an error value or something decoded, never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use telemetry::batch::{Dictionary, decode};
use telemetry::model::Digest;

fuzz_target!(|data: &[u8]| {
    if let Ok(batch) = decode(data) {
        assert_eq!(batch.row.len(), batch.time_ms.len());
        assert_eq!(batch.row.len(), batch.value.len());
        assert!(batch.value.iter().all(|value| value.is_finite()));
        assert_eq!(batch.rows.len(), (batch.row.len() + batch.rejects.len()) as u64);
    }
    // With the right digest too, so that what is behind the check is reached.
    let _ = Dictionary::decode(data, Digest::default());
    let _ = Dictionary::decode(data, Digest::of(data));
});
