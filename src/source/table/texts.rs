//! The texts that series share, each once.

use xxhash_rust::xxh3::xxh3_64_with_secret;

use super::Secret;
use super::index::Index;

/// What a text costs beside itself: its place, its allocation, and where it is found.
const OVERHEAD: usize = size_of::<Text>() + 24;

struct Text {
    text: Box<str>,
    /// How many refer to it; nobody: the place is free.
    users: u32,
}

/// Texts by number, and numbers by text.
#[derive(Default)]
pub(super) struct Texts {
    texts: Vec<Text>,
    free: Vec<u32>,
    by_text: Index,
    bytes: usize,
}

impl Texts {
    /// What they take in memory, bytes, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, number: u32) -> &str {
        &self.texts[number as usize].text
    }

    /// The number of a text, which has one user more now.
    pub(super) fn take(&mut self, text: &str, secret: &Secret) -> u32 {
        let hash = hash_of(text, secret);
        if let Some(number) = self.by_text.find(hash, |number| *self.texts[number as usize].text == *text) {
            self.texts[number as usize].users += 1;
            return number;
        }
        self.bytes += text.len() + OVERHEAD;
        let one = Text { text: text.into(), users: 1 };
        let number = match self.free.pop() {
            Some(number) => {
                self.texts[number as usize] = one;
                number
            }
            None => {
                self.texts.push(one);
                (self.texts.len() - 1) as u32
            }
        };
        let Self { texts, by_text, .. } = self;
        by_text.insert(hash, number, |other| hash_of(&texts[other as usize].text, secret));
        number
    }

    /// One user of a text less: nobody keeps what nobody uses.
    pub(super) fn give_back(&mut self, number: u32, secret: &Secret) {
        let Self { texts, by_text, .. } = self;
        texts[number as usize].users -= 1;
        if texts[number as usize].users > 0 {
            return;
        }
        by_text
            .remove(hash_of(&texts[number as usize].text, secret), number, |other| hash_of(&texts[other as usize].text, secret));
        self.bytes -= texts[number as usize].text.len() + OVERHEAD;
        texts[number as usize].text = Box::default();
        self.free.push(number);
    }
}

fn hash_of(text: &str, secret: &Secret) -> u64 {
    xxh3_64_with_secret(text.as_bytes(), secret)
}
