//! What every store promises. Each function is one promise, on a store with the schema and nothing in it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use telemetry::model::{DictionaryId, Digest, FamilyId, MAX_TIME, MIN_TIME, Reason, RowRange, SourceId, TimeMs};
use telemetry::store::{Committed, DeadLetter, Incoming, SourceLedger, Standing, Store, StoreError};

use super::rows::*;

async fn commit(store: &dyn Store, group: &[Incoming]) -> Committed {
    store.commit(group).await.expect("a commit")
}

fn stored(committed: &Committed) -> u64 {
    committed.stored.values().sum()
}

pub async fn rows_are_stored_with_their_range(h: &dyn Harness) {
    let (store, content) = (h.open(), Content::new("a", plain(300)));
    let done = commit(&*store, &[content.batch(0..100), content.batch(100..250)]).await;
    assert_eq!((done.duplicate, &done.settled), (0, &vec![(content.source, 250)]));
    assert_eq!(stored(&done) + done.rejected, 250);
    assert_eq!(done.stored.keys().collect::<Vec<_>>(), ["edge"]);
    let done = commit(&*store, &[content.batch(250..300)]).await;
    assert_eq!(done.settled, [(content.source, 300)]);
    assert_eq!(h.samples().await, content.samples());
    assert_eq!(h.rejected().await, content.rejects());
    let ledger = ledger(&*store).await;
    assert_eq!(ledger.len(), 1);
    let entry = &ledger[0];
    assert_eq!((entry.source, entry.cluster.as_str(), entry.name.as_str()), (content.source, "edge", "file.csv"));
    assert_eq!(entry.covered, RowRange { first: 0, end: 300 }.into());
    assert_eq!(entry.valid as usize + content.rejects().len(), 300);
    assert_eq!(entry.duplicate, 0);
    assert_eq!(entry.newest_sample.map(TimeMs::as_millis), content.samples().keys().map(|key| key.3).max());
    assert!(entry.first_commit.is_some() && entry.last_commit >= entry.first_commit);
    let unknown = source("unknown");
    assert_eq!(store.settled(&[unknown, content.source]).await.expect("settled"), [(unknown, 0), (content.source, 300)]);
}

pub async fn an_empty_group_is_no_error(h: &dyn Harness) {
    assert_eq!(commit(&*h.open(), &[]).await, Committed::default());
}

pub async fn a_redelivery_changes_nothing(h: &dyn Harness) {
    let (store, content) = (h.open(), Content::new("a", plain(200)));
    commit(&*store, &[content.all()]).await;
    let before = ledger(&*store).await;
    let done = commit(&*h.open(), &[content.all(), content.batch(20..90)]).await;
    let valid = before[0].valid;
    assert_eq!((stored(&done), done.rejected, done.settled), (0, 0, vec![(content.source, 200)]));
    assert!(done.duplicate > valid);
    assert_eq!(h.samples().await, content.samples());
    assert_eq!(h.rejected().await, content.rejects());
    let after = ledger(&*store).await;
    assert_eq!((after[0].valid, after[0].duplicate, &after[0].covered), (valid, 0, &before[0].covered));
}

pub async fn other_borders_change_nothing(h: &dyn Harness) {
    let (store, content) = (h.open(), Content::new("a", plain(200)));
    commit(&*store, &[content.batch(40..110)]).await;
    assert_eq!(store.settled(&[content.source]).await.expect("settled"), [(content.source, 0)]);
    let done = commit(&*store, &[content.batch(0..60), content.batch(50..150), content.batch(100..200)]).await;
    assert_eq!(done.settled, [(content.source, 200)]);
    assert_eq!(h.samples().await, content.samples());
    assert_eq!(h.rejected().await, content.rejects());
    assert_eq!(ledger(&*store).await[0].duplicate, 0);
}

pub async fn another_content_under_the_same_id_loses_nothing(h: &dyn Harness) {
    let store = h.open();
    let a = Content::new("same", plain(150));
    let mut b = a.clone();
    b.rows = (0..150).map(|at| sample(at % 9, DAY + 3_600_000 + i64::from(at) * 100, -f64::from(at))).collect();
    commit(&*store, &[a.all()]).await;
    for _ in 0..2 {
        commit(&*store, &[b.batch(0..80), b.batch(80..150)]).await;
        assert_eq!(h.samples().await, union(&a.samples(), &b.samples()));
        assert_eq!(ledger(&*store).await[0].covered.len(), 150);
    }
}

