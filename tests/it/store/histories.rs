//! Histories: the same rows in random batches, borders, orders and hands, many at once. What is read back is what went in.

use std::future::Future;
use std::sync::Arc;

use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use telemetry::model::Reason;
use telemetry::store::{Incoming, Store};
use tokio::runtime::Runtime;

use super::rows::*;

/// Commits groups through several stores at once.
async fn commit_all(stores: &[Arc<dyn Store>], groups: Vec<Vec<Incoming>>) {
    let mut shares: Vec<Vec<Vec<Incoming>>> = vec![Vec::new(); stores.len()];
    for (at, group) in groups.into_iter().enumerate() {
        shares[at % stores.len()].push(group);
    }
    let work = stores.iter().zip(shares).map(|(store, groups)| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            for group in groups {
                store.commit(&group).await.expect("a commit");
            }
        })
    });
    for done in join_all(work).await {
        done.expect("no panic");
    }
}

/// Rows with many coincidences of time and value, over two midnights.
fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = prop_oneof![
        6 => (0u32..4, -6i64..6, 0i32..3).prop_map(|(n, t, v)| sample(n, DAY + t * 20_000_000 / 3, f64::from(v))),
        1 => prop_oneof![Just(Reason::EmptyValue), Just(Reason::ShortRow)].prop_map(Row::Rejected),
    ];
    prop::collection::vec(row, 1..90)
}

/// Groups of batches: which sibling's, which rows.
type Groups = Vec<Vec<(usize, std::ops::Range<usize>)>>;

/// Several times through the rows, cut anywhere, each batch under one of the siblings; shuffled, in groups.
fn history() -> impl Strategy<Value = (Vec<Row>, Groups)> {
    rows().prop_flat_map(|rows| {
        let n = rows.len();
        let passes = prop::collection::vec((0usize..2, prop::collection::vec(0..n, 0..6)), 1..4);
        let cut = passes.prop_map(move |passes| {
            let mut batches = Vec::new();
            for (sibling, mut cuts) in passes {
                cuts.extend([0, n]);
                cuts.sort_unstable();
                cuts.dedup();
                batches.extend(cuts.windows(2).map(|pair| (sibling, pair[0]..pair[1])));
            }
            batches
        });
        let grouped = (cut.prop_shuffle(), 1usize..4)
            .prop_map(|(batches, size)| batches.chunks(size).map(<[_]>::to_vec).collect::<Vec<_>>());
        (Just(rows), grouped)
    })
}

/// What runs random cases, each on a store of its own, which take their time.
pub fn runner() -> (Runtime, TestRunner) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let runner = TestRunner::new(ProptestConfig {
        cases: 40,
        max_shrink_iters: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    (runtime, runner)
}

/// Runs random histories, each on a store of its own.
pub fn random_histories<H: Harness, F: Future<Output = H>>(make: impl Fn() -> F) {
    let (runtime, mut runner) = runner();
    let result = runner.run(&history(), |(rows, groups)| {
        runtime.block_on(async {
            let h = make().await;
            let a = Content::new("a", rows).of_family("f");
            let siblings = [a.clone(), a.sibling("b")];
            let groups: Vec<Vec<Incoming>> = groups
                .iter()
                .map(|group| group.iter().map(|(sibling, range)| siblings[*sibling].batch(range.clone())).collect())
                .collect();
            commit_all(&[h.open(), h.open()], groups).await;
            prop_assert_eq!(h.samples().await, a.samples());
            for entry in ledger(&*h.open()).await {
                prop_assert_eq!(entry.covered.len(), a.rows.len() as u64);
                prop_assert_eq!(entry.rejected.values().sum::<u64>(), a.rejects().len() as u64);
            }
            Ok(())
        })
    });
    result.expect("every history ends with what went in");
}

/// Collectors that meet the same new sources, series, GPUs and days at once.
pub async fn collectors_that_meet_everything_new_at_once(h: &dyn Harness) {
    let stores: Vec<Arc<dyn Store>> = (0..4).map(|_| h.open()).collect();
    let mut expected = Multiset::new();
    for round in 0..12u32 {
        let day = DAY + i64::from(round) * 3 * 86_400_000;
        let rows = (0..120).map(|at| sample(round * 7 + at % 20, day + i64::from(at / 10) * 14_400_000, f64::from(at))).collect();
        let mine = Content::new(&format!("round {round}"), rows).of_family(&format!("family {round}"));
        let sibling = mine.sibling(&format!("sibling {round}"));
        expected = union(&expected, &mine.samples());
        let work = stores.iter().enumerate().map(|(at, store)| {
            let content = if at % 2 == 0 { &mine } else { &sibling };
            let (mut group, store) = (vec![content.batch(0..70), content.batch(70..120)], Arc::clone(store));
            if at > 1 {
                group.reverse();
            }
            tokio::spawn(async move { store.commit(&group).await.expect("a commit") })
        });
        for done in join_all(work).await {
            done.expect("no panic");
        }
    }
    assert_eq!(h.samples().await, expected);
    assert_eq!(ledger(&*stores[0]).await.len(), 24);
}

/// Different sources of the same GPUs, in groups of several in changing order: locks are taken in one order, whatever the group's.
pub async fn collectors_with_the_same_gpus_do_not_deadlock(h: &dyn Harness) {
    let contents: Vec<Content> = (0..6)
        .map(|source| {
            let rows = (0..200).map(|at| sample(at % 40, DAY + i64::from(at) * 1000 + source, f64::from(at))).collect();
            Content::new(&format!("source {source}"), rows)
        })
        .collect();
    let mut groups = Vec::new();
    for step in 0..10 {
        for turn in 0..4 {
            let mut group: Vec<Incoming> = contents.iter().map(|content| content.batch(step * 20..step * 20 + 20)).collect();
            group.rotate_left(turn);
            groups.push(group);
        }
    }
    let stores: Vec<Arc<dyn Store>> = (0..4).map(|_| h.open()).collect();
    commit_all(&stores, groups).await;
    let expected = contents.iter().fold(Multiset::new(), |all, content| union(&all, &content.samples()));
    assert_eq!(h.samples().await, expected);
    ledger(&*stores[0]).await;
}
