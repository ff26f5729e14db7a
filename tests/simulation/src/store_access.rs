//! A collector and its store: what is done on it is done as often as it takes, and one that was away is compared before it is used again. The
//! same questions in the same order as in `src/roles/collect/store_access.rs`; what comes of the answers is the core's to say.

use std::collections::BTreeMap;

use crate::collector::{Collector, Proof, Purpose};
use crate::messages::{Lane, Outcome, Reply, Request};
use crate::model::Partition;
use crate::network::Net;
use crate::planted::Planted;
use crate::protocol::receipts::{Comparison, Event, Marked, OtherStore, StoreAttempts, StoreMark};

/// What follows.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    Opened,
    AttemptNoted(Proof),
    AttemptsForgotten(Proof),
    FailureNoted(Proof),
    Committed(Vec<Proof>, Option<usize>),
    Buried(Vec<Proof>),
}

/// Something that is done on the store.
pub(crate) struct Op {
    request: Request,
    then: Then,
    attempts: StoreAttempts,
    /// It is compared before the first attempt too.
    compare: bool,
}

/// A comparison of the store, and how far it is.
pub(crate) struct Comparing {
    /// For this; `None`: to keep the mark.
    op: Option<u64>,
    /// Whether sources are to be compared.
    sources: bool,
    /// What the partitions that were looked at say; `None`: away.
    looked: BTreeMap<Partition, Option<StoreMark>>,
    core: Comparison,
    /// What the store says that it is.
    store: u64,
    /// What partitions that were to be marked say; `None`: away.
    answers: BTreeMap<Partition, Option<StoreMark>>,
}

fn mark_of(outcome: &Outcome) -> Option<StoreMark> {
    let Outcome::Reply(Reply::Mark(store, generation)) = outcome else { return None };
    let text = |number: u64| number.to_string();
    Some(StoreMark { store: store.map(text), generation: generation.map(text) })
}

impl Collector {
    pub(crate) fn begin_op(&mut self, request: Request, then: Then, compare: bool, net: &mut Net) {
        let serial = self.next_serial();
        let op = Op { request, then, attempts: StoreAttempts::default(), compare };
        self.ops.insert(serial, op);
        self.attempt_op(serial, net);
    }

    pub(crate) fn attempt_op(&mut self, serial: u64, net: &mut Net) {
        let Some(op) = self.ops.get_mut(&serial) else { return };
        if (op.attempts.must_compare() && !net.is(Planted::StoreNotCompared)) || op.compare {
            return self.compare(Some(serial), true, net);
        }
        let request = op.request.clone();
        self.call(Lane::Store, request, Purpose::Op(serial), net);
    }

    fn op_away(&mut self, serial: u64, net: &mut Net) {
        let Some(op) = self.ops.get_mut(&serial) else { return };
        let rest = op.attempts.away();
        let after = net.within(rest.shortest, rest.longest);
        self.wake(after, Purpose::OpAgain(serial), net);
    }

    /// Begins a comparison: marks first.
    fn compare(&mut self, op: Option<u64>, sources: bool, net: &mut Net) {
        let serial = self.next_serial();
        let core = Comparison::begin(Vec::new(), sources);
        let (looked, answers) = (BTreeMap::new(), BTreeMap::new());
        self.comparisons.insert(serial, Comparing { op, sources, looked, core, store: 0, answers });
        for partition in net.partitions {
            self.call(Lane::Link(partition.index()), Request::LookAtMark, Purpose::Look(serial, partition), net);
        }
    }

    /// A comparison could not be finished: what it was for waits; the mark is looked at later.
    fn compare_later(&mut self, serial: u64, net: &mut Net) {
        match self.comparisons.remove(&serial).map(|comparing| comparing.op) {
            Some(Some(op)) => self.op_away(op, net),
            Some(None) => self.stands_later(net),
            None => {}
        }
    }

