//! Reading: every row once, whatever the blocks, the quotes, the line ends and the interruptions.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use proptest::prelude::*;
use telemetry::model::{Position, Reason};
use telemetry::source::follow::Change;
use telemetry::source::identity::{KnownContent, named, round};
use telemetry::source::{CsvReader, Fill, Input, Options, Rejects, Row, RowKind, Seek, SourceError};
use tokio::io::{AsyncRead, ReadBuf};

mod dialects;
mod files;

const HEADER: &str = "timestamp,metric_name,gpu_id,device,uuid,modelName,Hostname,container,pod,namespace,value,labels_raw";

fn row(second: u32, metric: &str, value: &str) -> String {
    format!(
        "\"2025-07-18T20:42:{:02}Z\",\"{metric}\",\"0\",\"nvidia0\",\"GPU-0\",\"NVIDIA H100\",\"host-1\",\"\",\"\",\"\",\"{value}\",\
         \"DCGM_FI_DRIVER_VERSION=\"\"535.129.03\"\",Hostname=\"\"host-1\"\",job=\"\"dcgm\"\"\"\n",
        second % 60
    )
}

/// Gives its bytes in pieces of given sizes, again and again.
struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    sizes: Vec<usize>,
    turn: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let size = self.sizes[self.turn % self.sizes.len()].max(1);
        self.turn += 1;
        let n = size.min(out.remaining()).min(self.bytes.len() - self.at);
        out.put_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        Poll::Ready(Ok(()))
    }
}

fn pieces(bytes: &[u8], sizes: &[usize], options: Options) -> CsvReader {
    CsvReader::from_reader(Pieces { bytes: bytes.to_vec(), at: 0, sizes: sizes.to_vec(), turn: 0 }, options)
}

/// A row as a user sees it: series by identity, not by index.
#[derive(Clone, PartialEq, Debug)]
struct Seen {
    row: u64,
    what: Result<(String, i64, f64), (u64, Reason)>,
    raw: Vec<u8>,
    after: Position,
}

fn see(reader: &CsvReader, row: Row) -> Seen {
    let what = match row.kind {
        RowKind::Sample { series, time_ms, value } => Ok((format!("{:?}", reader.series(series)), time_ms.as_millis(), value)),
        RowKind::Reject { line, reason } => Err((line, reason)),
    };
    Seen { row: row.row, what, raw: reader.raw().to_vec(), after: reader.position() }
}

async fn drain(reader: &mut CsvReader) -> Result<Vec<Seen>, (Vec<Seen>, SourceError)> {
    let mut seen = Vec::new();
    loop {
        while let Some(row) = reader.next_row() {
            seen.push(see(reader, row));
        }
        match reader.fill().await {
            Ok(Fill::End | Fill::Idle) => return Ok(seen),
            Ok(Fill::SeriesFull) => drop(reader.release_series(false)),
            Ok(Fill::Data) => {}
            Err(error) => return Err((seen, error)),
        }
    }
}

async fn read(bytes: &[u8]) -> Vec<Seen> {
    drain(&mut pieces(bytes, &[1 << 20], Options::default())).await.expect("readable")
}

async fn read_error(bytes: &[u8]) -> String {
    drain(&mut pieces(bytes, &[1 << 20], Options::default())).await.expect_err("an error").1.to_string()
}

async fn open(path: &Path, follow: bool) -> CsvReader {
    CsvReader::open(&Input::File(path.to_owned()), follow, Options::default()).await.expect("opens")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime")
}

fn reasons(seen: &[Seen]) -> BTreeMap<Reason, usize> {
    let mut counts = BTreeMap::new();
    for reject in seen.iter().filter_map(|s| s.what.as_ref().err()) {
        *counts.entry(reject.1).or_default() += 1;
    }
    counts
}

