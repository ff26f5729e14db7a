//! Round trips and damage, by property.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::{DictionaryId, Digest, FamilyId, Gpu, MAX_TIME, MIN_TIME, Series, SourceId, TimeMs};

fn series(i: u32) -> Series {
    let gpu = Gpu {
        uuid: format!("GPU-{}", i / 3),
        hostname: "node-1".into(),
        index: (!i.is_multiple_of(5)).then_some(i),
        ..Gpu::default()
    };
    let labels = if i.is_multiple_of(2) { vec![("job".into(), "dcgm".into()), ("why".into(), "\"x\"\n".into())] } else { vec![] };
    Series {
        metric: format!("M{}", i % 3),
        gpu,
        pod: if i.is_multiple_of(4) { "p".into() } else { String::new() },
        labels,
        ..Series::default()
    }
}

#[derive(Clone, Debug)]
enum Row {
    Sample(u32, TimeMs, f64),
    Reject(u64, Reason),
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let value = prop_oneof![
        any::<f64>().prop_filter("finite", |v| v.is_finite()),
        (0i64..100_000).prop_map(|i| i as f64 / 8.0),
        Just(-0.0)
    ];
    let time = prop_oneof![MIN_TIME.as_millis()..MAX_TIME.as_millis(), 1_752_871_354_000i64..1_752_871_360_000];
    let row = prop_oneof![
        8 => (0u32..12, time, value).prop_map(|(s, t, v)| Row::Sample(s, TimeMs::from_millis(t), v)),
        1 => (1u64..1 << 40, 0..Reason::ALL.len()).prop_map(|(line, r)| Row::Reject(line, Reason::ALL[r])),
    ];
    prop::collection::vec(row, 1..200)
}

/// Rows as what must come back: row → series, time, bits of the value, or the reject.
type Expected = BTreeMap<u64, Result<(Series, TimeMs, u64), Reject>>;

fn build(rows: &[Row], first: u64) -> (Expected, Columns) {
    let mut builder = Builder::new(Limits { max_rows: usize::MAX, max_bytes: usize::MAX, max_age: Duration::MAX }, first);
    let mut expected = Expected::new();
    for row in rows {
        let at = builder.next_row();
        match *row {
            Row::Sample(s, time, value) => {
                builder.sample(s, time, value, Duration::ZERO);
                expected.insert(at, Ok((series(s), time, value.to_bits())));
            }
            Row::Reject(line, reason) => {
                let reject = Reject { row: at, line, reason };
                builder.reject(reject, Duration::ZERO);
                expected.insert(at, Err(reject));
            }
        }
    }
    (expected, builder.take().expect("there are rows"))
}

fn header(segments: &Segments) -> Header {
    Header {
        source: SourceId::from_digest(Digest::from_u128(7)),
        family: FamilyId::from_digest(Digest::from_u128(8)),
        cluster: "edge-ä".into(),
        name: "a.csv".into(),
        created_ms: TimeMs::from_millis(-5),
        dictionaries: segments.ids(),
    }
}

fn unfold(batch: &Batch, dictionaries: &[Arc<Dictionary>]) -> Expected {
    batch.check(dictionaries).expect("runs stand in the dictionaries");
    let mut out = Expected::new();
    for run in &batch.runs {
        for i in run.start..run.start + run.len {
            let one = dictionaries[run.dictionary as usize].get(run.index as usize).expect("it stands there");
            out.insert(batch.row[i], Ok((one, batch.time_ms[i], batch.value[i].to_bits())));
        }
    }
    out.extend(batch.rejects.iter().map(|r| (r.row, Err(*r))));
    out
}

