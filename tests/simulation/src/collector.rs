//! A collector: carries out what the core of its side decides ([`Receipts`]). Its tasks are those of `src/roles/collect`: a reader a
//! partition, two writers, suspects, one that buries, and acknowledgements; a task waits for the outcome of one call or timer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::messages::{CLAIM_IDLE, Health, Id, Lane, Ms, NodeId, Outcome, Reply, Request};
use crate::model::{DictionaryId, Partition, SourceId};
use crate::network::Net;
use crate::planted::Planted;
use crate::protocol::receipts::{Acknowledgement, Decoded, Event, Grounds, Receipt, Receipts, Refusal, Refused, Settings, Step};
use crate::protocol::rest::Rests;
use crate::queue::EntryId;
use crate::session::{self, Delivery, Session};
use crate::store_access::{Comparing, Op, Then};

/// `collect.max_deliveries`.
pub const MAX_DELIVERIES: usize = 4;
/// Decoded batches that wait for a writer.
pub const READY: usize = 8;
/// `collect.writers`.
const WRITERS: usize = 2;
/// `collect.dead_after`.
const DEAD_AFTER: u32 = 3;
/// Batches of one commit or burial.
const GROUP: usize = 6;
/// `collect.group_wait`, and how long a writer waits for acknowledgements.
const GROUP_WAIT: Ms = 20;
pub(crate) const ACKNOWLEDGE_PATIENCE: Ms = 250;
/// How often what is held back is looked at.
const HELD_BACK_EVERY: Ms = 30_000;
/// How often the store is asked what it says of itself.
const STANDING_EVERY: Ms = 15_000;
/// Acknowledgements of a partition between two sweeps.
const SWEEP_EVERY: u32 = 4;
/// `redis.reconnect_min` and `redis.reconnect_max`.
pub(crate) const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A receipt of a collector.
pub(crate) type Proof = Receipt<EntryId>;

/// What a call or timer is for.
#[derive(Debug)]
pub(crate) enum Purpose {
    Read(usize, u64, session::Read),
    ReadAgain(usize),
    MakeGroup(usize),
    Happened(Proof, Event),
    Decoding(Proof),
    Dictionaries(Proof, Vec<DictionaryId>),
    Asked(Proof),
    Gather(usize),
    WriterGoesOn(usize, u64),
    Acknowledge(u64, u64, Vec<EntryId>),
    AcknowledgeAgain(u64),
    Op(u64),
    OpAgain(u64),
    Look(u64, Partition),
    StoreId(u64),
    Sources(u64, Partition),
    Settled(u64, Partition, Vec<(SourceId, u64)>),
    LookAgain(u64, Partition),
    Mark(u64, Partition),
    Keep,
    HeldBack,
    Standing,
    Stood,
    Nothing,
}

/// A partition's reader.
pub(crate) struct Reader {
    pub(crate) epochs: u64,
    /// The session, and the connections it is over.
    pub(crate) session: Option<(u64, u64, Session)>,
    /// An earlier session, whose read is not answered yet.
    pub(crate) former: Option<Session>,
    pub(crate) queue: VecDeque<Proof>,
    pub(crate) current: Option<Proof>,
    pub(crate) rests: Rests,
    pub(crate) acknowledgements: u32,
}

#[derive(Default)]
pub(crate) struct Writer {
    gathering: bool,
    busy: bool,
    alone: VecDeque<Proof>,
    pub(crate) turn: u64,
    pub(crate) waits_for: BTreeSet<u64>,
}

/// A collector.
pub struct Collector {
    pub(crate) node: NodeId,
    pub(crate) receipts: Receipts<EntryId>,
    pub(crate) pending: BTreeMap<Id, Purpose>,
    pub(crate) ops: BTreeMap<u64, Op>,
    /// How the store is being compared, for one of those or for none.
    pub(crate) comparisons: BTreeMap<u64, Comparing>,
    pub(crate) serial: u64,
    /// The store that it talked to first; 0: to none.
    pub(crate) store_id: u64,
    /// The store was compared with a part of the queue only, or not at all since it was away.
    pub(crate) to_be_compared: bool,
    /// It ended: the store is another one, or an older state.
    pub ended: Option<String>,
    /// It decoded what kills.
    pub killed: bool,
    pub(crate) readers: Vec<Reader>,
    pub(crate) deliveries: BTreeMap<Proof, Delivery>,
    offered: VecDeque<Proof>,
    ready: VecDeque<Proof>,
    pub(crate) writers: Vec<Writer>,
    burials: VecDeque<Proof>,
    burying: bool,
    /// What is decoded though it was delivered before, one at a time.
    careful: Option<Proof>,
    careful_queue: VecDeque<Proof>,
    pub(crate) acknowledgements: BTreeMap<u64, (Acknowledgement<EntryId>, usize)>,
    known_dictionaries: BTreeSet<DictionaryId>,
}