/// Content with everything that can be in a CSV file, and some things that cannot.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let cell = prop_oneof![
        4 => "[a-z0-9.]{0,6}",
        1 => "\"([a-z,\\r\\n]|\"\"){0,8}\"",
        1 => "[a-z\"\\r\u{feff}]{0,5}",
        1 => Just("\"".to_owned()),
    ];
    let line = prop_oneof![
        6 => (prop::collection::vec(cell, 1..6), prop_oneof![Just("\n"), Just("\r\n")]).prop_map(|(cells, end)| cells.join(",") + end),
        4 => (0u32..60, "[0-9]{0,3}", prop::bool::ANY).prop_map(|(s, v, crlf)| {
            format!("2025-07-18T20:42:{s:02}Z,M,\"GPU\"\"1\n\",{v}{}", if crlf { "\r\n" } else { "\n" })
        }),
        1 => Just("\n".to_owned()),
        1 => Just("\r\n\n".to_owned()),
        1 => Just("\u{feff}x,y\n".to_owned()),
        1 => (60usize..200).prop_map(|n| "z".repeat(n) + "\n"),
    ];
    (prop::bool::ANY, prop::collection::vec(line, 0..14), 0usize..3).prop_map(|(bom, lines, cut)| {
        let mut text =
            format!("{}timestamp,metric,uuid,value\n\n\n\n{}", if bom { "\u{feff}" } else { "" }, lines.concat()).into_bytes();
        let keep = text.len() - cut.min(text.len() - 31);
        text.truncate(keep);
        text
    })
}

