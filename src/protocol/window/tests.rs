use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::Digest;

fn position(row: u64) -> Position {
    Position { row, offset: 10 * row, tail: Digest::from_u128(row.into()) }
}

fn id(number: u128) -> DictionaryId {
    DictionaryId::from_digest(Digest::from_u128(number))
}

fn plan(next: u64, dictionaries: &[u128]) -> BatchPlan {
    BatchPlan { next: position(next), dictionaries: dictionaries.iter().map(|number| id(*number)).collect() }
}

fn commands(window: &mut Window) -> Vec<Command> {
    std::iter::from_fn(|| window.command()).collect()
}

fn publish(number: u64, attempt: u64, expected: Option<u64>, with: &[u128]) -> Command {
    let with = with.iter().map(|number| id(*number)).collect();
    Command::Publish { ticket: Ticket(number), attempt, expected: expected.map(position), with }
}

fn accepted(number: u64) -> Command {
    Command::Accepted { ticket: Ticket(number) }
}

/// A window with three batches of ten rows on their way, each with the dictionaries 1 and 10 + its number.
fn three() -> Window {
    let mut window = Window::new(3, None);
    for number in 0..3u64 {
        assert!(window.has_room());
        window.push(plan(10 * (number + 1), &[1, 10 + u128::from(number)]));
    }
    assert_eq!(
        commands(&mut window),
        [publish(0, 0, None, &[1, 10]), publish(1, 0, Some(10), &[11]), publish(2, 0, Some(20), &[12])]
    );
    window
}

fn answer(window: &mut Window, number: u64, attempt: u64, answer: Answer) -> Vec<Command> {
    window.answered(Ticket(number), attempt, answer);
    commands(window)
}

/// Everything of an attempt is answered like this.
fn answer_all(window: &mut Window, attempt: u64, said: &Answer) -> Vec<Command> {
    (0..3).flat_map(|number| answer(window, number, attempt, said.clone())).collect()
}

/// What is sent the second time: what went along is sent once more.
fn all_again() -> [Command; 3] {
    [publish(0, 1, None, &[1, 10]), publish(1, 1, Some(10), &[11]), publish(2, 1, Some(20), &[12])]
}

#[test]
fn batches_are_accepted_in_order_however_the_answers_come() {
    let mut window = three();
    assert!(!window.has_room());
    assert_eq!(answer(&mut window, 1, 0, Answer::Accepted), []);
    assert_eq!((window.awaited(), window.confirmed()), (Some(Ticket(0)), None));
    assert_eq!(answer(&mut window, 0, 0, Answer::Accepted), [accepted(0), accepted(1)]);
    assert_eq!((window.awaited(), window.confirmed(), window.len()), (Some(Ticket(2)), Some(position(20)), 1));
    window.push(plan(40, &[1, 12, 99]));
    assert_eq!(commands(&mut window), [publish(3, 0, Some(30), &[99])]);
    assert_eq!(answer(&mut window, 2, 0, Answer::Accepted), [accepted(2)]);
    assert_eq!(answer(&mut window, 3, 0, Answer::Accepted), [accepted(3)]);
    assert!(window.is_empty() && window.is_flowing());
    assert!(!is_elsewhere(Some(position(40)), window.confirmed()) && is_elsewhere(Some(position(30)), window.confirmed()));
    assert!(is_elsewhere(None, window.confirmed()) && !is_elsewhere(None, Window::new(1, None).confirmed()));
}

