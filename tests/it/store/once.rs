//! A sample (series, time, value) is stored once, whatever source, family, batch or order it comes in; other values of a series and
//! time are conflicts, and kept.

use std::future::Future;
use std::sync::Arc;

use futures_util::future::join_all;
use proptest::prelude::*;
use telemetry::model::{SeriesId, TimeMs};
use telemetry::store::{Committed, Ids, Incoming, Limit, SeriesFilter, SnapshotFor, SourceLedger, Store};

use super::histories::runner;
use super::rows::*;

async fn commit(store: &dyn Store, group: &[Incoming]) -> Committed {
    store.commit(group).await.expect("a commit")
}

fn stored(committed: &Committed) -> u64 {
    committed.stored.values().sum()
}

async fn entry(store: &dyn Store, content: &Content) -> SourceLedger {
    ledger(store).await.into_iter().find(|entry| entry.source == content.source).expect("it is there")
}

/// `scrapes` of some series, a second apart, in the order of an export: all series of a scrape, then the next.
fn scrapes(series: u32, scrapes: std::ops::Range<i64>) -> Vec<Row> {
    let value = |n: u32, scrape: i64| f64::from(n) * 1000.0 + scrape as f64;
    scrapes.flat_map(|at| (0..series).map(move |n| sample(n, DAY + at * 1000, value(n, at)))).collect()
}

/// The rows in batches of so many.
fn batches(content: &Content, size: usize) -> Vec<Incoming> {
    (0..content.rows.len()).step_by(size).map(|at| content.batch(at..(at + size).min(content.rows.len()))).collect()
}

/// Two exports of one time, the one begun when the other was half done: neither position nor family says so.
pub async fn windows_that_overlap_are_stored_once(h: &dyn Harness) {
    let store = h.open();
    let (a, b) = (Content::new("a", scrapes(12, 0..40)), Content::new("b", scrapes(12, 25..60)));
    for (of_a, of_b) in batches(&a, 50).chunks(2).zip(batches(&b, 50).chunks(2)) {
        commit(&*store, of_a).await;
        commit(&*h.open(), of_b).await;
    }
    commit(&*store, &[a.batch(400..480), b.batch(400..420)]).await;
    assert_eq!(h.samples().await, Content::new("all", scrapes(12, 0..60)).samples());
    let entries = ledger(&*store).await;
    assert!(entries.iter().all(|entry| entry.valid == entry.covered.len() && entry.conflict == 0), "{entries:?}");
    assert_eq!(entries.iter().map(|entry| entry.duplicate).sum::<u64>(), 12 * 15);
}

/// A file that was saved again: every byte of it differs, and so do its source and family.
pub async fn a_file_saved_again_is_stored_once(h: &dyn Harness) {
    let store = h.open();
    let (a, copy) = (Content::new("a", plain(400)), Content::new("saved again", plain(400)));
    for batch in batches(&a, 60) {
        commit(&*store, &[batch]).await;
    }
    // Cut otherwise, and many at once.
    let done = commit(&*store, &batches(&copy, 130)).await;
    let samples = a.samples().len() as u64;
    assert_eq!((stored(&done), done.duplicate, done.conflict), (0, samples, 0));
    assert_eq!(h.samples().await, a.samples());
    let entry = entry(&*store, &copy).await;
    assert_eq!((entry.valid, entry.duplicate, entry.covered.len()), (samples, samples, 400));
    // Both again: nothing is counted twice.
    commit(&*store, &[copy.all(), a.all()]).await;
    assert_eq!(ledger(&*store).await.iter().map(|entry| entry.duplicate).sum::<u64>(), samples);
}

