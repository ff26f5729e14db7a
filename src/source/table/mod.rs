//! The series of one source by the identity of its rows, bounded: [`Table`].
//!
//! Series of one GPU share what is said of the GPU, those of one workload its names, and so on: each text is kept once, so that a series
//! costs less than a hundred bytes. Where the table is full, single series make room, and are parsed again when they return.

mod index;
#[cfg(test)]
mod tests;
mod texts;

use xxhash_rust::xxh3::xxh3_64_with_secret;

use crate::model::{Gpu, Metric, Reason, Series, metric};
use index::Index;
use texts::Texts;

/// Random for each table: nobody can prepare rows whose identities collide.
pub(super) type Secret = [u8; 192];

/// How many are drawn, one of which makes room.
const CHOICE: usize = 8;
/// A series that was not met in so many times as many rows as the table has identities is not expected to return soon.
const STALE: u64 = 4;

/// What is known of an identity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolved {
    /// Its series, or why none of its rows can become a sample.
    pub(super) outcome: Result<u32, Reason>,
    /// Its metric, if the catalogue has it.
    pub(super) metric: Option<&'static Metric>,
}

/// What rows have in common that belong to one series and are written in the same way.
struct Identity {
    /// 128 bits in parts that need no alignment of sixteen bytes.
    hash: [u32; 4],
    known: Known,
    /// The row (modulo 2^32) that was resolved to it last.
    used: u32,
    /// Index into [`Table::metrics`].
    metric: u16,
}

impl Identity {
    /// The lower half of the hash.
    fn low(&self) -> u64 {
        u64::from(self.hash[0]) | u64::from(self.hash[1]) << 32
    }
}

/// The parts of a hash, the least first.
fn parts(hash: u128) -> [u32; 4] {
    [0, 32, 64, 96].map(|shift| (hash >> shift) as u32)
}

/// An outcome in four bytes: the number of a series, or behind all of those the code of a reason.
#[derive(Clone, Copy)]
struct Known(u32);

impl Known {
    /// The least number that is that of a reason. A table with so many series has more bytes than it may have.
    const REASONS: u32 = u32::MAX - u8::MAX as u32;

    fn new(outcome: Result<u32, Reason>) -> Self {
        Self(outcome.unwrap_or_else(|reason| Self::REASONS + u32::from(reason.code())))
    }

    fn outcome(self) -> Result<u32, Reason> {
        match self.0.checked_sub(Self::REASONS).and_then(|code| Reason::from_code(code as u8)) {
            Some(reason) => Err(reason),
            None => Ok(self.0),
        }
    }
}

/// A series: numbers of texts.
#[derive(Clone, Copy)]
struct Entry {
    texts: [u32; 4],
    /// How many identities have it; none: the place is free.
    users: u32,
}

/// How much a table may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Identities.
    pub(super) series: usize,
    /// Bytes, about.
    pub(super) bytes: usize,
}

/// The series met so far, bounded.
pub(super) struct Table {
    /// Without holes.
    identities: Vec<Identity>,
    by_hash: Index,
    series: Vec<Entry>,
    free: Vec<u32>,
    by_texts: Index,
    texts: Texts,
    /// Those of the catalogue that were met.
    metrics: Vec<Option<&'static Metric>>,
    bounds: Bounds,
    secret: Secret,
    /// For choices that nobody can foresee.
    state: u64,
    /// Rows resolved so far, and the first of them whose series must stay.
    row: u64,
    kept_from: u64,
    /// The identity that was resolved last.
    last: usize,
    /// Series put in so far.
    met: u64,
    /// Series that were dropped since [`Table::release`].
    dropped: Vec<u32>,
}

impl Table {
    pub(super) fn new(bounds: Bounds) -> Self {
        let mut secret = [0; 192];
        rand::fill(&mut secret[..]);
        Self {
            identities: Vec::new(),
            by_hash: Index::default(),
            series: Vec::new(),
            free: Vec::new(),
            by_texts: Index::default(),
            texts: Texts::default(),
            metrics: vec![None],
            bounds: Bounds { series: bounds.series.max(1), ..bounds },
            state: xxh3_64_with_secret(b"choices", &secret) | 1,
            secret,
            row: 0,
            kept_from: 0,
            last: 0,
            met: 0,
            dropped: Vec::new(),
        }
    }

    pub(super) fn secret(&self) -> &Secret {
        &self.secret
    }

    /// How many series it has.
    pub(super) fn len(&self) -> usize {
        self.series.len() - self.free.len()
    }

