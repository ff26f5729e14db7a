//! Each way of a receipt, and what holds on all of them, whatever happens in whatever order.

use proptest::prelude::*;

use super::*;
use crate::model::Digest;
use crate::protocol::rest::Rest;

const IDLE: Duration = Duration::from_secs(30);

fn settings(partitions: u16) -> Settings {
    Settings { partitions: Partitions::new(partitions).expect("not 0"), dead_after: 3, claim_idle: IDLE }
}

fn partition(number: u16) -> Partition {
    Partitions::new(1024).and_then(|all| all.get(number)).expect("there are so many")
}

fn source(number: u16) -> SourceId {
    SourceId::from_digest(Digest::from_u128(u128::from(number)))
}

fn receipt(number: u16, entry: u32, epoch: u64) -> Receipt<u32> {
    Receipt { partition: partition(number), entry, epoch }
}

fn arrival(receipt: &Receipt<u32>, redelivered: bool) -> Arrival<u32> {
    Arrival { receipt: receipt.clone(), bytes: 100, redelivered, oversize: false, withheld: false }
}

/// A collector that has one delivery, which its reader has taken up.
fn one(redelivered: bool) -> (Receipts<u32>, Receipt<u32>, Step) {
    let (mut receipts, receipt) = (Receipts::new(settings(1)), receipt(0, 1, 1));
    receipts.delivered([arrival(&receipt, redelivered)]);
    let step = receipts.happened(&receipt, Event::TakenUp);
    (receipts, receipt, step)
}

/// The step after these events, of which each but the last leads to the step beside it.
fn after(receipts: &mut Receipts<u32>, receipt: &Receipt<u32>, events: &[(Event, Step)]) {
    for (event, step) in events {
        assert_eq!(receipts.happened(receipt, *event), *step, "after {event:?}");
    }
}

fn is_in_hand(receipts: &Receipts<u32>, receipt: &Receipt<u32>) -> bool {
    receipts.in_hand(receipt.partition).contains(receipt)
}

/// Has a delivery judged, up to the first question.
fn suspected(receipts: &mut Receipts<u32>, receipt: &Receipt<u32>) {
    let events = [(Event::Decoded(Decoded::Doubtful), Step::Judge), (Event::TakenUp, Step::AskQueue)];
    after(receipts, receipt, &events);
}

/// The rest that a step asks for.
fn rest(step: Step) -> Rest {
    match step {
        Step::Rest(rest) => rest,
        other => panic!("{other:?} is no rest"),
    }
}

#[test]
fn what_is_healthy_is_committed_and_acknowledged() {
    let (mut receipts, receipt, step) = one(false);
    assert_eq!(step, Step::Decode);
    after(&mut receipts, &receipt, &[(Event::Decoded(Decoded::Batch), Step::Offer)]);
    let acknowledgements = receipts.committed(std::slice::from_ref(&receipt), &[(source(7), 30)]);
    assert!(is_in_hand(&receipts, &receipt), "until the queue has said so");
    let [acknowledgement] = &acknowledgements[..] else { panic!("{acknowledgements:?}") };
    assert_eq!((&acknowledgement.receipts[..], &acknowledgement.settled[..]), (&[receipt][..], &[(source(7), 30)][..]));
    receipts.acknowledged(acknowledgement);
    assert_eq!(receipts.stages().count(), 0);
}

#[test]
fn all_deliveries_of_a_read_are_in_hand_before_the_first_is_taken_up() {
    let mut receipts = Receipts::new(settings(1));
    let read: Vec<_> = (0..4).map(|entry| receipt(0, entry, 1)).collect();
    receipts.delivered(read.iter().map(|receipt| arrival(receipt, false)));
    assert_eq!(receipts.in_hand(partition(0)), read);
    assert_eq!(receipts.in_hand(partition(1)), [], "each partition has its own");
}

#[test]
fn a_delivery_over_another_connection_replaces_the_receipt() {
    let (mut receipts, old, _) = one(false);
    let new = Receipt { epoch: 2, ..old.clone() };
    receipts.delivered([arrival(&new, true)]);
    assert_eq!(receipts.in_hand(old.partition), std::slice::from_ref(&new));
    // Whoever has the old one goes on with it, and takes nothing from the new one.
    after(&mut receipts, &old, &[(Event::Decoded(Decoded::Batch), Step::Offer)]);
    for acknowledgement in receipts.committed(&[old], &[]) {
        receipts.acknowledged(&acknowledgement);
    }
    assert_eq!(receipts.in_hand(new.partition), [new]);
}

