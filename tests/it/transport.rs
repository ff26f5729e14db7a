//! What every queue must do (the conformance suite), and what the ones on Redis ([`redis`]) and in the process
//! ([`memory`]) must do besides.

mod dictionaries;
mod ids;
mod malformed;
mod memory;
mod redis;
mod refusals;
mod simulated;
mod withheld;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use telemetry::model::{DictionaryId, Digest, FamilyId, Partition, Partitions, Position, RowRange, SourceId};
use telemetry::protocol::receipts::{Comparison, OtherStore};
use telemetry::transport::{
    Backlog, Consumer, Delivery, Identity, Inspector, Lease, Outgoing, Published, Publisher, Redelivery, SourceState, StoreMark,
};

/// A queue, seen from every side.
pub trait Queue: Publisher + Consumer + Inspector {}
impl<T: Publisher + Consumer + Inspector> Queue for T {}

/// How a queue is opened.
#[derive(Clone, Copy, Debug)]
pub struct Tune {
    pub consumer: &'static str,
    pub max_backlog: u64,
    pub claim_idle: Duration,
    pub lease_ttl: Duration,
}

impl Default for Tune {
    fn default() -> Self {
        Self { consumer: "one", max_backlog: 1_000, claim_idle: Duration::from_secs(60), lease_ttl: Duration::from_secs(60) }
    }
}

/// One empty queue, which may be opened by many.
#[async_trait]
pub trait Place: Send + Sync {
    /// Opens it, as another process would.
    async fn open(&self, tune: Tune) -> Arc<dyn Queue>;
}

/// The source with this number.
pub const fn source(n: u128) -> SourceId {
    SourceId::from_digest(Digest::from_u128(n))
}

/// The last 32 bits decide on the partition; those before them must not.
const BEFORE: u128 = 0x9e37_79b9_7f4a_7c15 << 64;
/// A source of partition 0 of 2, 3 and 5.
pub const SOURCE: SourceId = source(BEFORE | 30);
/// Another of partition 0.
pub const OTHER: SourceId = source(BEFORE | 60);
/// One of partition 1.
pub const ELSEWHERE: SourceId = source(BEFORE | 31);
/// The family with this number.
pub const fn family(n: u128) -> FamilyId {
    FamilyId::from_digest(Digest::from_u128(n))
}

/// The ids of two stores.
pub const STORE: &str = "0f6f0a3e-9d2a-4b6e-8c1d-5a7b9c3d1e2f";
pub const OTHER_STORE: &str = "7b1d2c3e-4f50-4a6b-9c8d-7e6f5a4b3c2d";

/// The store that any partition says the group commits to.
pub async fn store_mark(queue: &dyn Queue) -> Option<String> {
    queue.store_marks().await.unwrap().into_iter().find_map(|(_, mark)| mark?.store)
}

/// Partitions that say no store, and the generations that were seen there.
pub fn unmarked(looked: &[(Partition, Option<StoreMark>)]) -> Vec<(Partition, Option<String>)> {
    Comparison::begin(looked.to_vec(), true).to_mark()
}

/// Marks the store as a collector does, and gives the one that is marked then.
pub async fn mark_store(queue: &dyn Queue, store: &str) -> String {
    let looked = queue.store_marks().await.unwrap();
    if let Err(OtherStore::Another { marked, .. }) = Comparison::begin(looked.clone(), true).store_is(store) {
        return marked;
    }
    let answers = queue.mark_store(store, &unmarked(&looked)).await.unwrap();
    answers.into_iter().filter_map(|(_, mark)| mark.store).find(|mark| mark != store).unwrap_or_else(|| store.to_owned())
}

/// The partition of [`SOURCE`] and [`OTHER`].
pub const P: Partition = Partition::FIRST;
/// The partition of [`ELSEWHERE`].
pub const SECOND: Partition = Partitions::new(2).expect("not 0").get(1).expect("the second of two");

/// Where a test's source stands after so many rows; unknown at 0.
pub fn at(row: u64) -> Option<Position> {
    (row > 0).then(|| Position { row, offset: row * 100, tail: Digest::of(&row.to_le_bytes()) })
}

/// The batch of rows `[first, first + 10)`.
pub fn batch(source: SourceId, first: u64) -> Outgoing {
    Outgoing {
        source,
        rows: RowRange { first, end: first + 10 },
        expected: at(first),
        next: at(first + 10).unwrap(),
        payload: Bytes::from(format!("batch \0\u{ff} {first}")),
        dictionaries: Vec::new(),
        with: Vec::new(),
    }
}

