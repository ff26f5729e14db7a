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

/// A segment of series.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Dictionary {
    /// The series, by index.
    pub series: Vec<Series>,
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

impl Dictionary {
    /// The bytes, and their digest.
    #[must_use]
    pub fn encode(&self) -> (DictionaryId, Bytes) {
        let mut texts = Texts { numbers: HashMap::from([("", 0)]), texts: vec![String::new()] };
        let mut gpu_numbers: HashMap<&Gpu, u32> = HashMap::new();
        let (mut gpus, mut series, mut greatest_index) = (Vec::new(), Vec::new(), Vec::new());
        for one in &self.series {
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
                    [&g.device, &g.model, &g.driver_version, &g.pci_bus_id, &g.mig_profile, &g.mig_instance]
                        .map(|t| texts.number(t)),
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
        let bytes = wire::seal(MAGIC, VERSION, &DictionaryMessage { texts: texts.texts, gpus, series, greatest_index }, LEVEL);
        (DictionaryId::of(&bytes), bytes)
    }

    /// The reverse. The bytes must have the digest they are kept under.
    pub fn decode(sealed: &[u8], expected: DictionaryId) -> Result<Self, DecodeError> {
        if DictionaryId::of(sealed) != expected {
            return Err(DecodeError::Digest(expected));
        }
        let message: DictionaryMessage = wire::open(MAGIC, VERSION, sealed)?;
        let budget = Cell::new(MAX_DICTIONARY_MEMORY);
        let spend = |bytes: usize| {
            let left = budget.get().checked_sub(bytes).ok_or(DecodeError::TooLarge(MAX_DICTIONARY_MEMORY))?;
            budget.set(left);
            Ok::<_, DecodeError>(())
        };
        let text = |number: u32| {
            let text = message.texts.get(number as usize).ok_or(DecodeError::Column("texts"))?;
            spend(text.len())?;
            Ok::<_, DecodeError>(text.clone())
        };
        if !message.gpus.len().is_multiple_of(GPU_NUMBERS) {
            return Err(DecodeError::Column("gpus"));
        }
        let gpu = |n: &[u32]| -> Result<Gpu, DecodeError> {
            spend(size_of::<Gpu>())?;
            Ok(Gpu {
                uuid: text(n[0])?,
                hostname: text(n[1])?,
                index: n[2].checked_sub(1),
                device: text(n[3])?,
                model: text(n[4])?,
                driver_version: text(n[5])?,
                pci_bus_id: text(n[6])?,
                mig_profile: text(n[7])?,
                mig_instance: text(n[8])?,
            })
        };
        let mut gpus = message.gpus.chunks_exact(GPU_NUMBERS).map(gpu).collect::<Result<Vec<_>, _>>()?;
        for &gpu in &message.greatest_index {
            gpus.get_mut(gpu as usize).ok_or(DecodeError::Column("greatest_index"))?.index = Some(u32::MAX);
        }
        let mut numbers = message.series.iter().copied();
        let mut series = Vec::new();
        while let Some(gpu) = numbers.next() {
            let mut next = || numbers.next().ok_or(DecodeError::Column("series"));
            let gpu = gpus.get(gpu as usize).ok_or(DecodeError::Column("series"))?;
            spend(size_of::<Series>() + gpu.text_bytes())?;
            if series.len() == MAX_SERIES {
                return Err(DecodeError::TooMany { field: "series", limit: MAX_SERIES });
            }
            let gpu = gpu.clone();
            let (metric, namespace, pod, container) = (text(next()?)?, text(next()?)?, text(next()?)?, text(next()?)?);
            let mut labels = Vec::new();
            for _ in 0..next()? {
                spend(size_of::<(String, String)>())?;
                labels.push((text(next()?)?, text(next()?)?));
            }
            series.push(Series { metric, gpu, namespace, pod, container, labels });
        }
        Ok(Self { series })
    }

    /// What it takes in memory, bytes, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.series.iter().map(memory_of).sum()
    }
}

/// What a series takes in memory, bytes, about: itself, its texts, and what an allocation costs for each of them.
pub(super) fn memory_of(series: &Series) -> usize {
    const TEXTS: usize = 12;
    const ALLOCATION: usize = 16;
    let labels = series.labels.len() * (size_of::<(String, String)>() + 2 * ALLOCATION);
    size_of::<Series>() + TEXTS * ALLOCATION + series.text_bytes() + labels
}
