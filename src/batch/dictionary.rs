//! Dictionaries: segments of series, sent once, referred to by the digest of their bytes.

use std::cell::Cell;
use std::collections::HashMap;

use bytes::Bytes;

use super::DecodeError;
use super::wire::{self, DictionaryMessage, MAX_DECODED_BYTES};
use crate::model::{DictionaryId, Gpu, Series};

const MAGIC: [u8; 3] = *b"TLD";
const VERSION: u8 = 1;
const GPU_NUMBERS: usize = 9;
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
        let (mut gpus, mut series) = (Vec::new(), Vec::new());
        for one in &self.series {
            let next = gpu_numbers.len() as u32;
            let gpu = *gpu_numbers.entry(&one.gpu).or_insert_with(|| {
                let g = &one.gpu;
                gpus.extend([texts.number(&g.uuid), texts.number(&g.hostname), g.index.map_or(0, |i| i.saturating_add(1))]);
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
        let bytes = wire::seal(MAGIC, VERSION, &DictionaryMessage { texts: texts.texts, gpus, series }, LEVEL);
        (DictionaryId::of(&bytes), bytes)
    }

    /// The reverse. The bytes must have the digest they are kept under.
    pub fn decode(sealed: &[u8], expected: DictionaryId) -> Result<Self, DecodeError> {
        if DictionaryId::of(sealed) != expected {
            return Err(DecodeError::Digest(expected));
        }
        let message: DictionaryMessage = wire::open(MAGIC, VERSION, sealed)?;
        // Numbers may refer to one long text again and again: what they unfold to is bounded too.
        let budget = Cell::new(MAX_DECODED_BYTES);
        let text = |number: u32| {
            let text = message.texts.get(number as usize).ok_or(DecodeError::Column("texts"))?;
            budget.set(budget.get().checked_sub(text.len()).ok_or(DecodeError::TooLarge(MAX_DECODED_BYTES))?);
            Ok::<_, DecodeError>(text.clone())
        };
        if !message.gpus.len().is_multiple_of(GPU_NUMBERS) {
            return Err(DecodeError::Column("gpus"));
        }
        let gpu = |n: &[u32]| -> Result<Gpu, DecodeError> {
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
        let gpus = message.gpus.chunks_exact(GPU_NUMBERS).map(gpu).collect::<Result<Vec<_>, _>>()?;
        let mut numbers = message.series.iter().copied();
        let mut series = Vec::new();
        while let Some(gpu) = numbers.next() {
            let mut next = || numbers.next().ok_or(DecodeError::Column("series"));
            let gpu = gpus.get(gpu as usize).ok_or(DecodeError::Column("series"))?;
            budget.set(
                budget
                    .get()
                    .checked_sub(size_of::<Series>() + gpu.text_bytes())
                    .ok_or(DecodeError::TooLarge(MAX_DECODED_BYTES))?,
            );
            let gpu = gpu.clone();
            let (metric, namespace, pod, container) = (text(next()?)?, text(next()?)?, text(next()?)?, text(next()?)?);
            let labels = (0..next()?).map(|_| Ok((text(next()?)?, text(next()?)?))).collect::<Result<Vec<_>, DecodeError>>()?;
            series.push(Series { metric, gpu, namespace, pod, container, labels });
        }
        Ok(Self { series })
    }
}