#[test]
fn a_refusal_is_acted_on_when_all_are_answered() {
    let mut window = three();
    assert_eq!(answer(&mut window, 0, 0, Answer::Moved), []);
    assert_eq!((window.awaited(), window.has_room()), (Some(Ticket(1)), false));
    assert_eq!(answer(&mut window, 2, 0, Answer::Fatal), [], "they are not sent on their own account");
    assert_eq!(answer(&mut window, 1, 0, Answer::Accepted), [Command::Locate]);
    assert_eq!(window.awaited(), None);
    window.located(Some(position(20)));
    assert_eq!(commands(&mut window), [accepted(0), accepted(1), publish(2, 1, Some(20), &[12])]);
    assert!(!window.is_flowing() && !window.has_room(), "until the first one is accepted");
    assert_eq!(answer(&mut window, 2, 1, Answer::Accepted), [accepted(2)]);
    assert!(window.is_flowing() && window.has_room());
}

#[test]
fn what_was_said_to_an_earlier_attempt_or_twice_is_no_answer() {
    let mut window = three();
    assert_eq!(answer_all(&mut window, 0, &Answer::Moved), [Command::Locate]);
    assert_eq!(answer(&mut window, 0, 0, Answer::Accepted), []);
    window.located(None);
    assert_eq!(commands(&mut window), all_again());
    assert_eq!(answer_all(&mut window, 0, &Answer::Accepted), []);
    assert_eq!(answer(&mut window, 1, 1, Answer::Accepted), []);
    assert_eq!(answer(&mut window, 1, 1, Answer::Fatal), []);
    assert_eq!(answer(&mut window, 0, 1, Answer::Accepted), [accepted(0), accepted(1)]);
    assert_eq!(answer(&mut window, 0, 1, Answer::Fatal), []);
    assert_eq!(answer(&mut window, 7, 1, Answer::Fatal), []);
    window.rested();
    window.located(None);
    window.not_located();
    assert_eq!(commands(&mut window), [], "nobody has asked");
}

#[test]
fn a_full_queue_is_waited_for_and_said_to_be() {
    let mut window = three();
    let waiting = |begins| Command::Waiting { obstacle: Obstacle::Full, begins };
    let rest = |longest| Command::Rest(Rest { shortest: REST.0, longest: Duration::from_millis(longest) });
    for (attempt, longest) in [(0, 200), (1, 400), (2, 800), (3, 1600), (4, 2000), (5, 2000)] {
        assert_eq!(answer_all(&mut window, attempt, &Answer::Full), [waiting(attempt == 0), rest(longest)]);
        window.rested();
        let again = commands(&mut window);
        assert_eq!(again.len(), 3, "it is not asked where it is: it was where it was to be");
        assert_eq!(again == all_again(), attempt == 0, "dictionaries go along once more, not again and again");
    }
    assert_eq!(answer(&mut window, 0, 6, Answer::Accepted), [accepted(0), Command::NoLongerWaiting]);
    assert_eq!(answer(&mut window, 1, 6, Answer::Full), [waiting(true)]);
    assert_eq!(answer(&mut window, 2, 6, Answer::Moved), [rest(200)], "from the shortest rest on");
}

#[test]
fn a_queue_that_is_away_is_asked_where_it_is_until_it_answers() {
    let mut window = three();
    let commands_of = |window: &mut Window| commands(window);
    assert!(matches!(answer_all(&mut window, 0, &Answer::Away { blocked: false })[..], [Command::Rest(_)]));
    for _ in 0..3 {
        window.rested();
        assert_eq!(commands_of(&mut window), [Command::Locate]);
        window.not_located();
        assert!(matches!(commands_of(&mut window)[..], [Command::Rest(_)]));
    }
    window.rested();
    window.located(Some(position(30)));
    assert_eq!(commands_of(&mut window), [Command::Locate, accepted(0), accepted(1), accepted(2)]);
    assert!(window.is_flowing() && window.is_empty());
}

