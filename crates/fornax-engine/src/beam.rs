//! Beam search as bookkeeping on log-probabilities: which beams go on, which have finished, when to end.
//!
//! It follows transformers' `generate(num_beams=…)` step by step. It runs no model and owns no cache: the caller
//! reorders its cache by the parents returned and feeds the tokens returned.

use crate::sampling::select::{Entry, TopK};
use crate::sampling::{EarlyStopping, SamplingError, SamplingParams, within};

/// Stands for "impossible" among scores. It is finite, as in transformers, so that beams of little hope still order.
const IMPOSSIBLE: f32 = -1e9;

/// The settings of one beam search.
#[derive(Debug, Clone, PartialEq)]
pub struct BeamConfig {
    /// The number of beams kept. 1 to 256.
    pub num_beams: usize,
    /// The number of sequences wanted. 1 to `num_beams`.
    pub num_return_sequences: usize,
    /// A score is a log-probability over the length to this power. -10 to 10.
    pub length_penalty: f32,
    /// When to end.
    pub early_stopping: EarlyStopping,
    /// Tokens that finish a sequence. They also set how many candidates a step looks at.
    pub eos_token_ids: Vec<u32>,
    /// The most tokens a sequence may have after the prompt. At least 1.
    pub max_new_tokens: usize,
    /// The number of tokens the model predicts.
    pub vocab_size: usize,
}

impl BeamConfig {
    /// Takes the settings of a request; `eos_token_ids` are the model's, unless the request ignores them.
    ///
    /// ```
    /// use fornax_engine::{beam::BeamConfig, sampling::SamplingParams};
    ///
    /// let params = SamplingParams::default().num_beams(4).stop_token_ids([5]);
    /// let config = BeamConfig::from_params(&params, &[2], 100);
    /// assert_eq!(config.eos_token_ids, [2, 5]);
    /// ```
    pub fn from_params(params: &SamplingParams, eos_token_ids: &[u32], vocab_size: usize) -> Self {
        let eos = if params.ignore_eos { &[] } else { eos_token_ids };
        let mut ends = eos.to_vec();
        for &token in &params.stop_token_ids {
            if !ends.contains(&token) {
                ends.push(token);
            }
        }
        Self {
            num_beams: params.num_beams,
            num_return_sequences: params.num_return_sequences,
            length_penalty: params.length_penalty,
            early_stopping: params.early_stopping,
            eos_token_ids: ends,
            max_new_tokens: params.max_new_tokens,
            vocab_size,
        }
    }

    fn validate(&self) -> Result<(), SamplingError> {
        within("num_beams", self.num_beams, 1..=256)?;
        within("num_return_sequences", self.num_return_sequences, 1..=self.num_beams)?;
        within("length_penalty", self.length_penalty, -10.0..=10.0)?;
        within("the number of eos_token_ids", self.eos_token_ids.len(), 0..=2048)?;
        within("max_new_tokens", self.max_new_tokens, 1..=1 << 24)?;
        // A candidate's index over all beams is a u32.
        within("vocab_size", self.vocab_size, 1..=u32::MAX as usize / 256)
    }
}

/// What to do after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeamStep {
    /// `[num_beams]`: the beam each new beam continues. Reorder the cache by it.
    pub parents: Vec<usize>,
    /// `[num_beams]`: the token each new beam adds. Feed it to the model.
    pub tokens: Vec<u32>,
    /// Whether the search has ended; parents and tokens then need no further work.
    pub done: bool,
}

/// A finished sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// The tokens after the prompt, with the end token where one was met.
    pub tokens: Vec<u32>,
    /// The sum of the natural log-probabilities over the length to the power of the length penalty.
    pub score: f32,
}