proptest! {
    #[test]
    fn batches_survive_the_wire(
        parts in prop::collection::vec((rows(), 1..30, prop::collection::vec(0u32..12, 0..6)), 1..4), first in 0u64..1 << 50,
    ) {
        let mut table: Vec<u32> = (0..12).collect();
        let mut segments = Segments::new(4096);
        for (rows, times, dropped) in parts {
            // The reader has given these indexes to other series.
            segments.forget(&dropped);
            for i in dropped {
                table[i as usize] += 12;
            }
            let (mut expected, columns) = build(&rows, first);
            for (row, sample) in expected.iter_mut() {
                if let (Ok((one, ..)), Row::Sample(i, ..)) = (sample, &rows[(row - first) as usize]) {
                    *one = series(table[*i as usize]);
                }
            }
            // The same series again and again: what is known of them moves together.
            for _ in 0..times {
                segments.place(&columns, |i| series(table[i as usize]));
            }
            let header = header(&segments);
            let bytes = encode(&header, &columns, segments.placement(), 3);
            let batch = decode(&bytes).expect("own bytes");
            prop_assert_eq!(&batch.header, &header);
            prop_assert_eq!(batch.rows, columns.rows);
            let dictionaries: Vec<_> = segments.all().iter()
                .map(|(digest, bytes)| Arc::new(Dictionary::decode(bytes, *digest).expect("own bytes"))).collect();
            prop_assert_eq!(unfold(&batch, &dictionaries), expected);
        }
    }

    #[test]
    fn damaged_bytes_are_an_error(rows in rows(), at in any::<prop::sample::Index>(), flip in 1u8.., cut in any::<prop::sample::Index>()) {
        let table: Vec<Series> = (0..12).map(series).collect();
        let (_, columns) = build(&rows, 0);
        let mut segments = Segments::new(4096);
        segments.place(&columns, |i| table[i as usize].clone());
        let bytes = encode(&header(&segments), &columns, segments.placement(), 3);
        let mut damaged = bytes.to_vec();
        let at = at.index(damaged.len());
        damaged[at] ^= flip;
        // A flipped bit in a frame's header may leave its content as it was; then the batch is the same, else it is refused.
        if let Ok(batch) = decode(&damaged) {
            prop_assert_eq!(batch, decode(&bytes).expect("own bytes"));
        }
        let cut = cut.index(bytes.len());
        prop_assert!(decode(&bytes[..cut]).is_err());
        if let Some((id, dictionary)) = segments.all().first() {
            prop_assert!(Dictionary::decode(&dictionary[..cut.min(dictionary.len() - 1)], *id).is_err());
        }
    }

    #[test]
    fn any_message_is_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        // Past the checksum, as a forger would come.
        let sealed = forge(&bytes);
        if let Ok(batch) = decode(&sealed) {
            prop_assert_eq!((batch.row.len() + batch.rejects.len()) as u64, batch.rows.len());
        }
    }
}

fn forge(message: &[u8]) -> Vec<u8> {
    let mut sealed = b"TLB\x01".to_vec();
    sealed.extend(zstd::bulk::compress(message, 1).expect("compresses"));
    sealed
}

#[test]
fn other_versions_are_refused_by_number() {
    let mut bytes = forge(b"");
    bytes[3] = 9;
    let error = decode(&bytes).expect_err("version 9 is from the future");
    assert_eq!(error, DecodeError::Version { found: 9, known: VERSION });
    assert_eq!(decode(b"TL"), Err(DecodeError::Truncated));
    assert_eq!(decode(b"PK\x03\x04...."), Err(DecodeError::Magic));
}

#[test]
fn a_frame_that_unfolds_beyond_the_limit_is_refused() {
    let huge = vec![0u8; MAX_FRAME_BYTES + 1];
    assert!(matches!(decode(&forge(&huge)), Err(DecodeError::TooLarge(_))));
}

#[test]
fn a_dictionary_under_another_digest_is_refused() {
    let (digest, bytes) = Dictionary::encode(&[series(1)]);
    assert!(Dictionary::decode(&bytes, digest).is_ok());
    let other = DictionaryId::of(b"another");
    assert_eq!(Dictionary::decode(&bytes, other), Err(DecodeError::Digest(other)));
}

