//! A collector's readers: sessions, reads, and what is delivered.

use crate::collector::{Collector, MAX_DELIVERIES, Purpose, RECONNECT};
use crate::messages::{CLAIM_IDLE, Lane, Outcome, Reply, Request};
use crate::network::Net;
use crate::planted::Planted;
use crate::protocol::receipts::{Arrival, Event, Receipt};
use crate::protocol::rest::Rests;
use crate::session::{self, Delivery, Session};

impl Collector {
    /// The session of a partition, over live connections; `None` where there are none to be had.
    pub(crate) fn session(&mut self, partition: usize, net: &mut Net) -> Option<&mut Session> {
        let connected = (net.connect(self.node, Lane::Reader(partition)), net.connect(self.node, Lane::Writer(partition)));
        let (Some(over_reader), Some(over_writer)) = connected else { return None };
        let reader = &mut self.readers[partition];
        let same = reader.session.as_ref().is_some_and(|(r, w, _)| (*r, *w) == (over_reader, over_writer));
        if !same {
            reader.epochs += 1;
            let former = reader.session.take().map(|(.., session)| session);
            reader.former = former.or(reader.former.take());
            reader.session = Some((over_reader, over_writer, Session::new(reader.epochs, net.now)));
        }
        reader.session.as_mut().map(|(.., session)| session)
    }

    pub(crate) fn read(&mut self, partition: usize, net: &mut Net) {
        let now = net.now;
        let Some(session) = self.session(partition, net) else { return self.read_later(partition, net) };
        let (epoch, read) = (session.epoch, session.next_read(now, MAX_DELIVERIES));
        self.call(Lane::Reader(partition), Request::Read(read.clone()), Purpose::Read(partition, epoch, read), net);
    }

    pub(crate) fn read_later(&mut self, partition: usize, net: &mut Net) {
        let rest = self.readers[partition].rests.next();
        let after = net.within(rest.shortest, rest.longest);
        self.wake(after, Purpose::ReadAgain(partition), net);
    }

    pub(crate) fn read_answered(
        &mut self,
        (partition, epoch, read): (usize, u64, session::Read),
        outcome: Outcome,
        net: &mut Net,
    ) {
        let Outcome::Reply(Reply::Read(answer)) = outcome else {
            if let Some((.., session)) = self.readers[partition].session.as_mut().filter(|(.., session)| session.epoch == epoch) {
                session.failed(MAX_DELIVERIES);
            }
            return self.read_later(partition, net);
        };
        let now = net.now;
        let reader = &mut self.readers[partition];
        reader.rests = Rests::new(RECONNECT.0, RECONNECT.1);
        let session = match &mut reader.session {
            Some((.., session)) if session.epoch == epoch => Some(session),
            _ => reader.former.as_mut().filter(|session| session.epoch == epoch),
        };
        let Some(session) = session else { return self.read(partition, net) };
        match session.take(&read, answer, now, CLAIM_IDLE) {
            session::Step::ReadOn => self.read(partition, net),
            session::Step::MakeGroup => {
                self.call(Lane::Writer(partition), Request::MakeGroup, Purpose::MakeGroup(partition), net);
            }
            session::Step::Deliver(deliveries, gone) => {
                if !gone.is_empty() {
                    self.call(Lane::Writer(partition), Request::AcknowledgeAway(gone), Purpose::Nothing, net);
                }
                self.delivered(partition, deliveries, net);
            }
        }
    }

    pub(crate) fn delivered(&mut self, partition: usize, deliveries: Vec<Delivery>, net: &mut Net) {
        let Some(number) = u16::try_from(partition).ok().and_then(|number| net.partitions.get(number)) else { return };
        let mut arrivals = Vec::new();
        for delivery in deliveries {
            let session::Receipt { entry, epoch } = delivery.receipt;
            let proof = Receipt { partition: number, entry, epoch };
            net.trace.line(
                net.now,
                format_args!("node {}: is given {} of {} at {partition}", self.node, proof.entry, delivery.entry.rows),
            );
            if delivery.redelivered {
                *net.redelivered.entry((delivery.entry.source, delivery.entry.rows)).or_default() += 1;
            }
            let known = self.deliveries.keys().any(|known| known.partition == number && known.entry == entry);
            if known && net.is(Planted::RedeliverySkipped) {
                continue;
            }
            if !net.is(Planted::InHandOneByOne) {
                arrivals.push(Arrival {
                    receipt: proof.clone(),
                    bytes: 1,
                    redelivered: delivery.redelivered,
                    oversize: false,
                    withheld: false,
                });
            }
            self.deliveries.insert(proof.clone(), delivery);
            self.readers[partition].queue.push_back(proof);
        }
        self.receipts.delivered(arrivals);
        self.hand_on(partition, net);
    }

    /// The reader takes up the next of its deliveries, or reads on.
    pub(crate) fn hand_on(&mut self, partition: usize, net: &mut Net) {
        if self.readers[partition].current.is_some() {
            return;
        }
        let Some(proof) = self.readers[partition].queue.pop_front() else { return self.read(partition, net) };
        if net.is(Planted::InHandOneByOne)
            && let Some(delivery) = self.deliveries.get(&proof)
        {
            let redelivered = delivery.redelivered;
            self.receipts.delivered([Arrival {
                receipt: proof.clone(),
                bytes: 1,
                redelivered,
                oversize: false,
                withheld: false,
            }]);
        }
        self.readers[partition].current = Some(proof.clone());
        self.happened(&proof, Event::TakenUp, net);
    }
}
