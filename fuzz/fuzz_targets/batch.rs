//! Any bytes as a batch or as a dictionary: an error value or something decoded, never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use telemetry::batch::{Batch, Dictionary, decode};
use telemetry::model::DictionaryId;

fn check(bytes: &[u8]) {
    if let Ok(batch) = decode(bytes) {
        let batch = Batch::new(batch.into_parts()).expect("a batch stays one");
        assert_eq!(batch.row.len(), batch.time_ms.len());
        assert_eq!(batch.row.len(), batch.value.len());
        assert!(batch.value.iter().all(|value| value.is_finite()));
        assert_eq!(batch.rows.len(), (batch.row.len() + batch.rejects.len()) as u64);
    }
}

/// As a forger would: a good envelope around any message.
fn seal(magic: &[u8], message: &[u8]) -> Vec<u8> {
    let mut sealed = magic.to_vec();
    sealed.extend(zstd::bulk::compress(message, 1).expect("memory compresses"));
    sealed
}

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&seal(b"TLB\x01", data));
    let _ = Dictionary::decode(data, DictionaryId::of(b""));
    let sealed = seal(b"TLD\x01", data);
    let _ = Dictionary::decode(&sealed, DictionaryId::of(&sealed));
});