fn small() -> Options {
    Options { max_record_bytes: 64, max_cell_bytes: 8, max_series: 3, ..Options::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn rows_and_positions_do_not_depend_on_blocks(bytes in content(), sizes in prop::collection::vec(1usize..40, 1..5), block in 1usize..90) {
        runtime().block_on(async {
            let whole = drain(&mut pieces(&bytes, &[1 << 20], small())).await.expect("readable");
            let cut = drain(&mut pieces(&bytes, &sizes, Options { block_bytes: block, ..small() })).await.expect("readable");
            prop_assert_eq!(whole, cut);
            Ok(())
        })?;
    }

    #[test]
    fn resuming_at_any_row_gives_the_same_rows(bytes in content(), sizes in prop::collection::vec(1usize..40, 1..5)) {
        runtime().block_on(async {
            let whole = drain(&mut pieces(&bytes, &[1 << 20], small())).await.expect("readable");
            let directory = tempfile::tempdir().expect("directory");
            let path = directory.path().join("a.csv");
            std::fs::write(&path, &bytes).expect("written");
            let mut file = CsvReader::open(&Input::File(path), false, small()).await.expect("opens");
            for seen in &whole {
                let mut resumed = pieces(&bytes, &sizes, small());
                for reader in [&mut resumed, &mut file] {
                    prop_assert_eq!(reader.seek(Some(&seen.after)).await.expect("seeks"), Seek::Ok);
                    let rest = drain(reader).await.expect("readable");
                    prop_assert_eq!(&rest[..], &whole[seen.row as usize + 1..]);
                    let other = Position { tail: telemetry::model::Digest::from_u128(7), ..seen.after };
                    if reader.input() != &Input::Stdin {
                        prop_assert_eq!(reader.seek(Some(&other)).await.expect("seeks"), Seek::Mismatch);
                    }
                }
                prop_assert_eq!(file.seek(None).await.expect("seeks"), Seek::Ok);
                prop_assert_eq!(&drain(&mut file).await.expect("readable"), &whole);
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_file_that_grows_byte_by_byte_gives_the_rows_of_the_whole(bytes in content()) {
        runtime().block_on(async {
            let whole = drain(&mut pieces(&bytes, &[1 << 20], small())).await.expect("readable");
            let directory = tempfile::tempdir().expect("directory");
            let path = directory.path().join("a.csv");
            let mut file = std::fs::File::create(&path).expect("created");
            let mut reader = CsvReader::open(&Input::File(path), true, small()).await.expect("opens");
            let mut seen = Vec::new();
            for byte in &bytes {
                file.write_all(&[*byte]).expect("written");
                seen.extend(drain(&mut reader).await.expect("readable"));
                if !seen.is_empty() {
                    prop_assert!(matches!(reader.look().await.expect("looks"), Change::None), "only what was not read is growth");
                }
            }
            reader.finish();
            seen.extend(drain(&mut reader).await.expect("readable"));
            prop_assert_eq!(seen, whole);
            Ok(())
        })?;
    }

    #[test]
    fn well_formed_records_are_those_of_the_csv_library(
        rows in prop::collection::vec(prop::collection::vec("[ab,\"\n]{0,5}", 4), 0..8), crlf in prop::bool::ANY,
    ) {
        runtime().block_on(async {
            let end = if crlf { "\r\n" } else { "\n" };
            let mut text = format!("timestamp,metric,uuid,value{end}");
            for cells in &rows {
                let cells: Vec<String> = cells.iter().map(|c| format!("\"{}\"", c.replace('"', "\"\""))).collect();
                text += &(cells.join(",") + end);
            }
            let seen = read(text.as_bytes()).await;
            prop_assert_eq!(seen.len(), rows.len());
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn the_twelve_columns_become_series() {
    let text = format!("{HEADER}\n{}{}", row(34, "DCGM_FI_DEV_GPU_UTIL", "42"), row(35, "DCGM_FI_DEV_GPU_UTIL", "43"));
    let mut reader = pieces(text.as_bytes(), &[7], Options::default());
    let seen = drain(&mut reader).await.expect("readable");
    assert_eq!(seen.len(), 2);
    assert_eq!(reader.series_len(), 1);
    let series = reader.series(0);
    assert_eq!(series.metric, "DCGM_FI_DEV_GPU_UTIL");
    let gpu = &series.gpu;
    assert_eq!(
        (gpu.uuid.as_str(), gpu.hostname.as_str(), gpu.index, gpu.device.as_str()),
        ("GPU-0", "host-1", Some(0), "nvidia0")
    );
    assert_eq!((gpu.model.as_str(), gpu.driver_version.as_str()), ("NVIDIA H100", "535.129.03"));
    assert_eq!(series.labels, [("job".to_owned(), "dcgm".to_owned())]);
    assert_eq!(seen[0].what.as_ref().map(|s| (s.1, s.2)), Ok((1_752_871_354_000, 42.0)));
}

#[tokio::test]
async fn headers_are_read_in_every_variant() {
    let variants = [
        "timestamp,metric_name,uuid,value,Hostname,modelName,gpu_id,pod,namespace,container",
        "Timestamp,Metric_Name,UUID,VALUE,hostname,model_name,gpu,pod_name,pod_namespace,container_name",
        "\u{feff}timestamp,metric,gpu_uuid,value,HOSTNAME,modelname,GPU,exported_pod,exported_namespace,exported_container",
        "\"timestamp\", \"__name__\",uuid,\"value\",Hostname,modelName,gpu_id,pod,namespace,container",
    ];
    let mut all = Vec::new();
    for header in variants {
        for end in ["\n", "\r\n"] {
            let header = header.replace(", \"", ",\"");
            let text = format!("{header}{end}1752871354,DCGM_FI_DEV_GPU_TEMP,GPU-1,61,h,M,3,p,n,c{end}");
            let mut reader = pieces(text.as_bytes(), &[5], Options::default());
            let seen = drain(&mut reader).await.expect("readable");
            assert_eq!(seen.len(), 1, "{header}");
            all.push((reader.series(0), seen[0].what.as_ref().expect("a sample").2.to_bits()));
        }
    }
    assert!(all.windows(2).all(|w| w[0] == w[1]), "{all:#?}");
    assert_eq!((all[0].0.pod.as_str(), all[0].0.gpu.index), ("p", Some(3)));
}

#[tokio::test]
async fn workloads_behind_prometheus_are_the_exported_ones() {
    let text = "timestamp,metric,uuid,value,pod,namespace,container,labels_raw\n\
        1752871354,M,G,1,exporter-x,monitoring,exporter,\"exported_pod=\"\"train-0\"\",exported_namespace=\"\"ml\"\",pod=\"\"exporter-x\"\"\"\n\
        1752871354,M,G,1,train-0,ml,main,\"pod=\"\"train-0\"\",GPU_I_PROFILE=\"\"1g.10gb\"\",GPU_I_ID=\"\"7\"\",pci_bus_id=\"\"0000:1\"\",zone=\"\"b\"\",a=\"\"1\"\"\"\n\
        1752871354,M,G,1,train-0,ml,main,broken\"labels\n";
    let mut reader = pieces(text.as_bytes(), &[1000], Options::default());
    drain(&mut reader).await.expect("readable");
    let [first, second, third] = [0, 1, 2].map(|i| reader.series(i));
    assert_eq!((first.pod.as_str(), first.namespace.as_str(), first.container.as_str()), ("train-0", "ml", ""));
    assert!(first.labels.contains(&("pod".into(), "exporter-x".into())));
    assert_eq!((second.pod.as_str(), second.container.as_str()), ("train-0", "main"));
    assert_eq!((second.gpu.mig_profile.as_str(), second.gpu.mig_instance.as_str()), ("1g.10gb", "7"));
    assert_eq!(second.gpu.pci_bus_id, "0000:1");
    assert_eq!(second.labels, [("a".to_owned(), "1".to_owned()), ("zone".into(), "b".into())]);
    assert_eq!((third.pod.as_str(), third.labels.len()), ("train-0", 0));
}

#[tokio::test]
async fn every_odd_value_is_rejected_for_its_reason() {
    let odd = [
        ("DCGM_FI_DEV_GPU_UTIL", "4294967295", Reason::OutOfRange),
        ("DCGM_FI_DEV_GPU_UTIL", "54321", Reason::OutOfRange),
        ("DCGM_FI_DEV_MEMORY_TEMP", "9223372036854775794", Reason::BlankValue),
        ("DCGM_FI_PROF_PCIE_TX_BYTES", "9.223372036854776e+18", Reason::BlankValue),
        ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "2147483633", Reason::BlankValue),
        ("DCGM_FI_PROF_SM_ACTIVE", "140737488355331", Reason::BlankValue),
        ("DCGM_FI_PROF_SM_ACTIVE", "14073748835532800", Reason::BlankValue),
        ("DCGM_FI_DEV_FAN_SPEED", "[N/A]", Reason::BlankValue),
        ("DCGM_FI_DEV_SERIAL", "<<<NOT_PERM>>>", Reason::BlankValue),
        ("DCGM_FI_DEV_GPU_TEMP", "NaN", Reason::NotFinite),
        ("DCGM_FI_DEV_GPU_TEMP", "-Inf", Reason::NotFinite),
        ("DCGM_FI_DEV_GPU_TEMP", "-1", Reason::OutOfRange),
        ("DCGM_FI_DEV_GPU_UTIL", "", Reason::EmptyValue),
        ("DCGM_FI_DEV_GPU_UTIL", "0x40", Reason::NotANumber),
    ];
    let rows: String = odd.iter().map(|(metric, value, _)| row(1, metric, value)).collect();
    let good = row(1, "DCGM_FI_DEV_GPU_UTIL", "85 %") + &row(1, "DCGM_FI_DEV_POWER_USAGE", "592.74 W");
    let seen = read(format!("{HEADER}\n{rows}{good}").as_bytes()).await;
    for (i, (_, value, reason)) in odd.iter().enumerate() {
        assert_eq!(seen[i].what, Err((i as u64 + 2, *reason)), "{value}");
    }
    let numbers: Vec<f64> = seen[odd.len()..].iter().map(|s| s.what.as_ref().expect("a sample").2).collect();
    assert_eq!(numbers, [85.0, 592.74]);
}

#[tokio::test]
async fn bad_rows_are_counted_and_the_rest_goes_on() {
    let good = "1752871354,M,GPU,1\n";
    let mut text = b"timestamp,metric,uuid,value\n".to_vec();
    let bad: [(&[u8], Reason); 9] = [
        (b"1752871354,M,GPU\n", Reason::ShortRow),
        (b"1752871354,M,GPU,1,2\n", Reason::LongRow),
        (b"1752871354,,GPU,1\n", Reason::NoMetric),
        (b"1752871354,M, ,1\n", Reason::NoUuid),
        (b"1752871354,M,GPU\xff,1\n", Reason::BadUtf8),
        (b"1752871354,M,GPU\0,1\n", Reason::BadUtf8),
        (b",M,GPU,1\n", Reason::BadTime),
        (b"2025-07-18T20:42:34,M,GPU,1\n", Reason::NoTimeZone),
        (b"99999-07-18T20:42:34Z,M,GPU,1\n", Reason::TimeOutOfRange),
    ];
    for (line, _) in bad {
        text.extend_from_slice(line);
        text.extend_from_slice(good.as_bytes());
    }
    let long_cell = format!("1752871354,{},GPU,1\n", "m".repeat(5000));
    text.extend_from_slice(long_cell.as_bytes());
    let seen = read(&text).await;
    assert_eq!(seen.iter().filter(|s| s.what.is_ok()).count(), bad.len());
    for (i, (line, reason)) in bad.iter().enumerate() {
        assert_eq!(seen[2 * i].what, Err((2 * i as u64 + 2, *reason)));
        assert_eq!(seen[2 * i].raw, line[..line.len() - 1]);
    }
    assert_eq!(seen.last().expect("rows").what, Err((2 * bad.len() as u64 + 2, Reason::CellTooLong)));
}

#[tokio::test]
async fn a_line_of_a_hundred_megabytes_is_one_row_in_little_memory() {
    struct Endless(u64);
    impl AsyncRead for Endless {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
            let n = (out.remaining() as u64).min(self.0);
            out.put_slice(&vec![b'x'; n as usize]);
            self.0 -= n;
            Poll::Ready(Ok(()))
        }
    }
    let before: &[u8] = b"timestamp,metric,uuid,value\n1752871354,M,G,1\n";
    let after: &[u8] = b"\n1752871354,M,G,2\n1752871354,M,G,\n";
    let content = tokio::io::AsyncReadExt::chain(tokio::io::AsyncReadExt::chain(before, Endless(100 << 20)), after);
    let mut reader = CsvReader::from_reader(content, Options::default());
    let seen = drain(&mut reader).await.expect("readable");
    let what: Vec<_> = seen.iter().map(|s| s.what.as_ref().map(|v| v.2).map_err(|e| *e)).collect();
    assert_eq!(what, [Ok(1.0), Err((3, Reason::RecordTooLong)), Ok(2.0), Err((5, Reason::EmptyValue))]);
    assert!(seen[1].raw.len() <= 4096, "only an excerpt is kept");
    assert_eq!(seen[1].after.offset, before.len() as u64 + (100 << 20) + 1);
}

#[tokio::test]
async fn an_unclosed_quote_costs_its_line_only() {
    let rows: String = (0..100).map(|i| format!("1752871354,M,G,{i}\n")).collect();
    let text = format!("timestamp,metric,uuid,value\n1752871354,\"M,G,1\n{rows}");
    for options in [Options::default(), Options { max_record_bytes: 256, ..Options::default() }] {
        let seen = drain(&mut pieces(text.as_bytes(), &[64], options)).await.expect("readable");
        assert_eq!(seen.iter().filter(|s| s.what.is_ok()).count(), 100);
        assert_eq!(reasons(&seen).values().sum::<usize>(), 1);
        assert!(seen[0].what.is_err());
    }
}

async fn gzip(text: &str) -> Vec<u8> {
    use tokio::io::AsyncWriteExt;
    let mut encoder = async_compression::tokio::write::GzipEncoder::new(Vec::new());
    encoder.write_all(text.as_bytes()).await.expect("compresses");
    encoder.shutdown().await.expect("compresses");
    encoder.into_inner()
}

#[tokio::test]
async fn gzip_is_read_by_content_in_several_members_and_up_to_where_it_is_cut() {
    let rows: String = (0..20_000).map(|i| row(i, "DCGM_FI_DEV_FB_USED", &i.to_string())).collect();
    let text = format!("{HEADER}\n{rows}");
    let (first, second) = text.split_at(text.len() / 2);
    let whole = [gzip(first).await, gzip(second).await].concat();
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("no-suffix");
    std::fs::write(&path, &whole).expect("written");
    let cut = directory.path().join("cut.csv.gz");
    std::fs::write(&cut, &whole[..whole.len() * 3 / 4]).expect("written");
    let plain = read(text.as_bytes()).await;
    let mut reader = open(&path, false).await;
    assert_eq!(drain(&mut reader).await.expect("readable"), plain);
    for at in [0, 9_999, 19_998] {
        assert_eq!(reader.seek(Some(&plain[at].after)).await.expect("seeks"), Seek::Ok);
        assert_eq!(drain(&mut reader).await.expect("readable"), plain[at + 1..]);
    }
    let (before, error) = drain(&mut open(&cut, false).await).await.expect_err("cut off");
    assert!(before.len() > 12_000, "{}", before.len());
    assert_eq!(before, plain[..before.len()]);
    let message = error.to_string();
    assert!(message.contains("cut.csv.gz") && message.contains("cut off"), "{message}");
}

#[tokio::test]
async fn line_numbers_are_right_after_a_resume() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("a.csv");
    let mut text = "timestamp,metric,uuid,value\n".to_owned();
    for i in 0..60_000 {
        text += &format!("1752871354,\"M\",GPU,{}\n", if i % 10_000 == 9_999 { String::new() } else { i.to_string() });
    }
    std::fs::write(&path, &text).expect("written");
    let mut reader = open(&path, false).await;
    let whole = drain(&mut reader).await.expect("readable");
    let mut again = open(&path, false).await;
    assert_eq!(again.seek(Some(&whole[45_000].after)).await.expect("seeks"), Seek::Ok);
    let rest = drain(&mut again).await.expect("readable");
    assert_eq!(rest, whole[45_001..]);
    assert_eq!(rest.iter().find_map(|s| s.what.as_ref().err().copied()), Some((50_001, Reason::EmptyValue)));
}

#[tokio::test]
async fn a_row_that_was_torn_is_not_read_twice() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("a.csv");
    std::fs::write(&path, "timestamp,metric,uuid,value\n1752871354,M,G,1\n1752871355,M,G,2").expect("written");
    let mut reader = open(&path, false).await;
    let seen = drain(&mut reader).await.expect("readable");
    assert_eq!(seen.len(), 2, "a last line without a newline is taken as it is");
    let grow = |more: &str| {
        std::fs::OpenOptions::new().append(true).open(&path).expect("opens").write_all(more.as_bytes()).expect("written");
    };
    grow("\n1752871356,M,G,3\n");
    let mut again = open(&path, false).await;
    assert_eq!(again.seek(Some(&seen[1].after)).await.expect("seeks"), Seek::Ok);
    let more = drain(&mut again).await.expect("readable");
    assert_eq!(more.iter().map(|s| s.row).collect::<Vec<_>>(), [2]);
    assert!(more[0].what.is_ok());
    // It was in the middle of a line: the record that was made of it is another one now, and so is the content.
    std::fs::write(&path, "timestamp,metric,uuid,value\n1752871354,M,G,1\n1752871355,M,G,22,x\n1752871356,M,G,3\n")
        .expect("written");
    let mut torn = open(&path, false).await;
    assert_eq!(torn.seek(Some(&seen[1].after)).await.expect("seeks"), Seek::Mismatch);
}

#[tokio::test]
async fn content_is_recognised_wherever_it_lies_and_however_it_has_grown() {
    let directory = tempfile::tempdir().expect("directory");
    let path = |name: &str| -> PathBuf { directory.path().join(name) };
    let rows: String = (0..2000).map(|i| row(i, "M", &i.to_string())).collect();
    let text = format!("{HEADER}\n{rows}");
    let early = &text[..700];
    std::fs::write(path("a.csv"), early).expect("written");
    let first = open(&path("a.csv"), true).await.beginning("edge").await.expect("reads");
    assert!(first.has_record && first.fresh.length == 700);

    std::fs::write(path("b.csv.gz"), gzip(&text).await).expect("written");
    for name in ["b.csv.gz"] {
        let mut grown = open(&path(name), false).await;
        let begins = grown.beginning("edge").await.expect("reads");
        assert_eq!(begins.first_record, first.first_record);
        assert_ne!(begins.fresh.source, first.fresh.source);
        assert_eq!(grown.recognise(&[begins.fresh, first.fresh]).await.expect("reads"), Some(begins.fresh), "the longest wins");
        assert_eq!(grown.recognise(&[first.fresh]).await.expect("reads"), Some(first.fresh));
        assert_eq!(drain(&mut grown).await.expect("readable").len(), 2000, "looking takes no row");
        let fork = grown.fork("edge", first.first_record, 200_000).await.expect("reads");
        assert_eq!(fork.length, 200_000);
        let mut again = open(&path(name), false).await;
        again.beginning("edge").await.expect("reads");
        assert_eq!(again.recognise(&[first.fresh, fork, begins.fresh]).await.expect("reads"), Some(fork));
        assert_eq!(again.recognise(&[]).await.expect("reads"), None);
    }
    let mut other = pieces(text.replace("GPU-0", "GPU-9").as_bytes(), &[100], Options::default());
    let begins = other.beginning("edge").await.expect("reads");
    assert_ne!(begins.first_record, first.first_record);
    assert_eq!(other.recognise(&[first.fresh]).await.expect("reads"), None);
    let elsewhere = open(&path("a.csv"), false).await.beginning("other").await.expect("reads");
    assert_ne!((elsewhere.first_record, elsewhere.fresh.source), (first.first_record, first.fresh.source));

    let mut pipe = pieces(text.as_bytes(), &[300], Options::default());
    let begins = pipe.beginning("edge").await.expect("reads");
    assert!(begins.has_record && begins.fresh.length < 2000, "a pipe is not waited for longer than for one record");
    assert_eq!(pipe.recognise(&[first.fresh]).await.expect("reads"), Some(first.fresh));
    assert_eq!(drain(&mut pipe).await.expect("readable").len(), 2000);

    let KnownContent { source, .. } = first.fresh;
    assert_ne!(named("edge", "x"), named("other", "x"));
    assert_ne!(round(source, 1, 0), round(source, 1, 1));
}

#[tokio::test]
async fn rejected_rows_are_kept_for_people() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("rejects.csv");
    let now = std::time::Instant::now();
    for round in 0..2 {
        let mut rejects = Rejects::open(&path).await.expect("opens");
        rejects.write("a,b.csv", round, (3, Reason::EmptyValue), Some(b""), b"x,\"y\"", now).await.expect("writes");
        rejects.flush().await.expect("writes");
    }
    let text = std::fs::read_to_string(&path).expect("text");
    let expected = "source,line,row,reason,value,record\n\"a,b.csv\",3,0,empty_value,,\"x,\"\"y\"\"\"\n\"a,b.csv\",3,1,empty_value,,\"x,\"\"y\"\"\"\n";
    assert_eq!(text, expected);
    let full = Rejects::open(Path::new("/dev/full")).await.expect_err("no room").to_string();
    assert!(full.contains("/dev/full") && full.contains("space"), "{full}");
}

#[tokio::test]
async fn a_full_series_table_is_said_until_its_series_are_released() {
    let rows: String = (0..10).map(|i| format!("1752871354,M{i},G,{i}\n")).collect();
    let text = format!("timestamp,metric,uuid,value\n{rows}");
    let mut reader = pieces(text.as_bytes(), &[50], Options { max_series: 4, ..Options::default() });
    let (mut values, mut released) = (Vec::new(), 0);
    loop {
        while let Some(row) = reader.next_row() {
            let RowKind::Sample { series, value, .. } = row.kind else { panic!("{row:?}") };
            assert_eq!(reader.series(series).metric, format!("M{value}"));
            values.push(value);
        }
        match reader.fill().await.expect("reads") {
            Fill::SeriesFull => {
                assert_eq!(reader.series_len(), 4);
                released += 1;
                reader.release_series(false);
            }
            Fill::End => break,
            Fill::Data | Fill::Idle => {}
        }
    }
    assert_eq!((values.len(), released, reader.series_met()), (10, 2, 10));
}

/// `CSV=some.csv cargo test --release --test it source::measure -- --ignored --nocapture`: rows a second, sums, rejects.
#[tokio::test]
#[ignore = "a measurement, of the file that CSV names"]
async fn measure() {
    let path = PathBuf::from(std::env::var("CSV").expect("CSV names a file"));
    let block_bytes = std::env::var("BLOCK").ok().and_then(|b| b.parse().ok()).unwrap_or(Options::default().block_bytes);
    let options = Options { block_bytes, ..Options::default() };
    let mut reader = CsvReader::open(&Input::File(path), false, options).await.expect("opens");
    let began = std::time::Instant::now();
    let (mut samples, mut sum, mut rejects) = (0u64, 0.0, BTreeMap::<Reason, u64>::new());
    loop {
        while let Some(row) = reader.next_row() {
            match row.kind {
                RowKind::Sample { value, .. } => {
                    samples += 1;
                    sum += value;
                }
                RowKind::Reject { reason, .. } => *rejects.entry(reason).or_default() += 1,
            }
        }
        match reader.fill().await {
            Ok(Fill::End) => break,
            Ok(_) => {}
            Err(error) => return println!("{error}"),
        }
    }
    let took = began.elapsed().as_secs_f64();
    let rows = samples + rejects.values().sum::<u64>();
    println!("{samples} samples (sum {sum}), {rejects:?}, {} series, {:.0} rows/s", reader.series_len(), rows as f64 / took);
}