/// The state of one beam search over one prompt.
///
/// ```
/// use fornax_engine::beam::{BeamConfig, BeamSearch};
/// use fornax_engine::sampling::{SamplingParams, log_softmax};
///
/// let params = SamplingParams::default().num_beams(2).max_new_tokens(3);
/// let mut search = BeamSearch::new(BeamConfig::from_params(&params, &[0], 3))?;
/// loop {
///     // A real caller runs the model on the tokens of the step before, one row a beam.
///     let mut row = [0.5, 2.0, 1.0];
///     log_softmax(&mut row)?;
///     if search.step(&row.repeat(2))?.done {
///         break;
///     }
/// }
/// assert_eq!(search.finish()[0].tokens, [1, 1, 1]);
/// # Ok::<(), fornax_engine::sampling::SamplingError>(())
/// ```
#[derive(Debug, Clone)]
pub struct BeamSearch {
    config: BeamConfig,
    running: Vec<Hypothesis>,
    /// Best first; at most `num_beams`.
    finished: Vec<Hypothesis>,
    /// The number of tokens of the running beams.
    len: usize,
    improvable: bool,
    done: bool,
    select: TopK,
}

/// One continuation of one beam.
struct Candidate {
    parent: usize,
    token: u32,
    log_prob: f32,
    ends: bool,
}

impl BeamSearch {
    /// Starts a search.
    ///
    /// # Errors
    /// [`SamplingError::OutOfRange`].
    pub fn new(config: BeamConfig) -> Result<Self, SamplingError> {
        config.validate()?;
        // All beams begin alike; only the first counts in the first step, or all would choose the same tokens.
        let running = (0..config.num_beams)
            .map(|beam| Hypothesis { tokens: Vec::new(), score: if beam == 0 { 0.0 } else { IMPOSSIBLE } })
            .collect();
        Ok(Self {
            config,
            running,
            finished: Vec::new(),
            len: 0,
            improvable: true,
            done: false,
            select: TopK::default(),
        })
    }

    /// Goes one token further. `log_probs: [num_beams * vocab_size]`, one row a beam in the order of the step before;
    /// in the first step one row `[vocab_size]` for all is enough.
    ///
    /// # Errors
    /// [`SamplingError::LogitsLength`], [`SamplingError::InvalidLogit`] for NaN or positive infinity,
    /// [`SamplingError::NoCandidate`] where every entry is `-inf`, [`SamplingError::BeamSearchDone`]. The search is
    /// then unchanged.
    pub fn step(&mut self, log_probs: &[f32]) -> Result<BeamStep, SamplingError> {
        self.step_with(log_probs, |_| false)
    }

    /// As [`step`](Self::step); a candidate also finishes where `ends` says so of its tokens after the prompt (a stop
    /// string was met, say).
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_with(
        &mut self,
        log_probs: &[f32],
        mut ends: impl FnMut(&[u32]) -> bool,
    ) -> Result<BeamStep, SamplingError> {
        let candidates = self.candidates(log_probs, &mut ends)?;
        let len = self.len + 1;
        self.update_finished(&candidates, len);
        let all_end = candidates.iter().all(|candidate| candidate.ends);
        let step = self.update_running(&candidates);
        self.len = len;
        self.improvable = self.improvable && self.can_improve();
        let full = self.config.early_stopping == EarlyStopping::WhenFull && self.is_full();
        self.done = !self.improvable || full || all_end;
        Ok(BeamStep { done: self.done, ..step })
    }

    /// `[num_beams]`: the tokens after the prompt of each running beam, in the order of the last step; for penalties
    /// that look at what was generated.
    pub fn running(&self) -> impl Iterator<Item = &[u32]> {
        self.running.iter().map(|beam| beam.tokens.as_slice())
    }

    /// The best finished sequences, best first: `num_return_sequences` of them once a step has said `done`, fewer only
    /// where fewer sequences are possible at all (or the search is given up before its end).
    pub fn finish(mut self) -> Vec<Hypothesis> {
        self.finished.truncate(self.config.num_return_sequences);
        self.finished
    }

