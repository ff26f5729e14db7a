//! Dictionaries: segments of series, sent once, referred to by the digest of their bytes.

use std::cell::Cell;
use std::collections::HashMap;

use bytes::Bytes;

use super::DecodeError;
use super::limits::{GPU_NUMBERS, MAX_DICTIONARY_MEMORY, MAX_SERIES};
use super::wire::{self, DictionaryMessage};
use crate::model::{DictionaryId, Gpu, Series};

const MAGIC: [u8; 3] = *b"TLD";
const VERSION: u8 = 1;
/// Dictionaries are small and kept for long.
const LEVEL: i32 = 9;
/// Numbers that describe a series, its labels apart: GPU, metric, namespace, pod, container, number of labels.
const SERIES_NUMBERS: usize = 6;

/// A segment of series. Each text is in memory once: a series is made of them when it is asked for.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Dictionary {
    texts: Vec<Box<str>>,
    gpus: Vec<u32>,
    series: Vec<u32>,
    /// Where the numbers of each series begin.
    begins: Vec<u32>,
    greatest_index: Vec<u32>,
}

/// Texts, each once; number 0 is the empty one.
struct Texts<'a> {
    numbers: HashMap<&'a str, u32>,
    texts: Vec<String>,
}

impl<'a> Texts<'a> {
    fn number(&mut self, text: &'a str) -> u32 {
        *self.numbers.entry(text).or_insert_with(|| {
            self.texts.push(text.to_owned());
            (self.texts.len() - 1) as u32
        })
    }
}

fn message(all: &[Series]) -> DictionaryMessage {
    let mut texts = Texts { numbers: HashMap::from([("", 0)]), texts: vec![String::new()] };
    let mut gpu_numbers: HashMap<&Gpu, u32> = HashMap::new();
    let (mut gpus, mut series, mut greatest_index) = (Vec::new(), Vec::new(), Vec::new());
    for one in all {
        let next = gpu_numbers.len() as u32;
        let gpu = *gpu_numbers.entry(&one.gpu).or_insert_with(|| {
            let g = &one.gpu;
            let index = g.index.map_or(0, |i| {
                i.checked_add(1).unwrap_or_else(|| {
                    greatest_index.push(next);
                    0
                })
            });
            gpus.extend([texts.number(&g.uuid), texts.number(&g.hostname), index]);
            gpus.extend(
                [&g.device, &g.model, &g.driver_version, &g.pci_bus_id, &g.mig_profile, &g.mig_instance].map(|t| texts.number(t)),
            );
            next
        });
        series.push(gpu);
        series.extend([&one.metric, &one.namespace, &one.pod, &one.container].map(|t| texts.number(t)));
        series.push(one.labels.len() as u32);
        for (name, value) in &one.labels {
            series.extend([texts.number(name), texts.number(value)]);
        }
    }
    DictionaryMessage { texts: texts.texts, gpus, series, greatest_index }
}

impl Dictionary {
    /// A segment of these series.
    #[must_use]
    pub fn new(series: &[Series]) -> Self {
        let message = message(series);
        let mut begins = Vec::with_capacity(series.len());
        let mut at = 0;
        for one in series {
            begins.push(at as u32);
            at += SERIES_NUMBERS + 2 * one.labels.len();
        }
        Self::of(message, begins)
    }

    fn of(message: DictionaryMessage, begins: Vec<u32>) -> Self {
        let DictionaryMessage { texts, gpus, series, mut greatest_index } = message;
        greatest_index.sort_unstable();
        let texts = texts.into_iter().map(String::into_boxed_str).collect();
        Self { texts, gpus, series, begins, greatest_index }
    }

    /// The bytes of a segment of these series, and their digest.
    #[must_use]
    pub fn encode(series: &[Series]) -> (DictionaryId, Bytes) {
        let bytes = wire::seal(MAGIC, VERSION, &message(series), LEVEL);
        (DictionaryId::of(&bytes), bytes)
    }

    /// The reverse. The bytes must have the digest they are kept under.
    pub fn decode(sealed: &[u8], expected: DictionaryId) -> Result<Self, DecodeError> {
        if DictionaryId::of(sealed) != expected {
            return Err(DecodeError::Digest(expected));
        }
        let message: DictionaryMessage = wire::open(MAGIC, VERSION, sealed)?;
        let begins = check(&message)?;
        Ok(Self::of(message, begins))
    }