#[test]
fn segments_are_gathered_when_they_are_many() {
    let table: Vec<Series> = (0..200).map(series).collect();
    let mut segments = Segments::new(4096);
    for i in 0..200u32 {
        let (_, columns) = build(&[Row::Sample(i, MIN_TIME, 1.0), Row::Sample(0, MIN_TIME, 1.0)], 0);
        segments.place(&columns, |i| table[i as usize].clone());
        assert!(segments.ids().len() <= 64, "bounded");
        let batch = decode(&encode(&header(&segments), &columns, segments.placement(), 3)).expect("own bytes");
        assert_eq!(batch.runs.len(), if i == 0 { 1 } else { 2 });
    }
}

#[test]
fn small_batches_of_a_live_source_come_to_name_one_dictionary() {
    let table: Vec<Series> = (0..40).map(series).collect();
    let mut segments = Segments::new(4096);
    let all: Vec<Row> = (0..39).map(|i| Row::Sample(i, MIN_TIME, f64::from(i))).collect();
    for some in all.chunks(3) {
        let (_, columns) = build(some, 0);
        segments.place(&columns, |i| table[i as usize].clone());
    }
    let (expected, columns) = build(&all, 0);
    segments.place(&columns, |i| table[i as usize].clone());
    let first: usize = segments.all().iter().map(|(_, bytes)| bytes.len()).sum();
    let (named, mut spent) = (segments.ids().len(), 0);
    assert_eq!(named, 13);
    while segments.ids().len() > 1 {
        spent += segments.ids().len();
        assert!(spent * 32 < first * 2, "it is worth it long before");
        segments.place(&columns, |i| table[i as usize].clone());
        let batch = decode(&encode(&header(&segments), &columns, segments.placement(), 3)).expect("own bytes");
        let dictionaries: Vec<_> = segments
            .all()
            .iter()
            .map(|(digest, bytes)| Arc::new(Dictionary::decode(bytes, *digest).expect("own bytes")))
            .collect();
        assert_eq!(unfold(&batch, &dictionaries), expected);
    }
    let (_, columns) = build(&[Row::Sample(39, MIN_TIME, 1.0)], 0);
    segments.place(&columns, |i| table[i as usize].clone());
    assert_eq!(segments.ids().len(), 1, "what is new is added, and a batch names what it needs");
}

/// What the wire is for: a regular scrape of many series costs about a byte a sample.
#[test]
fn a_regular_scrape_is_small() {
    let table: Vec<Series> = (0..1000).map(series).collect();
    let mut builder = Builder::new(Limits { max_rows: usize::MAX, max_bytes: usize::MAX, max_age: Duration::MAX }, 0);
    let mut state = 1u64;
    for step in 0..60 {
        for s in 0..1000u32 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let value = 60.0 + f64::from((state >> 60) as u32) / 8.0;
            builder.sample(s, TimeMs::from_millis(1_752_871_354_000 + step * 1000), value, Duration::ZERO);
        }
    }
    let columns = builder.take().expect("rows");
    let mut segments = Segments::new(4096);
    segments.place(&columns, |i| table[i as usize].clone());
    let bytes = encode(&header(&segments), &columns, segments.placement(), 3);
    assert!(bytes.len() < 60_000, "{} bytes for 60,000 samples of 4 random bits each", bytes.len());
}

/// A batch of forty rows, one of them a reject.
fn parts() -> BatchParts {
    let rows: Vec<Row> =
        (0..40)
            .map(|i| {
                if i == 7 { Row::Reject(9, Reason::BadTime) } else { Row::Sample(i % 4, MIN_TIME.plus_millis(i64::from(i)), 1.0) }
            })
            .collect();
    let (_, columns) = build(&rows, 100);
    let table: Vec<Series> = (0..12).map(series).collect();
    let mut segments = Segments::new(4096);
    segments.place(&columns, |i| table[i as usize].clone());
    decode(&encode(&header(&segments), &columns, segments.placement(), 3)).expect("own bytes").into_parts()
}

