//! How fast steps are, and so how much of a prompt fits into a step without keeping running sequences waiting.

use std::time::Duration;

use fornax_scheduler::Plan;

/// How much of a step's time prompts may take beside running sequences, as a multiple of their usual step.
const PROMPT_SHARE: f64 = 2.0;
/// Fewer tokens of a prompt than this are not worth a step.
const LEAST_CHUNK: usize = 16;

/// How long steps take, by which prompts are cut so that running sequences are not kept waiting.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Seconds of a step that only decodes.
    decode: Option<f64>,
    /// Seconds of a prompt's token.
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

    /// Tokens of prompts for which running sequences may wait in a step.
    pub(super) fn prompt_tokens(&self) -> Option<usize> {
        let tokens = PROMPT_SHARE * self.decode? / self.prompt?;
        Some((tokens as usize).max(LEAST_CHUNK))
    }
}