/// Publishes batches of rows `[first, end)`; all are accepted.
pub async fn fill(queue: &dyn Queue, source: SourceId, first: u64, end: u64) {
    // There is a connection: what is sent over one comes in order.
    queue.position(source).await.unwrap();
    let answers = join_all((first..end).step_by(10).map(|row| queue.publish(&batch(source, row)))).await;
    for answer in answers {
        assert_eq!(answer.unwrap(), Published::Accepted);
    }
}

/// Receives until there are so many.
pub async fn take(queue: &dyn Queue, partition: Partition, count: usize) -> Vec<Delivery> {
    let mut got = Vec::new();
    let all = async {
        while got.len() < count {
            got.extend(queue.receive(partition, count - got.len()).await.unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("the entries never came");
    got
}

/// The first rows of deliveries.
pub fn firsts(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|d| d.rows.first).collect()
}

/// Acknowledges all; returns how many were.
pub async fn acknowledge(queue: &dyn Queue, deliveries: &[Delivery], settled: &[(SourceId, u64)]) -> usize {
    let receipts = deliveries.iter().map(|d| d.receipt.clone()).collect();
    queue.acknowledge(P, receipts, settled).await.unwrap()
}

pub async fn backlog(queue: &dyn Queue) -> Backlog {
    Consumer::backlog(queue, P).await.unwrap()
}

async fn wrong_position(place: &dyn Place) {
    let q = place.open(Tune::default()).await;
    assert_eq!(q.position(SOURCE).await.unwrap(), None);
    assert_eq!(q.publish(&batch(SOURCE, 10)).await.unwrap(), Published::Moved(None));
    fill(&*q, SOURCE, 0, 10).await;
    assert_eq!(q.position(SOURCE).await.unwrap(), at(10));
    assert_eq!(q.publish(&batch(SOURCE, 20)).await.unwrap(), Published::Moved(at(10)));
    let mut other_content = batch(SOURCE, 10);
    other_content.expected = Some(Position { tail: Digest::from_u128(7), ..at(10).unwrap() });
    assert_eq!(q.publish(&other_content).await.unwrap(), Published::Moved(at(10)));
    assert_eq!(q.position(OTHER).await.unwrap(), None);
    assert_eq!(backlog(&*q).await.entries, 1);
}

async fn a_batch_sent_twice_is_there_once(place: &dyn Place) {
    let q = place.open(Tune::default()).await;
    let again = place.open(Tune::default()).await;
    let (a, b) = (batch(SOURCE, 0), batch(SOURCE, 0));
    let (one, two) = tokio::join!(q.publish(&a), again.publish(&b));
    let (one, two) = (one.unwrap(), two.unwrap());
    let told = [Published::Accepted, Published::Moved(at(10))];
    assert!(told.contains(&one) && told.contains(&two) && one != two, "{one:?} {two:?}");
    assert_eq!(backlog(&*q).await.entries, 1);
}

async fn a_refused_batch_refuses_those_behind_it(place: &dyn Place) {
    let q = place.open(Tune { max_backlog: 5, ..Tune::default() }).await;
    assert_eq!(q.position(SOURCE).await.unwrap(), None, "there is a connection");
    // Sent without waiting, and waited for in another order.
    let mut window: Vec<_> = (0..100).step_by(10).map(|row| q.publish(&batch(SOURCE, row))).collect();
    window.reverse();
    let mut answers: Vec<_> = join_all(window).await.into_iter().map(Result::unwrap).collect();
    answers.reverse();
    assert_eq!(answers[..5], vec![Published::Accepted; 5]);
    assert_eq!(answers[5], Published::Full);
    assert_eq!(answers[6..], vec![Published::Moved(at(50)); 4]);
    assert_eq!(firsts(&take(&*q, P, 5).await), [0, 10, 20, 30, 40]);
}

async fn a_full_queue_takes_more_when_there_is_room(place: &dyn Place) {
    let q = place.open(Tune { max_backlog: 2, ..Tune::default() }).await;
    fill(&*q, SOURCE, 0, 20).await;
    assert_eq!(q.publish(&batch(SOURCE, 20)).await.unwrap(), Published::Full);
    assert_eq!(q.publish(&batch(ELSEWHERE, 0)).await.unwrap(), Published::Accepted, "another partition has room");
    let got = take(&*q, P, 2).await;
    assert_eq!(q.publish(&batch(SOURCE, 20)).await.unwrap(), Published::Full, "what is only read still counts");
    // The later of the two: nothing can be trimmed, and there is room for one.
    assert_eq!(acknowledge(&*q, &got[1..], &[]).await, 1);
    fill(&*q, SOURCE, 20, 30).await;
    assert_eq!(q.publish(&batch(SOURCE, 30)).await.unwrap(), Published::Full);
    assert_eq!(acknowledge(&*q, &got[..1], &[]).await, 1);
    fill(&*q, SOURCE, 30, 40).await;
}

async fn a_batch_needs_its_dictionaries(place: &dyn Place) {
    let q = place.open(Tune::default()).await;
    let (a, b) = (Bytes::from_static(b"dictionary \0\xff a"), Bytes::from_static(b"dictionary b"));
    let (da, db) = (DictionaryId::of(&a), DictionaryId::of(&b));
    let mut first = batch(SOURCE, 0);
    first.dictionaries = vec![da, db];
    assert_eq!(q.publish(&first).await.unwrap(), Published::NeedDictionaries(vec![da, db]));
    first.with = vec![(da, a.clone())];
    assert_eq!(q.publish(&first).await.unwrap(), Published::NeedDictionaries(vec![db]));
    assert_eq!(q.dictionary(P, da).await.unwrap(), None, "a refused batch leaves nothing");
    first.with = vec![(da, a.clone()), (db, b.clone())];
    assert_eq!(q.publish(&first).await.unwrap(), Published::Accepted);
    let mut second = batch(SOURCE, 10);
    second.dictionaries = vec![db];
    assert_eq!(q.publish(&second).await.unwrap(), Published::Accepted);
    assert_eq!(q.dictionary(P, da).await.unwrap(), Some(a));
    assert_eq!(q.dictionary(P, db).await.unwrap(), Some(b));
    assert_eq!(q.dictionary(SECOND, db).await.unwrap(), None, "each partition has its own");
}

async fn entries_come_in_order_and_go_when_acknowledged(place: &dyn Place) {
    let q = place.open(Tune::default()).await;
    assert!(q.receive(P, 10).await.unwrap().is_empty());
    assert_eq!(backlog(&*q).await, Backlog::default());
    fill(&*q, SOURCE, 0, 30).await;
    fill(&*q, OTHER, 0, 20).await;
    let waiting = backlog(&*q).await;
    assert_eq!((waiting.entries, waiting.pending), (5, 0));

    let got = take(&*q, P, 4).await;
    assert_eq!(firsts(&got), [0, 10, 20, 0]);
    assert_eq!(got[0].payload, batch(SOURCE, 0).payload);
    assert_eq!((got[0].source, got[3].source), (SOURCE, OTHER));
    assert_eq!(got[0].rows, RowRange { first: 0, end: 10 });
    assert_eq!((backlog(&*q).await.entries, backlog(&*q).await.pending), (5, 4));

    assert_eq!(acknowledge(&*q, &got[..1], &[(SOURCE, 10)]).await, 1);
    assert_eq!(acknowledge(&*q, &got[2..3], &[(SOURCE, 10), (OTHER, u64::MAX)]).await, 1);
    assert_eq!(acknowledge(&*q, &got[..1], &[(SOURCE, 5)]).await, 0, "once is enough");
    assert_eq!((q.committed(SOURCE).await.unwrap(), q.committed(OTHER).await.unwrap()), (10, u64::MAX));
    assert_eq!(q.committed(ELSEWHERE).await.unwrap(), 0);
    assert_eq!((backlog(&*q).await.entries, backlog(&*q).await.pending), (3, 2));
    let row = |first| RowRange { first, end: first + 10 };
    assert_eq!(q.queued(P).await.unwrap(), [(SOURCE, row(10)), (OTHER, row(0)), (OTHER, row(10))]);

    let rest = take(&*q, P, 1).await;
    assert_eq!(acknowledge(&*q, &[&got[1..2], &got[3..4], &rest[..]].concat(), &[]).await, 3);
    assert_eq!(backlog(&*q).await, Backlog::default());
    assert_eq!(q.queued(P).await.unwrap(), []);
}

async fn a_restarted_consumer_gets_what_it_had(place: &dyn Place) {
    let q = place.open(Tune::default()).await;
    fill(&*q, SOURCE, 0, 60).await;
    let before = take(&*q, P, 4).await;
    assert_eq!(acknowledge(&*q, &before[..1], &[]).await, 1);
    drop(q);
    let q = place.open(Tune::default()).await;
    let again = take(&*q, P, 5).await;
    assert_eq!(firsts(&again), [10, 20, 30, 40, 50], "own pending first, then new");
    assert!(q.receive(P, 10).await.unwrap().is_empty(), "each once");
    assert_eq!(acknowledge(&*q, &again, &[]).await, 5);
}

async fn what_could_not_be_acknowledged_is_delivered_again(place: &dyn Place) {
    let q = place.open(Tune::default()).await;
    fill(&*q, SOURCE, 0, 40).await;
    let got = take(&*q, P, 3).await;
    let failed: Vec<_> = got[1..].iter().map(|d| d.receipt.clone()).collect();
    q.let_go(P, &failed[..1], Redelivery::AtOnce);
    q.let_go(P, &failed[1..], Redelivery::AtOnce);
    let mut again = take(&*q, P, 3).await;
    again.sort_by_key(|d| d.rows.first);
    assert_eq!(firsts(&again), [10, 20, 30], "those again, the first not, and what is new");
    assert_eq!(acknowledge(&*q, &got[..1], &[]).await + acknowledge(&*q, &again, &[]).await, 4);
    q.let_go(P, &failed, Redelivery::AtOnce);
    assert!(q.receive(P, 10).await.unwrap().is_empty(), "what is acknowledged does not come again");
}

async fn entries_of_a_dead_consumer_are_claimed(place: &dyn Place) {
    let tune = Tune { claim_idle: Duration::from_millis(300), ..Tune::default() };
    let dead = place.open(Tune { consumer: "dead", ..tune }).await;
    fill(&*dead, SOURCE, 0, 50).await;
    assert_eq!(take(&*dead, P, 3).await.len(), 3);
    drop(dead);
    let alive = place.open(Tune { consumer: "alive", ..tune }).await;
    let mut got = take(&*alive, P, 5).await;
    got.sort_by_key(|d| d.rows.first);
    assert_eq!(firsts(&got), [0, 10, 20, 30, 40]);
    assert_eq!(acknowledge(&*alive, &got, &[]).await, 5);
    assert_eq!(backlog(&*alive).await.entries, 0);
}

async fn entries_that_are_kept_are_not_claimed(place: &dyn Place) {
    let tune = Tune { claim_idle: Duration::from_millis(800), ..Tune::default() };
    let slow = place.open(Tune { consumer: "slow", ..tune }).await;
    let keen = place.open(Tune { consumer: "keen", ..tune }).await;
    fill(&*slow, SOURCE, 0, 20).await;
    let got = take(&*slow, P, 2).await;
    let kept = vec![got[0].receipt.clone()];
    let claimed = async {
        loop {
            slow.keep(P, &kept).await.unwrap();
            let claimed = keen.receive(P, 10).await.unwrap();
            if !claimed.is_empty() {
                return claimed;
            }
        }
    };
    let claimed = tokio::time::timeout(Duration::from_secs(20), claimed).await.unwrap();
    assert_eq!(firsts(&claimed), [10]);
    // Keeping what another has taken does not take it back; acknowledging it works for whoever did the work.
    slow.keep(P, &[got[1].receipt.clone()]).await.unwrap();
    assert_eq!(acknowledge(&*slow, &got, &[]).await, 2);
    assert_eq!(acknowledge(&*keen, &claimed, &[]).await, 0);
}

async fn a_consumer_leaves_only_empty_handed(place: &dyn Place) {
    let q = place.open(Tune { consumer: "leaver", ..Tune::default() }).await;
    q.leave(P).await.unwrap();
    fill(&*q, SOURCE, 0, 10).await;
    let got = take(&*q, P, 1).await;
    q.leave(P).await.unwrap();
    assert_eq!(backlog(&*q).await.pending, 1);
    assert_eq!(acknowledge(&*q, &got, &[]).await, 1);
    q.leave(P).await.unwrap();
    assert_eq!(backlog(&*q).await.pending, 0);
}

async fn leases(place: &dyn Place) {
    let q = place.open(Tune { lease_ttl: Duration::from_millis(400), ..Tune::default() }).await;
    fill(&*q, SOURCE, 0, 10).await;
    assert_eq!(q.lease(SOURCE, "a").await.unwrap(), Lease::Held(at(10)));
    assert_eq!(q.lease(SOURCE, "b").await.unwrap(), Lease::Taken);
    assert_eq!(q.lease(OTHER, "b").await.unwrap(), Lease::Held(None));
    assert_eq!(q.lease(SOURCE, "a").await.unwrap(), Lease::Held(at(10)));
    q.release(SOURCE, "b").await.unwrap();
    assert_eq!(q.lease(SOURCE, "b").await.unwrap(), Lease::Taken);
    q.release(SOURCE, "a").await.unwrap();
    assert_eq!(q.lease(SOURCE, "b").await.unwrap(), Lease::Held(at(10)));
    // Not renewed: it ends.
    let taken_over = async { while q.lease(SOURCE, "c").await.unwrap() == Lease::Taken {} };
    tokio::time::timeout(Duration::from_secs(20), taken_over).await.unwrap();
}

async fn the_registry_is_changed_by_one_at_a_time(place: &dyn Place) {
    let q = place.open(Tune::default()).await;
    let record = family(1);
    let identity = |n: u64| Identity { length: n, prefix: Digest::from_u128(n.into()), source: source(u128::from(n) << 64) };
    assert_eq!(q.identities(record).await.unwrap(), []);
    let answers = join_all((0..8).map(|n| q.register(record, &[], identity(n)))).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|a| a.is_ok()).count(), 1);
    let now = q.identities(record).await.unwrap();
    assert_eq!(now.len(), 1);
    assert!(answers.iter().all(|a| a.as_ref().err().is_none_or(|seen| *seen == now)));
    assert_eq!(q.register(record, &now, identity(100)).await.unwrap(), Ok(()));
    assert_eq!(q.identities(record).await.unwrap(), [now[0], identity(100)]);
    assert_eq!(q.register(record, &[identity(100), now[0]], identity(101)).await.unwrap(), Ok(()), "whatever the order");
    assert_eq!(q.identities(family(2)).await.unwrap(), []);
}