    /// How many series it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.begins.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.begins.is_empty()
    }

    /// A series by its index.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Series> {
        let begin = *self.begins.get(index)? as usize;
        let text = |number: u32| self.texts[number as usize].to_string();
        let numbers = &self.series[begin..begin + SERIES_NUMBERS];
        let &[gpu, metric, namespace, pod, container, labels] = numbers else { return None };
        let labels = &self.series[begin + SERIES_NUMBERS..][..2 * labels as usize];
        Some(Series {
            metric: text(metric),
            gpu: self.gpu(gpu),
            namespace: text(namespace),
            pod: text(pod),
            container: text(container),
            labels: labels.chunks_exact(2).map(|pair| (text(pair[0]), text(pair[1]))).collect(),
        })
    }

    fn gpu(&self, number: u32) -> Gpu {
        let n = &self.gpus[number as usize * GPU_NUMBERS..][..GPU_NUMBERS];
        let text = |at: usize| self.texts[n[at] as usize].to_string();
        let is_greatest = self.greatest_index.binary_search(&number).is_ok();
        Gpu {
            uuid: text(0),
            hostname: text(1),
            index: if is_greatest { Some(u32::MAX) } else { n[2].checked_sub(1) },
            device: text(3),
            model: text(4),
            driver_version: text(5),
            pci_bus_id: text(6),
            mig_profile: text(7),
            mig_instance: text(8),
        }
    }

    /// The series, by index, one after the other.
    pub fn iter(&self) -> impl Iterator<Item = Series> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// What it takes in memory, bytes, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        const TEXT: usize = size_of::<Box<str>>() + ALLOCATION;
        let numbers = self.gpus.len() + self.series.len() + self.begins.len() + self.greatest_index.len();
        size_of::<Self>() + numbers * size_of::<u32>() + self.texts.iter().map(|text| text.len() + TEXT).sum::<usize>()
    }
}

/// Whether a message is a dictionary: every number stands for something, and its series can be put together within bounds. Gives where
/// each series begins.
fn check(message: &DictionaryMessage) -> Result<Vec<u32>, DecodeError> {
    let budget = Cell::new(MAX_DICTIONARY_MEMORY);
    let spend = |bytes: usize| {
        let left = budget.get().checked_sub(bytes).ok_or(DecodeError::TooLarge(MAX_DICTIONARY_MEMORY))?;
        budget.set(left);
        Ok::<_, DecodeError>(())
    };
    let text = |number: u32| {
        let text = message.texts.get(number as usize).ok_or(DecodeError::Column("texts"))?;
        spend(text.len())?;
        Ok::<_, DecodeError>(text.len())
    };
    if !message.gpus.len().is_multiple_of(GPU_NUMBERS) {
        return Err(DecodeError::Column("gpus"));
    }
    let mut gpu_bytes = Vec::with_capacity(message.gpus.len() / GPU_NUMBERS);
    for gpu in message.gpus.chunks_exact(GPU_NUMBERS) {
        spend(size_of::<Gpu>())?;
        let texts = gpu.iter().enumerate().filter(|(at, _)| *at != 2);
        gpu_bytes.push(texts.map(|(_, number)| text(*number)).sum::<Result<usize, _>>()?);
    }
    if message.greatest_index.iter().any(|gpu| *gpu as usize >= gpu_bytes.len()) {
        return Err(DecodeError::Column("greatest_index"));
    }
    let mut begins = Vec::new();
    let mut rest = message.series.as_slice();
    while !rest.is_empty() {
        let numbers = rest.get(..SERIES_NUMBERS).ok_or(DecodeError::Column("series"))?;
        let gpu = gpu_bytes.get(numbers[0] as usize).ok_or(DecodeError::Column("series"))?;
        spend(size_of::<Series>() + gpu)?;
        if begins.len() == MAX_SERIES {
            return Err(DecodeError::TooMany { field: "series", limit: MAX_SERIES });
        }
        begins.push((message.series.len() - rest.len()) as u32);
        let labels = numbers[SERIES_NUMBERS - 1] as usize;
        for &number in &numbers[1..SERIES_NUMBERS - 1] {
            text(number)?;
        }
        rest = &rest[SERIES_NUMBERS..];
        spend(labels * size_of::<(String, String)>())?;
        let (pairs, behind) = rest.split_at_checked(2 * labels).ok_or(DecodeError::Column("series"))?;
        for &number in pairs {
            text(number)?;
        }
        rest = behind;
    }
    Ok(begins)
}

/// What an allocation costs beside its content, bytes.
const ALLOCATION: usize = 16;

/// What a series takes in memory by itself, bytes, about: itself, its texts, and what an allocation costs for each of them.
pub(super) fn memory_of(series: &Series) -> usize {
    const TEXTS: usize = 12;
    let labels = series.labels.len() * (size_of::<(String, String)>() + 2 * ALLOCATION);
    size_of::<Series>() + TEXTS * ALLOCATION + series.text_bytes() + labels
}