#[test]
fn an_attempt_is_noted_before_and_forgotten_after() {
    let (mut receipts, receipt, step) = one(true);
    assert_eq!(step, Step::NoteAttempt);
    let events = [
        (Event::AttemptNoted(2), Step::Decode),
        (Event::Decoded(Decoded::Batch), Step::ForgetAttempts),
        (Event::AttemptsForgotten, Step::Offer),
    ];
    after(&mut receipts, &receipt, &events);
}

#[test]
fn what_was_attempted_too_often_is_buried_undecoded() {
    let (mut receipts, receipt, _) = one(true);
    let events = [
        // The attempts stay noted: whoever is killed by another batch before this one is acknowledged must not decode it again.
        (Event::AttemptNoted(3), Step::Bury(Grounds::Attempts(3))),
        (Event::WaitsForBurial, Step::Nothing),
    ];
    after(&mut receipts, &receipt, &events);
    assert_eq!(receipts.buried(std::slice::from_ref(&receipt), &[]).len(), 1);
    // The first delivery was not noted, and may not have been decoded: one attempt in any case.
    let mut strict = Receipts::new(Settings { dead_after: 1, ..settings(1) });
    strict.delivered([arrival(&receipt, true)]);
    after(&mut strict, &receipt, &[(Event::TakenUp, Step::NoteAttempt), (Event::AttemptNoted(1), Step::Decode)]);
}

#[test]
fn an_oversize_entry_is_buried_and_no_attempt_is_noted() {
    let mut receipts = Receipts::new(settings(1));
    let receipt = receipt(0, 1, 1);
    receipts.delivered([Arrival { oversize: true, ..arrival(&receipt, true) }]);
    after(&mut receipts, &receipt, &[(Event::TakenUp, Step::Bury(Grounds::Oversize))]);
}

#[test]
fn a_payload_that_was_withheld_is_fetched_again_after_each_rest() {
    let mut receipts = Receipts::new(settings(1));
    let receipt = receipt(0, 1, 1);
    receipts.delivered([Arrival { withheld: true, ..arrival(&receipt, true) }]);
    after(&mut receipts, &receipt, &[(Event::TakenUp, Step::FetchPayload)]);
    rest(receipts.happened(&receipt, Event::QueueAway));
    let decoded = |decoded| {
        let fetched = [(Event::Fetched, Step::NoteAttempt), (Event::AttemptNoted(1), Step::Decode)];
        [&fetched[..], &[(Event::Decoded(decoded), Step::ForgetAttempts)]].concat()
    };
    after(&mut receipts, &receipt, &[(Event::Rested, Step::FetchPayload)]);
    after(&mut receipts, &receipt, &decoded(Decoded::QueueAway));
    rest(receipts.happened(&receipt, Event::AttemptsForgotten));
    after(&mut receipts, &receipt, &[(Event::Rested, Step::FetchPayload)]);
    let mut gone = receipts.clone();
    after(&mut gone, &receipt, &[(Event::Asked(Some(false)), Step::Gone)]);
    assert_eq!(gone.stages().count(), 0);
    // A suspect has its payload in hand.
    after(&mut receipts, &receipt, &decoded(Decoded::Doubtful));
    let events = [(Event::AttemptsForgotten, Step::Judge), (Event::TakenUp, Step::AskQueue)];
    after(&mut receipts, &receipt, &events);
    rest(receipts.happened(&receipt, Event::QueueAway));
    after(&mut receipts, &receipt, &[(Event::Rested, Step::NoteAttempt)]);
}

