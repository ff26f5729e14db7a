use proptest::prelude::*;

use super::*;

fn at(row: u64) -> Position {
    Position { row, ..Position::default() }
}

#[test]
fn a_source_is_done_in_the_queue_when_it_is_replicated_and_still_there() {
    let mut completion = Completion::new(Goal::Queued, 7, 0);
    for (replicated, position) in [(false, Some(at(7))), (true, Some(at(6))), (true, None), (false, None)] {
        assert_eq!(completion.next(), Step::AskReplicated);
        completion.replicated(replicated, position);
        assert_eq!(completion.next(), Step::Rest, "{replicated} {position:?}");
        completion.others_ended(0);
    }
    completion.replicated(true, Some(at(7)));
    assert_eq!(completion.next(), Step::Finish);
}

#[test]
fn a_source_is_done_in_the_store_when_the_store_has_all_rows() {
    let mut completion = Completion::new(Goal::Stored, 7, 0);
    assert_eq!(completion.next(), Step::AskCommitted);
    completion.committed(6);
    assert_eq!(completion.next(), Step::Rest);
    completion.rested();
    completion.located(Some(at(7)));
    assert_eq!(completion.next(), Step::AskCommitted);
    completion.committed(7);
    assert_eq!(completion.next(), Step::Finish);
}

#[test]
fn what_the_queue_has_lost_is_sent_again_while_others_are_not_at_their_end() {
    let mut completion = Completion::new(Goal::Queued, 7, 2);
    for lost in [None, Some(at(0)), Some(at(6))] {
        assert_eq!(completion.next(), Step::Rest);
        completion.rested();
        assert_eq!(completion.next(), Step::Locate);
        completion.located(lost);
        assert_eq!(completion.next(), Step::SendAgain, "{lost:?}");
        completion.sent_again(7);
    }
    completion.others_ended(1);
    assert_eq!(completion.next(), Step::Rest);
    completion.others_ended(0);
    assert_eq!(completion.next(), Step::AskReplicated);
}

#[test]
fn a_source_without_rows_is_done_when_the_others_are_and_cannot_be_lost() {
    let mut completion = Completion::new(Goal::Stored, 0, 1);
    completion.rested();
    completion.located(None);
    assert_eq!(completion.next(), Step::Rest);
    completion.others_ended(0);
    assert_eq!(completion.next(), Step::Finish);
}

#[test]
fn a_queue_that_is_away_is_asked_again() {
    let mut completion = Completion::new(Goal::Queued, 7, 0);
    completion.unanswered();
    assert_eq!(completion.next(), Step::Rest);
    completion.rested();
    completion.unanswered();
    assert_eq!(completion.next(), Step::AskReplicated, "the queue may have lost nothing");
}

proptest! {
    /// Whatever is answered in whatever order: a source is done only by an answer that says that everything is where it is to be, and what was
    /// not asked changes nothing.
    #[test]
    fn a_source_is_done_only_when_all_of_it_is_there(
        stored: bool,
        end in 0u64..4,
        unfinished in 0usize..3,
        events in prop::collection::vec((0u8..7, 0u64..5, any::<bool>()), 0..60),
    ) {
        let goal = if stored { Goal::Stored } else { Goal::Queued };
        let mut completion = Completion::new(goal, end, unfinished);
        let (mut end, mut unfinished) = (end, unfinished);
        for (event, row, flag) in events {
            let before = completion.next();
            if before == Step::Finish {
                break;
            }
            prop_assert_eq!(completion.end(), end);
            let position = flag.then_some(row).map(at);
            match event {
                0 => {
                    unfinished = unfinished.saturating_sub(1);
                    completion.others_ended(unfinished);
                    prop_assert!(before == Step::Rest || completion.next() == before);
                }
                1 => completion.rested(),
                2 => completion.committed(row),
                3 => completion.replicated(flag, Some(at(row))),
                4 => completion.located(position),
                5 => completion.unanswered(),
                _ => {
                    completion.sent_again(row);
                    if before == Step::SendAgain {
                        end = row;
                    }
                }
            }
            if completion.next() == Step::Finish {
                prop_assert_eq!(unfinished, 0);
                let there = match (before, event) {
                    (Step::AskCommitted, 2) => stored && row >= end,
                    (Step::AskReplicated, 3) => !stored && flag && row >= end,
                    _ => end == 0,
                };
                prop_assert!(there, "{before:?} and event {event} ({row}, {flag}) of {end} rows");
            }
            if completion.next() == Step::SendAgain && before != Step::SendAgain {
                prop_assert!(before == Step::Locate && event == 4 && position.is_none_or(|at| at.row < end));
            }
        }
    }
}