async fn the_store_is_said_once(place: &dyn Place) {
    let q = place.open(Tune::default()).await;
    assert_eq!(store_mark(&*q).await, None);
    assert_eq!(mark_store(&*q, STORE).await, STORE);
    assert_eq!(mark_store(&*q, OTHER_STORE).await, STORE);
    assert_eq!(store_mark(&*q).await.as_deref(), Some(STORE));
    q.reset(Some(SOURCE)).await.unwrap();
    assert_eq!(store_mark(&*q).await.as_deref(), Some(STORE));
    q.reset(None).await.unwrap();
    assert_eq!(store_mark(&*q).await, None);
}

async fn a_mark_that_arrives_after_everything_was_set_back_is_not_written(place: &dyn Place) {
    let (collector, operator) =
        (place.open(Tune::default()).await, place.open(Tune { consumer: "two", ..Tune::default() }).await);
    for _ in 0..3 {
        let looked = unmarked(&collector.store_marks().await.unwrap());
        assert!(looked.len() > 1, "no partition has a mark");
        // Another store takes the place of the one whose mark is on its way.
        operator.reset(None).await.unwrap();
        let answers = collector.mark_store(STORE, &looked).await.unwrap();
        assert!(answers.iter().all(|(_, mark)| mark.store.is_none()), "{answers:?}");
        assert!(answers.iter().zip(&looked).all(|((_, now), (_, seen))| now.generation != *seen), "and it is told so");
        assert_eq!(store_mark(&*operator).await, None);
        assert_eq!(mark_store(&*operator, OTHER_STORE).await, OTHER_STORE);
        // What was set back for one source is no other generation.
        let generations =
            |marks: Vec<(Partition, Option<StoreMark>)>| marks.into_iter().map(|(_, mark)| mark.unwrap().generation);
        let before: Vec<_> = generations(operator.store_marks().await.unwrap()).collect();
        operator.reset(Some(SOURCE)).await.unwrap();
        assert_eq!(generations(operator.store_marks().await.unwrap()).collect::<Vec<_>>(), before);
        assert!(before.iter().all(Option::is_some));
        operator.reset(None).await.unwrap();
    }
}

