//! The shape of a schedule: how many nodes, which sources, and which faults there are at all. Chosen first; each schedule has another mix.

use std::rc::Rc;

use crate::faults::Kind;
use crate::messages::{Health, Ms};
use crate::model::{Digest, SourceId};
use crate::queue::Group;
use crate::schedule::{Choices, mix};
use crate::streamer::{Source, Until};

/// What a node does.
#[derive(Clone, Debug)]
pub enum Role {
    /// It streams these sources, with so many batches of each in flight.
    Streamer(Vec<Rc<Source>>, usize),
    /// It collects for this group.
    Collector(Group),
}

/// The shape of a schedule.
#[derive(Clone, Debug)]
pub struct Shape {
    /// How many partitions the queue has.
    pub partitions: usize,
    /// How many entries the backlog of a partition has at most.
    pub limit: usize,
    /// Whether servers have replicas, which may take over.
    pub replicas: bool,
    /// Whether ids count up from where an earlier clock stood.
    pub ids_count_up: bool,
    /// The nodes.
    pub roles: Vec<Role>,
    /// The sources.
    pub sources: Vec<Rc<Source>>,
    /// How many groups there are.
    pub groups: Group,
    /// The faults that happen.
    pub faults: Vec<Kind>,
    /// How long things go wrong.
    pub duration: Ms,
    /// About how long between two faults.
    pub fault_every: Ms,
    /// How often in a thousand calls something happens to one.
    pub trouble: u32,
}

impl Shape {
    /// Chooses a shape.
    pub fn choose(choices: &mut Choices) -> Self {
        let mut pick = |from: &[u64]| from[choices.below(u32::try_from(from.len()).unwrap_or(1)) as usize];
        let partitions = usize::try_from(pick(&[3, 1, 2])).unwrap_or(1);
        let limit = usize::try_from(pick(&[1_000, 3, 8])).unwrap_or(1_000);
        let (streamers, collectors) = (pick(&[1, 2, 3]), pick(&[1, 2, 3]));
        let groups = if pick(&[0, 0, 0, 0, 1]) == 1 { 2 } else { 1 };
        let size = usize::try_from(pick(&[8, 1, 2, 4])).unwrap_or(1);
        let (duration, fault_every) = (pick(&[30_000, 60_000, 120_000, 300_000]), pick(&[15_000, 5_000, 40_000]));
        let trouble = u32::try_from(pick(&[0, 5, 30, 100])).unwrap_or(0);
        let mut sources: Vec<Rc<Source>> = Vec::new();
        let mut roles = Vec::new();
        for _ in 0..streamers {
            let until = [Until::Followed, Until::Stored, Until::Queued][usize::try_from(pick(&[0, 1, 2])).unwrap_or(0)];
            let mut own = Vec::new();
            for _ in 0..pick(&[1, 2]) {
                let source = Source {
                    id: source_id(sources.len() as u64),
                    rows: 10 + 10 * pick(&[1, 0, 2, 4, 8]),
                    row_every: if until == Until::Followed { pick(&[0, 300, 2_000]) } else { 0 },
                    bad: (pick(&[0, 0, 0, 1]) == 1).then(|| (pick(&[0, 3, 9, 17]), Health::of(pick(&[1, 2, 3, 4, 5])))),
                    until,
                };
                sources.push(Rc::new(source));
                own.extend(sources.last().cloned());
            }
            // The same file may be given to two streamers.
            if pick(&[0, 0, 1]) == 1 && sources[0].until == until && !own.iter().any(|source| source.id == sources[0].id) {
                own.push(sources[0].clone());
            }
            roles.push(Role::Streamer(own, size));
        }
        roles.extend((0..collectors).map(|_| Role::Collector(0)));
        if groups == 2 {
            roles.push(Role::Collector(1));
        }
        // What was flushed is lost where nobody watches any more.
        let forgets = sources.iter().any(|source| source.until == Until::Queued);
        let possible = |kind: &Kind| match kind {
            Kind::Flush => !forgets && groups == 1,
            Kind::FailOver => groups == 1,
            _ => true,
        };
        // Few kinds happen often, many show what they do to each other.
        let among: &[u64] = if pick(&[0, 1]) == 1 { &[0, 0, 0, 1] } else { &[0, 1] };
        let mut faults: Vec<_> = Kind::ALL.into_iter().filter(|kind| possible(kind) && pick(among) == 1).collect();
        // A store is known to be another one, or older, by what the queue says was committed: not where the queue has lost that too.
        if faults.iter().any(|kind| matches!(kind, Kind::Flush | Kind::FailOver)) {
            faults.retain(|kind| !matches!(kind, Kind::OtherStore | Kind::Restore));
        }
        let ids_count_up = pick(&[0, 0, 1]) == 1;
        let replicas = faults.contains(&Kind::FailOver);
        Self { partitions, limit, replicas, ids_count_up, roles, sources, groups, faults, duration, fault_every, trouble }
    }
}

/// Sources of every partition, whose ids tell them apart in every part.
fn source_id(n: u64) -> SourceId {
    SourceId::from_digest(Digest::from_u128(u128::from(mix(n + 77)) << 64 | u128::from(mix(n))))
}
