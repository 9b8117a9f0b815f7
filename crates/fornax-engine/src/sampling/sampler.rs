//! The sampler: one row of logits in, one token with its log-probability out.
//!
//! One sampler serves one sequence. It does not decide when the sequence ends.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::candidates::Candidates;
use super::math::{finite_max, log_sum_exp};
use super::processors::Edits;
use super::select::TopK;
use super::{History, SamplingError, SamplingParams};

/// One chosen token.
///
/// Log-probabilities are natural and of the model's own distribution: the softmax of the logits as they came, before
/// bias, penalties, temperature and filters.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// The token's id.
    pub token: u32,
    /// The token's log-probability.
    pub logprob: f32,
    /// The likeliest tokens with their log-probabilities, likeliest first, as many as
    /// [`SamplingParams::logprobs`] asks (fewer where the vocabulary is smaller). The chosen token is in it only if it
    /// is one of them.
    pub top_logprobs: Vec<(u32, f32)>,
}

/// Chooses the tokens of one sequence.
///
/// ```
/// use fornax_engine::sampling::{History, Sampler, SamplingParams};
///
/// let params = SamplingParams::default().temperature(0.8).top_k(2).seed(1);
/// let mut history = History::new(&[3]);
/// let mut sampler = Sampler::new(&params, 4, 0)?;
/// let mut logits = vec![0.1, 2.0, 1.5, -1.0];
/// let sampled = sampler.sample(&mut logits, &history)?;
/// history.push(sampled.token);
/// assert!(sampled.token == 1 || sampled.token == 2);
/// # Ok::<(), fornax_engine::sampling::SamplingError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    vocab_size: usize,
    seed: u64,
    rng: ChaCha8Rng,
    end_tokens: Vec<u32>,
    edits: Edits,
    candidates: Candidates,
    select: TopK,
}

/// What the processed logits leave to do.
enum Choice {
    Fixed(u32),
    Draw,
}

impl Sampler {
    /// Makes the sampler of sequence `sequence_index` of a request, for a model that predicts `vocab_size` tokens.
    ///
    /// Sequences of one request draw from independent streams of one seed: what a sequence gets does not depend on
    /// how many run beside it. Without a seed in `params` each sampler takes its own
    /// ([`SamplingParams::with_fixed_seed`] shares one).
    ///
    /// # Errors
    /// As [`SamplingParams::validate_for`].
    pub fn new(params: &SamplingParams, vocab_size: usize, sequence_index: u64) -> Result<Self, SamplingError> {
        params.validate_for(vocab_size)?;
        let seed = params.seed_or_random();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(sequence_index);
        Ok(Self {
            end_tokens: params.stop_token_ids.clone(),
            params: params.clone(),
            vocab_size,
            seed,
            rng,
            edits: Edits::default(),
            candidates: Candidates::default(),
            select: TopK::default(),
        })
    }

    /// Names the model's end tokens, which `min_new_tokens` bans beside the request's stop tokens. Ids beyond the
    /// vocabulary are passed over, for models declare such.
    #[must_use]
    pub fn with_eos(mut self, eos_token_ids: &[u32]) -> Self {
        self.end_tokens.extend_from_slice(eos_token_ids);
        self
    }

    /// The seed in use, given or taken at random.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Chooses the token that follows `history`. `logits: [vocab_size]` are the model's own; they are changed while
    /// this runs and are as before when it returns.
    ///
    /// # Errors
    /// [`SamplingError::LogitsLength`], [`SamplingError::InvalidLogit`] (NaN, infinity, or an overflow from a penalty)
    /// and [`SamplingError::NoCandidate`] where everything is `-inf`.
    pub fn sample(&mut self, logits: &mut [f32], history: &History) -> Result<Sampled, SamplingError> {
        self.check_len(logits)?;
        let log_sum = log_sum_exp(logits)?;
        let token = match self.choose(logits, history)? {
            Choice::Fixed(token) => token,
            Choice::Draw => {
                // The upper 53 bits make every multiple of 2^-53 below 1 equally likely.
                let uniform = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
                self.candidates.draw(uniform)
            }
        };
        let logprob_of = |logit: f32| (f64::from(logit) - log_sum) as f32;
        let mut top_logprobs = Vec::new();
        if let Some(count) = self.params.logprobs.filter(|&count| count > 0) {
            self.select.start(count);
            self.select.scan(logits, 0, 0.0);
            let entries = self.select.finish_sorted();
            top_logprobs.extend(entries.iter().map(|entry| (entry.index, logprob_of(entry.value))));
        }
        Ok(Sampled { token, logprob: logprob_of(logits[token as usize]), top_logprobs })
    }