#[test]
fn parts_that_contradict_each_other_are_no_batch() {
    assert!(Batch::new(parts()).is_ok());
    let spoil: [fn(&mut BatchParts); 16] = [
        |b| b.time_ms[3] = MAX_TIME,
        |b| b.time_ms[3] = TimeMs::MIN,
        |b| b.value[3] = f64::NAN,
        |b| b.row[3] = b.row[4],
        |b| b.row[3] = 1 << 63,
        |b| b.rows.end += 1,
        |b| b.rows.end = u64::MAX,
        |b| b.rows.first = b.rows.end + 1,
        |b| b.runs[2].dictionary = 1,
        |b| b.runs[2].len = usize::MAX,
        |b| b.runs[2].start += 1,
        |b| b.value.truncate(3),
        |b| b.rejects[0].line = u64::MAX,
        |b| b.header.cluster = "c".repeat(MAX_CLUSTER_BYTES + 1),
        |b| b.header.name = "n".repeat(MAX_NAME_BYTES + 1),
        |b| b.header.dictionaries = vec![DictionaryId::of(b""); MAX_DICTIONARIES + 1],
    ];
    for (at, spoil) in spoil.into_iter().enumerate() {
        let mut bad = parts();
        spoil(&mut bad);
        assert!(Batch::new(bad).is_err(), "{at}");
    }
    let batch = Batch::new(parts()).expect("a batch");
    let dictionary = |n: u32| Arc::new(Dictionary::new(&(0..n).map(series).collect::<Vec<_>>()));
    assert!(batch.check(&[dictionary(4)]).is_ok());
    assert!(batch.check(&[dictionary(3)]).is_err() && batch.check(&[]).is_err());
}

#[test]
fn samples_become_rejects_by_their_time() {
    let batch = Batch::new(parts()).expect("a batch");
    assert_eq!(batch.clone().reject_by_time(|_| None), batch);
    let late = batch.clone().reject_by_time(|time| (time >= MIN_TIME.plus_millis(5)).then_some(Reason::TimeInFuture));
    assert_eq!((late.row.len(), late.rejects.len(), late.runs.len()), (5, 35, 4));
    assert!(late.rejects.contains(&Reject { row: 107, line: 9, reason: Reason::BadTime }), "{:?}", late.rejects);
    assert_eq!(Batch::new(late.clone().into_parts()), Ok(late), "it is still a batch");
    let none = batch.reject_by_time(|_| Some(Reason::TimeInFuture));
    assert_eq!((none.row.len(), none.rejects.len(), none.runs.len()), (0, 40, 0));
    assert_eq!(Batch::new(none.clone().into_parts()), Ok(none));
}

/// A message of one field, as a forger writes it.
fn field(tag: u32, content: &[u8], times: usize) -> Vec<u8> {
    let mut message = Vec::new();
    for _ in 0..times {
        prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, &mut message);
        prost::encoding::encode_varint(content.len() as u64, &mut message);
        message.extend_from_slice(content);
    }
    message
}

