//! What other writers make of CSV: quotes behind blanks, headers in the middle, cells at the end that say nothing.

use proptest::prelude::*;
use telemetry::model::Reason;
use telemetry::source::Seek;

use super::{Seen, drain, gzip, open, read, read_error, runtime};

fn samples(seen: &[Seen]) -> Vec<(String, i64, f64)> {
    seen.iter().map(|row| row.what.clone().unwrap_or_else(|reject| panic!("{reject:?}: {row:?}"))).collect()
}

const PLAIN: &str = "timestamp,metric_name,gpu_id,uuid,Hostname,value,labels_raw\n\
     2025-07-18T20:42:34Z,DCGM_FI_DEV_GPU_UTIL,0,GPU-1,node-a,41,\"job=\"\"dcgm\"\",zone=\"\"a\"\"\"\n";

#[tokio::test]
async fn quotes_behind_blanks_and_single_quotes_are_no_part_of_an_identity() {
    let plain = samples(&read(PLAIN.as_bytes()).await);
    let header = PLAIN.lines().next().expect("a header");
    for text in [
        // A blank behind each comma, everything quoted.
        "\"timestamp\", \"metric_name\", \"gpu_id\", \"uuid\", \"Hostname\", \"value\", \"labels_raw\"\n\
         \"2025-07-18T20:42:34Z\", \"DCGM_FI_DEV_GPU_UTIL\", \"0\", \"GPU-1\", \"node-a\", \"41\", \"job=\"\"dcgm\"\"\"\n",
        // Blanks before the commas.
        "\"timestamp\" ,\"metric_name\" ,\"gpu_id\" ,\"uuid\" ,\"Hostname\" ,\"value\" ,\"labels_raw\"\n\
         \"2025-07-18T20:42:34Z\" ,\"DCGM_FI_DEV_GPU_UTIL\" ,\"0\" ,\"GPU-1\" ,\"node-a\" ,\"41\" ,\"job=\"\"dcgm\"\"\"\n",
        // Single quotes.
        "'timestamp','metric_name','gpu_id','uuid','Hostname','value','labels_raw'\n\
         '2025-07-18T20:42:34Z','DCGM_FI_DEV_GPU_UTIL','0','GPU-1','node-a','41','job=\"dcgm\"'\n",
        // Only the texts.
        "timestamp, metric_name, gpu_id, uuid, Hostname, value, labels_raw\n\
         2025-07-18T20:42:34Z, \"DCGM_FI_DEV_GPU_UTIL\", 0, \"GPU-1\", \"node-a\", 41, job=\"dcgm\"\n",
    ] {
        let wanted = plain.iter().map(|(series, time, value)| (series.replace(", (\"zone\", \"a\")", ""), *time, *value));
        assert_eq!(samples(&read(text.as_bytes()).await), wanted.collect::<Vec<_>>(), "{text}");
    }
    // A quote that is not closed costs its row, with a reason.
    for cell in ["\"GPU-1", "\"", "\"GPU\"-\"1\""] {
        let text = format!("{header}\n2025-07-18T20:42:34Z,M,0, {cell},node-a,41,\n");
        assert_eq!(read(text.as_bytes()).await[0].what, Err((2, Reason::TornRecord)), "{cell}");
    }
}

