//! What every store answers to readers. Each function is one promise, on a store with the schema and nothing in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use telemetry::batch::{Batch, BatchParts, Dictionary, Header, Run};
use telemetry::model::{DictionaryId, FamilyId, Gpu, GpuId, RowRange, Series, SeriesId, TimeMs};
use telemetry::store::{
    ChunkRange, GpuFilter, GpuPlace, GpuSummary, Ids, Incoming, Limit, Reader, SeriesFilter, Snapshot, SnapshotFor, Store,
};

use super::rows::{DAY, Harness, source};

/// No series has this id.
const NOBODYS: Ids = Ids { series: SeriesId::from_store(999_999), gpu: GpuId::from_store(999_999) };
/// Before every series.
const FIRST: SeriesId = SeriesId::from_store(0);
const EVERYTHING: ChunkRange =
    ChunkRange { begins_from: TimeMs::MIN, begins_before: TimeMs::MAX, ends_from: TimeMs::MIN, ends_before: TimeMs::MAX };

/// A time in ms since 1970.
const fn at(millis: i64) -> TimeMs {
    TimeMs::from_millis(millis)
}

/// One batch of these samples, and a dictionary of these series, some of which may have none.
fn batch(cluster: &str, name: &str, content: &[(Series, &[(i64, f64)])]) -> Incoming {
    let dictionary = Dictionary::new(&content.iter().map(|(series, _)| series.clone()).collect::<Vec<_>>());
    let mut batch = BatchParts {
        header: Header {
            source: source(name),
            family: FamilyId::of_source(source(name)),
            cluster: cluster.to_owned(),
            name: name.to_owned(),
            dictionaries: vec![DictionaryId::of(format!("{dictionary:?}").as_bytes())],
            created_ms: TimeMs::EPOCH,
        },
        rows: RowRange { first: 0, end: 0 },
        runs: Vec::new(),
        row: Vec::new(),
        time_ms: Vec::new(),
        value: Vec::new(),
        rejects: Vec::new(),
    };
    for (index, (_, samples)) in content.iter().enumerate().filter(|(_, (_, samples))| !samples.is_empty()) {
        let index = u32::try_from(index).unwrap();
        batch.runs.push(Run { dictionary: 0, index, start: batch.row.len(), len: samples.len() });
        for (time, value) in *samples {
            batch.row.push(batch.row.len() as u64);
            batch.time_ms.push(at(*time));
            batch.value.push(*value);
        }
    }
    batch.rows.end = batch.row.len() as u64;
    Incoming::new(Batch::new(batch).expect("a batch"), vec![Arc::new(dictionary)]).expect("its series")
}

async fn snapshot(reader: &dyn Reader) -> Box<dyn Snapshot> {
    reader.snapshot(SnapshotFor::Page, Duration::ZERO).await.expect("a snapshot")
}

async fn commit(store: &dyn Store, incoming: Incoming) {
    store.commit(&[incoming]).await.expect("a commit");
}

fn gpu(hostname: &str, index: Option<u32>, uuid: &str) -> Gpu {
    Gpu { hostname: hostname.into(), index, uuid: uuid.into(), device: "nvidia0".into(), model: "H100".into(), ..Gpu::default() }
}

fn series(gpu: Gpu, metric: &str, namespace: &str, pod: &str) -> Series {
    Series { gpu, metric: metric.into(), namespace: namespace.into(), pod: pod.into(), ..Series::default() }
}

/// Some of everything: two clusters, hosts whose names sort by bytes and by nothing else, a GPU without an index, a MIG slice, one
/// without a uuid, one that never had a sample.
async fn fill(h: &dyn Harness) {
    let store = h.open();
    let slice = |n: &str| Gpu { mig_instance: n.into(), mig_profile: "1g.10gb".into(), ..gpu("Zeta", Some(0), "GPU-m") };
    let one: &[(i64, f64)] = &[(DAY, 1.0)];
    let content = [
        (series(gpu("a", Some(10), "GPU-10"), "TEMP", "", ""), one),
        (series(gpu("a", Some(2), "GPU-2"), "TEMP", "research", "p1"), &[(DAY + 5000, 2.0)]),
        (series(gpu("a", None, "GPU-x"), "TEMP", "", ""), one),
        (series(gpu("ä", Some(0), "GPU-ä"), "POWER", "", ""), one),
        (series(slice("1"), "TEMP", "", ""), one),
        (series(slice("2"), "TEMP", "", ""), one),
        (series(gpu("a-b", Some(0), ""), "TEMP", "", ""), one),
        (series(gpu("a", Some(99), "GPU-silent"), "TEMP", "silent", ""), &[]),
    ];
    commit(&*store, batch("edge-b", "b", &content)).await;
    commit(&*store, batch("edge-a", "a", &content[..2])).await;
}