#[test]
fn what_has_to_be_mended_is_said_until_it_is() {
    let mut window = three();
    let blocked = |begins| Command::Waiting { obstacle: Obstacle::Blocked, begins };
    let said = answer_all(&mut window, 0, &Answer::Away { blocked: true });
    assert!(matches!(&said[..], [waiting, Command::Rest(_)] if *waiting == blocked(true)), "{said:?}");
    window.rested();
    window.located(None);
    commands(&mut window);
    assert_eq!(answer(&mut window, 0, 1, Answer::Full), [Command::Waiting { obstacle: Obstacle::Full, begins: false }]);
    for number in [1, 2] {
        answer(&mut window, number, 1, Answer::Moved);
    }
    window.rested();
    commands(&mut window);
    assert_eq!(answer(&mut window, 0, 2, Answer::Accepted), [accepted(0), Command::NoLongerWaiting]);
}

/// However the wait ends, it is said: what serves readiness would else be told for ever that the queue is full.
#[test]
fn a_wait_ends_also_where_the_queue_turns_out_to_have_everything_or_to_be_elsewhere() {
    for (to, last) in [(Some(position(30)), None), (Some(position(7)), Some(Command::Halt(Halt::Elsewhere(Some(position(7))))))] {
        let mut window = three();
        answer_all(&mut window, 0, &Answer::Full);
        window.rested();
        commands(&mut window);
        assert_eq!(answer_all(&mut window, 1, &Answer::Moved), [Command::Locate]);
        window.located(to);
        let said = commands(&mut window);
        assert!(said.contains(&Command::NoLongerWaiting), "{said:?}");
        assert_eq!(said.last(), last.as_ref().or(Some(&Command::NoLongerWaiting)));
    }
}

#[test]
fn dictionaries_that_are_asked_for_go_with_the_first() {
    let mut window = three();
    answer(&mut window, 0, 0, Answer::Accepted);
    answer(&mut window, 1, 0, Answer::NeedDictionaries(vec![id(1), id(12)]));
    assert_eq!(
        answer(&mut window, 2, 0, Answer::Moved),
        [publish(1, 1, Some(10), &[1, 11]), publish(2, 1, Some(20), &[12])],
        "those of its own that are missing, and again those that it had with it"
    );
    assert_eq!(answer(&mut window, 1, 1, Answer::Accepted), [accepted(1)]);
    assert_eq!(answer(&mut window, 2, 1, Answer::Away { blocked: false }).len(), 1);
    window.rested();
    window.located(Some(position(20)));
    assert_eq!(
        commands(&mut window),
        [Command::Locate, publish(2, 2, Some(20), &[])],
        "they go along once more, and then when asked for"
    );
}

/// The queue lets go of a dictionary that it has not needed for a while, and the next batch brings another one.
#[test]
fn a_new_dictionary_is_not_left_behind_for_one_that_is_asked_for() {
    let mut window = three();
    answer_all(&mut window, 0, &Answer::Accepted);
    window.push(plan(40, &[1, 2]));
    assert_eq!(commands(&mut window), [publish(3, 0, Some(30), &[2])]);
    assert_eq!(answer(&mut window, 3, 0, Answer::NeedDictionaries(vec![id(1)])), [publish(3, 1, Some(30), &[1, 2])]);
}

#[test]
fn a_position_that_no_batch_makes_ends_the_window() {
    for to in [None, Some(position(5)), Some(position(35)), Some(Position { tail: Digest::default(), ..position(20) })] {
        let mut window = Window::new(3, Some(position(1)));
        window.push(plan(10, &[]));
        window.push(plan(20, &[]));
        commands(&mut window);
        assert_eq!(answer(&mut window, 0, 0, Answer::Moved), []);
        assert_eq!(answer(&mut window, 1, 0, Answer::Moved), [Command::Locate]);
        window.located(to);
        assert_eq!(commands(&mut window), [Command::Halt(Halt::Elsewhere(to))]);
        assert_closed(&mut window);
    }
}

#[test]
fn what_waiting_cannot_help_ends_the_window() {
    let mut window = three();
    assert_eq!(answer(&mut window, 0, 0, Answer::Fatal), [Command::Halt(Halt::Fatal)]);
    assert_closed(&mut window);
    let mut window = three();
    answer_all(&mut window, 0, &Answer::Moved);
    window.failed();
    assert_eq!(commands(&mut window), [Command::Halt(Halt::Fatal)]);
    assert_closed(&mut window);
}