pub async fn siblings_of_a_family_are_stored_once(h: &dyn Harness) {
    let store = h.open();
    let a = Content::new("a", plain(200)).of_family("f");
    let b = a.sibling("b");
    let stranger = Content { family: FamilyId::of_source(source("stranger")), ..a.sibling("stranger") };
    commit(&*store, &[a.batch(0..120)]).await;
    let done = commit(&*store, &[b.batch(50..200), a.batch(120..200), b.batch(0..50)]).await;
    let mut settled = done.settled.clone();
    settled.sort_unstable();
    let mut expected = vec![(a.source, 200), (b.source, 200)];
    expected.sort_unstable();
    assert_eq!(settled, expected);
    assert_eq!(h.samples().await, a.samples());
    let samples = a.samples().values().sum::<usize>() as u64;
    let entries = ledger(&*store).await;
    assert!(entries.iter().all(|entry| entry.valid == samples && entry.covered.len() == 200));
    assert_eq!(entries.iter().map(|entry| entry.duplicate).sum::<u64>(), samples);
    // Without a family, too.
    commit(&*store, &[stranger.all()]).await;
    assert_eq!(h.samples().await, a.samples());
}

pub async fn time_may_jump_back_and_forth(h: &dyn Harness) {
    let store = h.open();
    let times = [5, 3, 9, 9, 1, -7, 86_400_000, 86_399_999, -86_400_000, 4, 3];
    let rows = times.iter().enumerate().map(|(at, time)| sample(at as u32 % 2, DAY + time, at as f64)).collect();
    let content = Content::new("jumps", rows);
    commit(&*store, &[content.batch(0..6), content.batch(6..11)]).await;
    commit(&*store, &[content.all()]).await;
    assert_eq!(h.samples().await, content.samples());
}

pub async fn every_accepted_year_and_bit_is_kept(h: &dyn Harness) {
    let store = h.open();
    let values = [0.0, -0.0, f64::MIN_POSITIVE, 5e-324, f64::MAX, f64::MIN, 0.1 + 0.2, 9_007_199_254_740_993.0];
    let times = [
        MIN_TIME.as_millis(),
        MAX_TIME.as_millis() - 1,
        DAY - 1,
        DAY,
        DAY + 86_399_999,
        951_782_400_000,
        MIN_TIME.as_millis() + 1,
        1,
    ];
    let mut rows: Vec<Row> =
        values.iter().zip(times).map(|(value, time)| sample(3, time.max(MIN_TIME.as_millis()), *value)).collect();
    // The same time, told apart by a bit.
    rows.extend([sample(3, DAY, 0.0), sample(3, DAY, -0.0)]);
    let content = Content::new("years", rows);
    for _ in 0..2 {
        commit(&*store, &[content.batch(0..5), content.batch(5..10)]).await;
        assert_eq!(h.samples().await, content.samples());
    }
}

pub async fn every_reason_is_kept(h: &dyn Harness) {
    let store = h.open();
    let content = Content::new("bad", Reason::ALL.into_iter().map(Row::Rejected).collect());
    let done = commit(&*store, &[content.batch(0..9), content.batch(9..18)]).await;
    assert_eq!((done.rejected, stored(&done), done.settled), (18, 0, vec![(content.source, 18)]));
    let done = commit(&*store, &[content.batch(4..18)]).await;
    assert_eq!((done.rejected, done.duplicate), (0, 0));
    let entry = &ledger(&*store).await[0];
    assert_eq!(entry.rejected, Reason::ALL.into_iter().map(|reason| (reason, 1)).collect());
    assert_eq!(h.rejected().await, content.rejects());
    assert_eq!(entry.newest_sample, None);
}

pub async fn odd_texts_do_not_stop_a_batch(h: &dyn Harness) {
    let store = h.open();
    let incoming = Content::new("odd", vec![sample(0, DAY, 1.0)]).all();
    let mut dictionary = (*incoming.dictionaries()[0]).clone();
    let long = "x\u{1F980}".repeat(3000);
    dictionary.series[0].gpu.hostname = format!("a\0b{long}");
    dictionary.series[0].gpu.uuid = long.clone();
    dictionary.series[0].gpu.index = Some(u32::MAX);
    dictionary.series[0].metric = long.clone();
    dictionary.series[0].labels = vec![("a\0".into(), "\0\"\\".into()), (long.clone(), long)];
    let incoming = Incoming::new(incoming.batch().clone(), vec![Arc::new(dictionary)]).expect("its series");
    assert_eq!(stored(&commit(&*store, std::slice::from_ref(&incoming)).await), 1);
    assert_eq!(commit(&*h.open(), &[incoming]).await.duplicate, 1);
    assert_eq!(h.samples().await.len(), 1);
}

pub async fn failures_are_counted_by_entry(h: &dyn Harness) {
    let (one, two) = (h.open(), h.open());
    assert_eq!(one.note_failure("0/1-1", "no \0 sense").await.expect("noted"), 1);
    assert_eq!(two.note_failure("0/1-1", "again").await.expect("noted"), 2);
    assert_eq!(two.note_failure("0/1-2", "other").await.expect("noted"), 1);
    let letter = letter(&Content::new("a", plain(10)), 0..10);
    one.bury(&letter, "0/1-1").await.expect("buried");
    assert_eq!(one.note_failure("0/1-1", "anew").await.expect("noted"), 1);
    assert_eq!(one.note_failure("0/1-2", "other").await.expect("noted"), 2);
}