fn places(gpus: &[GpuSummary]) -> Vec<GpuPlace> {
    gpus.iter().map(|gpu| gpu.place.clone()).collect()
}

pub async fn lists_are_ordered_and_pages_join(h: &dyn Harness) {
    fill(h).await;
    let reader = h.reader();
    reader.ready().await.expect("the schema is there");
    let clusters = reader.clusters().await.unwrap();
    let counts: Vec<_> = clusters.iter().map(|c| (c.cluster.as_str(), c.hosts, c.gpus, c.first_seen, c.last_seen)).collect();
    assert_eq!(counts, [("edge-a", 1, 2, at(DAY), at(DAY + 5000)), ("edge-b", 4, 6, at(DAY), at(DAY + 5000))]);

    let all = reader.gpus(&GpuFilter::default(), None, Limit::rows(1000)).await.unwrap();
    let found = places(&all);
    assert_eq!(found.len(), 9, "GPUs without samples are not listed: {found:?}");
    assert!(found.is_sorted(), "by bytes, no index before all: {found:?}");
    assert!(all.iter().all(|gpu| gpu.ids.len() == 1 && gpu.model == "H100" && gpu.device == "nvidia0"));
    for limit in [1, 2, 4] {
        let (mut joined, mut after) = (Vec::new(), None);
        loop {
            let page = reader.gpus(&GpuFilter::default(), after.as_ref(), Limit::rows(limit)).await.unwrap();
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after = Some(last.place.clone());
            joined.extend(page);
        }
        assert_eq!(joined, all, "pages of {limit}");
    }

    let hosts = reader.hosts(&GpuFilter::default(), None, Limit::rows(1000)).await.unwrap();
    let names: Vec<_> = hosts.iter().map(|host| (host.cluster.as_str(), host.hostname.as_str(), host.gpus)).collect();
    assert_eq!(names, [("edge-a", "a", 2), ("edge-b", "Zeta", 1), ("edge-b", "a", 3), ("edge-b", "a-b", 1), ("edge-b", "ä", 1)]);
    let (mut joined, mut after) = (Vec::new(), None::<(String, String)>);
    loop {
        let place = after.as_ref().map(|(cluster, host)| (cluster.as_str(), host.as_str()));
        let page = reader.hosts(&GpuFilter::default(), place, Limit::rows(2)).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.cluster.clone(), last.hostname.clone()));
        joined.extend(page);
    }
    assert_eq!(joined, hosts);

    assert_eq!(reader.metrics("", Limit::rows(1000)).await.unwrap(), ["POWER", "TEMP"]);
    let series = reader.series(&SeriesFilter::default(), FIRST, Limit::rows(1000)).await.unwrap();
    assert_eq!(series.len(), 9);
    assert!(series.is_sorted_by(|a, b| a.id < b.id) && series[0].id > FIRST);
    let rest = reader.series(&SeriesFilter::default(), series[3].id, Limit::rows(2)).await.unwrap();
    assert_eq!(rest, series[4..6]);
    let ledger = reader.ledger(None, Limit::rows(1000)).await.unwrap();
    assert_eq!(ledger.len(), 2);
    assert!(ledger[0].source < ledger[1].source && ledger.iter().all(|one| one.valid > 0));
    assert_eq!(reader.ledger(None, Limit::rows(1)).await.unwrap(), ledger[..1]);
    assert_eq!(reader.ledger(None, Limit { rows: 1000, bytes: 1 }).await.unwrap(), ledger[..1]);
    assert_eq!(reader.ledger(Some(ledger[0].source), Limit::rows(1000)).await.unwrap(), ledger[1..]);
}