    /// The best continuations over all beams, best first: enough that `num_beams` remain if all end tokens are among
    /// them.
    fn candidates(
        &mut self,
        log_probs: &[f32],
        ends: &mut impl FnMut(&[u32]) -> bool,
    ) -> Result<Vec<Candidate>, SamplingError> {
        let BeamConfig { num_beams, vocab_size, .. } = self.config;
        if self.done {
            return Err(SamplingError::BeamSearchDone);
        }
        let one_for_all = self.len == 0 && log_probs.len() == vocab_size;
        if !one_for_all && log_probs.len() != num_beams * vocab_size {
            return Err(SamplingError::LogitsLength { expected: num_beams * vocab_size, found: log_probs.len() });
        }
        crate::sampling::finite_max(log_probs)?;
        let kept = (1 + self.config.eos_token_ids.len()).max(2) * num_beams;
        self.select.start(kept);
        for (beam, running) in self.running.iter().enumerate() {
            let row = if one_for_all { 0 } else { beam * vocab_size };
            let first = (beam * vocab_size) as u32;
            self.select.scan(&log_probs[row..row + vocab_size], first, running.score);
        }
        let last = self.len + 1 >= self.config.max_new_tokens;
        let mut sequence = Vec::with_capacity(self.len + 1);
        let entries = self.select.finish_sorted();
        Ok(entries
            .iter()
            .map(|&Entry { index, value }| {
                let (parent, token) = (index as usize / vocab_size, index % vocab_size as u32);
                sequence.clear();
                sequence.extend_from_slice(&self.running[parent].tokens);
                sequence.push(token);
                Candidate {
                    parent,
                    token,
                    log_prob: value,
                    ends: last || self.config.eos_token_ids.contains(&token) || ends(&sequence),
                }
            })
            .collect())
    }

    /// Takes in the candidates that end. Only the best `num_beams` count: the others are there to keep beams running.
    fn update_finished(&mut self, candidates: &[Candidate], len: usize) {
        let num_beams = self.config.num_beams;
        if self.config.early_stopping == EarlyStopping::WhenFull && self.is_full() {
            return;
        }
        for candidate in candidates.iter().take(num_beams).filter(|candidate| candidate.ends) {
            let score = candidate.log_prob / self.length_factor(len);
            // Continuations of beams that were impossible from the start are no results.
            if candidate.log_prob > IMPOSSIBLE / 2.0 {
                let tokens = self.extended(candidate);
                self.finished.push(Hypothesis { tokens, score });
            }
        }
        // The sort is stable, so that the earlier of two equals stays before the later.
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(num_beams);
    }

    /// Lets the best candidates that do not end become the running beams.
    fn update_running(&mut self, candidates: &[Candidate]) -> BeamStep {
        let score_of = |candidate: &Candidate| {
            if candidate.ends { candidate.log_prob + IMPOSSIBLE } else { candidate.log_prob }
        };
        let mut order: Vec<&Candidate> = candidates.iter().collect();
        order.sort_by(|a, b| score_of(b).total_cmp(&score_of(a)));
        order.truncate(self.config.num_beams);
        self.running = order
            .iter()
            .map(|candidate| Hypothesis { tokens: self.extended(candidate), score: score_of(candidate) })
            .collect();
        BeamStep {
            parents: order.iter().map(|candidate| candidate.parent).collect(),
            tokens: order.iter().map(|candidate| candidate.token).collect(),
            done: false,
        }
    }

    /// Whether the best running beam may still beat the worst finished one.
    fn can_improve(&self) -> bool {
        if !self.is_full() {
            return true;
        }
        let to_the_end = self.config.early_stopping == EarlyStopping::Never && self.config.length_penalty > 0.0;
        let len = if to_the_end { self.config.max_new_tokens } else { self.len };
        let best = self.running.first().map_or(IMPOSSIBLE, |beam| beam.score) / self.length_factor(len);
        let worst = self.finished.last().map_or(IMPOSSIBLE, |beam| beam.score);
        best > worst
    }

    fn is_full(&self) -> bool {
        self.finished.len() == self.config.num_beams
    }

    fn length_factor(&self, len: usize) -> f32 {
        (len as f64).powf(f64::from(self.config.length_penalty)) as f32
    }