fn letter(content: &Content, rows: std::ops::Range<usize>) -> DeadLetter {
    DeadLetter {
        id: 0,
        source: content.source,
        rows: RowRange { first: rows.start as u64, end: rows.end as u64 },
        reason: "a run names a series that is not there".into(),
        payload: Bytes::from_static(b"\0payload\xff"),
        dictionaries: vec![
            (DictionaryId::of(b"one"), Bytes::from_static(b"one")),
            (DictionaryId::from_digest(Digest::from_u128(u128::MAX)), Bytes::new()),
        ],
        buried: None,
    }
}

pub async fn dead_letters_settle_and_can_be_revived(h: &dyn Harness) {
    let (store, content) = (h.open(), Content::new("a", plain(60)));
    commit(&*store, &[content.batch(0..20)]).await;
    let buried = store.bury(&letter(&content, 20..40), "0/1-1").await.expect("buried");
    assert_eq!(buried, (content.source, 40));
    assert_eq!(store.bury(&letter(&content, 20..40), "0/1-1").await.expect("buried once"), buried);
    assert_eq!(commit(&*store, &[content.batch(40..60)]).await.settled, [(content.source, 60)]);
    let entry = &ledger(&*store).await[0];
    assert_eq!((entry.dead.to_string(), entry.covered.to_string()), ("{[20,40)}".into(), "{[0,20),[40,60)}".into()));

    let letters = store.dead_letters().await.expect("letters");
    assert_eq!(letters.len(), 1);
    assert!(letters[0].payload.is_empty() && letters[0].buried.is_some());
    let (id, sent) = (letters[0].id, letter(&content, 20..40));
    let kept = store.dead_letter(id).await.expect("a letter").expect("it is there");
    assert_eq!((&kept.payload, &kept.dictionaries, &kept.reason), (&sent.payload, &sent.dictionaries, &sent.reason));
    assert_eq!((kept.source, kept.rows), (sent.source, sent.rows));
    assert!(store.dead_letter(id + 1).await.expect("an answer").is_none());

    let wrong = store.revive(id, &content.batch(20..39)).await.expect_err("other rows");
    assert!(matches!(wrong, StoreError::BadBatch(_)), "{wrong}");
    assert_eq!(store.dead_letters().await.expect("letters").len(), 1, "it is kept");
    let done = store.revive(id, &content.batch(20..40)).await.expect("revived");
    assert_eq!(done.settled, [(content.source, 60)]);
    assert!(store.revive(id, &content.batch(20..40)).await.expect_err("gone").to_string().contains("no dead letter"));
    assert!(store.dead_letters().await.expect("letters").is_empty());
    assert_eq!(h.samples().await, content.samples());
    assert!(ledger(&*store).await[0].dead.is_empty());
}