/// The entry's name in the store.
fn entry_name(proof: &Proof, delivery: &Delivery) -> String {
    format!("{}/{}/{}/{}", proof.partition, proof.entry, delivery.entry.source, delivery.entry.rows)
}

impl Collector {
    /// A collector that starts now.
    pub fn start(node: NodeId, net: &mut Net) -> Self {
        let partitions = net.partitions;
        let settings = Settings { partitions, dead_after: DEAD_AFTER, claim_idle: Duration::from_millis(CLAIM_IDLE) };
        let keep_every = Ms::try_from(settings.keep_every().as_millis()).unwrap_or(CLAIM_IDLE);
        let reader = || Reader {
            epochs: 0,
            session: None,
            former: None,
            queue: VecDeque::new(),
            current: None,
            rests: Rests::new(RECONNECT.0, RECONNECT.1),
            acknowledgements: 0,
        };
        let mut collector = Self {
            node,
            receipts: Receipts::new(settings),
            pending: BTreeMap::new(),
            ops: BTreeMap::new(),
            comparisons: BTreeMap::new(),
            serial: 0,
            store_id: 0,
            to_be_compared: false,
            ended: None,
            killed: false,
            readers: partitions.iter().map(|_| reader()).collect(),
            deliveries: BTreeMap::new(),
            offered: VecDeque::new(),
            ready: VecDeque::new(),
            writers: (0..WRITERS).map(|_| Writer::default()).collect(),
            burials: VecDeque::new(),
            burying: false,
            careful: None,
            careful_queue: VecDeque::new(),
            acknowledgements: BTreeMap::new(),
            known_dictionaries: BTreeSet::new(),
        };
        collector.begin_op(Request::StoreId, Then::Opened, true, net);
        collector.wake(keep_every, Purpose::Keep, net);
        collector.wake(HELD_BACK_EVERY, Purpose::HeldBack, net);
        collector
    }

    /// The store is the one that it should be: readers begin.
    pub(crate) fn opened(&mut self, net: &mut Net) {
        for partition in 0..self.readers.len() {
            self.read(partition, net);
        }
        self.wake(STANDING_EVERY, Purpose::Standing, net);
    }

    /// It is asked later what it says of itself.
    pub(crate) fn stands(&mut self, net: &mut Net) {
        self.wake(STANDING_EVERY, Purpose::Standing, net);
    }

    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(crate) fn call(&mut self, lane: Lane, request: Request, purpose: Purpose, net: &mut Net) {
        let id = net.call(self.node, lane, request);
        self.pending.insert(id, purpose);
    }

    pub(crate) fn wake(&mut self, after: Ms, purpose: Purpose, net: &mut Net) {
        let id = net.timer(self.node, after);
        self.pending.insert(id, purpose);
    }

    pub(crate) fn happened(&mut self, proof: &Proof, event: Event, net: &mut Net) {
        let step = self.receipts.happened(proof, event);
        self.carry_out(proof, step, net);
    }

    /// The delivery is no longer its reader's: the next one is taken up.
    pub(crate) fn handed_on(&mut self, proof: &Proof, net: &mut Net) {
        let partition = proof.partition.index();
        if self.readers[partition].current.as_ref() == Some(proof) {
            self.readers[partition].current = None;
            self.hand_on(partition, net);
        }
    }

