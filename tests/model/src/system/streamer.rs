//! A streamer: the product's own window and completion of a source, with a connection on which requests are answered in order.

use super::Fault;
use super::engine::{Answer, Batch, Op};
use super::few::Few;
use super::machine::Machine;
use crate::model::Position;
use crate::protocol::completion::{Completion, Goal, Step};
use crate::protocol::window::{Answer as Said, BatchPlan, Command, Halt, Ticket, Window};

/// Batches that a streamer has on their way at most.
const WINDOW: usize = 2;

/// A streamer's source and how it cuts it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Task {
    /// The source.
    pub source: u8,
    /// Its rows.
    pub rows: u8,
    /// Rows of a batch.
    pub step: u8,
}

/// What happens to a streamer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// It puts its next batch on its way.
    Sends,
    /// Its next request is answered.
    Answered(Answer),
    /// Its connection is gone, and with it every answer that was to come.
    Unanswered,
}

/// A batch on its way, and the position that it expects; 0: none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Sent {
    /// The batch.
    pub batch: Batch,
    /// The position.
    pub expected: u8,
}

/// What can be seen of a streamer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct View {
    /// Its next request.
    pub request: Option<Op>,
    /// The batches on their way whose answers are to come, in their order.
    pub on_their_way: Few<Sent>,
    /// Whether it can put another one on its way.
    pub can_send: bool,
    /// Whether it has ended.
    pub is_done: bool,
}

/// What it is doing.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Doing {
    /// It asks for the lease, which says where the queue is.
    Leasing,
    /// It sends.
    Sending(Box<Sending>),
    /// Everything is in the queue.
    Ending,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Sending {
    window: Window,
    /// The row up to which the source was read.
    read: u8,
    /// The batches that the window has, by ticket.
    batches: Vec<(Ticket, Batch)>,
    /// Those whose answers are to come.
    wire: Vec<(Ticket, u64, Sent)>,
    /// Whether it asks where the queue is.
    locates: bool,
    /// A planted fault: the position of the first batch is moved, its entry is not added yet.
    half: bool,
    /// A planted fault: where the first batch is sent, whatever it expects.
    elsewhere: Option<u8>,
}

/// A streamer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Streamer {
    task: Task,
    fault: Option<Fault>,
    doing: Doing,
    /// From its first end on.
    completion: Option<Completion>,
}

fn position(row: u8) -> Option<Position> {
    let tail = format!("{row:032x}").parse().unwrap_or_default();
    (row > 0).then(|| Position { row: row.into(), offset: u64::from(row) * 10, tail })
}

fn row(position: Option<Position>) -> u8 {
    position.map_or(0, |position| u8::try_from(position.row).unwrap_or(u8::MAX))
}

impl Streamer {
    /// One that begins.
    pub fn new(task: Task, fault: Option<Fault>) -> Self {
        Self { task, fault, doing: Doing::Leasing, completion: None }
    }

    fn begin(&mut self, at: u8) {
        let window = Window::new(WINDOW, position(at));
        let (batches, wire) = (Vec::new(), Vec::new());
        self.doing =
            Doing::Sending(Box::new(Sending { window, read: at, batches, wire, locates: false, half: false, elsewhere: None }));
        self.end_if_all_is_sent();
    }

    fn end_if_all_is_sent(&mut self) {
        let Doing::Sending(sending) = &self.doing else { return };
        if sending.read < self.task.rows || !sending.window.is_empty() {
            return;
        }
        let end = u64::from(sending.read);
        match &mut self.completion {
            Some(completion) => completion.sent_again(end),
            None => self.completion = Some(Completion::new(Goal::Stored, end, 0)),
        }
        self.doing = Doing::Ending;
        self.rest();
    }

    /// Rests take no time here, and what was lost is sent again from where the lease says.
    fn rest(&mut self) {
        if let Some(completion) = &mut self.completion {
            if completion.next() == Step::Rest {
                completion.rested();
            }
            if completion.next() == Step::SendAgain {
                self.doing = Doing::Leasing;
            }
        }
    }