fn assert_closed(window: &mut Window) {
    assert!(!window.has_room() && window.awaited().is_none());
    window.rested();
    window.located(None);
    window.not_located();
    window.failed();
    window.answered(Ticket(0), 0, Answer::Accepted);
    assert_eq!(commands(window), []);
}

/// A queue that accepts what follows, on a line that loses, keeps and repeats.
#[derive(Default)]
struct Line {
    at: Option<Position>,
    dictionaries: BTreeSet<DictionaryId>,
    /// The batches that were accepted, in order.
    entries: Vec<Ticket>,
    full: bool,
    /// What is on its way there, and what was on its way when its answer was given up.
    on_the_way: VecDeque<Sent>,
    late: Vec<Sent>,
    /// What is on its way back.
    answers: Vec<(Ticket, u64, Answer)>,
    locating: bool,
    resting: bool,
    halted: Option<Halt>,
    plans: BTreeMap<Ticket, BatchPlan>,
    /// The batches that left the window.
    accepted: Vec<Ticket>,
    attempt: u64,
}

#[derive(Clone)]
struct Sent {
    ticket: Ticket,
    attempt: u64,
    expected: Option<Position>,
    with: Vec<DictionaryId>,
}

impl Line {
    fn publish(&mut self, sent: &Sent) -> Answer {
        let plan = &self.plans[&sent.ticket];
        if self.at != sent.expected {
            return Answer::Moved;
        }
        if self.full {
            return Answer::Full;
        }
        let has = |id: &&DictionaryId| !self.dictionaries.contains(id) && !sent.with.contains(id);
        let missing: Vec<_> = plan.dictionaries.iter().filter(has).copied().collect();
        if !missing.is_empty() {
            return Answer::NeedDictionaries(missing);
        }
        self.dictionaries.extend(&sent.with);
        self.at = Some(plan.next);
        self.entries.push(sent.ticket);
        Answer::Accepted
    }

    fn arrive(&mut self) {
        if let Some(sent) = self.on_the_way.pop_front() {
            let answer = self.publish(&sent);
            self.answers.push((sent.ticket, sent.attempt, answer));
        }
    }

    fn carry_out(&mut self, window: &mut Window) {
        while let Some(command) = window.command() {
            assert_eq!(self.halted, None, "nothing is done after the end: {command:?}");
            match command {
                Command::Publish { ticket, attempt, expected, with } => {
                    assert!(attempt >= self.attempt);
                    self.attempt = attempt;
                    self.on_the_way.push_back(Sent { ticket, attempt, expected, with });
                }
                Command::Accepted { ticket } => self.accepted.push(ticket),
                Command::Locate => self.locating = true,
                Command::Rest(rest) => {
                    assert!(rest.shortest <= rest.longest && rest.longest <= REST.1);
                    self.resting = true;
                }
                Command::Halt(halt) => self.halted = Some(halt),
                Command::Waiting { .. } | Command::NoLongerWaiting => {}
            }
        }
    }