async fn sources_are_listed_and_set_back(place: &dyn Place) {
    let q = place.open(Tune::default()).await;
    for source in [SOURCE, OTHER, ELSEWHERE] {
        fill(&*q, source, 0, 10).await;
    }
    let got = take(&*q, P, 2).await;
    acknowledge(&*q, &got, &[(SOURCE, 10)]).await;
    let state = |source, committed| SourceState { source, position: at(10), committed };
    assert_eq!(q.sources(P).await.unwrap(), [state(SOURCE, 10), state(OTHER, 0)]);
    assert_eq!(q.sources(SECOND).await.unwrap(), [state(ELSEWHERE, 0)]);
    assert_eq!(q.reset(Some(SOURCE)).await.unwrap(), 1);
    assert_eq!(q.reset(Some(SOURCE)).await.unwrap(), 0);
    assert_eq!((q.position(SOURCE).await.unwrap(), q.committed(SOURCE).await.unwrap()), (None, 0));
    assert_eq!(q.publish(&batch(SOURCE, 10)).await.unwrap(), Published::Moved(None));
    assert_eq!(q.reset(None).await.unwrap(), 2);
    assert_eq!(q.sources(SECOND).await.unwrap(), []);
    assert!(q.replicated(SOURCE).await.unwrap(), "there are no replicas to wait for");
    Publisher::ping(&*q).await.unwrap();
    Consumer::ping(&*q).await.unwrap();
}