    fn extended(&self, candidate: &Candidate) -> Vec<u32> {
        let mut tokens = Vec::with_capacity(self.len + 1);
        tokens.extend_from_slice(&self.running[candidate.parent].tokens);
        tokens.push(candidate.token);
        tokens
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde::Deserialize;

    use super::*;
    use crate::sampling::{History, Sampler, log_softmax};

    /// What transformers generated with a model whose logits are looked up by the last two tokens; recorded by
    /// `tests/fixtures/make.py`.
    #[derive(Deserialize)]
    struct Fixture {
        scale: f32,
        vocab_size: usize,
        tables: HashMap<String, Vec<i32>>,
        cases: Vec<Case>,
    }

    #[derive(Debug, Deserialize)]
    struct Case {
        table: String,
        prompt: Vec<u32>,
        num_beams: usize,
        length_penalty: f32,
        early_stopping: EarlyStopping,
        eos: Vec<u32>,
        max_new_tokens: usize,
        repetition_penalty: f32,
        num_return_sequences: usize,
        steps: Option<usize>,
        expected: Vec<Expected>,
    }

    #[derive(Debug, Deserialize)]
    struct Expected {
        tokens: Vec<u32>,
        score: Option<f32>,
    }

    /// The log-probabilities after each of `sequences`, penalised as the case asks.
    fn log_probs(fixture: &Fixture, case: &Case, sequences: &[Vec<u32>]) -> Vec<f32> {
        let vocab = fixture.vocab_size;
        let params = SamplingParams::default().repetition_penalty(case.repetition_penalty);
        let mut sampler = Sampler::new(&params, vocab, 0).unwrap();
        let mut all = Vec::new();
        for generated in sequences {
            let mut history = History::new(&case.prompt);
            generated.iter().for_each(|&token| history.push(token));
            let mut last = case.prompt.iter().chain(generated).rev().map(|&token| token as usize);
            let (now, before) = (last.next().unwrap(), last.next().unwrap_or_default());
            let start = (before * vocab + now) * vocab;
            let table = &fixture.tables[&case.table][start..start + vocab];
            let mut row: Vec<f32> = table.iter().map(|&logit| logit as f32 / fixture.scale).collect();
            log_softmax(&mut row).unwrap();
            sampler.process(&mut row, &history).unwrap();
            all.extend(row);
        }
        all
    }

    /// Runs a case as a caller with a cache would, by parents and tokens; returns also the number of steps.
    fn run(fixture: &Fixture, case: &Case) -> (Vec<Hypothesis>, usize) {
        let mut search = BeamSearch::new(BeamConfig {
            num_beams: case.num_beams,
            num_return_sequences: case.num_return_sequences,
            length_penalty: case.length_penalty,
            early_stopping: case.early_stopping,
            eos_token_ids: case.eos.clone(),
            max_new_tokens: case.max_new_tokens,
            vocab_size: fixture.vocab_size,
        })
        .unwrap();
        let mut sequences = vec![Vec::new(); case.num_beams];
        let mut rows = log_probs(fixture, case, &sequences[..1]);
        loop {
            let step = search.step(&rows).unwrap();
            sequences = step.parents.iter().map(|&parent| sequences[parent].clone()).collect();
            for (sequence, &token) in sequences.iter_mut().zip(&step.tokens) {
                sequence.push(token);
            }
            assert!(search.running().eq(sequences.iter().map(Vec::as_slice)));
            if step.done {
                let error = search.step(&rows).unwrap_err();
                assert_eq!(error, SamplingError::BeamSearchDone);
                return (search.finish(), sequences[0].len());
            }
            rows = log_probs(fixture, case, &sequences);
        }
    }

    fn fixture() -> Fixture {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/beams.json"));
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn sequences_and_scores_equal_those_of_transformers() {
        let fixture = fixture();
        assert!(fixture.cases.len() >= 120);
        for case in &fixture.cases {
            let (found, steps) = run(&fixture, case);
            assert_eq!(steps, case.steps.unwrap_or(steps), "steps until the end of {case:?}");
            let tokens: Vec<&Vec<u32>> = found.iter().map(|hypothesis| &hypothesis.tokens).collect();
            let expected: Vec<&Vec<u32>> = case.expected.iter().map(|expected| &expected.tokens).collect();
            assert_eq!(tokens, expected, "{case:?}");
            for (found, expected) in found.iter().zip(&case.expected) {
                if let Some(score) = expected.score {
                    assert!((found.score - score).abs() < 1e-4, "{} in {case:?}", found.score);
                }
            }
        }
    }

    fn config(num_beams: usize, vocab_size: usize) -> BeamConfig {
        let params = SamplingParams::default().num_beams(num_beams).max_new_tokens(4);
        BeamConfig::from_params(&params.num_return_sequences(num_beams), &[0], vocab_size)
    }

    #[test]
    fn a_beam_as_wide_as_all_sequences_finds_the_best() {
        // Four tokens of three: 81 sequences without ends, all of them kept.
        let weights: Vec<f32> = (0..12).map(|i| ((i * 5) % 12) as f32 * 0.3).collect();
        let row = |position: usize| {
            let mut row = weights[position * 3..position * 3 + 3].to_vec();
            log_softmax(&mut row).unwrap();
            row
        };
        let params = SamplingParams::default().num_beams(81).max_new_tokens(4).length_penalty(0.0);
        let mut search = BeamSearch::new(BeamConfig::from_params(&params, &[], 3)).unwrap();
        for position in 0..4 {
            let step = search.step(&row(position).repeat(81)).unwrap();
            assert_eq!(step.done, position == 3);
        }
        let best = search.finish().remove(0);
        let likeliest = |row: &[f32]| (0..3u32).max_by(|&a, &b| row[a as usize].total_cmp(&row[b as usize])).unwrap();
        let expected: Vec<u32> = (0..4).map(|position| likeliest(&row(position))).collect();
        let score: f32 = (0..4).map(|position| row(position)[expected[position] as usize]).sum();
        assert_eq!(best.tokens, expected);
        assert!((best.score - score).abs() < 1e-5);
    }

    #[test]
    fn a_callers_own_ending_finishes_a_beam() {
        let mut config = config(2, 4);
        config.length_penalty = 0.0;
        let mut search = BeamSearch::new(config).unwrap();
        let rows = [-9.0, -0.1, -2.5, -4.0].repeat(2);
        while !search.step_with(&rows, |tokens| tokens.ends_with(&[1, 2])).unwrap().done {}
        let found: Vec<Vec<u32>> = search.finish().into_iter().map(|hypothesis| hypothesis.tokens).collect();
        assert_eq!(found, [vec![1, 1, 1, 1], vec![1, 2]]);
    }

    #[test]
    fn a_vocabulary_too_small_for_the_beams_gives_what_there_is() {
        let mut search = BeamSearch::new(config(4, 1)).unwrap();
        while !search.step(&[-0.5]).or_else(|_| search.step(&[-0.5; 4])).unwrap().done {}
        let found = search.finish();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].tokens.as_slice(), found[0].score), ([0].as_slice(), -0.5));
    }

    #[test]
    fn unusable_rows_and_settings_are_errors_and_change_nothing() {
        let mut search = BeamSearch::new(config(2, 3)).unwrap();
        let error = search.step(&[0.0; 5]).unwrap_err();
        assert_eq!(error, SamplingError::LogitsLength { expected: 6, found: 5 });
        let error = search.step(&[0.0, 0.0, f32::NAN]).unwrap_err();
        assert!(matches!(error, SamplingError::InvalidLogit { token: 2, .. }));
        let error = search.step(&[f32::NEG_INFINITY; 6]).unwrap_err();
        assert_eq!(error, SamplingError::NoCandidate);
        search.step(&[-1.0, -2.0, -3.0]).unwrap();
        let error = search.step(&[-1.0, -2.0, -3.0]).unwrap_err();
        assert_eq!(
            error,
            SamplingError::LogitsLength { expected: 6, found: 3 },
            "one row for all is for the first step"
        );

        let bad = |change: fn(&mut BeamConfig)| {
            let mut config = config(2, 3);
            change(&mut config);
            BeamSearch::new(config).unwrap_err()
        };
        for error in [
            bad(|config| config.num_beams = 0),
            bad(|config| config.num_beams = 257),
            bad(|config| config.num_return_sequences = 3),
            bad(|config| config.length_penalty = f32::NAN),
            bad(|config| config.max_new_tokens = 0),
            bad(|config| config.vocab_size = 0),
            bad(|config| config.vocab_size = usize::MAX),
        ] {
            assert!(matches!(error, SamplingError::OutOfRange { .. }), "{error}");
        }
    }
}