#[test]
fn a_queue_that_is_away_is_rested_for_and_asked_again() {
    let (mut receipts, receipt, _) = one(true);
    let mut longest = Duration::ZERO;
    for _ in 0..10 {
        let events = [(Event::AttemptNoted(1), Step::Decode), (Event::Decoded(Decoded::QueueAway), Step::ForgetAttempts)];
        after(&mut receipts, &receipt, &events);
        let rest = rest(receipts.happened(&receipt, Event::AttemptsForgotten));
        assert!(rest.longest >= longest && rest.shortest <= rest.longest);
        longest = rest.longest;
        after(&mut receipts, &receipt, &[(Event::Rested, Step::NoteAttempt)]);
    }
    assert_eq!(longest, Duration::from_secs(2));
}

#[test]
fn a_group_is_acknowledged_by_partition_each_with_its_own_sources() {
    let mut receipts = Receipts::new(settings(3));
    let group = [receipt(2, 1, 1), receipt(0, 1, 1), receipt(2, 2, 1)];
    receipts.delivered(group.iter().map(|receipt| arrival(receipt, false)));
    let settled: Vec<_> = (0..6).map(|number| (source(number), u64::from(number))).collect();
    let acknowledgements = receipts.committed(&group, &settled);
    let told: Vec<_> = acknowledgements.iter().map(|a| (a.partition.number(), a.receipts.len(), a.settled.clone())).collect();
    assert_eq!(told, [(0, 1, vec![settled[0], settled[3]]), (2, 2, vec![settled[2], settled[5]])]);
}

#[test]
fn a_group_that_is_refused_is_parted_and_the_bad_one_judged() {
    let mut receipts = Receipts::new(settings(1));
    let group = [receipt(0, 1, 1), receipt(0, 2, 1)];
    receipts.delivered(group.iter().map(|receipt| arrival(receipt, true)));
    for receipt in &group {
        let events = [
            (Event::TakenUp, Step::NoteAttempt),
            (Event::AttemptNoted(1), Step::Decode),
            (Event::Decoded(Decoded::Batch), Step::ForgetAttempts),
            (Event::AttemptsForgotten, Step::Offer),
        ];
        after(&mut receipts, receipt, &events);
    }
    for refusal in [Refusal::BadBatch, Refusal::DamagedChunk] {
        assert_eq!(receipts.refused(&group, refusal), Refused::Parted);
    }
    assert_eq!(receipts.refused(&group[..1], Refusal::BadBatch), Refused::One(Step::Judge));
    assert_eq!(receipts.refused(&group[1..], Refusal::DamagedChunk), Refused::One(Step::HoldBack));
    after(&mut receipts, &group[0], &[(Event::TakenUp, Step::AskQueue), (Event::Asked(Some(true)), Step::NoteFailure)]);
    rest(receipts.happened(&group[0], Event::FailureNoted(1)));
    // It was decoded without harm.
    after(&mut receipts, &group[0], &[(Event::Rested, Step::Decode), (Event::Decoded(Decoded::Batch), Step::Commit)]);
    assert_eq!(receipts.refused(&group[..1], Refusal::BadBatch), Refused::One(Step::AskQueue), "it is judged already");
}

#[test]
fn a_suspect_is_tried_again_until_it_is_stored_or_dead_or_gone() {
    let judged = |failures| {
        let (mut receipts, receipt, _) = one(false);
        suspected(&mut receipts, &receipt);
        assert_eq!(receipts.happened(&receipt, Event::Asked(Some(true))), Step::NoteFailure);
        let step = receipts.happened(&receipt, Event::FailureNoted(failures));
        (receipts, receipt, step)
    };
    let (mut receipts, receipt, step) = judged(2);
    rest(step);
    let events = [
        (Event::Rested, Step::Decode),
        (Event::Decoded(Decoded::Doubtful), Step::AskQueue),
        (Event::Asked(Some(false)), Step::Gone),
    ];
    after(&mut receipts, &receipt, &events);
    assert_eq!(receipts.stages().count(), 0);

    let (mut receipts, receipt, step) = judged(2);
    rest(step);
    after(&mut receipts, &receipt, &[(Event::Rested, Step::Decode), (Event::Decoded(Decoded::Batch), Step::Commit)]);
    let [acknowledgement] = &receipts.committed(std::slice::from_ref(&receipt), &[])[..] else { panic!("one partition") };
    receipts.acknowledged(acknowledgement);
    assert_eq!((receipts.stages().count(), receipts.suspects, receipts.suspect_bytes), (0, 0, 0));

    let (mut receipts, receipt, step) = judged(3);
    assert_eq!(step, Step::Bury(Grounds::Fault));
    assert_eq!(receipts.suspects, 1, "it keeps its place until it waits for burial");
    after(&mut receipts, &receipt, &[(Event::WaitsForBurial, Step::Nothing)]);
    assert_eq!((receipts.suspects, is_in_hand(&receipts, &receipt)), (0, true));
}

