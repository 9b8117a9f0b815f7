//! The k largest of many values in one pass, without sorting them.
//!
//! It keeps the values not below the k-th largest seen so far, and thins its buffer whenever that is full, so that a
//! vocabulary costs little more than one comparison a value. It does not know what the values mean.

/// A value and where it was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Entry {
    /// Index over everything scanned.
    pub(crate) index: u32,
    /// The value, its shift included.
    pub(crate) value: f32,
}

/// A reusable selector; one `start`, any number of `scan`s, one `finish_…`.
#[derive(Debug, Clone, Default)]
pub(crate) struct TopK {
    k: usize,
    threshold: f32,
    capacity: usize,
    entries: Vec<Entry>,
    scratch: Vec<f32>,
}

impl TopK {
    /// Forgets everything and looks for the `k` largest values; `k` is at least 1.
    pub(crate) fn start(&mut self, k: usize) {
        self.k = k.max(1);
        self.threshold = f32::NEG_INFINITY;
        self.capacity = self.k.saturating_mul(4).max(256);
        self.entries.clear();
    }

    /// Takes in `values + shift`, the first of which has index `first`. None may be NaN.
    pub(crate) fn scan(&mut self, values: &[f32], first: u32, shift: f32) {
        const CHUNK: usize = 32;
        let mut index = first;
        for chunk in values.chunks(CHUNK) {
            // A whole chunk below the threshold is passed over by one vectorised test.
            let threshold = self.threshold;
            let any = chunk.iter().fold(false, |any, &value| any | (value + shift >= threshold));
            if any {
                for (offset, &value) in (0u32..).zip(chunk) {
                    self.push(Entry { index: index + offset, value: value + shift });
                }
            }
            index = index.wrapping_add(CHUNK as u32);
        }
    }

    /// The k largest by index, with all that tie with the k-th.
    pub(crate) fn finish_with_ties(&mut self) -> &[Entry] {
        self.thin();
        &self.entries
    }

    /// The k largest (fewer where fewer were scanned), largest first, ties by lower index.
    pub(crate) fn finish_sorted(&mut self) -> &[Entry] {
        self.thin();
        self.entries.sort_unstable_by(|a, b| b.value.total_cmp(&a.value).then(a.index.cmp(&b.index)));
        self.entries.truncate(self.k);
        &self.entries
    }

    fn push(&mut self, entry: Entry) {
        if entry.value >= self.threshold {
            self.entries.push(entry);
            if self.entries.len() >= self.capacity {
                self.thin();
                // Only ties can remain in number; growing keeps the work linear when there are many.
                if self.entries.len() > self.capacity / 2 {
                    self.capacity *= 2;
                }
            }
        }
    }

    /// Raises the threshold to the k-th largest kept and drops what lies below, keeping the order.
    fn thin(&mut self) {
        if self.entries.len() <= self.k {
            return;
        }
        self.scratch.clear();
        // Adding zero makes -0 into 0, so that the two tie as `>=` says they do.
        self.scratch.extend(self.entries.iter().map(|entry| entry.value + 0.0));
        let (_, kth, _) = self.scratch.select_nth_unstable_by(self.k - 1, |a, b| b.total_cmp(a));
        let threshold = *kth;
        self.threshold = threshold;
        self.entries.retain(|entry| entry.value >= threshold);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    #[test]
    fn agrees_with_a_full_sort() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut top = TopK::default();
        for round in 0..400 {
            let len = 1 + (rng.next_u32() % 3000) as usize;
            let levels = [3, 50, 1_000_000][round % 3];
            let mut values: Vec<f32> = (0..len).map(|_| (rng.next_u32() % levels) as f32 - 5.0).collect();
            match round % 5 {
                3 => values.sort_by(f32::total_cmp),
                4 => values[0] = f32::NEG_INFINITY,
                _ => {}
            }
            let k = 1 + (rng.next_u32() % 700) as usize;
            let mut all: Vec<Entry> = (0u32..).zip(&values).map(|(index, &value)| Entry { index, value }).collect();
            all.sort_by(|a, b| b.value.total_cmp(&a.value).then(a.index.cmp(&b.index)));
            let kth = all[k.min(len) - 1].value;
            let mut tied: Vec<Entry> = all.iter().copied().filter(|entry| entry.value >= kth).collect();
            tied.sort_by_key(|entry| entry.index);
            all.truncate(k);

            top.start(k);
            let cut = len / 3;
            top.scan(&values[..cut], 0, 0.0);
            top.scan(&values[cut..], cut as u32, 0.0);
            assert_eq!(top.finish_with_ties(), tied, "round {round}");
            assert_eq!(top.finish_sorted(), all, "round {round}");
        }
    }

    #[test]
    fn shifts_apply_before_comparing() {
        // Long enough that the second row meets a threshold above its own values.
        let rows: Vec<f32> = (0..2000).map(|i| ((i * 7) % 2000) as f32).collect();
        let mut top = TopK::default();
        for shift in [5000.0, 300.0, -5000.0] {
            let shifted = |index: usize| if index < 1000 { rows[index] } else { rows[index] + shift };
            let mut expected: Vec<f32> = (0..2000).map(shifted).collect();
            expected.sort_by(|a, b| b.total_cmp(a));
            top.start(50);
            top.scan(&rows[..1000], 0, 0.0);
            top.scan(&rows[1000..], 1000, shift);
            let found: Vec<f32> = top.finish_sorted().iter().map(|entry| entry.value).collect();
            assert_eq!(found, expected[..50], "{shift}");
        }
    }

    #[test]
    fn equal_values_stay_linear_and_complete() {
        let values = vec![0.5f32; 100_000];
        let mut top = TopK::default();
        top.start(10);
        top.scan(&values, 0, 0.0);
        assert_eq!(top.finish_with_ties().len(), 100_000);
        assert_eq!(top.finish_sorted()[9].index, 9);
    }
}
