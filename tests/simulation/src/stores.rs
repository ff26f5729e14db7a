//! Calls to stores: each is alone, and a commit takes two steps, between which others commit.

use crate::ledger::Group as Commit;
use crate::messages::{Event, Health, Id, Outcome, Reply, Request};
use crate::model::RowSet;
use crate::network::{Incoming, Net};
use crate::planted::Planted;

impl Net {
    pub(crate) fn arrive_at_store(&mut self, id: Id) -> Incoming {
        let Some(call) = self.calls.get_mut(&id) else { return Incoming::Nothing };
        let shop = &mut self.shops[usize::from(call.group)];
        if shop.away_until > self.now {
            call.request = None;
            return self.answer(id, Outcome::Lost);
        }
        let checks = matches!(call.request, Some(Request::Commit(..) | Request::Bury(..) | Request::Standing));
        let seen = match checks || matches!(call.request, Some(Request::StoreId)) {
            true => std::mem::replace(&mut self.seen_run[call.node], shop.run),
            false => 0,
        };
        if checks && seen != 0 && seen != shop.run && self.planted != Some(Planted::StoreReplacedUnnoticed) {
            // It may be an older state: that counts as having been away.
            call.request = None;
            return self.answer(id, Outcome::Lost);
        }
        if let Some(Request::Commit(expected, batches)) = &call.request
            && *expected == shop.ledger.id
            && !batches.iter().any(|(.., health)| matches!(health, Health::Bad | Health::Hidden))
        {
            let group: Commit = batches.iter().map(|(source, rows, _)| (*source, *rows)).collect();
            let (run, learnt) = (shop.run, shop.ledger.learn(&group));
            let after = [1, 10, 100, 2_500][self.choices.below(4) as usize];
            self.schedule(self.now + after, Event::Apply(id, run, learnt));
            return Incoming::Nothing;
        }
        let Some(request) = call.request.take() else { return Incoming::Nothing };
        let (lost, node) = (call.answer_lost, call.node);
        let reply = self.ask_store(node, request);
        if lost {
            self.schedule_give_up(id);
            return Incoming::Nothing;
        }
        let at = self.now + self.delay();
        self.schedule(at, Event::Answer(id, Outcome::Reply(reply)));
        Incoming::Nothing
    }

    /// The second part of a commit.
    pub(crate) fn apply(&mut self, id: Id, run: u64, learnt: &[RowSet]) -> Incoming {
        let Some(call) = self.calls.get_mut(&id) else { return Incoming::Nothing };
        let shop = &mut self.shops[usize::from(call.group)];
        let Some(Request::Commit(_, batches)) = call.request.take() else { return Incoming::Nothing };
        if shop.run != run || shop.away_until > self.now {
            return self.answer(id, Outcome::Lost);
        }
        let group: Commit = batches.iter().map(|(source, rows, _)| (*source, *rows)).collect();
        let settled = shop.ledger.commit(&group, learnt, self.planted);
        self.touched = true;
        let (lost, node) = (call.answer_lost, call.node);
        self.trace.line(self.now, format_args!("node {node}: {} batches are committed", group.len()));
        if lost {
            self.schedule_give_up(id);
            return Incoming::Nothing;
        }
        let at = self.now + self.delay();
        self.schedule(at, Event::Answer(id, Outcome::Reply(Reply::Settled(settled))));
        Incoming::Nothing
    }
}