/// Some rows of 80 kB of texts each (hosts and metrics: 40 kB), read 100 kB at a time.
pub async fn a_reading_ends_where_its_texts_are_long(h: &dyn Harness) {
    let long = |n: usize| format!("{n}{}", "x".repeat(40_000));
    let content: Vec<(Series, &[(i64, f64)])> = (0..7)
        .map(|n| {
            let gpu = Gpu { model: long(n), device: String::new(), ..gpu(&long(n), Some(0), "") };
            (series(gpu, &long(n), "", &long(n)), &[(DAY, 1.0)][..])
        })
        .collect();
    commit(&*h.open(), batch("edge", "long", &content)).await;
    let (reader, all, limit) = (h.reader(), Limit::rows(1000), Limit { rows: 1000, bytes: 100_000 });

    let whole = reader.gpus(&GpuFilter::default(), None, all).await.unwrap();
    assert!(whole.len() == 7 && all.is_end(&whole) && !limit.is_end(&whole[..2]));
    let (mut joined, mut counts) = (Vec::new(), Vec::new());
    loop {
        let after = joined.last().map(|gpu: &GpuSummary| &gpu.place);
        let some = reader.gpus(&GpuFilter::default(), after, limit).await.unwrap();
        counts.push(some.len());
        let is_end = limit.is_end(&some);
        joined.extend(some);
        if is_end {
            break;
        }
    }
    assert_eq!(counts, [2, 2, 2, 1], "the row with which it is enough is the last one");
    assert_eq!(joined, whole);

    let whole = reader.series(&SeriesFilter::default(), FIRST, all).await.unwrap();
    let some = reader.series(&SeriesFilter::default(), FIRST, limit).await.unwrap();
    let rest = reader.series(&SeriesFilter::default(), some[1].id, all).await.unwrap();
    assert_eq!((some.len(), [some, rest].concat()), (2, whole));
    let whole = reader.hosts(&GpuFilter::default(), None, all).await.unwrap();
    let some = reader.hosts(&GpuFilter::default(), None, limit).await.unwrap();
    assert!(whole.len() == 7 && some == whole[..3]);
    let whole = reader.metrics("", all).await.unwrap();
    let some = reader.metrics("", limit).await.unwrap();
    let rest = reader.metrics(&some[2], all).await.unwrap();
    assert!(whole.len() == 7 && some == whole[..3] && rest == whole[3..]);
}

pub async fn filters_restrict(h: &dyn Harness) {
    fill(h).await;
    let reader = h.reader();
    let text = |text: &str| Some(text.to_owned());
    let count = async |filter: GpuFilter| reader.gpus(&filter, None, Limit::rows(1000)).await.unwrap().len();
    let none = GpuFilter::default();
    assert_eq!(count(GpuFilter { cluster: text("edge-a"), ..none.clone() }).await, 2);
    assert_eq!(count(GpuFilter { hostname: text("a"), ..none.clone() }).await, 5);
    assert_eq!(count(GpuFilter { uuid: text("GPU-m"), ..none.clone() }).await, 2);
    assert_eq!(count(GpuFilter { index: Some(0), ..none.clone() }).await, 4);
    assert_eq!(count(GpuFilter { index: Some(u32::MAX), ..none.clone() }).await, 0);
    assert_eq!(count(GpuFilter { model: text("A100"), ..none.clone() }).await, 0);
    assert_eq!(count(GpuFilter { namespace: text("research"), cluster: text("edge-b"), ..none.clone() }).await, 1);
    assert_eq!(count(GpuFilter { hostname: text("a' OR '1'='1"), ..none.clone() }).await, 0);
    assert_eq!(count(GpuFilter { hostname: text("a\0"), ..none.clone() }).await, 0);
    assert_eq!(reader.hosts(&GpuFilter { hostname: text("ä"), ..none.clone() }, None, Limit::rows(10)).await.unwrap().len(), 1);

    let gpus = reader.gpus(&GpuFilter { uuid: text("GPU-2"), ..none.clone() }, None, Limit::rows(10)).await.unwrap();
    let ids: Vec<GpuId> = gpus.iter().flat_map(|gpu| gpu.ids.clone()).collect();
    let count = async |filter: SeriesFilter| reader.series(&filter, FIRST, Limit::rows(1000)).await.unwrap().len();
    let none = SeriesFilter::default();
    assert_eq!(count(SeriesFilter { gpu_ids: Some(ids), ..none.clone() }).await, 2);
    assert_eq!(count(SeriesFilter { gpu_ids: Some(Vec::new()), ..none.clone() }).await, 0);
    assert_eq!(count(SeriesFilter { metrics: vec!["POWER".into(), "no".into()], ..none.clone() }).await, 1);
    assert_eq!(count(SeriesFilter { pod: text("p1"), ..none.clone() }).await, 2);
    assert_eq!(count(SeriesFilter { seen_since: Some(at(DAY + 1)), ..none.clone() }).await, 2);
    let research = GpuFilter { namespace: text("research"), ..GpuFilter::default() };
    let found = reader.series(&SeriesFilter { gpus: research, ..none }, FIRST, Limit::rows(10)).await.unwrap();
    assert!(found.len() == 2 && found.iter().all(|s| s.namespace == "research" && s.pod == "p1" && s.container.is_empty()));
}

