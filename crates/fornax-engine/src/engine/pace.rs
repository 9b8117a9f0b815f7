//! Measures how long steps take, and limits the tokens of prompts in a step so that decoding sequences do not wait long.

use std::time::Duration;

use fornax_scheduler::Plan;

/// The part of the allowed delay that is aimed at: equal steps do not take equally long, and a first try of a size may take
/// twice as long as expected.
const AIM: f64 = 0.5;
/// Steps are told apart by their tokens in groups of so many: kernels compute tokens in groups too, so a token more can take
/// as long as several.
const GROUP: usize = 8;
/// The largest steps that are told apart, in groups.
const GROUPS: usize = 128;
/// Fewer tokens of a prompt are not worth a step.
const LEAST: usize = 4;
/// How many steps with prompts pass until the measurements begin again, so that a single slow step is not held against its
/// size for ever.
const MEMORY: usize = 1000;

/// How much longer a step takes for the prompts in it, by the number of its tokens.
///
/// The limit is the largest number of prompt tokens whose delay is known or expected to be no longer than is allowed. What was
/// not measured is expected to lie on a line between the measurements beside it. Beyond the largest number that was measured,
/// the delay is expected to grow in proportion, and at most about twice as many tokens are tried.
#[derive(Debug)]
pub(super) struct Pace {
    /// The delay that is allowed, as a multiple of a step that only decodes.
    allowed: f64,
    /// Seconds of a step that only decodes: a running mean.
    decode: Option<f64>,
    /// Sequences that decoded in the last step.
    decoding: usize,
    /// Seconds that prompts added to steps of `index + 1` groups of tokens: running means.
    delays: Vec<Option<f64>>,
    /// Steps with prompts since the delays were last forgotten.
    steps: usize,
}

impl Pace {
    /// Lets prompts delay decoding sequences by `allowed` times a step that only decodes.
    pub(super) fn new(allowed: f64) -> Self {
        Self { allowed, decode: None, decoding: 0, delays: vec![None; GROUPS], steps: 0 }
    }

    /// Takes in how long a step took.
    pub(super) fn observe(&mut self, plan: &Plan, elapsed: Duration) {
        let tokens: u32 = plan.items.iter().map(|item| item.tokens).sum();
        let decoding = plan.items.iter().filter(|item| item.tokens == 1).count();
        self.observe_step(tokens as usize, decoding, elapsed.as_secs_f64());
    }

    fn observe_step(&mut self, tokens: usize, decoding: usize, seconds: f64) {
        self.decoding = decoding;
        if tokens == 0 || decoding == 0 {
            return;
        }
        if tokens == decoding {
            self.decode = Some(mean(self.decode, seconds));
            return;
        }
        let Some(decode) = self.decode else { return };
        self.steps += 1;
        if self.steps == MEMORY {
            self.steps = 0;
            self.delays.fill(None);
        }
        if let Some(delay) = self.delays.get_mut(tokens.div_ceil(GROUP) - 1) {
            *delay = Some(mean(*delay, (seconds - decode).max(0.0)));
        }
    }

    /// The limit on the tokens of prompts beside decoding sequences; none before a step has only decoded.
    pub(super) fn prompt_tokens(&self) -> Option<usize> {
        let allowed = AIM * self.allowed * self.decode?;
        let tokens = |groups: usize| groups * GROUP - self.decoding;
        let least = (self.decoding + LEAST).div_ceil(GROUP);
        let most = self.delays.iter().rposition(Option::is_some).map_or(0, |last| self.most_after(last + 1));
        let largest = (least..=most).rev().find(|&groups| self.expected(groups).is_some_and(|delay| delay <= allowed));
        Some(tokens(largest.unwrap_or(least)))
    }

    /// The largest step to try after one of `groups` groups: of about twice its prompt tokens.
    fn most_after(&self, groups: usize) -> usize {
        (2 * groups + 1).saturating_sub(self.decoding / GROUP).min(GROUPS)
    }