    fn carry_out(&mut self, proof: &Proof, step: Step, net: &mut Net) {
        match step {
            Step::NoteAttempt => match self.careful {
                Some(_) => self.careful_queue.push_back(proof.clone()),
                None => self.note_attempt(proof, net),
            },
            Step::FetchPayload => net.violated(|| "a payload is fetched that was not withheld".to_owned()),
            Step::Decode => self.decode(proof, net),
            Step::ForgetAttempts => {
                let Some(delivery) = self.deliveries.get(proof) else { return };
                let request = Request::ForgetFailures(self.store_id, format!("{}/decoding", entry_name(proof, delivery)));
                self.begin_op(request, Then::AttemptsForgotten(proof.clone()), false, net);
            }
            Step::Rest(rest) => {
                let after = net.within(rest.shortest, rest.longest);
                self.wake(after, Purpose::Happened(proof.clone(), Event::Rested), net);
            }
            Step::Offer => {
                self.offered.push_back(proof.clone());
                self.fill_ready(net);
            }
            Step::Judge => {
                self.happened(proof, Event::TakenUp, net);
                self.handed_on(proof, net);
            }
            Step::AskQueue => {
                let Some(delivery) = self.deliveries.get(proof) else { return };
                let (lane, entry) = (Lane::Link(proof.partition.index()), &delivery.entry);
                let asked = Request::Contains(proof.entry, entry.source, entry.rows);
                self.call(lane, asked, Purpose::Asked(proof.clone()), net);
            }
            Step::NoteFailure => {
                let Some(delivery) = self.deliveries.get(proof) else { return };
                let request = Request::NoteFailure(self.store_id, entry_name(proof, delivery));
                self.begin_op(request, Then::FailureNoted(proof.clone()), false, net);
            }
            Step::Commit => self.commit(std::slice::from_ref(proof), None, net),
            Step::Bury(grounds) => {
                if let Grounds::Attempts(_) = grounds {
                    self.is_decoded_alone_no_more(net);
                }
                self.burials.push_back(proof.clone());
                self.happened(proof, Event::WaitsForBurial, net);
                self.bury(net);
            }
            Step::HoldBack => {
                let now = Duration::from_millis(net.now);
                self.happened(proof, Event::HeldBack { now }, net);
            }
            Step::LetGo(redelivery) => {
                self.let_go(std::slice::from_ref(proof), redelivery, net);
                self.handed_on(proof, net);
            }
            Step::Gone | Step::Nothing | Step::Fail => {
                if step == Step::Gone {
                    self.deliveries.remove(proof);
                }
                self.handed_on(proof, net);
            }
        }
    }

    fn note_attempt(&mut self, proof: &Proof, net: &mut Net) {
        let Some(delivery) = self.deliveries.get(proof) else { return };
        self.careful = Some(proof.clone());
        let request = Request::NoteFailure(self.store_id, format!("{}/decoding", entry_name(proof, delivery)));
        self.begin_op(request, Then::AttemptNoted(proof.clone()), false, net);
    }

    pub(crate) fn attempts_forgotten(&mut self, proof: &Proof, net: &mut Net) {
        self.happened(proof, Event::AttemptsForgotten, net);
        self.is_decoded_alone_no_more(net);
    }

    /// The next one whose attempts are noted may be decoded.
    fn is_decoded_alone_no_more(&mut self, net: &mut Net) {
        self.careful = None;
        if let Some(next) = self.careful_queue.pop_front() {
            self.note_attempt(&next, net);
        }
    }

    fn decode(&mut self, proof: &Proof, net: &mut Net) {
        let Some(delivery) = self.deliveries.get(proof) else { return };
        let absent = delivery.entry.dictionaries.iter().filter(|id| !self.known_dictionaries.contains(id));
        let absent: Vec<_> = absent.copied().collect();
        if absent.is_empty() {
            let after = [1, 5, 100, 1_000][net.choices.below(4) as usize];
            return self.wake(after, Purpose::Decoding(proof.clone()), net);
        }
        let lane = Lane::Link(proof.partition.index());
        self.call(lane, Request::Dictionaries(absent.clone()), Purpose::Dictionaries(proof.clone(), absent), net);
    }

    fn decoded(&mut self, proof: &Proof, net: &mut Net) {
        let Some(delivery) = self.deliveries.get(proof) else { return };
        let decoded = match Health::of(delivery.entry.payload) {
            Health::Damaged => Decoded::Incurable,
            Health::Unknown if !net.is_calm => Decoded::UnknownVersion,
            Health::Killer => {
                self.killed = true;
                return;
            }
            _ => Decoded::Batch,
        };
        self.happened(proof, Event::Decoded(decoded), net);
    }

    fn dictionaries_answered(&mut self, proof: &Proof, asked: &[DictionaryId], outcome: Outcome, net: &mut Net) {
        let decoded = match outcome {
            Outcome::Reply(Reply::Missing(missing)) => {
                if self.known_dictionaries.len() > 16 {
                    self.known_dictionaries.clear();
                }
                self.known_dictionaries.extend(asked.iter().filter(|id| !missing.contains(id)));
                if missing.is_empty() {
                    return self.wake(1, Purpose::Decoding(proof.clone()), net);
                }
                Decoded::Doubtful
            }
            _ => Decoded::QueueAway,
        };
        self.happened(proof, Event::Decoded(decoded), net);
    }