pub async fn a_gpu_described_anew_is_one_gpu(h: &dyn Harness) {
    let store = h.open();
    let described = |driver: &str| Gpu { driver_version: driver.into(), ..gpu("host", Some(1), "GPU-1") };
    commit(&*store, batch("edge", "new", &[(series(described("560"), "TEMP", "", ""), &[(DAY + 9000, 2.0)])])).await;
    commit(&*store, batch("edge", "old", &[(series(described("550"), "TEMP", "", ""), &[(DAY, 1.0)])])).await;
    let found = h.reader().gpus(&GpuFilter::default(), None, Limit::rows(10)).await.unwrap();
    assert_eq!(found.len(), 1);
    let gpu = &found[0];
    assert_eq!((gpu.driver_version.as_str(), gpu.first_seen, gpu.last_seen), ("560", at(DAY), at(DAY + 9000)));
    assert_eq!(gpu.ids.len(), 2);
    let filter = SeriesFilter { gpu_ids: Some(vec![gpu.ids[1]]), ..SeriesFilter::default() };
    let newest = h.reader().series(&filter, FIRST, Limit::rows(10)).await.unwrap();
    let latest = snapshot(&*h.reader()).await.latest(&[newest[0].ids()], TimeMs::MIN, TimeMs::MAX).await.unwrap();
    assert_eq!(latest[0].time, at(DAY + 9000), "the latest description comes last");
}