    /// Carries out what the window says.
    fn carry_out(&mut self) {
        let Doing::Sending(sending) = &mut self.doing else { return };
        while let Some(command) = sending.window.command() {
            match command {
                Command::Publish { ticket, attempt, expected, .. } => {
                    let Some((_, batch)) = sending.batches.iter().find(|(one, _)| *one == ticket) else { continue };
                    let expected = sending.elsewhere.take().unwrap_or_else(|| row(expected));
                    sending.wire.push((ticket, attempt, Sent { batch: *batch, expected }));
                }
                Command::Accepted { ticket } => sending.batches.retain(|(one, _)| *one != ticket),
                Command::Locate => sending.locates = true,
                Command::Rest(_) => sending.window.rested(),
                Command::Waiting { .. } | Command::NoLongerWaiting => {}
                Command::Halt(Halt::Elsewhere(_)) => {
                    self.doing = Doing::Leasing;
                    return;
                }
                Command::Halt(Halt::Fatal) => panic!("a window halts without a reason"),
            }
        }
        self.end_if_all_is_sent();
    }

    fn answered(&mut self, answer: Answer) {
        let fault = self.fault;
        match &mut self.doing {
            Doing::Leasing => {
                if let Answer::Row(at) = answer {
                    self.begin(at);
                }
            }
            Doing::Sending(sending) if sending.locates => {
                let Answer::Row(at) = answer else { return };
                sending.locates = false;
                let is_known =
                    position(at) == sending.window.confirmed() || sending.batches.iter().any(|(_, batch)| batch.end == at);
                if fault == Some(Fault::LeaseIsOwnership) && !is_known {
                    sending.elsewhere = Some(at);
                    let confirmed = sending.window.confirmed();
                    sending.window.located(confirmed);
                } else {
                    sending.window.located(position(at));
                }
                self.carry_out();
            }
            Doing::Sending(sending) if !sending.wire.is_empty() => {
                if fault == Some(Fault::PositionFirst) && answer == Answer::Accepted && !sending.half {
                    sending.half = true;
                    return;
                }
                sending.half = false;
                let (ticket, attempt, _) = sending.wire.remove(0);
                let said = if answer == Answer::Accepted { Said::Accepted } else { Said::Moved };
                sending.window.answered(ticket, attempt, said);
                self.carry_out();
            }
            Doing::Sending(_) => {}
            Doing::Ending => {
                let (Some(completion), Answer::Row(at)) = (&mut self.completion, answer) else { return };
                match completion.next() {
                    Step::AskCommitted if fault == Some(Fault::EndsWhenAccepted) => completion.committed(u64::MAX),
                    Step::AskCommitted => completion.committed(at.into()),
                    Step::Locate => completion.located(position(at)),
                    _ => {}
                }
                self.rest();
            }
        }
    }

    fn unanswered(&mut self) {
        let Doing::Sending(sending) = &mut self.doing else { return };
        sending.half = false;
        for (ticket, attempt, _) in std::mem::take(&mut sending.wire) {
            sending.window.answered(ticket, attempt, Said::Away { blocked: false });
        }
        self.carry_out();
    }

    fn request(&self) -> Option<Op> {
        let source = self.task.source;
        match &self.doing {
            Doing::Leasing => Some(Op::Lease { source }),
            Doing::Sending(sending) if sending.locates => Some(Op::Locate { source }),
            Doing::Sending(sending) => sending.wire.first().map(|(_, _, sent)| match sending.half {
                true => Op::Add { batch: sent.batch },
                false => Op::Publish { batch: sent.batch, expected: sent.expected },
            }),
            Doing::Ending => match self.completion.as_ref().map(Completion::next) {
                Some(Step::AskCommitted) => Some(Op::Committed { source }),
                Some(Step::Locate) => Some(Op::Locate { source }),
                _ => None,
            },
        }
    }
}

impl Machine for Streamer {
    type Event = Event;
    type View = View;

    fn happens(&mut self, event: Event) {
        match event {
            Event::Sends => {
                let Doing::Sending(sending) = &mut self.doing else { return };
                let end = (sending.read + self.task.step).min(self.task.rows);
                let batch = Batch { source: self.task.source, first: sending.read, end };
                let Some(next) = position(end) else { return };
                let ticket = sending.window.push(BatchPlan { next, dictionaries: Vec::new() });
                sending.batches.push((ticket, batch));
                sending.read = end;
                self.carry_out();
            }
            Event::Answered(answer) => self.answered(answer),
            Event::Unanswered => self.unanswered(),
        }
    }

    fn view(&self) -> View {
        let is_done = matches!(self.doing, Doing::Ending) && self.completion.as_ref().map(Completion::next) == Some(Step::Finish);
        let (can_send, on_their_way) = match &self.doing {
            Doing::Sending(sending) => {
                let can_send = sending.read < self.task.rows && sending.window.has_room();
                (can_send, sending.wire.iter().map(|(_, _, sent)| *sent).collect())
            }
            _ => (false, Few::default()),
        };
        View { request: self.request(), on_their_way, can_send, is_done }
    }
}