    fn stands_later(&mut self, net: &mut Net) {
        self.to_be_compared = !net.is(Planted::StoreNotCompared);
        self.stands(net);
    }

    fn refused(&mut self, other: &OtherStore) {
        self.ended = Some(format!("{other:?}"));
    }

    pub(crate) fn op_answered(&mut self, purpose: Purpose, outcome: Outcome, net: &mut Net) {
        match purpose {
            Purpose::Op(serial) => match outcome {
                Outcome::Reply(Reply::OtherStore) => self.ended = Some("it is another store".to_owned()),
                Outcome::Reply(reply) => self.op_done(serial, reply, net),
                _ => self.op_away(serial, net),
            },
            Purpose::Stood => match outcome {
                Outcome::Reply(_) => self.compare(None, self.to_be_compared, net),
                _ => self.stands_later(net),
            },
            Purpose::LookAgain(serial, partition) => {
                let Some(comparing) = self.comparisons.get_mut(&serial) else { return };
                comparing.answers.insert(partition, mark_of(&outcome));
                if comparing.answers.len() == usize::from(net.partitions.count()) {
                    self.marked(serial, net);
                }
            }
            Purpose::Look(serial, partition) => self.looked(serial, partition, &outcome, net),
            Purpose::StoreId(serial) => self.store_said(serial, &outcome, net),
            Purpose::Sources(serial, partition) => match outcome {
                Outcome::Reply(Reply::Sources(sources)) => {
                    let committed: Vec<_> = sources.into_iter().map(|(source, _, committed)| (source, committed)).collect();
                    let asked = committed.iter().map(|(source, _)| *source).collect();
                    self.call(Lane::Store, Request::Settled(asked), Purpose::Settled(serial, partition, committed), net);
                }
                // A node that is away keeps nobody from the partitions of the others: its own are compared later.
                _ => {
                    if let Some(comparing) = self.comparisons.get_mut(&serial) {
                        comparing.core.passed_over();
                    }
                    self.ask_sources(serial, partition.index() + 1, net);
                }
            },
            Purpose::Settled(serial, partition, committed) => match outcome {
                Outcome::Reply(Reply::Settled(settled)) => {
                    let Some(comparing) = self.comparisons.get_mut(&serial) else { return };
                    match comparing.core.sources(partition, &committed, &settled) {
                        Ok(()) => self.ask_sources(serial, partition.index() + 1, net),
                        Err(other) => self.refused(&other),
                    }
                }
                _ => self.compare_later(serial, net),
            },
            Purpose::Mark(serial, partition) => {
                let Some(comparing) = self.comparisons.get_mut(&serial) else { return };
                comparing.answers.insert(partition, mark_of(&outcome));
                if comparing.answers.len() == comparing.core.to_mark().len() {
                    self.marked(serial, net);
                }
            }
            _ => {}
        }
    }

    fn looked(&mut self, serial: u64, partition: Partition, outcome: &Outcome, net: &mut Net) {
        let Some(comparing) = self.comparisons.get_mut(&serial) else { return };
        comparing.looked.insert(partition, mark_of(outcome));
        if comparing.looked.len() < usize::from(net.partitions.count()) {
            return;
        }
        if comparing.looked.values().all(Option::is_none) {
            return self.compare_later(serial, net);
        }
        let looked = comparing.looked.iter().map(|(partition, mark)| (*partition, mark.clone())).collect();
        comparing.core = Comparison::begin(looked, comparing.sources);
        // Who does not compare what it has must not pass over that it may have less.
        let request = if comparing.core.compares_sources() { Request::StoreId } else { Request::Standing };
        self.call(Lane::Store, request, Purpose::StoreId(serial), net);
    }