    /// As many decoded batches wait for a writer as there is room for; their readers go on.
    fn fill_ready(&mut self, net: &mut Net) {
        let mut handed_on = Vec::new();
        while self.ready.len() < READY
            && let Some(proof) = self.offered.pop_front()
        {
            self.ready.push_back(proof.clone());
            handed_on.push(proof);
        }
        self.start_writers(net);
        for proof in handed_on {
            self.handed_on(&proof, net);
        }
    }

    fn start_writers(&mut self, net: &mut Net) {
        // One gathers at a time.
        if self.ready.is_empty() || self.writers.iter().any(|writer| writer.gathering) {
            return;
        }
        if let Some(at) = self.writers.iter().position(|writer| !writer.busy) {
            self.writers[at].busy = true;
            self.writers[at].gathering = true;
            self.wake(GROUP_WAIT, Purpose::Gather(at), net);
        }
    }

    fn gather(&mut self, at: usize, net: &mut Net) {
        self.writers[at].gathering = false;
        let take = self.ready.len().min(GROUP);
        let group: Vec<Proof> = self.ready.drain(..take).collect();
        self.commit(&group, Some(at), net);
        self.fill_ready(net);
    }

    /// Commits a group for a writer, or a suspect alone.
    fn commit(&mut self, group: &[Proof], writer: Option<usize>, net: &mut Net) {
        let batch = |proof: &Proof| {
            let entry = &self.deliveries.get(proof)?.entry;
            let health = Health::of(entry.payload);
            let stands = health == Health::Bad || (health == Health::Hidden && !net.is_calm);
            Some((entry.source, entry.rows, if stands { health } else { Health::Good }))
        };
        let batches = group.iter().filter_map(batch).collect();
        if net.is(Planted::AcknowledgeBeforeCommit) {
            let acknowledgements = self.receipts.committed(group, &[]);
            self.acknowledge(acknowledgements, None, net);
        }
        self.begin_op(Request::Commit(self.store_id, batches), Then::Committed(group.to_vec(), writer), false, net);
    }

    pub(crate) fn committed(&mut self, group: &[Proof], writer: Option<usize>, reply: Reply, net: &mut Net) {
        let refusal = match reply {
            Reply::Settled(settled) => {
                if !net.is(Planted::AcknowledgeBeforeCommit) {
                    let acknowledgements = self.receipts.committed(group, &settled);
                    self.acknowledge(acknowledgements, writer, net);
                } else if let Some(at) = writer {
                    self.writer_goes_on(at, net);
                }
                return;
            }
            Reply::BadBatch => Refusal::BadBatch,
            _ => Refusal::DamagedChunk,
        };
        if net.is(Planted::AcknowledgeBeforeCommit) {
            return writer.into_iter().for_each(|at| self.writer_goes_on(at, net));
        }
        match self.receipts.refused(group, refusal) {
            Refused::Parted => {
                if let Some(at) = writer {
                    self.writers[at].alone.extend(group.iter().cloned());
                }
            }
            Refused::One(step) => {
                if let Some(proof) = group.first() {
                    self.carry_out(proof, step, net);
                }
            }
        }
        if let Some(at) = writer {
            self.writer_goes_on(at, net);
        }
    }

    pub(crate) fn writer_goes_on(&mut self, at: usize, net: &mut Net) {
        self.writers[at].turn += 1;
        self.writers[at].waits_for.clear();
        if let Some(alone) = self.writers[at].alone.pop_front() {
            return self.commit(&[alone], Some(at), net);
        }
        self.writers[at].busy = false;
        self.start_writers(net);
    }

    /// Buries what waits, in one transaction at a time.
    fn bury(&mut self, net: &mut Net) {
        if self.burying || self.burials.is_empty() {
            return;
        }
        self.burying = true;
        let take = self.burials.len().min(GROUP);
        let group: Vec<Proof> = self.burials.drain(..take).collect();
        let letter = |proof: &Proof| {
            let delivery = self.deliveries.get(proof)?;
            Some((delivery.entry.source, delivery.entry.rows, entry_name(proof, delivery)))
        };
        let letters = group.iter().filter_map(letter).collect();
        if net.is(Planted::AcknowledgeBeforeBurial) {
            let acknowledgements = self.receipts.buried(&group, &[]);
            self.acknowledge(acknowledgements, None, net);
        }
        self.begin_op(Request::Bury(self.store_id, letters), Then::Buried(group), false, net);
    }

    pub(crate) fn buried(&mut self, group: &[Proof], reply: Reply, net: &mut Net) {
        self.burying = false;
        if let Reply::Settled(settled) = reply
            && !net.is(Planted::AcknowledgeBeforeBurial)
        {
            let acknowledgements = self.receipts.buried(group, &settled);
            self.acknowledge(acknowledgements, None, net);
        }
        self.bury(net);
    }