async fn a_partition_and_its_groups_are_looked_at(place: &dyn Place) {
    let q = place.open(Tune::default()).await;
    let empty = q.look(P, 8).await.unwrap();
    assert_eq!((empty.backlog, empty.entries, empty.newest_ms, empty.held_by), (Backlog::default(), 0, None, None));
    fill(&*q, SOURCE, 0, 30).await;
    let got = take(&*q, P, 2).await;
    let other = place.open(Tune { consumer: "two", ..Tune::default() }).await;
    let more = take(&*other, P, 1).await;
    let seen = q.look(P, 8).await.unwrap();
    assert_eq!((seen.backlog.entries, seen.backlog.pending, seen.entries), (3, 3, 3));
    assert!(seen.newest_ms.is_some_and(|age| age < 60_000), "{seen:?}");
    assert!(seen.added.is_none_or(|added| added == 3), "{seen:?}");
    let [group] = seen.groups.as_slice() else { panic!("one group: {seen:?}") };
    assert_eq!((group.name.as_str(), group.consumers, group.backlog.entries), ("collectors", 2, 3));
    let mut pending: Vec<_> = group.latest.iter().map(|c| (c.name.as_str(), c.pending)).collect();
    pending.sort_unstable();
    assert_eq!(pending, [("one", 2), ("two", 1)]);
    assert!(group.latest.iter().all(|c| c.idle_ms < 60_000), "{group:?}");
    assert_eq!(q.look(P, 1).await.unwrap().groups[0].latest.len(), 1, "as many as were asked for");
    assert_eq!(q.look(P, 0).await.unwrap().groups[0].latest.len(), 0);

    acknowledge(&*q, &got, &[]).await;
    acknowledge(&*other, &more, &[]).await;
    let seen = q.look(P, 8).await.unwrap();
    assert_eq!((seen.backlog, seen.entries), (Backlog::default(), 0));
    assert!(seen.newest_ms.is_some(), "there was one");
}