/// A file that has rows twice: within a batch, in the next batch of a group, and in a later group.
pub async fn rows_repeated_inside_a_file_are_stored_once(h: &dyn Harness) {
    let store = h.open();
    let mut rows = scrapes(3, 0..10);
    rows.extend(scrapes(3, 8..14));
    rows.extend(scrapes(3, 13..20));
    rows.extend(scrapes(3, 0..2));
    let content = Content::new("a", rows);
    let n = content.rows.len();
    // Within a batch; between the batches of a group; between groups.
    let done = commit(&*store, &[content.batch(0..40), content.batch(40..60)]).await;
    assert_eq!((stored(&done), done.duplicate), (51, 9));
    let done = commit(&*store, &[content.batch(60..n)]).await;
    assert_eq!((stored(&done), done.duplicate), (9, 6));
    let once = Content::new("once", scrapes(3, 0..20)).samples();
    assert_eq!(h.samples().await, once);
    let entry = entry(&*store, &content).await;
    assert_eq!((entry.valid, entry.duplicate, entry.conflict), (n as u64, 15, 0));
    commit(&*store, &[content.all(), content.batch(10..n)]).await;
    assert_eq!(h.samples().await, once);
}

/// One series after the other, or one metric after the other: each begins again at the first time.
pub async fn files_ordered_otherwise_are_stored_once(h: &dyn Harness) {
    let store = h.open();
    let by_time = scrapes(15, 0..30);
    let key = |row: &Row| match row {
        Row::Sample { series, time, .. } => (*series, *time),
        Row::Rejected(_) => (0, 0),
    };
    let (mut by_series, mut by_metric) = (by_time.clone(), by_time.clone());
    by_series.sort_by_key(key);
    by_metric.sort_by_key(|row| (key(row).0 % 5, key(row).1, key(row).0));
    let files = [("by series", by_series), ("by metric", by_metric), ("by time", by_time)];
    for (nth, (name, rows)) in files.into_iter().enumerate() {
        let content = Content::new(name, rows);
        for group in batches(&content, 32).chunks(3) {
            let done = commit(&*store, group).await;
            assert_eq!((if nth == 0 { done.duplicate } else { stored(&done) }, done.conflict), (0, 0), "{name}");
        }
        assert_eq!(h.samples().await, content.samples(), "{name}");
    }
    assert_eq!(ledger(&*store).await.iter().map(|entry| entry.duplicate).sum::<u64>(), 2 * 450);
}

/// Collectors that commit the same times at once, from sources of their own, through stores of their own.
pub async fn collectors_with_overlapping_files_at_once(h: &dyn Harness) {
    let contents: Vec<Content> =
        (0..8).map(|n| Content::new(&format!("file {n}"), scrapes(10, i64::from(n) * 4..i64::from(n) * 4 + 20))).collect();
    let work = contents.iter().enumerate().map(|(n, content)| {
        let (store, groups) = (h.open(), batches(content, 15 + n));
        tokio::spawn(async move {
            for group in groups.chunks(1 + n % 3) {
                commit(&*store, group).await;
            }
        })
    });
    for done in join_all(work).await {
        done.expect("no panic");
    }
    assert_eq!(h.samples().await, Content::new("all", scrapes(10, 0..48)).samples());
    let entries = ledger(&*h.open()).await;
    assert_eq!(entries.iter().map(|entry| entry.valid - entry.duplicate).sum::<u64>(), 480);
    assert!(entries.iter().all(|entry| entry.valid == 200 && entry.conflict == 0), "{entries:?}");
}

/// The newest samples, by series.
async fn newest(h: &dyn Harness) -> Vec<f64> {
    let reader = h.reader();
    let series = reader.series(&SeriesFilter::default(), SeriesId::default(), Limit::rows(100)).await.expect("series");
    let ids: Vec<Ids> = series.iter().map(|series| series.ids()).collect();
    let day = (TimeMs::from_millis(DAY), TimeMs::from_millis(DAY + 86_400_000));
    let mut snapshot = reader.snapshot(SnapshotFor::Page, std::time::Duration::ZERO).await.expect("a snapshot");
    snapshot.latest(&ids, day.0, day.1).await.expect("newest").iter().map(|latest| latest.value).collect()
}