    /// The distribution that [`sample`](Self::sample) would draw from: each possible token with its probability, by
    /// id. It sums to 1, and draws nothing. Greedy gives one token.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn distribution(&mut self, logits: &mut [f32], history: &History) -> Result<Vec<(u32, f32)>, SamplingError> {
        self.check_len(logits)?;
        finite_max(logits)?;
        Ok(match self.choose(logits, history)? {
            Choice::Fixed(token) => vec![(token, 1.0)],
            Choice::Draw => self.candidates.probabilities(),
        })
    }

    /// Applies bias, penalties and the ban on ending early to `logits: [vocab_size]` for good, without choosing: what a
    /// beam search does to each beam's log-probabilities.
    ///
    /// # Errors
    /// [`SamplingError::LogitsLength`].
    pub fn process(&mut self, logits: &mut [f32], history: &History) -> Result<(), SamplingError> {
        self.check_len(logits)?;
        self.edits.apply(&self.params, &self.end_tokens, logits, history);
        Ok(())
    }

    /// Fills the candidates, or fixes the token; the logits are as before afterwards, whatever happens.
    fn choose(&mut self, logits: &mut [f32], history: &History) -> Result<Choice, SamplingError> {
        self.edits.apply(&self.params, &self.end_tokens, logits, history);
        let max = finite_max(logits);
        let choice = max.map(|max| self.choose_processed(logits, max));
        self.edits.revert(logits);
        choice
    }

    fn choose_processed(&mut self, logits: &[f32], max: f32) -> Choice {
        let params = &self.params;
        if params.is_greedy() {
            // The maximum came from this row, so that it is found; the lowest id wins a tie.
            let token = logits.iter().position(|&logit| logit == max).unwrap_or_default();
            return Choice::Fixed(token as u32);
        }
        self.candidates.fill(logits, max, params.temperature, params.top_k, &mut self.select);
        if params.top_p < 1.0 {
            self.candidates.keep_top_p(params.top_p);
        }
        if params.min_p > 0.0 {
            self.candidates.keep_min_p(params.min_p);
        }
        Choice::Draw
    }

    fn check_len(&self, logits: &[f32]) -> Result<(), SamplingError> {
        if logits.len() == self.vocab_size {
            return Ok(());
        }
        Err(SamplingError::LogitsLength { expected: self.vocab_size, found: logits.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Vec<f32> {
        (0..20).map(|i| ((i * 7) % 20) as f32 * 0.2).collect()
    }

    fn draws(params: &SamplingParams, sequence: u64, count: usize) -> Vec<u32> {
        let mut logits = row();
        let mut sampler = Sampler::new(params, 20, sequence).unwrap();
        let history = History::default();
        (0..count).map(|_| sampler.sample(&mut logits, &history).unwrap().token).collect()
    }

    #[test]
    fn equal_seeds_draw_equal_tokens_on_every_platform() {
        let params = SamplingParams::default().temperature(1.0).seed(42);
        let drawn = draws(&params, 0, 16);
        assert_eq!(drawn, draws(&params, 0, 16));
        assert_ne!(drawn, draws(&params, 1, 16));
        assert_ne!(drawn, draws(&params.clone().seed(43), 0, 16));
        assert_eq!(drawn, PINNED_DRAWS);
    }

    /// Drawn once and pinned: a change of generator, stream or arithmetic would break users' seeds.
    const PINNED_DRAWS: [u32; 16] = [14, 19, 11, 14, 8, 5, 8, 17, 17, 8, 13, 17, 19, 14, 16, 5];

    #[test]
    fn frequencies_follow_the_distribution() {
        const DRAWS: usize = 100_000;
        // The 99.9% points of chi-square for 19 and for 4 degrees of freedom.
        for (params, bound) in [
            (SamplingParams::default().temperature(1.3), 43.82),
            (SamplingParams::default().temperature(0.8).top_k(5), 18.47),
        ] {
            let params = params.seed(11);
            let mut sampler = Sampler::new(&params, 20, 3).unwrap();
            let distribution = sampler.distribution(&mut row(), &History::default()).unwrap();
            let mut counts = [0usize; 20];
            for token in draws(&params, 3, DRAWS) {
                counts[token as usize] += 1;
            }
            let mut statistic = 0.0;
            let mut counted = 0;
            for &(token, probability) in &distribution {
                let expected = f64::from(probability) * DRAWS as f64;
                let found = counts[token as usize];
                statistic += (found as f64 - expected).powi(2) / expected;
                counted += found;
            }
            assert_eq!(counted, DRAWS, "a token outside the distribution was drawn");
            assert!(statistic < bound, "chi-square {statistic} against {bound}");
        }
    }

    #[test]
    fn logprobs_are_of_the_raw_distribution() {
        let params = SamplingParams::default()
            .temperature(0.5)
            .top_k(3)
            .repetition_penalty(1.5)
            .logit_bias([(4, -50.0)])
            .logprobs(4)
            .seed(0);
        let original = row();
        let exact: f64 = original.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
        let mut logits = original.clone();
        let sampled = Sampler::new(&params, 20, 0).unwrap().sample(&mut logits, &History::new(&[17, 4])).unwrap();
        assert_eq!(logits, original, "the logits come back as they were");
        let logprob = |token: u32| (f64::from(original[token as usize]) - exact) as f32;
        assert!((sampled.logprob - logprob(sampled.token)).abs() < 1e-6);
        let mut order: Vec<u32> = (0..20).collect();
        order.sort_by(|&a, &b| original[b as usize].total_cmp(&original[a as usize]));
        let tokens: Vec<u32> = sampled.top_logprobs.iter().map(|&(token, _)| token).collect();
        assert_eq!(tokens, order[..4]);
        for (token, found) in sampled.top_logprobs {
            assert!((found - logprob(token)).abs() < 1e-6);
        }
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest_after_penalties() {
        let mut logits = vec![1.0, 3.0, 3.0, 2.9];
        let mut greedy = Sampler::new(&SamplingParams::default(), 4, 0).unwrap();
        assert_eq!(greedy.sample(&mut logits, &History::default()).unwrap().token, 1);
        let params = SamplingParams::default().repetition_penalty(2.0);
        let mut penalised = Sampler::new(&params, 4, 0).unwrap();
        let history = History::new(&[1, 2]);
        assert_eq!(penalised.sample(&mut logits, &history).unwrap().token, 3);
        assert_eq!(penalised.distribution(&mut logits, &history).unwrap(), [(3, 1.0)]);
    }

    #[test]
    fn end_tokens_of_model_and_request_are_banned_at_first() {
        let params = SamplingParams::default().min_new_tokens(1).stop_token_ids([1]);
        let mut sampler = Sampler::new(&params, 4, 0).unwrap().with_eos(&[2, 50_000]);
        let mut logits = vec![0.0, 3.0, 2.0, 1.0];
        let mut history = History::new(&[0]);
        assert_eq!(sampler.sample(&mut logits, &history).unwrap().token, 3);
        history.push(3);
        assert_eq!(sampler.sample(&mut logits, &history).unwrap().token, 1);
    }

    #[test]
    fn unusable_logits_are_errors_and_stay_unchanged() {
        let params = SamplingParams::default().temperature(1.0).repetition_penalty(0.01);
        let mut sampler = Sampler::new(&params, 2, 0).unwrap();
        let history = History::new(&[0]);
        for bad in [f32::NAN, f32::INFINITY] {
            let error = sampler.sample(&mut [0.0, bad], &history).unwrap_err();
            assert!(matches!(error, SamplingError::InvalidLogit { token: 1, .. }));
        }
        let mut overflowing = [3e38, 0.0];
        let error = sampler.sample(&mut overflowing, &history).unwrap_err();
        assert!(matches!(error, SamplingError::InvalidLogit { token: 0, .. }));
        assert_eq!(overflowing, [3e38, 0.0]);
        let none = [f32::NEG_INFINITY; 2];
        assert_eq!(sampler.sample(&mut none.clone(), &history), Err(SamplingError::NoCandidate));
        let error = sampler.sample(&mut [0.0], &history).unwrap_err();
        assert_eq!(error, SamplingError::LogitsLength { expected: 2, found: 1 });
        let banned = SamplingParams::default().min_new_tokens(1).stop_token_ids([0, 1]);
        let error = Sampler::new(&banned, 2, 0).unwrap().sample(&mut [0.0, 0.0], &history);
        assert_eq!(error, Err(SamplingError::NoCandidate));
    }
}
