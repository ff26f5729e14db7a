//! The protocol, checked to the end at sizes that every change can afford; and planted faults, each of which must be found.

use std::time::Duration;

use telemetry_model::suite::{self, Limits, Shares, check, find};
use telemetry_model::system::{Bounds, Fault, Troubles};

/// The protocol holds at every size of [`suite::quick`], in every state that there is.
#[test]
fn the_protocol_holds() {
    for bounds in suite::quick() {
        let name = bounds.name;
        let outcome = check(bounds, None, Limits::default());
        println!("{name}: {outcome}");
        assert!(outcome.broken.is_empty(), "{name}: {outcome}");
        assert!(outcome.is_complete, "{name}: {outcome}");
    }
}

/// What a fault needs in order to show.
fn size(fault: Fault) -> Bounds {
    let none = Troubles { claims: 2, ..Troubles::default() };
    let (sources, collectors, troubles): (&[u8], u8, Troubles) = match fault {
        Fault::PositionFirst | Fault::CommitWithoutRange => (&[0], 1, Troubles { losses: 1, ..none }),
        Fault::EndsWhenAccepted => (&[0], 1, none),
        Fault::AcknowledgedFirst => (&[0], 1, Troubles { collector_crashes: 1, ..none }),
        Fault::LeaseIsOwnership => (&[0], 1, Troubles { failovers: 1, ..none }),
        Fault::TrimByAge | Fault::SettledIsEnd => (&[0], 2, none),
        Fault::ReceiptsOutliveSessions => (&[0, 1], 1, Troubles { failovers: 1, claims: 0, ..none }),
    };
    Bounds::new("a planted fault", sources, collectors, troubles)
}

/// What does not hold with a fault.
fn broken_by(fault: Fault) -> &'static str {
    match fault {
        Fault::CommitWithoutRange => "never twice",
        Fault::EndsWhenAccepted => "done implies stored",
        Fault::SettledIsEnd => "committed is true",
        Fault::PositionFirst
        | Fault::AcknowledgedFirst
        | Fault::LeaseIsOwnership
        | Fault::TrimByAge
        | Fault::ReceiptsOutliveSessions => "nothing is skipped",
    }
}

/// Each planted fault is found, by what it breaks; without it all holds at the same size.
#[test]
fn every_planted_fault_is_found() {
    for fault in Fault::ALL {
        // The sizes that every change is checked at hold: that is checked above.
        let is_quick =
            |bounds: &Bounds| suite::quick().iter().any(|quick| Bounds { name: quick.name, ..bounds.clone() } == *quick);
        if !is_quick(&size(fault)) {
            let sound = check(size(fault), None, Limits::default());
            assert!(sound.broken.is_empty() && sound.is_complete, "without {fault:?}: {sound}");
        }
        let property = broken_by(fault);
        let found = find(size(fault), fault, property);
        println!("{fault:?}: {property} is broken after {} states", found.states);
        assert_eq!(found.broken.iter().map(|(broken, _)| *broken).collect::<Vec<_>>(), [property], "{fault:?}: {found}");
    }
}

/// A size that is cut off does not take the time of the later ones, and what a size leaves is for those to come.
#[test]
fn sizes_share_the_time() {
    let seconds = Duration::from_secs;
    let mut shares = Shares::new(seconds(100), 4);
    assert_eq!(shares.next(seconds(0)), seconds(25));
    assert_eq!(shares.next(seconds(25)), seconds(25), "the first was cut off");
    assert_eq!(shares.next(seconds(26)), seconds(37), "the second was done in a second");
    assert_eq!(shares.next(seconds(120)), seconds(0), "there is none left");
}
