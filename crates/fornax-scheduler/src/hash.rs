//! The hasher of the crate's hash maps: fast for keys of one or two numbers, and the same in every run.

use std::hash::{BuildHasherDefault, Hasher};

use crate::random::mix;

/// A hash map whose keys are numbers. It is looked up and never iterated, so that its order decides nothing.
pub(crate) type NumberMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// Mixes each number into those before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = mix(self.0.rotate_left(5) ^ number);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