    /// The delay that is expected of the prompts in a step of some groups.
    fn expected(&self, groups: usize) -> Option<f64> {
        let measured = |groups: usize| {
            let tokens = (groups * GROUP).checked_sub(self.decoding).filter(|&tokens| tokens > 0)?;
            Some((tokens as f64, self.delays[groups - 1]?))
        };
        let (fewer, delay) = (1..=groups).rev().find_map(measured)?;
        let tokens = (groups * GROUP - self.decoding) as f64;
        Some(match (groups..=GROUPS).find_map(measured) {
            Some((more, longer)) if more > fewer => delay + (longer - delay) * (tokens - fewer) / (more - fewer),
            Some(_) => delay,
            None => delay * tokens / fewer,
        })
    }
}

/// A running mean that follows changes within a few steps.
fn mean(old: Option<f64>, new: f64) -> f64 {
    old.map_or(new, |old| 0.8 * old + 0.2 * new)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets a prompt without end run beside `decoding` sequences, on a device that takes `seconds` for a step of some tokens.
    /// Gives the tokens of prompts in each of `steps` steps.
    fn run(pace: &mut Pace, decoding: usize, steps: usize, seconds: impl Fn(usize) -> f64) -> Vec<usize> {
        pace.observe_step(decoding, decoding, seconds(decoding));
        let mut limits = Vec::new();
        for _ in 0..steps {
            let limit = pace.prompt_tokens().expect("a step has only decoded");
            pace.observe_step(decoding + limit, decoding, seconds(decoding + limit));
            limits.push(limit);
        }
        limits
    }

    #[test]
    fn the_limit_grows_to_what_is_allowed() {
        // A step of one token takes 1.01, so prompts are to delay it by 0.5 · 3 · 1.01, which is 151 tokens.
        let limits = run(&mut Pace::new(3.0), 1, 20, |tokens| 1.0 + tokens as f64 / 100.0);
        assert_eq!(limits[..4], [7, 23, 55, 119]);
        assert_eq!(limits[10..], [151; 10], "{limits:?}");
        // Beside more sequences, the step is a multiple of eight tokens again.
        let limits = run(&mut Pace::new(3.0), 12, 20, |tokens| 1.0 + tokens as f64 / 100.0);
        assert_eq!((limits[0], limits[19] % 8), (4, 4), "{limits:?}");
    }

    #[test]
    fn a_limit_that_was_too_large_is_not_tried_again() {
        // Tokens are computed 32 at a time, and each 32 take as long as a step that only decodes.
        let device = |tokens: usize| tokens.div_ceil(32) as f64;
        let limits = run(&mut Pace::new(3.0), 1, 100, device);
        assert_eq!(limits[10..], [63; 90], "{limits:?}");
        assert!(limits.iter().all(|&limit| device(limit + 1) <= 4.0), "{limits:?}");
    }

    #[test]
    fn a_slow_device_gets_a_few_tokens_at_a_time() {
        let limits = run(&mut Pace::new(3.0), 1, 20, |tokens| tokens as f64);
        assert_eq!(limits, [7; 20]);
    }

    #[test]
    fn a_slow_step_is_forgotten() {
        let mut pace = Pace::new(3.0);
        let device = |tokens: usize| 1.0 + tokens as f64 / 100.0;
        run(&mut pace, 1, 20, device);
        pace.observe_step(152, 1, 1000.0);
        let limits = run(&mut pace, 1, MEMORY + 20, device);
        assert!(limits[0] < 151, "{limits:?}");
        assert_eq!(limits.last(), Some(&151));
    }

    #[test]
    fn without_a_step_that_only_decodes_there_is_no_limit() {
        let mut pace = Pace::new(3.0);
        pace.observe_step(500, 0, 1.0);
        pace.observe_step(500, 3, 1.0);
        pace.observe_step(0, 0, 1.0);
        assert_eq!(pace.prompt_tokens(), None);
    }
}