/// What a few bytes unfold to is bounded before it is allocated: each of these is a few kilobytes on the wire.
#[test]
fn what_unfolds_beyond_its_bounds_is_refused() {
    let too_many = |error: DecodeError| matches!(error, DecodeError::TooMany { .. });
    let dictionaries = decode(&forge(&field(8, b"", 1 << 23))).expect_err("eight million empty dictionaries");
    assert_eq!(dictionaries, DecodeError::TooMany { field: "dictionaries", limit: MAX_DICTIONARIES });
    for tag in [9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21, 22] {
        let packed = forge(&field(tag, &vec![0; MAX_ROWS + 1], 1));
        assert!(packed.len() < 10_000, "{} bytes", packed.len());
        assert!(decode(&packed).is_err_and(too_many), "field {tag} packed");
        let mut one_by_one = Vec::new();
        for _ in 0..=MAX_ROWS {
            prost::encoding::encode_key(tag, prost::encoding::WireType::Varint, &mut one_by_one);
            one_by_one.push(0);
        }
        assert!(decode(&forge(&one_by_one)).is_err_and(too_many), "field {tag} one by one");
    }
    assert!(decode(&forge(&field(19, &vec![0; 8 * MAX_ROWS + 8], 1))).is_err_and(too_many), "bits");
    let cluster = decode(&forge(&field(3, &[b'c'; 254], 1))).expect_err("a long name");
    assert_eq!(cluster, DecodeError::TooLong { field: "cluster", bytes: 254, limit: MAX_CLUSTER_BYTES });

    let dictionary = |message: &[u8]| {
        let mut sealed = b"TLD\x01".to_vec();
        sealed.extend(zstd::bulk::compress(message, 1).expect("compresses"));
        Dictionary::decode(&sealed, DictionaryId::of(&sealed))
    };
    assert!(dictionary(&field(1, b"", (1 << 20) + 1)).is_err_and(too_many), "texts");
    assert!(dictionary(&field(2, &vec![0; 9 * MAX_SERIES + 9], 1)).is_err_and(too_many), "GPUs");
    // One GPU, and series of nothing but labels: each is two bytes, and 48 in memory.
    let mut labels = [field(1, b"", 1), field(2, &[0; 9], 1)].concat();
    let mut numbers = vec![0, 0, 0, 0, 0];
    prost::encoding::encode_varint(1 << 21, &mut numbers);
    numbers.resize(numbers.len() + (1 << 22) - 6, 0);
    labels.extend(field(3, &numbers, 1));
    assert!(matches!(dictionary(&labels), Err(DecodeError::TooLarge(_))), "labels");
    let mut many = [field(1, b"", 1), field(2, &[0; 9], 1)].concat();
    many.extend(field(3, &vec![0; 6 * MAX_SERIES + 6], 1));
    assert!(dictionary(&many).is_err_and(too_many), "series");
}

#[test]
fn the_greatest_index_of_a_gpu_survives() {
    let mut one = series(1);
    one.gpu.index = Some(u32::MAX);
    let all = [series(3), one, series(7)];
    let (id, bytes) = Dictionary::encode(&all);
    let dictionary = Dictionary::decode(&bytes, id);
    assert_eq!(dictionary, Ok(Dictionary::new(&all)));
    assert_eq!(dictionary.map(|dictionary| dictionary.iter().collect::<Vec<_>>()), Ok(all.to_vec()));
}

/// A batch that brings far more series than one segment may have is encoded into several, all of which can be decoded.
#[test]
fn many_new_series_become_several_dictionaries() {
    let table: Vec<Series> = (0..10_000).map(series).collect();
    let rows: Vec<Row> = (0..10_000).map(|i| Row::Sample(i, MIN_TIME, 1.0)).collect();
    let (expected, columns) = build(&rows, 0);
    let mut segments = Segments::new(1);
    segments.place(&columns, |i| table[i as usize].clone());
    assert_eq!(segments.ids().len(), 3);
    let batch = decode(&encode(&header(&segments), &columns, segments.placement(), 3)).expect("own bytes");
    let dictionaries: Vec<_> =
        segments.all().iter().map(|(id, bytes)| Arc::new(Dictionary::decode(bytes, *id).expect("own bytes"))).collect();
    assert_eq!(unfold(&batch, &dictionaries), expected);
    // Long texts: no segment comes near to what a frame may have.
    let table: Vec<Series> =
        (0..700).map(|i| Series { labels: vec![("l".into(), format!("{i:03}").repeat(20_000))], ..series(i) }).collect();
    let rows: Vec<Row> = (0..700).map(|i| Row::Sample(i, MIN_TIME, 1.0)).collect();
    let (_, columns) = build(&rows, 0);
    let mut segments = Segments::new(4096);
    segments.place(&columns, |i| table[i as usize].clone());
    assert!(segments.all().iter().all(|(id, bytes)| Dictionary::decode(bytes, *id).is_ok()));
}