    /// A timer is due.
    pub fn woken(&mut self, id: Id, net: &mut Net) {
        let Some(purpose) = self.pending.remove(&id) else { return };
        match purpose {
            Purpose::ReadAgain(partition) => self.read(partition, net),
            Purpose::Happened(proof, event) => self.happened(&proof, event, net),
            Purpose::Decoding(proof) => self.decoded(&proof, net),
            Purpose::Gather(at) => self.gather(at, net),
            Purpose::WriterGoesOn(at, turn) if self.writers[at].turn == turn => self.writer_goes_on(at, net),
            Purpose::AcknowledgeAgain(serial) => self.send_acknowledgement(serial, net),
            Purpose::OpAgain(serial) => self.attempt_op(serial, net),
            Purpose::Keep => self.keep(net),
            Purpose::Standing => self.call(Lane::Store, Request::Standing, Purpose::Stood, net),
            Purpose::HeldBack => {
                for due in self.receipts.due(Duration::from_millis(net.now)) {
                    self.let_go(&due.receipts, due.redelivery, net);
                }
                self.wake(HELD_BACK_EVERY, Purpose::HeldBack, net);
            }
            _ => {}
        }
    }

    /// The outcome of a call.
    pub fn answered(&mut self, id: Id, outcome: Outcome, net: &mut Net) {
        let Some(purpose) = self.pending.remove(&id) else { return };
        match purpose {
            Purpose::Read(partition, epoch, read) => self.read_answered((partition, epoch, read), outcome, net),
            Purpose::MakeGroup(partition) => {
                if matches!(outcome, Outcome::Reply(_)) {
                    let reader = &mut self.readers[partition];
                    reader.epochs += 1;
                    let epoch = reader.epochs;
                    if let Some((.., session)) = &mut reader.session {
                        session.renew(epoch, net.now);
                    }
                    return self.read(partition, net);
                }
                self.read_later(partition, net);
            }
            Purpose::Dictionaries(proof, asked) => self.dictionaries_answered(&proof, &asked, outcome, net),
            Purpose::Asked(proof) => {
                let event = match outcome {
                    Outcome::Reply(Reply::Contains(queued)) => Event::Asked(Some(queued)),
                    _ => Event::QueueAway,
                };
                self.happened(&proof, event, net);
            }
            Purpose::Acknowledge(serial, epoch, ids) => match outcome {
                Outcome::Reply(_) => {
                    let Some((acknowledgement, _)) = self.acknowledgements.get(&serial) else { return };
                    let partition = acknowledgement.partition.index();
                    let reader = &mut self.readers[partition];
                    if let Some((.., session)) = reader.session.as_mut().filter(|(.., session)| session.epoch == epoch) {
                        session.forget(&ids);
                    }
                    reader.acknowledgements += 1;
                    if reader.acknowledgements.is_multiple_of(SWEEP_EVERY) {
                        self.call(Lane::Link(partition), Request::Sweep, Purpose::Nothing, net);
                    }
                    self.acknowledged(serial, net);
                }
                _ => self.not_acknowledged(serial, net),
            },
            other => self.op_answered(other, outcome, net),
        }
    }

    /// Whether this entry is in hand over the connection there is.
    #[must_use]
    pub fn has_in_hand(&self, partition: usize, entry: EntryId) -> bool {
        let epoch = self.readers[partition].session.as_ref().map(|(.., session)| session.epoch);
        self.deliveries
            .keys()
            .any(|proof| proof.partition.index() == partition && proof.entry == entry && Some(proof.epoch) == epoch)
    }

    /// What is too much: the bounds of what a collector has in hand.
    #[must_use]
    pub fn exceeds(&self) -> Option<String> {
        let reader = self.readers.iter().any(|reader| reader.queue.len() > MAX_DELIVERIES);
        let ready = self.ready.len() > READY || self.offered.len() > self.readers.len() + MAX_DELIVERIES;
        (reader || ready).then(|| format!("{} wait for a writer, {} to be offered", self.ready.len(), self.offered.len()))
    }

    /// What it is doing, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let stages: Vec<_> = self.receipts.stages().map(|(proof, stage)| format!("{} {stage:?}", proof.entry)).collect();
        format!(
            "in hand: {}; {} acknowledgements, {} questions to the store",
            stages.join(", "),
            self.acknowledgements.len(),
            self.ops.len()
        )
    }
}

pub(crate) fn of_session(proof: &Proof) -> session::Receipt {
    session::Receipt { entry: proof.entry, epoch: proof.epoch }
}