/// Runs the suite at the places that the expressions make.
macro_rules! conformance {
    ($($name:ident = $place:expr),* ; $tests:tt) => {
        $(conformance! { @one $name $place; $tests })*
    };
    (@one $name:ident $place:expr; [$($test:ident),* $(,)?]) => {
        mod $name {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(&$place).await;
                }
            )*
        }
    };
}

conformance! {
    on_redis = super::redis::Server::start(2),
    on_redis_with_3 = super::redis::Server::start(3),
    on_redis_with_5 = super::redis::Server::start(5),
    in_memory = super::memory::Memory::new(2),
    in_memory_with_3 = super::memory::Memory::new(3),
    in_memory_with_5 = super::memory::Memory::new(5);
    [
    wrong_position,
    a_batch_sent_twice_is_there_once,
    a_refused_batch_refuses_those_behind_it,
    a_full_queue_takes_more_when_there_is_room,
    a_batch_needs_its_dictionaries,
    entries_come_in_order_and_go_when_acknowledged,
    a_restarted_consumer_gets_what_it_had,
    what_could_not_be_acknowledged_is_delivered_again,
    entries_of_a_dead_consumer_are_claimed,
    entries_that_are_kept_are_not_claimed,
    a_consumer_leaves_only_empty_handed,
    leases,
    the_registry_is_changed_by_one_at_a_time,
    the_store_is_said_once,
    a_mark_that_arrives_after_everything_was_set_back_is_not_written,
    sources_are_listed_and_set_back,
    a_partition_and_its_groups_are_looked_at,
] }