    /// One step, chosen by a number.
    fn step(&mut self, window: &mut Window, choice: u8, faults: bool) {
        let pick = |length: usize| usize::from(choice) % length;
        match choice % if faults { 14 } else { 5 } {
            0 | 1 => self.arrive(),
            2 if !self.answers.is_empty() => {
                let (ticket, attempt, answer) = self.answers.swap_remove(pick(self.answers.len()));
                window.answered(ticket, attempt, answer);
            }
            3 if self.resting => {
                self.resting = false;
                window.rested();
            }
            4 if self.locating => {
                self.locating = false;
                window.located(self.at);
            }
            // The line is cut: what is on its way may still arrive, its answers do not.
            5 => {
                for sent in std::mem::take(&mut self.on_the_way) {
                    window.answered(sent.ticket, sent.attempt, Answer::Away { blocked: choice > 127 });
                    self.late.push(sent);
                }
                for (ticket, attempt, _) in std::mem::take(&mut self.answers) {
                    window.answered(ticket, attempt, Answer::Away { blocked: false });
                }
            }
            6 if !self.late.is_empty() => {
                let sent = self.late[pick(self.late.len())].clone();
                self.publish(&sent);
            }
            7 if self.locating => {
                self.locating = false;
                window.not_located();
            }
            8 => self.full = !self.full,
            9 => drop(self.dictionaries.pop_first()),
            // An answer to an earlier attempt.
            10 if self.attempt > 0 => window.answered(Ticket(u64::from(choice) % 8), self.attempt - 1, Answer::Accepted),
            _ => {}
        }
        self.carry_out(window);
    }
}

proptest! {
    /// On a queue that loses nothing, over a line that loses, delays and repeats everything: each batch is in the queue once, in order; what
    /// left the window is in the queue; and once the line is good again, everything gets there.
    #[test]
    fn each_batch_gets_there_once_and_in_order(
        size in 1usize..5,
        batches in prop::collection::vec(prop::collection::vec(0u128..6, 0..4), 1..12),
        choices in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let (mut window, mut line) = (Window::new(size, None), Line::default());
        let mut waiting: VecDeque<_> = batches.iter().zip(1u64..).map(|(dictionaries, number)| plan(number, dictionaries)).collect();
        let calm = (0u8..=255).cycle().take(20_000);
        for (choice, faults) in choices.into_iter().map(|choice| (choice, true)).chain(calm.map(|choice| (choice, false))) {
            if !faults {
                line.full = false;
            }
            if window.has_room() && let Some(plan) = waiting.pop_front() {
                let ticket = window.push(plan.clone());
                prop_assert!(line.plans.insert(ticket, plan).is_none(), "no ticket is given twice");
                line.carry_out(&mut window);
            }
            line.step(&mut window, choice, faults);
            prop_assert!(window.len() <= size);
            prop_assert_eq!(line.halted, None);
            prop_assert!(line.entries.iter().zip(0..).all(|(ticket, place)| ticket.number() == place));
            prop_assert!(line.accepted.len() <= line.entries.len());
            prop_assert!(line.accepted.iter().zip(0..).all(|(ticket, place)| ticket.number() == place));
            if waiting.is_empty() && window.is_empty() {
                break;
            }
        }
        prop_assert_eq!(line.accepted.len(), batches.len(), "{:?}", window);
        prop_assert_eq!(line.entries, line.accepted);
        prop_assert!(window.is_flowing());
    }

    /// A queue that loses its position, and perhaps gets back an earlier one: the window goes on from one of its own batches, or says where the
    /// queue is; it never waits for nothing.
    #[test]
    fn a_loss_is_noticed(
        size in 1usize..5,
        lost_to in prop::option::of(0u64..9),
        before in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let (mut window, mut line) = (Window::new(size, None), Line::default());
        let mut next = 1;
        let calm = (0u8..=255).cycle().take(20_000);
        for (place, choice) in before.iter().copied().chain(calm).enumerate() {
            if window.has_room() {
                let plan = plan(next, &[1]);
                let ticket = window.push(plan.clone());
                line.plans.insert(ticket, plan);
                next += 1;
                line.carry_out(&mut window);
            }
            line.step(&mut window, choice, false);
            if place == before.len() {
                line.at = lost_to.map(position).filter(|to| line.at.is_some_and(|at| to.row <= at.row));
                line.dictionaries.clear();
            }
            if line.halted.is_some() || (place > before.len() && next > 40) {
                break;
            }
        }
        match line.halted {
            Some(halt) => prop_assert_eq!(halt, Halt::Elsewhere(line.at)),
            None => prop_assert!(next > 40, "it neither goes on nor says why: {:?}", window),
        }
    }
}