#[test]
fn a_queue_that_is_away_is_no_failure_of_a_suspect() {
    let (mut receipts, receipt, _) = one(false);
    suspected(&mut receipts, &receipt);
    for _ in 0..10 {
        rest(receipts.happened(&receipt, Event::QueueAway));
        after(&mut receipts, &receipt, &[(Event::Rested, Step::Decode)]);
        rest(receipts.happened(&receipt, Event::Decoded(Decoded::QueueAway)));
        let events = [(Event::Rested, Step::Decode), (Event::Decoded(Decoded::Doubtful), Step::AskQueue)];
        after(&mut receipts, &receipt, &events);
    }
}

#[test]
fn what_has_no_place_among_the_suspects_is_let_go_until_somebody_claims_it() {
    let mut receipts = Receipts::new(settings(1));
    let all: Vec<_> = (0..20).map(|entry| receipt(0, entry, 1)).collect();
    receipts.delivered(all.iter().map(|receipt| arrival(receipt, false)));
    let steps: Vec<_> = all
        .iter()
        .map(|receipt| {
            after(&mut receipts, receipt, &[(Event::TakenUp, Step::Decode)]);
            receipts.happened(receipt, Event::Decoded(Decoded::Doubtful))
        })
        .collect();
    let expected: Vec<_> =
        (0..20).map(|n| if n < MAX_SUSPECTS { Step::Judge } else { Step::LetGo(Redelivery::AfterIdle) }).collect();
    assert_eq!(steps, expected);
    assert_eq!(receipts.in_hand(partition(0)), all[..MAX_SUSPECTS]);

    // Bytes count too; the longest may still be judged, alone.
    let mut receipts = Receipts::new(settings(1));
    for (entry, bytes, step) in [(1, 33 << 20, Step::Judge), (2, 1, Step::LetGo(Redelivery::AfterIdle))] {
        let receipt = receipt(0, entry, 1);
        receipts.delivered([Arrival { bytes, ..arrival(&receipt, false) }]);
        after(&mut receipts, &receipt, &[(Event::TakenUp, Step::Decode), (Event::Decoded(Decoded::Doubtful), step)]);
    }
}

#[test]
fn an_acknowledgement_that_fails_is_out_of_hand_at_last() {
    let (mut receipts, receipt, _) = one(false);
    after(&mut receipts, &receipt, &[(Event::Decoded(Decoded::Doubtful), Step::Judge)]);
    let mut acknowledgement = receipts.committed(std::slice::from_ref(&receipt), &[]).remove(0);
    for _ in 1..ACKNOWLEDGE_TRIES {
        assert!(matches!(receipts.not_acknowledged(&mut acknowledgement), Unacknowledged::Again(_)));
        assert!(is_in_hand(&receipts, &receipt), "its claim is kept");
    }
    assert_eq!(receipts.not_acknowledged(&mut acknowledgement), Unacknowledged::LetGo(Redelivery::AtOnce));
    assert_eq!((receipts.stages().count(), receipts.suspects), (0, 0));
    // It comes again with the same receipt, and its claim is kept.
    receipts.delivered([arrival(&receipt, true)]);
    assert!(is_in_hand(&receipts, &receipt));
}

#[test]
fn what_a_lost_connection_had_read_is_not_held_back_in_place_of_what_came_again() {
    let (mut receipts, old, _) = one(false);
    let new = Receipt { epoch: old.epoch + 1, ..old.clone() };
    receipts.delivered([arrival(&new, false)]);
    after(&mut receipts, &new, &[(Event::TakenUp, Step::Decode)]);
    let now = Duration::from_secs(5);
    let events = [(Event::Decoded(Decoded::UnknownVersion), Step::HoldBack), (Event::HeldBack { now }, Step::Nothing)];
    after(&mut receipts, &new, &events);
    // The store had been away longer for the first.
    after(&mut receipts, &old, &events);
    assert_eq!((receipts.held_back(), is_in_hand(&receipts, &new)), (1, true));
    let let_go = LetGo { partition: new.partition, receipts: vec![new], redelivery: Redelivery::AfterIdle };
    assert_eq!(receipts.due(now + IDLE * LET_GO_AFTER), [let_go]);
}