#[tokio::test]
async fn a_header_in_the_middle_counts_from_there_on_and_is_no_row() {
    let rows = |text: &str| text.to_owned();
    let first = "timestamp,metric_name,uuid,gpu_id,value\n2025-07-18T20:42:34Z,M,GPU-1,3,41\n";
    for (what, second) in [
        ("the same", "timestamp,metric_name,uuid,gpu_id,value\n2025-07-18T20:42:35Z,M,GPU-1,3,42\n"),
        ("another order", "timestamp,metric_name,uuid,value,gpu_id\n2025-07-18T20:42:35Z,M,GPU-1,42,3\n"),
        ("a byte order mark", "\u{feff}timestamp,metric_name,uuid,gpu_id,value\n2025-07-18T20:42:35Z,M,GPU-1,3,42\n"),
        (
            "CRLF and quotes",
            "\"Timestamp\",\"value\",\"gpu_id\",\"uuid\",\"metric_name\"\r\n2025-07-18T20:42:35Z,42,3,GPU-1,M\r\n",
        ),
        ("more columns", "timestamp,metric_name,uuid,gpu_id,value,pod\n2025-07-18T20:42:35Z,M,GPU-1,3,42,\n"),
    ] {
        let seen = read((rows(first) + second).as_bytes()).await;
        assert_eq!(seen.iter().map(|row| row.row).collect::<Vec<_>>(), [0, 1], "{what}");
        let samples = samples(&seen);
        assert_eq!(samples[0].0, samples[1].0, "{what}: one series");
        assert_eq!((samples[0].2, samples[1].2), (41.0, 42.0), "{what}");
    }
    // Fewer columns: what they do not say is not known any more.
    let seen = read((rows(first) + "timestamp,metric_name,uuid,value\n2025-07-18T20:42:35Z,M,GPU-1,42\n").as_bytes()).await;
    assert_eq!(samples(&seen)[1].2, 42.0);
    // One that does not name what is needed, or names it twice, is a row like others.
    for line in ["timestamp,metric_name,uuid,gpu_id,v", "timestamp,timestamp,metric_name,uuid,value"] {
        let seen = read(format!("{first}{line}\n").as_bytes()).await;
        assert_eq!(seen[1].what, Err((3, Reason::BadTime)), "{line}");
    }
}