    fn store_said(&mut self, serial: u64, outcome: &Outcome, net: &mut Net) {
        let &Outcome::Reply(Reply::StoreId(id)) = outcome else { return self.compare_later(serial, net) };
        let Some(comparing) = self.comparisons.get_mut(&serial) else { return };
        comparing.store = id;
        if self.store_id != 0 && self.store_id != id {
            self.ended = Some("it is another store".to_owned());
            return;
        }
        self.store_id = id;
        match comparing.core.store_is(&id.to_string()) {
            Ok(()) if comparing.core.compares_sources() => self.ask_sources(serial, 0, net),
            Ok(()) => self.mark(serial, net),
            Err(other) => self.refused(&other),
        }
    }

    fn ask_sources(&mut self, serial: u64, partition: usize, net: &mut Net) {
        match u16::try_from(partition).ok().and_then(|number| net.partitions.get(number)) {
            Some(next) => self.call(Lane::Link(partition), Request::Sources, Purpose::Sources(serial, next), net),
            None => self.mark(serial, net),
        }
    }

    fn mark(&mut self, serial: u64, net: &mut Net) {
        let Some(comparing) = self.comparisons.get(&serial) else { return };
        let (store, to_mark) = (comparing.store, comparing.core.to_mark());
        if comparing.core.looks_again() {
            for partition in net.partitions {
                self.call(Lane::Link(partition.index()), Request::LookAtMark, Purpose::LookAgain(serial, partition), net);
            }
            return;
        }
        if to_mark.is_empty() {
            return self.marked(serial, net);
        }
        for (partition, generation) in to_mark {
            let seen = generation.and_then(|generation| generation.parse().ok());
            self.call(Lane::Link(partition.index()), Request::Mark(store, seen), Purpose::Mark(serial, partition), net);
        }
    }

    fn marked(&mut self, serial: u64, net: &mut Net) {
        let Some(comparing) = self.comparisons.get_mut(&serial) else { return };
        let answers: Vec<_> =
            comparing.answers.iter().filter_map(|(partition, mark)| Some((*partition, mark.clone()?))).collect();
        if answers.is_empty() && !comparing.answers.is_empty() {
            return self.compare_later(serial, net);
        }
        match comparing.core.marked(&comparing.store.to_string(), &answers) {
            Ok(Marked::SetBack) => return self.compare_later(serial, net),
            Ok(Marked::Stands) => {}
            Err(other) => return self.refused(&other),
        }
        let Some(comparing) = self.comparisons.remove(&serial) else { return };
        for (partition, behind) in comparing.core.behind() {
            let tell = Request::Acknowledge(Vec::new(), behind.clone());
            self.call(Lane::Writer(partition.index()), tell, Purpose::Nothing, net);
        }
        if comparing.core.compares_sources() {
            self.to_be_compared = !comparing.core.is_complete() && !net.is(Planted::PassedOver);
        }
        let Some(op) = comparing.op else { return self.stands(net) };
        let Some(done_on) = self.ops.get_mut(&op) else { return };
        done_on.compare = false;
        let request = done_on.request.clone();
        self.call(Lane::Store, request, Purpose::Op(op), net);
    }

    fn op_done(&mut self, serial: u64, reply: Reply, net: &mut Net) {
        let Some(op) = self.ops.remove(&serial) else { return };
        let certain = |times: u32| if net.is(Planted::NotedTwice) { times } else { op.attempts.certain(times) };
        match (op.then, reply) {
            (Then::Opened, _) => self.opened(net),
            (Then::AttemptNoted(proof), Reply::Failures(times)) => {
                self.happened(&proof, Event::AttemptNoted(certain(times)), net);
            }
            (Then::AttemptsForgotten(proof), _) => self.attempts_forgotten(&proof, net),
            (Then::FailureNoted(proof), Reply::Failures(times)) => {
                self.happened(&proof, Event::FailureNoted(certain(times)), net);
            }
            (Then::Committed(group, writer), reply) => self.committed(&group, writer, reply, net),
            (Then::Buried(group), reply) => self.buried(&group, reply, net),
            (then, reply) => net.violated(|| format!("{reply:?} is no answer to {then:?}")),
        }
    }
}