    /// How many series were put in so far, those that returned included.
    pub(super) fn met(&self) -> u64 {
        self.met
    }

    /// A series by its index.
    pub(super) fn series(&self, index: u32) -> Series {
        let [gpu, metric, workload, labels] = self.series[index as usize].texts.map(|number| self.texts.get(number));
        let mut gpu = gpu.split(SEPARATOR).map(str::to_owned);
        let mut next = || gpu.next().unwrap_or_default();
        let gpu = Gpu {
            uuid: next(),
            hostname: next(),
            index: next().parse().ok(),
            device: next(),
            model: next(),
            driver_version: next(),
            pci_bus_id: next(),
            mig_profile: next(),
            mig_instance: next(),
        };
        let mut workload = workload.split(SEPARATOR).map(str::to_owned);
        let mut next = || workload.next().unwrap_or_default();
        let (namespace, pod, container) = (next(), next(), next());
        let mut parts = labels.split(SEPARATOR).map(str::to_owned);
        let labels = std::iter::from_fn(|| Some((parts.next().filter(|name| !name.is_empty())?, parts.next()?))).collect();
        Series { metric: metric.to_owned(), gpu, namespace, pod, container, labels }
    }

    /// Forgets everything: indexes begin at 0 again.
    pub(super) fn clear(&mut self) {
        *self = Self { row: self.row, kept_from: self.row + 1, met: self.met, ..Self::new(self.bounds) };
    }

    /// From now on the series of the rows resolved so far may be dropped, but for the last row's if that is still in hand. Gives the indexes
    /// of those that were dropped since the last time: they may stand for other series by now.
    pub(super) fn release(&mut self, last_in_hand: bool) -> Vec<u32> {
        self.kept_from = if last_in_hand { self.row } else { self.row + 1 };
        std::mem::take(&mut self.dropped)
    }

    /// What is known of a row's identity; what is not is read. `None`: it is new, and there is no room for it before some series is released.
    pub(super) fn resolve(&mut self, identity: u128, read: impl FnOnce() -> Result<Series, Reason>) -> Option<Resolved> {
        self.row += 1;
        if let Some(at) = self.find(identity) {
            self.last = at;
            let known = &mut self.identities[at];
            known.used = self.row as u32;
            return Some(Resolved { outcome: known.known.outcome(), metric: self.metrics[usize::from(known.metric)] });
        }
        while self.is_full() {
            self.make_room()?;
        }
        let (outcome, metric) = match read() {
            Ok(series) => {
                let metric = metric(&series.metric);
                (Ok(self.intern(&series)), metric)
            }
            Err(reason) => (Err(reason), None),
        };
        let known = Known::new(outcome);
        let known = Identity { hash: parts(identity), known, used: self.row as u32, metric: self.number_of(metric) };
        let hash = known.low();
        self.last = self.identities.len();
        self.identities.push(known);
        let identities = &self.identities;
        self.by_hash.insert(hash, self.last as u32, |other| identities[other as usize].low());
        Some(Resolved { outcome, metric })
    }

    fn find(&self, identity: u128) -> Option<usize> {
        let hash = parts(identity);
        // Exports repeat their order: the next row is mostly of the next identity.
        let next = self.last + 1;
        if self.identities.get(next).is_some_and(|next| next.hash == hash) {
            return Some(next);
        }
        self.by_hash.find(identity as u64, |at| self.identities[at as usize].hash == hash).map(|at| at as usize)
    }

