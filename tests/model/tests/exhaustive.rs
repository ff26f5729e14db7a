//! The protocol, checked to the end at sizes that every change can afford; and planted faults, each of which must be found.

use std::time::Duration;

use telemetry_model::suite::{self, Limits, Shares, check};
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

#[test]
fn every_planted_fault_is_found() {
    for fault in Fault::ALL {
        let limits = Limits { time: Duration::from_secs(120), ..Limits::default() };
        // The sizes that every change is checked at hold without it: that is checked above.
        let is_quick =
            |bounds: &Bounds| suite::quick().iter().any(|quick| Bounds { name: quick.name, ..bounds.clone() } == *quick);
        if !is_quick(&size(fault)) {
            let sound = check(size(fault), None, limits);
            assert!(sound.broken.is_empty() && sound.is_complete, "without {fault:?}: {sound}");
        }
        let found = check(size(fault), Some(fault), limits);
        let names: Vec<_> = found.broken.iter().map(|(property, _)| *property).collect();
        println!("{fault:?}: {names:?} broken after {} states, {:.1} s", found.states, found.took.as_secs_f64());
        assert!(!found.broken.is_empty(), "{fault:?} is not found: {found}");
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
