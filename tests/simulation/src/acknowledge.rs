//! A collector's acknowledgements, what it lets go, and the claims that it keeps.

use std::collections::BTreeSet;

use crate::collector::{ACKNOWLEDGE_PATIENCE, Collector, Proof, Purpose, of_session};
use crate::messages::{CLAIM_IDLE, Lane, Ms, Request};
use crate::network::Net;
use crate::planted::Planted;
use crate::protocol::receipts::{Acknowledgement, Redelivery, Unacknowledged};
use crate::queue::EntryId;

impl Collector {
    pub(crate) fn acknowledge(&mut self, acknowledgements: Vec<Acknowledgement<EntryId>>, writer: Option<usize>, net: &mut Net) {
        let mut serials = BTreeSet::new();
        for acknowledgement in acknowledgements {
            let serial = self.next_serial();
            serials.insert(serial);
            self.acknowledgements.insert(serial, (acknowledgement, writer.unwrap_or(usize::MAX)));
        }
        if let Some(at) = writer {
            let turn = self.writers[at].turn;
            self.writers[at].waits_for.clone_from(&serials);
            self.wake(ACKNOWLEDGE_PATIENCE, Purpose::WriterGoesOn(at, turn), net);
        }
        for serial in serials {
            self.send_acknowledgement(serial, net);
        }
    }

    pub(crate) fn send_acknowledgement(&mut self, serial: u64, net: &mut Net) {
        let Some((acknowledgement, _)) = self.acknowledgements.get(&serial) else { return };
        let partition = acknowledgement.partition.index();
        let (proofs, mut settled) = (acknowledgement.receipts.clone(), acknowledgement.settled.clone());
        if net.is(Planted::TwoPartitions) {
            let count = u128::from(net.partitions.count());
            settled.retain(|(source, _)| (source.digest().to_u128() >> 64) % count == partition as u128);
        }
        let ignored = net.is(Planted::EpochIgnored);
        let Some(session) = self.session(partition, net) else { return self.not_acknowledged(serial, net) };
        let ids: Vec<EntryId> = match ignored {
            true => proofs.iter().map(|proof| proof.entry).collect(),
            false => session.live(&proofs.iter().map(of_session).collect::<Vec<_>>()),
        };
        let epoch = session.epoch;
        if ids.is_empty() && settled.is_empty() {
            return self.acknowledged(serial, net);
        }
        let purpose = Purpose::Acknowledge(serial, epoch, ids.clone());
        self.call(Lane::Writer(partition), Request::Acknowledge(ids, settled), purpose, net);
    }

    pub(crate) fn acknowledged(&mut self, serial: u64, net: &mut Net) {
        let Some((acknowledgement, writer)) = self.acknowledgements.remove(&serial) else { return };
        for proof in &acknowledgement.receipts {
            self.deliveries.remove(proof);
        }
        self.receipts.acknowledged(&acknowledgement);
        self.acknowledgement_over(serial, writer, net);
    }

    pub(crate) fn acknowledgement_over(&mut self, serial: u64, writer: usize, net: &mut Net) {
        if let Some(waits) = self.writers.get_mut(writer)
            && waits.waits_for.remove(&serial)
            && waits.waits_for.is_empty()
        {
            self.writer_goes_on(writer, net);
        }
    }

    pub(crate) fn not_acknowledged(&mut self, serial: u64, net: &mut Net) {
        let Some((acknowledgement, _)) = self.acknowledgements.get_mut(&serial) else { return };
        match self.receipts.not_acknowledged(acknowledgement) {
            Unacknowledged::Again(rest) => {
                let after = net.within(rest.shortest, rest.longest);
                self.wake(after, Purpose::AcknowledgeAgain(serial), net);
            }
            Unacknowledged::LetGo(redelivery) => {
                let Some((acknowledgement, writer)) = self.acknowledgements.remove(&serial) else { return };
                if !net.is(Planted::FailedAcknowledgementHeld) {
                    self.let_go(&acknowledgement.receipts, redelivery, net);
                }
                self.acknowledgement_over(serial, writer, net);
            }
        }
    }

    /// Lets entries go that are out of hand.
    pub(crate) fn let_go(&mut self, proofs: &[Proof], redelivery: Redelivery, net: &mut Net) {
        for proof in proofs {
            net.trace.line(net.now, format_args!("node {}: lets {} go, {redelivery:?}", self.node, proof.entry));
            self.deliveries.remove(proof);
            if let Some((.., session)) = &mut self.readers[proof.partition.index()].session {
                let ids = session.live(&[of_session(proof)]);
                match redelivery {
                    Redelivery::AtOnce => session.let_go(&ids),
                    Redelivery::AfterIdle => session.forget(&ids),
                }
            }
        }
    }

    pub(crate) fn keep(&mut self, net: &mut Net) {
        for partition in net.partitions {
            let proofs: Vec<_> = self.receipts.in_hand(partition).iter().map(of_session).collect();
            if proofs.is_empty() || net.is(Planted::NotKept) {
                continue;
            }
            if let Some(session) = self.session(partition.index(), net) {
                let ids = session.live(&proofs);
                if !ids.is_empty() {
                    self.call(Lane::Writer(partition.index()), Request::Keep(ids), Purpose::Nothing, net);
                }
            }
        }
        let every = Ms::try_from(self.receipts.settings().keep_every().as_millis()).unwrap_or(CLAIM_IDLE);
        self.wake(every, Purpose::Keep, net);
    }
}