#[test]
fn what_is_held_back_is_let_go_after_a_while() {
    let (mut receipts, receipt, _) = one(false);
    let (since, patience) = (Duration::from_secs(5), IDLE * LET_GO_AFTER);
    let events = [(Event::Decoded(Decoded::UnknownVersion), Step::HoldBack), (Event::HeldBack { now: since }, Step::Nothing)];
    after(&mut receipts, &receipt, &events);
    assert_eq!((receipts.held_back(), is_in_hand(&receipts, &receipt)), (1, true));
    assert!(receipts.due(since + patience - Duration::from_nanos(1)).is_empty());
    // Another connection has read it meanwhile, and it is held back once more: as one entry.
    let new = Receipt { epoch: 2, ..receipt.clone() };
    receipts.delivered([arrival(&new, false)]);
    after(&mut receipts, &new, &[(Event::TakenUp, Step::Decode)]);
    after(
        &mut receipts,
        &new,
        &events.map(|(event, step)| match event {
            Event::HeldBack { .. } => (Event::HeldBack { now: since * 2 }, step),
            _ => (event, step),
        }),
    );
    assert_eq!(receipts.held_back(), 1);
    assert!(receipts.due(since + patience).is_empty());
    let let_go = LetGo { partition: new.partition, receipts: vec![new], redelivery: Redelivery::AfterIdle };
    assert_eq!(receipts.due(since * 2 + patience), [let_go]);
    assert_eq!((receipts.held_back(), receipts.stages().count()), (0, 0));
}

#[test]
fn what_the_end_of_the_process_interrupts_stays_pending() {
    let (mut receipts, receipt, _) = one(false);
    after(&mut receipts, &receipt, &[(Event::Decoded(Decoded::Ending), Step::Nothing)]);
    assert!(is_in_hand(&receipts, &receipt), "nobody claims it before this process has ended");
    let (mut receipts, receipt, _) = one(false);
    suspected(&mut receipts, &receipt);
    after(&mut receipts, &receipt, &[(Event::Interrupted, Step::Nothing)]);
    assert_eq!((is_in_hand(&receipts, &receipt), receipts.suspects), (true, 0));
    let (mut receipts, receipt, _) = one(false);
    receipts.abandoned(&[receipt]);
    assert_eq!(receipts.stages().count(), 0);
}

#[test]
fn what_ends_the_collector_does_so_after_the_attempt_is_forgotten() {
    let (mut receipts, receipt, _) = one(true);
    let events = [
        (Event::AttemptNoted(1), Step::Decode),
        (Event::Decoded(Decoded::Fatal), Step::ForgetAttempts),
        (Event::AttemptsForgotten, Step::Fail),
    ];
    after(&mut receipts, &receipt, &events);
}

/// What the tasks of a collector do, in an order and with outcomes that are chosen.
struct Play {
    receipts: Receipts<u32>,
    /// What each receipt was told last; none of those that are in a list below.
    steps: Vec<(Receipt<u32>, Step)>,
    offered: Vec<Receipt<u32>>,
    burials: Vec<Receipt<u32>>,
    acknowledgements: Vec<Acknowledgement<u32>>,
    /// Stored, as a batch or as a dead letter.
    stored: Vec<Receipt<u32>>,
    acknowledged: usize,
    let_go: usize,
    gone: usize,
    delivered: usize,
    now: Duration,
}

impl Play {
    fn new() -> Self {
        Self {
            receipts: Receipts::new(settings(3)),
            steps: Vec::new(),
            offered: Vec::new(),
            burials: Vec::new(),
            acknowledgements: Vec::new(),
            stored: Vec::new(),
            acknowledged: 0,
            let_go: 0,
            gone: 0,
            delivered: 0,
            now: Duration::ZERO,
        }
    }