/// Parts with headers in various orders.
fn parts() -> impl Strategy<Value = String> {
    let part = (0usize..4, 0usize..5, prop::bool::ANY, prop::bool::ANY).prop_map(|(order, rows, crlf, long)| {
        let end = if crlf { "\r\n" } else { "\n" };
        let columns = [
            ["timestamp", "metric_name", "uuid", "gpu_id", "value"],
            ["timestamp", "metric_name", "uuid", "value", "gpu_id"],
            ["gpu_id", "value", "Timestamp", "uuid", "metric_name"],
            ["value", "gpu_id", "uuid", "metric_name", "timestamp"],
        ][order];
        let mut text = columns.join(",") + end;
        for row in 0..rows {
            let cells = columns.map(|column| match column {
                "metric_name" if long => "m".repeat(3_000),
                "metric_name" => "stamp".to_owned(),
                "uuid" => "GPU-1".to_owned(),
                "value" => (100 + row).to_string(),
                "gpu_id" => row.to_string(),
                _ => format!("2025-07-18T20:42:{row:02}Z"),
            });
            text += &(cells.join(",") + end);
        }
        text + if crlf { "\r\n" } else { "" }
    });
    prop::collection::vec(part, 1..40).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn who_resumes_finds_the_header_in_force(text in parts(), packed in prop::bool::ANY) {
        runtime().block_on(async {
            let directory = tempfile::tempdir().expect("directory");
            let path = directory.path().join("a.csv");
            std::fs::write(&path, if packed { gzip(&text).await } else { text.clone().into_bytes() }).expect("written");
            let whole = drain(&mut open(&path, false).await).await.expect("readable");
            for row in &whole {
                prop_assert!(row.what.is_ok(), "{row:?}");
            }
            for at in 0..whole.len() {
                let mut again = open(&path, false).await;
                prop_assert_eq!(again.seek(Some(&whole[at].after)).await.expect("seeks"), Seek::Ok);
                let rest = drain(&mut again).await.expect("readable");
                prop_assert_eq!(&rest, &whole[at + 1..]);
                // Back, to where another header was in force.
                prop_assert_eq!(again.seek(Some(&whole[at / 2].after)).await.expect("seeks"), Seek::Ok);
                let rest = drain(&mut again).await.expect("readable");
                prop_assert_eq!(&rest, &whole[at / 2 + 1..]);
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn cells_at_the_end_that_say_nothing_are_nothing() {
    let plain = samples(&read(b"timestamp,metric_name,uuid,value\n1752871354,M,GPU-1,41\n").await);
    for text in [
        "timestamp,metric_name,uuid,value,\n1752871354,M,GPU-1,41,\n",
        "timestamp,metric_name,uuid,value\n1752871354,M,GPU-1,41,\n",
        "timestamp,metric_name,uuid,value\r\n1752871354,M,GPU-1,41, ,\r\n",
        "timestamp,metric_name,uuid,value,,\n1752871354,M,GPU-1,41\n",
        "timestamp,metric_name,uuid,value,,\n1752871354,M,GPU-1,41,,,,\n",
    ] {
        assert_eq!(samples(&read(text.as_bytes()).await), plain, "{text}");
    }
    for (text, reason) in [
        ("timestamp,metric_name,uuid,value,\n1752871354,M,GPU-1\n", Reason::ShortRow),
        ("timestamp,metric_name,uuid,value,pod\n1752871354,M,GPU-1,1\n", Reason::ShortRow),
        ("timestamp,metric_name,uuid,value\n1752871354,M,GPU-1,41,,x\n", Reason::LongRow),
    ] {
        assert_eq!(read(text.as_bytes()).await[0].what, Err((2, reason)), "{text}");
    }
}

#[tokio::test]
async fn a_file_without_a_usable_header_says_what_is_missing() {
    let mut utf16 = vec![0xff, 0xfe];
    utf16.extend("timestamp,metric,uuid,value\n".encode_utf16().flat_map(u16::to_le_bytes));
    let cases: [(&[u8], &[&str]); 21] = [
        (b"", &["empty"]),
        (b"\n\n", &["empty"]),
        (b"metric_name,gpu_id,uuid,value\nM,0,GPU,1\n", &["timestamp", "metric_name, gpu_id"]),
        (b"timestamp,gpu\n", &["metric_name, uuid, value"]),
        (b"timestamp,metric,uuid,value,Metric_Name\n", &["metric", "Metric_Name", "same"]),
        (b"\x7fELF\0\0\0\0,\n", &["NUL"]),
        (b"timestamp,\xff\xfe\n", &["UTF-8"]),
        (b"timestamp,metric,uuid,value\r1,2,3,4\r", &["line end"]),
        (b"# HELP DCGM_FI_DEV_SM_CLOCK clock\n", &["/metrics"]),
        (b"timestamp, name, uuid, utilization.gpu [%], power.draw [W]\n", &["nvidia-smi"]),
        (
            b"2025-01-01T00:00:00Z,DCGM_FI_DEV_GPU_UTIL,0,nvidia0,GPU-0,H100,h,,,,0,\n",
            &["the first line must name the columns", "uuid", "stream.columns"],
        ),
        (b"timestamp;metric_name;uuid;value\n2025;M;G;1\n", &["separated by semicolons", "commas"]),
        (b"timestamp\tmetric_name\tuuid\tvalue\n", &["separated by tabs"]),
        (b"timestamp,metric_name,uuid,valeu\n", &["no column value", "is `valeu` meant to be `value`?"]),
        (b"Time_Stmp,metric_name,uuid,value\n", &["is `Time_Stmp` meant to be `timestamp`?"]),
        (b"timestamp,metric_name,uuid,hostname\n", &["no column value", "the first line must name the columns"]),
        (b"# telemetry\n\nReads, stores.\n", &["begins with a comment or a heading", "the first line must name"]),
        (b"# gpu   pwr gtemp mtemp    sm   mem\n", &["nvidia-smi dmon"]),
        (&utf16, &["UTF-16", "iconv -f UTF-16 -t UTF-8"]),
        (b"timestamp,gpu,power,temp\n", &["one column per metric"]),
        (b"timestamp,\"metric\nuuid,value\n", &["does not end"]),
    ];
    for (bytes, words) in cases {
        let message = read_error(bytes).await;
        for word in words {
            assert!(message.contains(word), "`{message}` lacks `{word}`");
        }
    }
    let message = read_error(&vec![b'x'; 1 << 20]).await;
    assert!(message.contains("does not end"), "{message}");
    assert!(read(b"timestamp,metric,uuid,value").await.is_empty(), "a header alone is no error");
}