/// Both values are kept, the later one counts, and what comes again is a duplicate, whichever of the values it is.
pub async fn a_conflict_keeps_both_values(h: &dyn Harness) {
    let store = h.open();
    let one = |name: &str, value: f64| Content::new(name, vec![sample(0, DAY, 0.5), sample(0, DAY + 1000, value)]);
    let (a, b, c) = (one("a", 1.0), one("b", 2.0), one("c", 3.0));
    commit(&*store, &[a.all()]).await;
    let done = commit(&*h.open(), &[b.all()]).await;
    assert_eq!((stored(&done), done.duplicate, done.conflict), (1, 1, 1));
    assert_eq!(newest(h).await, [2.0]);
    // The third one in one group with what is there already, in another order.
    let done = commit(&*store, &[c.all(), b.all(), a.sibling("a again").all()]).await;
    assert_eq!((stored(&done), done.duplicate, done.conflict), (1, 5, 1));
    assert_eq!(newest(h).await, [3.0]);
    for content in [&a, &b, &c] {
        let done = commit(&*store, &[content.all(), Content { family: a.family, ..content.sibling("further") }.all()]).await;
        assert_eq!((stored(&done), done.conflict), (0, 0));
    }
    assert_eq!(newest(h).await, [3.0]);
    let conflicts = [entry(&*store, &a).await.conflict, entry(&*store, &b).await.conflict, entry(&*store, &c).await.conflict];
    assert_eq!(conflicts, [0, 1, 1]);
    let values: Vec<f64> = h
        .samples()
        .await
        .into_iter()
        .filter(|((.., time, _), _)| *time == DAY + 1000)
        .map(|((.., bits), _)| f64::from_bits(bits))
        .collect();
    assert_eq!(values.len(), 3, "{values:?}");
}

/// Conflicts are listed with their values, the one that counts last; no more than asked for.
pub async fn conflicts_are_listed(h: &dyn Harness) {
    let store = h.open();
    assert_eq!(h.conflicts(10).await, (Vec::new(), false));
    let rows = |values: [f64; 4]| {
        let times = [0, 1000, 86_400_000, 5 * 86_400_000];
        times.iter().zip(values).map(|(time, value)| sample(0, DAY + time, value)).collect::<Vec<_>>()
    };
    for (name, values) in
        [("a", [1.0, 2.0, 3.0, 4.0]), ("b", [1.0, 2.5, 3.5, 4.0]), ("c", [1.0, 2.0, 3.0, 4.0]), ("d", [1.0, 2.75, 3.0, 4.75])]
    {
        let content = Content::new(name, rows(values));
        commit(&*store, &[content.batch(0..3), content.batch(3..4)]).await;
    }
    let listed =
        vec![(DAY + 1000, vec![2.0, 2.5, 2.75]), (DAY + 86_400_000, vec![3.0, 3.5]), (DAY + 5 * 86_400_000, vec![4.0, 4.75])];
    assert_eq!(h.conflicts(3).await, (listed.clone(), false));
    assert_eq!(h.conflicts(2).await, (listed[..2].to_vec(), true));
}

/// Values are the same if their bits are.
pub async fn zeros_of_both_signs_are_two_values(h: &dyn Harness) {
    let store = h.open();
    let content = Content::new("a", vec![sample(0, DAY, 0.0), sample(0, DAY, -0.0), sample(0, DAY, 0.0), sample(0, DAY, -0.0)]);
    let done = commit(&*store, &[content.all()]).await;
    assert_eq!((stored(&done), done.duplicate, done.conflict), (2, 2, 1));
    assert_eq!(commit(&*store, &[content.sibling("b").all()]).await.duplicate, 4);
    assert_eq!(h.samples().await.len(), 2);
}