    fn deliver(&mut self, choice: u8) {
        let count = 1 + u32::from(choice % 4);
        let first = u32::try_from(self.delivered).expect("a few");
        let read: Vec<_> =
            (first..first + count).map(|entry| receipt(u16::from(choice % 3), entry, u64::from(choice / 200))).collect();
        self.delivered += read.len();
        let arrivals = read.iter().map(|receipt| Arrival {
            oversize: choice == 77,
            withheld: choice % 25 == 10,
            ..arrival(receipt, choice.is_multiple_of(5))
        });
        self.receipts.delivered(arrivals.collect::<Vec<_>>());
        for receipt in read {
            let step = self.receipts.happened(&receipt, Event::TakenUp);
            self.steps.push((receipt, step));
        }
    }

    /// Carries out one step, with an outcome that is good where `kind`.
    fn step(&mut self, at: usize, choice: u8, kind: bool) {
        let (receipt, step) = self.steps.swap_remove(at);
        let bad = |decoded| if kind { Decoded::Batch } else { decoded };
        let event = match step {
            Step::FetchPayload if !kind && choice.is_multiple_of(3) => Event::QueueAway,
            Step::FetchPayload if !kind && choice.is_multiple_of(5) => Event::Asked(Some(false)),
            Step::FetchPayload => Event::Fetched,
            Step::NoteAttempt => Event::AttemptNoted(1 + u32::from(choice % 4)),
            Step::Decode => Event::Decoded(match choice % 6 {
                0 => bad(Decoded::QueueAway),
                1 => bad(Decoded::UnknownVersion),
                2 => Decoded::Incurable,
                3 => bad(Decoded::Doubtful),
                _ => Decoded::Batch,
            }),
            Step::ForgetAttempts => Event::AttemptsForgotten,
            Step::Rest(_) => Event::Rested,
            Step::Judge => Event::TakenUp,
            Step::AskQueue if !kind && choice.is_multiple_of(11) => Event::QueueAway,
            Step::AskQueue => Event::Asked((!choice.is_multiple_of(3)).then_some(kind || !choice.is_multiple_of(7))),
            Step::NoteFailure => Event::FailureNoted(1 + u32::from(choice % 4)),
            Step::HoldBack => Event::HeldBack { now: self.now },
            Step::Offer => return self.offered.push(receipt),
            Step::Commit => {
                let group = [receipt];
                match self.commit(&group, if kind { 9 } else { choice }) {
                    Some(Refused::One(step)) => self.steps.push((group[0].clone(), step)),
                    other => assert_eq!(other, None, "one cannot be parted"),
                }
                return;
            }
            Step::Bury(_) => {
                self.burials.push(receipt.clone());
                Event::WaitsForBurial
            }
            Step::LetGo(redelivery) => {
                assert_eq!(redelivery, Redelivery::AfterIdle);
                self.let_go += 1;
                return;
            }
            Step::Gone => {
                self.gone += 1;
                return;
            }
            Step::Nothing => return,
            Step::Fail => panic!("nothing failed"),
        };
        let step = self.receipts.happened(&receipt, event);
        self.steps.push((receipt, step));
    }

    fn commit(&mut self, group: &[Receipt<u32>], choice: u8) -> Option<Refused> {
        let refusal = match choice % 5 {
            0 => Refusal::BadBatch,
            1 => Refusal::DamagedChunk,
            _ => {
                self.stored.extend(group.iter().cloned());
                let settled: Vec<_> = (0..9).map(|number| (source(number), 1)).collect();
                self.acknowledgements.extend(self.receipts.committed(group, &settled));
                return None;
            }
        };
        Some(self.receipts.refused(group, refusal))
    }

    fn commit_offered(&mut self, choice: u8, kind: bool) {
        let group = std::mem::take(&mut self.offered);
        if group.is_empty() {
            return;
        }
        let choice = if kind { 9 } else { choice };
        match self.commit(&group, choice) {
            None => {}
            Some(Refused::One(step)) => self.steps.push((group[0].clone(), step)),
            Some(Refused::Parted) => {
                for (n, receipt) in (0u8..).zip(group) {
                    let alone = [receipt];
                    match self.commit(&alone, choice.wrapping_add(n)) {
                        Some(Refused::One(step)) => self.steps.push((alone[0].clone(), step)),
                        other => assert_eq!(other, None, "one cannot be parted"),
                    }
                }
            }
        }
    }

