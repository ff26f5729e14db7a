//! A schedule: every choice of a run, in order. A seed makes one, a list repeats one, and a list can be shortened as long as it still fails.
//!
//! In every choice 0 is what happens when nothing goes wrong: a list that ends early, or in which choices are set to 0, is a calmer run.

/// A small generator of numbers (xorshift64*, seeded through SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that always gives the same numbers for a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(mix(seed).max(1))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        u32::try_from((u128::from(self.next()) * u128::from(n)) >> 64).unwrap_or(0)
    }
}

/// Spreads a seed over 64 bits.
#[must_use]
pub fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The seed of the n-th schedule of a run.
#[must_use]
pub fn nth_seed(seed: u64, n: u64) -> u64 {
    mix(mix(seed) ^ n)
}

/// Where choices come from.
#[derive(Clone, Debug)]
enum Origin {
    Random(Random),
    List(Vec<u32>),
    /// Nothing goes wrong any more; what is chosen is not recorded.
    Calm,
}

/// Makes every choice of a run, and records it.
#[derive(Clone, Debug)]
pub struct Choices {
    origin: Origin,
    made: Vec<u32>,
}

impl Choices {
    /// The choices of a seed.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        Self { origin: Origin::Random(Random::new(seed)), made: Vec::new() }
    }

    /// The choices of a list; 0 when it is at its end.
    #[must_use]
    pub fn of_list(list: Vec<u32>) -> Self {
        Self { origin: Origin::List(list), made: Vec::new() }
    }

    /// From now on every choice is 0.
    pub fn calm(&mut self) {
        self.origin = Origin::Calm;
    }

    /// What was chosen so far.
    #[must_use]
    pub fn made(&self) -> &[u32] {
        &self.made
    }

    /// A choice among `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        self.choose(n, |random| random.below(n))
    }

    /// Whether something happens that happens so many times in a thousand.
    pub fn happens(&mut self, per_mille: u32) -> bool {
        self.choose(2, |random| u32::from(random.below(1000) < per_mille)) == 1
    }

    fn choose(&mut self, n: u32, draw: impl FnOnce(&mut Random) -> u32) -> u32 {
        let chosen = match &mut self.origin {
            Origin::Random(random) => draw(random),
            Origin::List(list) => list.get(self.made.len()).map_or(0, |chosen| chosen % n.max(1)),
            Origin::Calm => return 0,
        };
        self.made.push(chosen);
        chosen
    }
}

/// Shortens a list that fails: its end is cut off, parts are left out or made calm, and single choices are lowered, as long as `fails`
/// says so, and at most so many times.
pub fn shorten(list: Vec<u32>, mut tries: u32, mut fails: impl FnMut(&[u32]) -> bool) -> Vec<u32> {
    let mut best = list;
    let mut attempt = |candidate: Vec<u32>, best: &mut Vec<u32>| {
        if tries == 0 || candidate == *best {
            return false;
        }
        tries -= 1;
        let shorter = fails(&candidate);
        if shorter {
            *best = candidate;
        }
        shorter
    };
    loop {
        let before = best.clone();
        let mut part = best.len() / 2;
        while part > 0 {
            // From the end, since what comes after a choice depends on it.
            let mut at = best.len();
            while at > 0 {
                let from = at.saturating_sub(part);
                let mut calmer = best.clone();
                calmer[from..at.min(best.len())].fill(0);
                if !attempt(calmer, &mut best) && part <= 64 {
                    let mut fewer = best.clone();
                    fewer.drain(from..at.min(best.len()));
                    attempt(fewer, &mut best);
                }
                at = from.min(best.len());
            }
            part /= 2;
        }
        for at in 0..best.len() {
            for lower in [1, best[at] / 2, best[at].saturating_sub(1)] {
                if lower < best[at] {
                    let mut lowered = best.clone();
                    lowered[at] = lower;
                    if attempt(lowered, &mut best) {
                        break;
                    }
                }
            }
        }
        while best.last() == Some(&0) {
            best.pop();
        }
        if best == before || best.is_empty() {
            return best;
        }
    }
}
