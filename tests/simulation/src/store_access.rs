//! A collector and its store: what is done on it is done as often as it takes, and one that was away is compared before it is used again.

use std::collections::BTreeMap;

use crate::collector::{Collector, Proof, Purpose};
use crate::messages::{Lane, Outcome, Reply, Request};
use crate::network::Net;
use crate::planted::Planted;
use crate::protocol::receipts::{Event, StoreAttempts, compare, same_mark};

/// What follows.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    Opened,
    Stands,
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
    /// The store's id, while it is compared.
    comparing: Option<u64>,
    marks: BTreeMap<usize, Option<u64>>,
    /// A partition could not be asked.
    passed_over: bool,
}

impl Collector {
    pub(crate) fn begin_op(&mut self, request: Request, then: Then, compare: bool, net: &mut Net) {
        let serial = self.next_serial();
        let op = Op {
            request,
            then,
            attempts: StoreAttempts::default(),
            compare,
            comparing: None,
            marks: BTreeMap::new(),
            passed_over: false,
        };
        self.ops.insert(serial, op);
        self.attempt_op(serial, net);
    }

    pub(crate) fn attempt_op(&mut self, serial: u64, net: &mut Net) {
        let Some(op) = self.ops.get_mut(&serial) else { return };
        let compared = (op.attempts.must_compare() && !net.is(Planted::StoreNotCompared)) || op.compare;
        op.comparing = compared.then_some(0);
        op.marks.clear();
        op.passed_over = false;
        let request = if compared { Request::StoreId } else { op.request.clone() };
        self.call(Lane::Store, request, Purpose::Op(serial), net);
    }

    fn op_away(&mut self, serial: u64, net: &mut Net) {
        let Some(op) = self.ops.get_mut(&serial) else { return };
        let rest = op.attempts.away();
        let after = net.within(rest.shortest, rest.longest);
        self.wake(after, Purpose::OpAgain(serial), net);
    }

    pub(crate) fn op_answered(&mut self, purpose: Purpose, outcome: Outcome, net: &mut Net) {
        match purpose {
            Purpose::Op(serial) => {
                let Outcome::Reply(reply) = outcome else { return self.op_away(serial, net) };
                let Some(op) = self.ops.get_mut(&serial) else { return };
                match (&reply, op.comparing) {
                    (Reply::OtherStore, _) => self.ended = Some("it is another store".to_owned()),
                    (Reply::StoreId(id), Some(_)) => {
                        op.comparing = Some(*id);
                        let id = *id;
                        for partition in net.partitions {
                            let at = partition.index();
                            self.call(Lane::Link(at), Request::Mark(id), Purpose::Mark(serial, at), net);
                        }
                    }
                    _ => self.op_done(serial, reply, net),
                }
            }
            Purpose::Mark(serial, partition) => {
                let Some(op) = self.ops.get_mut(&serial) else { return };
                let mark = if let Outcome::Reply(Reply::Mark(mark)) = outcome { Some(mark) } else { None };
                op.marks.insert(partition, mark);
                if op.marks.len() < usize::from(net.partitions.count()) {
                    return;
                }
                let id = op.comparing.unwrap_or(0);
                let mut known = op.marks.values().flatten().copied().peekable();
                if known.peek().is_none() {
                    return self.op_away(serial, net);
                }
                let mark = known.find(|mark| *mark != id).unwrap_or(id);
                match same_mark(&id.to_string(), &mark.to_string()) {
                    Ok(()) => self.ask_sources(serial, 0, net),
                    Err(error) => self.ended = Some(format!("{error:?}")),
                }
            }
            Purpose::Sources(serial, partition) => match outcome {
                Outcome::Reply(Reply::Sources(sources)) => {
                    let committed: Vec<_> = sources.into_iter().map(|(source, _, committed)| (source, committed)).collect();
                    let asked = committed.iter().map(|(source, _)| *source).collect();
                    self.call(Lane::Store, Request::Settled(asked), Purpose::Settled(serial, partition, committed), net);
                }
                // A node that is away keeps nobody from the partitions of the others: its own are compared later.
                _ => {
                    if let Some(op) = self.ops.get_mut(&serial) {
                        op.passed_over = !net.is(Planted::PassedOver);
                    }
                    self.ask_sources(serial, partition + 1, net);
                }
            },
            Purpose::Settled(serial, partition, committed) => match outcome {
                Outcome::Reply(Reply::Settled(settled)) => match compare(&committed, &settled) {
                    Ok(behind) => {
                        if !behind.is_empty() {
                            let tell = Request::Acknowledge(Vec::new(), behind);
                            self.call(Lane::Writer(partition), tell, Purpose::Nothing, net);
                        }
                        self.ask_sources(serial, partition + 1, net);
                    }
                    Err(error) => self.ended = Some(format!("{error:?}")),
                },
                _ => self.op_away(serial, net),
            },
            _ => {}
        }
    }

    fn ask_sources(&mut self, serial: u64, partition: usize, net: &mut Net) {
        if partition < usize::from(net.partitions.count()) {
            return self.call(Lane::Link(partition), Request::Sources, Purpose::Sources(serial, partition), net);
        }
        let Some(op) = self.ops.get_mut(&serial) else { return };
        op.compare = false;
        self.to_be_compared = op.passed_over;
        let (id, request) = (op.comparing.take(), op.request.clone());
        self.store_id = id.unwrap_or(self.store_id);
        self.call(Lane::Store, request, Purpose::Op(serial), net);
    }

    fn op_done(&mut self, serial: u64, reply: Reply, net: &mut Net) {
        let Some(op) = self.ops.remove(&serial) else { return };
        let certain = |times: u32| if net.is(Planted::NotedTwice) { times } else { op.attempts.certain(times) };
        match (op.then, reply) {
            (Then::Opened, _) => self.opened(net),
            (Then::Stands, _) => self.stands(net),
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
