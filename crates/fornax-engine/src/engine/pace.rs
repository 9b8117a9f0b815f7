//! Measures how fast steps are, and limits the tokens of prompts in a step so that decoding sequences do not wait long.

use std::time::Duration;

use fornax_scheduler::Plan;

/// The time that prompts may add to a step with decoding sequences, as a multiple of a step that only decodes.
const PROMPT_SHARE: f64 = 2.0;
/// The least limit, as fewer tokens of a prompt are not worth a step.
const LEAST_CHUNK: usize = 16;

/// Running means of the times of steps.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Seconds of a step that only decodes.
    decode: Option<f64>,
    /// Seconds for a token of a prompt.
    prompt: Option<f64>,
}

impl Pace {
    pub(super) fn observe(&mut self, plan: &Plan, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let mix = |old: Option<f64>, new: f64| Some(old.map_or(new, |old| 0.8 * old + 0.2 * new));
        let prompts: u32 = plan.items.iter().filter(|item| item.tokens > 1).map(|item| item.tokens).sum();
        if prompts == 0 {
            self.decode = mix(self.decode, seconds);
        } else if prompts as usize >= LEAST_CHUNK {
            let decodes = plan.items.iter().any(|item| item.tokens == 1);
            let beside = if decodes { self.decode.unwrap_or(0.0) } else { 0.0 };
            self.prompt = mix(self.prompt, (seconds - beside).max(seconds / 4.0) / f64::from(prompts));
        }
    }

    /// The limit on the tokens of prompts beside decoding sequences; none before a step has only decoded. The first chunk
    /// is small, since it measures what a token of a prompt takes.
    pub(super) fn prompt_tokens(&self) -> Option<usize> {
        let decode = self.decode?;
        Some(self.prompt.map_or(LEAST_CHUNK, |prompt| ((PROMPT_SHARE * decode / prompt) as usize).max(LEAST_CHUNK)))
    }
}