pub async fn letters_of_the_same_rows_are_kept_each_with_its_payload(h: &dyn Harness) {
    let (store, content) = (h.open(), Content::new("a", plain(60)));
    commit(&*store, &[content.batch(0..20)]).await;
    let with = |payload: &'static [u8]| DeadLetter { payload: Bytes::from_static(payload), ..letter(&content, 20..40) };
    // Entries that cannot be read name no source; one that is forged names the rows of another.
    let unreadable = |payload: &'static [u8]| DeadLetter {
        source: SourceId::from_digest(Digest::default()),
        rows: RowRange { first: 0, end: 0 },
        dictionaries: Vec::new(),
        ..with(payload)
    };
    let letters = [
        (with(b"forged"), "0/1-1".to_owned()),
        (unreadable(b"junk"), "0/1-2".to_owned()),
        (unreadable(b"more junk"), "0/1-3".to_owned()),
        (with(b"forged"), "0/1-4".to_owned()),
    ];
    let buried = store.bury_all(&letters).await.expect("buried");
    assert_eq!(buried.kept, [true, true, true, false]);
    assert_eq!(buried.settled.iter().find(|(source, _)| *source == content.source), Some(&(content.source, 40)));
    // The true one comes later. What is delivered again is the same letter.
    let letters = [letters.as_slice(), &[(with(b"true"), "0/1-5".to_owned())]].concat();
    assert_eq!(store.bury_all(&letters).await.expect("buried").kept, [false, false, false, false, true]);
    assert_eq!(store.bury_all(&letters).await.expect("buried").kept, [false; 5]);
    assert_eq!(store.standing().await.expect("standing").dead_letters, 4);

    let mut kept = Vec::new();
    for letter in store.dead_letters().await.expect("letters") {
        kept.push(store.dead_letter(letter.id).await.expect("a letter").expect("it is there"));
    }
    let payloads: Vec<&[u8]> = kept.iter().map(|letter| &letter.payload[..]).collect();
    assert_eq!(BTreeSet::from_iter(payloads), BTreeSet::from([&b"forged"[..], b"junk", b"more junk", b"true"]));
    let of = |payload: &[u8]| kept.iter().find(|letter| letter.payload == payload).expect("a letter").clone();
    assert_eq!(of(b"true").dictionaries, with(b"true").dictionaries);
    assert!(of(b"more junk").dictionaries.is_empty());
    let ids: BTreeSet<i64> = kept.iter().map(|letter| letter.id).collect();
    assert_eq!(ids.len(), 4);

    // One is given up, the other one stored; the rows are settled all the time.
    let entry =
        |entries: Vec<SourceLedger>| entries.into_iter().find(|entry| entry.source == content.source).expect("it is there");
    assert_eq!(entry(ledger(&*store).await).dead.to_string(), "{[20,40)}");
    assert!(store.drop_letter(of(b"forged").id).await.expect("dropped"));
    assert_eq!(store.settled(&[content.source]).await.expect("settled"), [(content.source, 40)]);
    let done = store.revive(of(b"true").id, &content.batch(20..40)).await.expect("revived");
    assert_eq!(done.settled, [(content.source, 40)]);
    assert_eq!(h.samples().await, Content { rows: content.rows[0..40].to_vec(), ..content.clone() }.samples());
    assert!(entry(ledger(&*store).await).dead.is_empty());
    assert!(store.drop_letter(of(b"more junk").id).await.expect("dropped"));
    assert_eq!(store.dead_letters().await.expect("letters").iter().map(|letter| letter.id).collect::<Vec<_>>(), [of(b"junk").id]);
}

pub async fn what_gauges_say_is_what_there_is(h: &dyn Harness) {
    let store = h.open();
    assert_eq!(store.standing().await.expect("standing"), Standing::default());
    let content = Content::new("a", plain(20));
    // A source that is known by its dead letter alone belongs to no cluster.
    store.bury(&letter(&Content::new("b", plain(20)), 0..10), "e").await.expect("it is kept");
    let before = TimeMs::now();
    commit(&*store, &[content.batch(0..10)]).await;
    let standing = store.standing().await.expect("standing");
    assert_eq!(standing.dead_letters, 1);
    assert_eq!(standing.last_commit.keys().collect::<Vec<_>>(), ["edge"]);
    // The store's clock and ours are one; its transaction began a moment before or after ours looked.
    assert!(
        (before.plus_millis(-60_000)..before.plus_millis(60_000)).contains(&standing.last_commit["edge"]),
        "{standing:?} {before}"
    );
}

pub async fn dead_letters_can_be_given_up(h: &dyn Harness) {
    let (store, content) = (h.open(), Content::new("never seen", plain(60)).of_family("f"));
    assert_eq!(store.bury(&letter(&content, 0..20), "e").await.expect("buried"), (content.source, 20));
    assert_eq!(ledger(&*store).await[0].dead.to_string(), "{[0,20)}");
    let id = store.dead_letters().await.expect("letters")[0].id;
    assert!(store.drop_letter(id).await.expect("dropped"));
    assert!(!store.drop_letter(id).await.expect("gone"));
    let entry = ledger(&*store).await.remove(0);
    assert_eq!((entry.dead.to_string(), entry.dropped.to_string()), ("{}".into(), "{[0,20)}".into()));
    // The first batch names the source, and its family is kept.
    assert_eq!(commit(&*store, &[content.batch(20..30)]).await.settled, [(content.source, 30)]);
    assert_eq!(ledger(&*store).await[0].name, "file.csv");
    commit(&*store, &[content.sibling("b").batch(20..30)]).await;
    assert_eq!(h.samples().await, Content { rows: content.rows[20..30].to_vec(), ..content.clone() }.samples());
    // Sent after all: stored, and no longer counted as given up.
    commit(&*store, &[content.batch(0..25)]).await;
    let entry = ledger(&*store).await.into_iter().find(|entry| entry.source == content.source).expect("it is there");
    assert_eq!((entry.dropped.to_string(), entry.covered.to_string()), ("{}".into(), "{[0,30)}".into()));
    // A range as a broken entry may have it.
    let absurd = DeadLetter { rows: RowRange { first: 5, end: u64::MAX }, ..letter(&content, 0..1) };
    store.bury(&absurd, "e").await.expect("kept all the same");
    let empty = DeadLetter { rows: RowRange { first: 7, end: 3 }, ..letter(&content, 0..1) };
    store.bury(&empty, "e").await.expect("kept all the same");
    assert_eq!(store.dead_letters().await.expect("letters").len(), 2);
}
