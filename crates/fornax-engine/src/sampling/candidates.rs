//! The tokens that may be drawn, with their weights: temperature, top-k, top-p, min-p and the draw itself.
//!
//! Tokens stay in the order of their ids, so that a draw depends on the weights and the random number alone. No step
//! sorts the vocabulary.

use super::math::{BLOCK, exp_nonpositive, sum_block};
use super::select::TopK;

/// Candidate tokens and their unnormalised probabilities; the likeliest weighs exactly 1.
#[derive(Debug, Clone, Default)]
pub(super) struct Candidates {
    tokens: Vec<u32>,
    weights: Vec<f32>,
    /// The mass of each bucket of weights, for top-p.
    buckets: Vec<f64>,
    /// The members of the bucket that top-p cuts.
    cut: Vec<(u32, f32)>,
    block_sums: Vec<f64>,
}

impl Candidates {
    /// Takes the `top_k` largest logits (0: all) and weighs them at `temperature`; `max` is the largest logit.
    pub(super) fn fill(&mut self, logits: &[f32], max: f32, temperature: f32, top_k: usize, select: &mut TopK) {
        self.tokens.clear();
        self.weights.clear();
        if 0 < top_k && top_k < logits.len() {
            select.start(top_k);
            select.scan(logits, 0, 0.0);
            for entry in select.finish_with_ties() {
                self.tokens.push(entry.index);
                self.weights.push(entry.value);
            }
        } else {
            self.tokens.extend((0u32..).take(logits.len()));
            self.weights.extend_from_slice(logits);
        }
        // Dividing the difference keeps the tiniest temperature finite: the largest logit gives 0 / temperature.
        for weight in &mut self.weights {
            *weight = exp_nonpositive((*weight - max) / temperature);
        }
    }

    /// Keeps the fewest likeliest tokens whose share of the weight reaches `p` (at least one), lower ids first among
    /// equals ([nucleus sampling](https://arxiv.org/abs/1904.09751)).
    ///
    /// A histogram by magnitude finds the bucket in which the share is reached; only that bucket is sorted.
    pub(super) fn keep_top_p(&mut self, p: f32) {
        let p = f64::from(p);
        let total = self.total();
        let limit = p * total;
        // All tokens below this weight together fall short of the share that is cut, so that each of them goes. The
        // factor leaves room for rounding.
        let hopeless = (1.0 - p) * total / self.tokens.len() as f64 * 0.999;
        self.retain(hopeless as f32, |_, _| true);

        self.buckets.clear();
        self.buckets.resize(BUCKETS, 0.0);
        for &weight in &self.weights {
            self.buckets[bucket(weight)] += f64::from(weight);
        }
        let mut above = 0.0;
        let Some(boundary) = (0..BUCKETS).rev().find(|&index| {
            let mass = self.buckets[index];
            if mass > 0.0 && above + mass >= limit {
                return true;
            }
            above += mass;
            false
        }) else {
            return;
        };
        self.cut.clear();
        let (from, to) = (bucket_start(boundary), bucket_start(boundary + 1));
        let inside = |weight: f32| (from <= weight) & (weight < to);
        for (tokens, weights) in self.tokens.chunks(CHUNK).zip(self.weights.chunks(CHUNK)) {
            if any(weights, inside) {
                let pairs = tokens.iter().copied().zip(weights.iter().copied());
                self.cut.extend(pairs.filter(|&(_, weight)| inside(weight)));
            }
        }
        self.cut.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        // The boundary has mass, so that it has members.
        let (mut last_token, mut last_weight) = self.cut[0];
        above += f64::from(last_weight);
        for &(token, weight) in &self.cut[1..] {
            if above >= limit {
                break;
            }
            above += f64::from(weight);
            (last_token, last_weight) = (token, weight);
        }
        self.retain(last_weight, |token, weight| weight > last_weight || token <= last_token);
    }

    /// Keeps the tokens at least `min_p` times as likely as the likeliest.
    pub(super) fn keep_min_p(&mut self, min_p: f32) {
        self.retain(min_p, |_, _| true);
    }

    /// The token at `uniform` (0 to below 1) of the cumulated weights.
    pub(super) fn draw(&mut self, uniform: f64) -> u32 {
        self.block_sums.clear();
        self.block_sums.extend(self.weights.chunks(BLOCK).map(|block| sum_block(block, |weight| weight)));
        let mut target = uniform * self.block_sums.iter().sum::<f64>();
        // Rounding may leave the target at the very end: then the last token with weight is meant.
        let mut chosen = 0;
        for (block, &sum) in self.block_sums.iter().enumerate() {
            let members = block * BLOCK..self.weights.len().min((block + 1) * BLOCK);
            if sum > 0.0 {
                let last = members.clone().rev().find(|&index| self.weights[index] > 0.0);
                chosen = last.unwrap_or(chosen);
            }
            if target < sum {
                for index in members {
                    let weight = f64::from(self.weights[index]);
                    if target < weight {
                        return self.tokens[index];
                    }
                    target -= weight;
                }
                break;
            }
            target -= sum;
        }
        self.tokens[chosen]
    }

    /// Each candidate of non-zero probability with its probability; they sum to 1.
    pub(super) fn probabilities(&self) -> Vec<(u32, f32)> {
        let total = self.total();
        let pairs = self.tokens.iter().zip(&self.weights);
        pairs
            .filter(|&(_, &weight)| weight > 0.0)
            .map(|(&token, &weight)| (token, (f64::from(weight) / total) as f32))
            .collect()
    }