/// Older times come after newer ones, from another source: nothing is lost, and nothing is taken for what it is not.
pub async fn history_that_comes_late_is_stored(h: &dyn Harness) {
    let store = h.open();
    let all = Content::new("all", scrapes(4, 0..30));
    for (name, part) in [("late", 20..30), ("early", 0..10), ("between", 10..20), ("over all", 5..25)] {
        let content = Content::new(name, scrapes(4, part));
        for group in batches(&content, 14).chunks(2) {
            commit(&*h.open(), group).await;
        }
    }
    assert_eq!(h.samples().await, all.samples());
    assert_eq!(ledger(&*store).await.iter().map(|entry| entry.duplicate).sum::<u64>(), 80);
}

/// What sources say: pieces of one world, with values that may contradict it; and the order in which it is committed.
#[derive(Clone, Debug)]
struct History {
    sources: Vec<Vec<Row>>,
    /// Groups of (source, from, to), as shares of its rows; which of the stores commits it.
    groups: Vec<Vec<(usize, f64, f64)>>,
}

fn history() -> impl Strategy<Value = History> {
    let row = (0u32..7, 0i64..12, prop_oneof![8 => Just(0), 1 => 1..3])
        .prop_map(|(n, t, v)| sample(n, DAY + (t - 6) * 14_400_000, f64::from(n) + f64::from(v) * 0.25));
    let sources = prop::collection::vec(prop::collection::vec(row, 1..60), 2..5);
    let batch = (0usize..5, 0.0..1.0, 0.0..1.0).prop_map(|(source, a, b): (usize, f64, f64)| (source, a.min(b), a.max(b)));
    let groups = prop::collection::vec(prop::collection::vec(batch, 1..4), 1..14);
    (sources, groups).prop_map(|(sources, groups)| History { sources, groups })
}

/// Random batches of several sources in random order and groups, some delivered again, by two stores at once: what is stored in the
/// end is the set of what they say, and the sums of the ledger close.
pub fn random_sources<H: Harness, F: Future<Output = H>>(make: impl Fn() -> F) {
    let (runtime, mut runner) = runner();
    let result = runner.run(&history(), |history| {
        runtime.block_on(async {
            let h = make().await;
            let contents: Vec<Content> =
                history.sources.iter().enumerate().map(|(n, rows)| Content::new(&format!("source {n}"), rows.clone())).collect();
            let cut = |(source, from, to): &(usize, f64, f64)| {
                let content = &contents[source % contents.len()];
                let at = |share: f64| (content.rows.len() as f64 * share) as usize;
                content.batch(at(*from)..at(*to) + 1)
            };
            let mut shares: [Vec<Vec<Incoming>>; 2] = [Vec::new(), Vec::new()];
            for (at, group) in history.groups.iter().enumerate() {
                shares[at % 2].push(group.iter().map(cut).collect());
            }
            // Whatever was not drawn, last.
            shares[0].push(contents.iter().map(Content::all).collect());
            let work = shares.into_iter().map(|groups| {
                let store: Arc<dyn Store> = h.open();
                tokio::spawn(async move {
                    for group in groups {
                        commit(&*store, &group).await;
                    }
                })
            });
            for done in join_all(work).await {
                done.expect("no panic");
            }
            let expected = contents.iter().fold(Multiset::new(), |all, content| union(&all, &content.samples()));
            prop_assert_eq!(&h.samples().await, &expected);
            let entries = ledger(&*h.open()).await;
            prop_assert_eq!(entries.iter().map(|entry| entry.valid - entry.duplicate).sum::<u64>(), expected.len() as u64);
            let times = expected.keys().map(|(cluster, gpu, metric, time, _)| (cluster, gpu, metric, time));
            let times: std::collections::BTreeSet<_> = times.collect();
            let conflicts = (expected.len() - times.len()) as u64;
            prop_assert_eq!(entries.iter().map(|entry| entry.conflict).sum::<u64>(), conflicts);
            Ok(())
        })
    });
    result.expect("every history ends with what was said");
}