/// A large fleet: what a batch does not need it does not name, and no dictionary is sent again, however many there are.
#[test]
fn a_batch_names_what_it_needs_and_nothing_is_sent_again() {
    const DICTIONARIES: u32 = 70;
    // More than half of what fits: such dictionaries are not gathered.
    const EACH: u32 = 2100;
    let mut segments = Segments::new(4096);
    let mut sent = HashSet::new();
    for round in 0..2 {
        for at in 0..DICTIONARIES {
            let rows: Vec<Row> = (at * EACH..(at + 1) * EACH).map(|i| Row::Sample(i, MIN_TIME, 1.0)).collect();
            let (_, columns) = build(&rows, 0);
            segments.place(&columns, series);
            assert_eq!(segments.ids().len(), 1, "round {round}");
            sent.extend(segments.ids());
        }
    }
    assert_eq!(sent.len(), DICTIONARIES as usize, "each dictionary is sent once");
}

/// Workloads come and go: the few series that each batch brings are gathered, and those of the rest of the fleet are not sent again.
#[test]
fn what_comes_and_goes_has_nothing_else_sent_again() {
    let mut segments = Segments::new(4096);
    let all: Vec<Row> = (0..20_000).map(|i| Row::Sample(i, MIN_TIME, 1.0)).collect();
    let (_, fleet) = build(&all, 0);
    segments.place(&fleet, series);
    let before: HashSet<_> = segments.ids().into_iter().collect();
    let mut bytes = 0;
    for n in 0..300u32 {
        segments.forget(&[20_000 + n % 10]);
        let (_, columns) = build(&[Row::Sample(n, MIN_TIME, 1.0), Row::Sample(20_000 + n % 10, MIN_TIME, 1.0)], 0);
        let known: HashSet<_> = segments.ids().into_iter().collect();
        segments.place(&columns, |i| series(if i < 20_000 { i } else { 20_000 + n }));
        let new = segments.all().into_iter().filter(|(id, _)| !known.contains(id) && !before.contains(id));
        bytes += new.map(|(_, bytes)| bytes.len()).sum::<usize>();
    }
    segments.place(&fleet, series);
    let after: HashSet<_> = segments.ids().into_iter().collect();
    // One of them was not full, and may have been gathered with what came.
    assert!(before.difference(&after).count() <= 1, "dictionaries of the fleet are sent again");
    assert!(bytes < 300 * 2000, "{bytes} bytes for 300 new series");
}

proptest! {
    /// Whatever the numbers of a dictionary are: it is refused, or each of its series can be put together.
    #[test]
    fn any_dictionary_is_decoded_or_refused(
        texts in 0usize..4, gpus in prop::collection::vec(0u8..4, 0..30), series in prop::collection::vec(0u8..4, 0..40), greatest in 0u8..4,
    ) {
        let texts: Vec<u8> = (0..texts).flat_map(|_| field(1, b"t", 1)).collect();
        let message = [texts, field(2, &gpus, 1), field(3, &series, 1), field(4, &[greatest], usize::from(greatest > 1))].concat();
        let mut sealed = b"TLD\x01".to_vec();
        sealed.extend(zstd::bulk::compress(&message, 1).expect("compresses"));
        if let Ok(dictionary) = Dictionary::decode(&sealed, DictionaryId::of(&sealed)) {
            prop_assert_eq!(dictionary.iter().count(), dictionary.len());
            let all: Vec<Series> = dictionary.iter().collect();
            let (id, bytes) = Dictionary::encode(&all);
            prop_assert_eq!(Dictionary::decode(&bytes, id).expect("own bytes").iter().collect::<Vec<_>>(), all);
        }
    }
}

/// A collector has the dictionaries of the whole fleet in memory.
#[test]
fn what_series_share_is_in_a_dictionary_once() {
    let all: Vec<Series> = (0..4000)
        .map(|i| Series {
            metric: format!("DCGM_FI_DEV_{}", i % 10),
            gpu: Gpu { uuid: format!("GPU-{:036}", i / 10), hostname: format!("host-{}", i / 80), ..Gpu::default() },
            labels: vec![("job".into(), "a rather long text ".repeat(20))],
            ..Series::default()
        })
        .collect();
    let dictionary = Dictionary::new(&all);
    assert!(dictionary.memory() < 4000 * 60, "{} bytes", dictionary.memory());
    assert!(dictionary.iter().eq(all));
}