pub async fn chunks_come_by_their_borders(h: &dyn Harness) {
    let store = h.open();
    let subnormal = f64::from_bits(1);
    let (a, b) = (series(gpu("h", Some(0), "GPU-0"), "A", "", ""), series(gpu("h", Some(0), "GPU-0"), "B", "", ""));
    let regular: Vec<(i64, f64)> = (0..100).map(|i| (DAY + i * 1000, i as f64)).collect();
    let odd = [(DAY + 200_000, -0.0), (DAY + 200_001, subnormal), (DAY + 200_001, f64::MAX), (DAY + 209_999, f64::MIN_POSITIVE)];
    commit(&*store, batch("edge", "1", &[(a, &regular), (b.clone(), &odd)])).await;
    commit(&*store, batch("edge", "2", &[(b, &[(DAY + 86_400_000, 7.0)])])).await;
    let reader = h.reader();
    let mut listed = reader.series(&SeriesFilter::default(), FIRST, Limit::rows(10)).await.unwrap();
    listed.sort_by(|a, b| a.metric.cmp(&b.metric));
    let ids: Vec<Ids> = listed.iter().map(|s| s.ids()).collect();

    let mut found: BTreeMap<SeriesId, Vec<(i64, u64)>> = BTreeMap::new();
    let chunks = snapshot(&*reader).await.chunks(&ids, &EVERYTHING, usize::MAX).await.unwrap().expect("not too many");
    for chunk in &chunks {
        assert!(chunk.times.len() == chunk.values.len() && !chunk.times.is_empty() && chunk.times.is_sorted());
        let samples = chunk.times.iter().zip(&chunk.values).map(|(time, value)| (time.as_millis(), value.to_bits()));
        found.entry(chunk.series).or_default().extend(samples);
    }
    for samples in found.values_mut() {
        samples.sort_unstable();
    }
    let bits = |samples: &[(i64, f64)]| {
        let mut bits: Vec<_> = samples.iter().map(|(time, value)| (*time, value.to_bits())).collect();
        bits.sort_unstable();
        bits
    };
    assert_eq!(found[&ids[0].series], bits(&regular));
    assert_eq!(found[&ids[1].series], bits(&[&odd[..], &[(DAY + 86_400_000, 7.0)]].concat()));
    let of_odd = chunks.iter().find(|chunk| chunk.series == ids[1].series && chunk.times[0] == at(odd[0].0)).unwrap();
    assert_eq!(of_odd.values[1..3], [subnormal, f64::MAX], "equal times in the order of their rows");

    assert_eq!(snapshot(&*reader).await.chunks(&ids, &EVERYTHING, 104).await.unwrap(), None, "more than 104");
    assert!(snapshot(&*reader).await.chunks(&ids, &EVERYTHING, 105).await.unwrap().is_some());
    let (first, last) = (at(odd[0].0), at(odd[3].0));
    let (after_first, after_last) = (first.plus_millis(1), last.plus_millis(1));
    let one = async |range: ChunkRange| snapshot(&*reader).await.chunks(&ids[1..2], &range, 1000).await.unwrap().unwrap().len();
    assert_eq!(one(ChunkRange { begins_from: first, begins_before: after_first, ..EVERYTHING }).await, 1);
    assert_eq!(one(ChunkRange { begins_from: after_first, begins_before: last, ..EVERYTHING }).await, 0);
    assert_eq!(one(ChunkRange { begins_before: first, ..EVERYTHING }).await, 0, "before is not included");
    assert_eq!(one(ChunkRange { ends_from: last, ends_before: after_last, ..EVERYTHING }).await, 1);
    assert_eq!(one(ChunkRange { ends_before: last, ..EVERYTHING }).await, 0);
    assert_eq!(snapshot(&*reader).await.chunks(&[], &EVERYTHING, 10).await.unwrap(), Some(Vec::new()));

    let spans = async |range: ChunkRange| {
        let mut spans = snapshot(&*reader).await.spans(&[ids[0], ids[1], NOBODYS], &range).await.unwrap();
        spans.sort_by_key(|span| span.first);
        spans.iter().map(|span| (span.series, span.first, span.last)).collect::<Vec<_>>()
    };
    assert_eq!(
        spans(EVERYTHING).await,
        [(ids[0].series, at(DAY), at(DAY + 99_000)), (ids[1].series, first, at(DAY + 86_400_000))]
    );
    assert_eq!(
        spans(ChunkRange { ends_from: last, ends_before: after_last, ..EVERYTHING }).await,
        [(ids[1].series, first, last)]
    );
    assert_eq!(spans(ChunkRange { begins_before: at(DAY), ..EVERYTHING }).await, []);
}

pub async fn the_newest_sample_is_the_later_one(h: &dyn Harness) {
    let store = h.open();
    let a = series(gpu("h", Some(0), "GPU-0"), "A", "", "");
    commit(&*store, batch("edge", "1", &[(a.clone(), &[(DAY, 1.0), (DAY + 1000, 2.0)])])).await;
    commit(&*store, batch("edge", "2", &[(a, &[(DAY + 1000, 3.0)])])).await;
    let reader = h.reader();
    let ids: Vec<Ids> =
        reader.series(&SeriesFilter::default(), FIRST, Limit::rows(10)).await.unwrap().iter().map(|s| s.ids()).collect();
    let latest = snapshot(&*reader).await.latest(&ids, at(DAY), at(DAY + 86_400_000)).await.unwrap();
    assert_eq!(latest.iter().map(|l| (l.series, l.time, l.value)).collect::<Vec<_>>(), [(ids[0].series, at(DAY + 1000), 3.0)]);
    assert!(snapshot(&*reader).await.latest(&ids, at(DAY - 86_400_000), at(DAY)).await.unwrap().is_empty());
    assert!(snapshot(&*reader).await.latest(&[NOBODYS], at(DAY), at(DAY + 86_400_000)).await.unwrap().is_empty());
}