    fn bury(&mut self) {
        let group = std::mem::take(&mut self.burials);
        self.stored.extend(group.iter().cloned());
        self.acknowledgements.extend(self.receipts.buried(&group, &[]));
    }

    fn acknowledge(&mut self, choice: u8, kind: bool) {
        let Some(mut acknowledgement) = self.acknowledgements.pop() else { return };
        assert!(acknowledgement.receipts.iter().all(|receipt| self.stored.contains(receipt)), "acknowledged before it is stored");
        assert!(acknowledgement.receipts.iter().all(|receipt| receipt.partition == acknowledgement.partition));
        let partitions = self.receipts.settings().partitions;
        let of_partition = |(source, _): &(SourceId, u64)| source.partition(partitions) == acknowledgement.partition;
        assert!(acknowledgement.settled.iter().all(of_partition));
        if kind || choice.is_multiple_of(2) {
            self.acknowledged += acknowledgement.receipts.len();
            self.receipts.acknowledged(&acknowledgement);
        } else {
            match self.receipts.not_acknowledged(&mut acknowledgement) {
                Unacknowledged::Again(_) => self.acknowledgements.push(acknowledgement),
                Unacknowledged::LetGo(_) => self.let_go += acknowledgement.receipts.len(),
            }
        }
    }

    fn wait(&mut self, choice: u8) {
        self.now += IDLE * u32::from(choice % 4);
        self.let_go += self.receipts.due(self.now).iter().map(|let_go| let_go.receipts.len()).sum::<usize>();
    }

    fn check(&self) {
        let receipts = &self.receipts;
        let stages: Vec<_> = receipts.stages().collect();
        let held_back = stages.iter().filter(|(_, stage)| matches!(stage, Stage::HeldBack(_))).count();
        assert_eq!(receipts.held_back(), held_back);
        assert!(receipts.suspects <= MAX_SUSPECTS && receipts.suspect_bytes <= MAX_SUSPECT_BYTES);
        let told = self.steps.iter().filter(|(_, step)| matches!(step, Step::LetGo(_) | Step::Gone)).count();
        let ended = self.acknowledged + self.let_go + self.gone + told;
        assert_eq!(stages.len() + ended, self.delivered, "each is somewhere, once");
        for partition in receipts.settings().partitions {
            let newest = receipts.hands.get(&partition).map_or(0, |hand| hand.epoch);
            let kept = stages.iter().map(|(receipt, _)| receipt).filter(|r| r.partition == partition && r.epoch == newest);
            assert_eq!(receipts.in_hand(partition), kept.cloned().collect::<Vec<_>>());
        }
    }

    fn act(&mut self, (what, which, choice): (u8, u8, u8), kind: bool) {
        match what % 10 {
            0 if !kind => self.deliver(choice),
            1 => self.commit_offered(choice, kind),
            2 => self.bury(),
            3 | 4 => self.acknowledge(choice, kind),
            5 => self.wait(choice),
            _ if self.steps.is_empty() => {}
            _ => self.step(usize::from(which) % self.steps.len(), choice, kind),
        }
        self.check();
    }
}

proptest! {
    #[test]
    fn whatever_happens_each_receipt_is_somewhere_and_comes_to_an_end(
        actions in proptest::collection::vec(any::<(u8, u8, u8)>(), 0..150),
        end in proptest::collection::vec(any::<(u8, u8, u8)>(), 20),
    ) {
        let mut play = Play::new();
        play.deliver(3);
        for action in actions {
            play.act(action, false);
        }
        // Nothing fails any more: all of it ends, in a bounded number of steps.
        let bound = 40 * play.delivered + 200;
        for (round, action) in end.iter().cycle().take(bound).enumerate() {
            let done = u8::try_from(round % 10).expect("a digit");
            play.act((done, action.1, action.2), true);
        }
        play.now += IDLE * LET_GO_AFTER * 2;
        play.wait(0);
        play.check();
        let left: Vec<_> = play.receipts.stages().collect();
        prop_assert_eq!(left, []);
        prop_assert_eq!((play.receipts.suspects, play.receipts.suspect_bytes), (0, 0));
    }
}
