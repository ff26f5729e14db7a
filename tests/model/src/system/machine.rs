//! State machines whose states have numbers: what an event makes of a state is worked out once, so that states of the model are small.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash};
use std::sync::{Mutex, PoisonError, RwLock};

use super::engine::Quick;

/// The number of a state of a machine.
pub type Number = u32;

/// A machine.
pub trait Machine: Clone + Eq + Hash {
    /// What happens to it.
    type Event: Copy + Eq + Hash;
    /// What can be seen of it.
    type View: Copy;

    /// Something happens.
    fn happens(&mut self, event: Self::Event);

    /// What can be seen.
    fn view(&self) -> Self::View;
}

type Table<K, V> = HashMap<K, V, BuildHasherDefault<Quick>>;

/// The states of a machine that there were.
pub struct Numbered<M: Machine> {
    known: RwLock<Vec<(M, M::View)>>,
    numbers: Mutex<HashMap<M, Number>>,
    memo: RwLock<Table<(Number, M::Event), Number>>,
}

impl<M: Machine> Default for Numbered<M> {
    fn default() -> Self {
        Self { known: RwLock::default(), numbers: Mutex::default(), memo: RwLock::default() }
    }
}

impl<M: Machine> Numbered<M> {
    /// The number of a state.
    pub fn number(&self, machine: M) -> Number {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = numbers.get(&machine) {
            return *number;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let number = Number::try_from(known.len()).unwrap_or(Number::MAX);
        let view = machine.view();
        known.push((machine.clone(), view));
        numbers.insert(machine, number);
        number
    }

    /// What can be seen of a state.
    pub fn view(&self, number: Number) -> M::View {
        self.known.read().unwrap_or_else(PoisonError::into_inner)[number as usize].1
    }

    /// The state that an event makes of one.
    pub fn happens(&self, number: Number, event: M::Event) -> Number {
        if let Some(found) = self.memo.read().unwrap_or_else(PoisonError::into_inner).get(&(number, event)) {
            return *found;
        }
        let mut machine = self.get(number);
        machine.happens(event);
        let made = self.number(machine);
        self.memo.write().unwrap_or_else(PoisonError::into_inner).insert((number, event), made);
        made
    }

    /// A state itself.
    pub fn get(&self, number: Number) -> M {
        self.known.read().unwrap_or_else(PoisonError::into_inner)[number as usize].0.clone()
    }
}
