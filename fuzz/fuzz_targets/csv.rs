//! Any bytes in any blocks: the same rows and positions whatever the blocks, the same rest from any position, and no panic.
//!
//! The first three bytes of the input say how it is cut and where it is resumed; the rest is the content behind a header.

#![no_main]

use std::pin::Pin;
use std::task::{Context, Poll};

use libfuzzer_sys::fuzz_target;
use telemetry::model::{Position, Reason};
use telemetry::source::{CsvReader, Fill, RowKind, Options, Seek};
use tokio::io::{AsyncRead, ReadBuf};

struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    size: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let n = self.size.min(out.remaining()).min(self.bytes.len() - self.at);
        out.put_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        Poll::Ready(Ok(()))
    }
}

#[derive(Clone, PartialEq, Debug)]
struct Seen {
    row: u64,
    what: Result<(String, i64, u64), (u64, Reason)>,
    raw: Vec<u8>,
    after: Position,
}

fn reader(bytes: &[u8], size: usize) -> CsvReader {
    let options = Options {
        max_record_bytes: 48,
        max_cell_bytes: 12,
        max_series: 4,
        max_series_bytes: 1 << 20,
        block_bytes: 1 + size * 7 % 200,
        ..Options::default()
    };
    CsvReader::from_reader(Pieces { bytes: bytes.to_vec(), at: 0, size }, options)
}

async fn drain(reader: &mut CsvReader) -> (Vec<Seen>, Option<String>) {
    let mut seen = Vec::new();
    loop {
        while let Some(row) = reader.next_row() {
            let what = match row.kind {
                RowKind::Sample { series, time_ms, value } => {
                    assert!(value.is_finite());
                    Ok((format!("{:?}", reader.series(series)), time_ms.as_millis(), value.to_bits()))
                }
                RowKind::Reject { line, reason } => Err((line, reason)),
            };
            seen.push(Seen { row: row.row, what, raw: reader.raw().to_vec(), after: reader.position() });
        }
        match reader.fill().await {
            Ok(Fill::Data) => {}
            Ok(Fill::SeriesFull) => drop(reader.release_series(false)),
            Ok(Fill::Idle | Fill::End) => return (seen, None),
            Err(error) => return (seen, Some(error.to_string())),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let [cut, other_cut, resume, content @ ..] = data else { return };
    // Half of the inputs begin with a header that is good, so that rows are reached.
    let header: &[u8] = if resume & 1 == 0 { b"timestamp,metric,uuid,value\n" } else { b"" };
    let bytes = [header, content].concat();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (whole, error) = drain(&mut reader(&bytes, 1 << 20)).await;
        for cut in [cut, other_cut] {
            let (seen, failed) = drain(&mut reader(&bytes, usize::from(*cut) + 1)).await;
            assert_eq!(seen, whole);
            assert_eq!(failed.is_some(), error.is_some());
        }
        if error.is_some() || whole.is_empty() {
            return;
        }
        let at = usize::from(*resume) * whole.len() / 256;
        let mut again = reader(&bytes, usize::from(*cut) + 1);
        assert_eq!(again.seek(Some(&whole[at].after)).await.expect("it was read before"), Seek::Ok);
        assert_eq!(drain(&mut again).await.0, whole[at + 1..]);
    });
});