    fn number_of(&mut self, metric: Option<&'static Metric>) -> u16 {
        let same = |known: &Option<&'static Metric>| match (known, metric) {
            (Some(known), Some(metric)) => std::ptr::eq(*known, metric),
            (None, None) => true,
            _ => false,
        };
        // No more than the catalogue has.
        self.metrics.iter().position(same).unwrap_or_else(|| {
            self.metrics.push(metric);
            self.metrics.len() - 1
        }) as u16
    }

    /// What it takes in memory, bytes, about: with its places in a publisher's book.
    fn bytes(&self) -> usize {
        const IDENTITY: usize = size_of::<Identity>() + 2 * size_of::<u32>();
        const ENTRY: usize = size_of::<Entry>() + 4 * size_of::<u32>();
        self.identities.len() * IDENTITY + self.series.len() * ENTRY + self.texts.bytes()
    }

    fn is_full(&self) -> bool {
        let has = self.identities.len();
        // One may always be there, however large it is.
        has >= self.bounds.series || (has > 0 && self.bytes() >= self.bounds.bytes)
    }

    /// Drops one identity; `None`: all of them must stay.
    ///
    /// Of a few, drawn by chance, the one that was not met for longest goes if it was not met for long. Else chance decides: where more series
    /// take turns than there are places, the least recently used is the very one that comes next, and to drop it would have each of them
    /// parsed each time.
    fn make_room(&mut self) -> Option<()> {
        let has = self.identities.len();
        let (mut chosen, mut oldest) = (None, STALE * has as u64);
        for _ in 0..CHOICE {
            let at = self.draw() as usize % has;
            let age = self.age(at);
            if !self.must_stay(at) && (chosen.is_none() || age > oldest) {
                (chosen, oldest) = (Some(at), oldest.max(age));
            }
        }
        let start = self.draw() as usize % has;
        let any = || (start..has).chain(0..start).find(|at| !self.must_stay(*at));
        let chosen = chosen.or_else(any)?;
        self.drop_identity(chosen);
        Some(())
    }

    /// How many rows ago it was met.
    fn age(&self, at: usize) -> u64 {
        u64::from((self.row as u32).wrapping_sub(self.identities[at].used))
    }

    fn must_stay(&self, at: usize) -> bool {
        self.age(at) <= self.row.saturating_sub(self.kept_from)
    }

    fn drop_identity(&mut self, at: usize) {
        let gone = &self.identities[at];
        let (hash, outcome) = (gone.low(), gone.known.outcome());
        let identities = &self.identities;
        self.by_hash.remove(hash, at as u32, |other| identities[other as usize].low());
        let end = self.identities.len() - 1;
        if at != end {
            self.by_hash.renumber(self.identities[end].low(), end as u32, at as u32);
        }
        self.identities.swap_remove(at);
        if let Ok(series) = outcome {
            self.give_back(series);
        }
    }

    /// One of those that have this series is gone.
    fn give_back(&mut self, index: u32) {
        let entry = &mut self.series[index as usize];
        entry.users -= 1;
        if entry.users > 0 {
            return;
        }
        let texts = entry.texts;
        let (series, secret) = (&self.series, &self.secret);
        self.by_texts.remove(hash_of(texts, secret), index, |other| hash_of(series[other as usize].texts, secret));
        for number in texts {
            self.texts.give_back(number, &self.secret);
        }
        self.free.push(index);
        self.dropped.push(index);
    }

    /// The index of a series. Identities that differ only in how they are written share it.
    fn intern(&mut self, series: &Series) -> u32 {
        let texts = written(series).map(|text| self.texts.take(&text, &self.secret));
        let hash = hash_of(texts, &self.secret);
        if let Some(index) = self.by_texts.find(hash, |index| self.series[index as usize].texts == texts) {
            for number in texts {
                self.texts.give_back(number, &self.secret);
            }
            self.series[index as usize].users += 1;
            return index;
        }
        self.met += 1;
        let entry = Entry { texts, users: 1 };
        let index = match self.free.pop() {
            Some(index) => {
                self.series[index as usize] = entry;
                index
            }
            None => {
                self.series.push(entry);
                (self.series.len() - 1) as u32
            }
        };
        let (series, secret) = (&self.series, &self.secret);
        self.by_texts.insert(hash, index, |other| hash_of(series[other as usize].texts, secret));
        index
    }

    fn draw(&mut self) -> u64 {
        // Marsaglia's xorshift.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state >> 16
    }
}

/// Between the parts of a text: no text that is kept has it, neither in a cell nor in a column's name.
const SEPARATOR: char = '\0';

/// A series as the texts that others may share: GPU, metric, workload, labels.
fn written(series: &Series) -> [String; 4] {
    let Series { metric, gpu: g, namespace, pod, container, labels } = series;
    let index = g.index.map(|index| index.to_string()).unwrap_or_default();
    let joined = |parts: &[&str]| parts.join("\0");
    let gpu =
        [&g.uuid, &g.hostname, &index, &g.device, &g.model, &g.driver_version, &g.pci_bus_id, &g.mig_profile, &g.mig_instance]
            .map(String::as_str);
    let labels: Vec<&str> = labels.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]).collect();
    [joined(&gpu), metric.clone(), joined(&[namespace, pod, container]), joined(&labels)]
}

fn hash_of(texts: [u32; 4], secret: &Secret) -> u64 {
    let mut bytes = [0; 16];
    for (place, number) in bytes.chunks_exact_mut(4).zip(texts) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    xxh3_64_with_secret(&bytes, secret)
}