    fn total(&self) -> f64 {
        self.weights.chunks(BLOCK).map(|block| sum_block(block, |weight| weight)).sum()
    }

    /// Keeps the candidates that weigh at least `least` and of which `keep` says so.
    fn retain(&mut self, least: f32, keep: impl Fn(u32, f32) -> bool) {
        let mut kept = 0;
        for start in (0..self.weights.len()).step_by(CHUNK) {
            let end = self.weights.len().min(start + CHUNK);
            if !any(&self.weights[start..end], |weight| weight >= least) {
                continue;
            }
            for index in start..end {
                let (token, weight) = (self.tokens[index], self.weights[index]);
                self.tokens[kept] = token;
                self.weights[kept] = weight;
                kept += usize::from((weight >= least) & keep(token, weight));
            }
        }
        self.tokens.truncate(kept);
        self.weights.truncate(kept);
    }
}

/// Weights tested at once: few of many are looked for, so that most chunks are passed over.
const CHUNK: usize = 32;

/// Whether `test` holds for any weight; without a branch for each, so that it vectorises.
fn any(weights: &[f32], test: impl Fn(f32) -> bool) -> bool {
    weights.iter().fold(false, |any, &weight| any | test(weight))
}

/// Buckets: 64 to each halving of the weight, over 40 halvings; what is smaller shares the first.
const BUCKETS: usize = 40 * 64 + 1;

/// The bits of a weight's fraction that do not choose its bucket.
const BITS_DROPPED: u32 = 23 - 6;
/// What the upper bits of weights are counted from: the bucket of 1 is the last.
const LOWEST: u32 = (1f32.to_bits() >> BITS_DROPPED) - (BUCKETS as u32 - 1);

/// The bucket of a weight between 0 and 1: its exponent and the upper six bits of its fraction, which rise with it.
fn bucket(weight: f32) -> usize {
    let key = weight.to_bits() >> BITS_DROPPED;
    (key.saturating_sub(LOWEST) as usize).min(BUCKETS - 1)
}

/// The smallest weight of a bucket.
fn bucket_start(bucket: usize) -> f32 {
    if bucket == 0 { 0.0 } else { f32::from_bits((LOWEST + bucket as u32) << BITS_DROPPED) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    fn filled(logits: &[f32], temperature: f32, top_k: usize) -> Candidates {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut candidates = Candidates::default();
        candidates.fill(logits, max, temperature, top_k, &mut TopK::default());
        candidates
    }

    #[test]
    fn buckets_rise_with_the_weight() {
        assert_eq!(bucket(0.0), 0);
        assert_eq!(bucket(1.0), BUCKETS - 1);
        let mut before = 0;
        for step in 0..100_000u32 {
            let here = bucket(f32::from_bits(1f32.to_bits() / 100_000 * step));
            let weight = f32::from_bits(1f32.to_bits() / 100_000 * step);
            assert!(here >= before);
            assert!(bucket_start(here) <= weight && weight < bucket_start(here + 1));
            before = here;
        }
    }

    #[test]
    fn top_p_agrees_with_a_full_sort() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for round in 0..300 {
            let len = 1 + (rng.next_u32() % 500) as usize;
            let spread = [0.0, 0.01, 1.0, 30.0][round % 4];
            let logits: Vec<f32> = (0..len).map(|_| (rng.next_u32() % 1000) as f32 / 1000.0 * spread).collect();
            let p = [0.0, 0.001, 0.5, 0.9, 0.99][round % 5];
            let mut candidates = filled(&logits, 0.7, 0);
            let mut sorted: Vec<(u32, f32)> =
                candidates.tokens.iter().copied().zip(candidates.weights.iter().copied()).collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let total: f64 = sorted.iter().map(|&(_, weight)| f64::from(weight)).sum();
            let mut before = 0.0;
            let mut expected = Vec::new();
            for &(token, weight) in &sorted {
                // A sum in another order may differ in its last bits, so a case at the very edge decides nothing.
                assert!(spread == 0.0 || p == 0.0 || (before - f64::from(p) * total).abs() > 1e-9);
                if expected.is_empty() || before < f64::from(p) * total - 1e-9 {
                    expected.push(token);
                }
                before += f64::from(weight);
            }
            expected.sort_unstable();
            candidates.keep_top_p(p);
            assert_eq!(candidates.tokens, expected, "round {round}");
        }
    }

    #[test]
    fn tiny_temperature_leaves_the_largest() {
        let candidates = filled(&[1.0, 3.0, 2.999], f32::from_bits(1), 0);
        assert_eq!(candidates.probabilities(), [(1, 1.0)]);
    }

    #[test]
    fn draws_never_land_on_weightless_tokens() {
        let mut logits = vec![f32::NEG_INFINITY; 200];
        logits[70] = 0.0;
        logits[130] = 0.0;
        let mut candidates = filled(&logits, 1.0, 0);
        assert_eq!(candidates.draw(0.0), 70);
        assert_eq!(candidates.draw(0.499), 70);
        assert_eq!(candidates.draw(0.5), 130);
        assert_eq!(candidates.draw(1.0), 130);
    }

    #[test]
    fn a_draw_inverts_the_cumulated_weights() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 29) % 97) as f32 * 0.05).collect();
        let mut candidates = filled(&logits, 1.0, 0);
        let probabilities = candidates.probabilities();
        let mut sum = 0.0;
        for &(token, probability) in &probabilities {
            let probability = f64::from(probability);
            assert_eq!(candidates.draw(sum + 0.5 * probability), token);
            sum += probability;
        }
        assert!((sum - 1.0).abs() < 1e-5);
    }
}
