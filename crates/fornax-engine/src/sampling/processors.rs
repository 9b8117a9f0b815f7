//! The processors that change single logits: bias, repetition, frequency and presence penalties, and the ban on
//! ending too early.
//!
//! Each touches few tokens, so that the old values are noted and put back after the draw instead of copying a whole
//! vocabulary. What removes tokens by rank or probability is in `candidates`.

use super::{History, SamplingParams};

/// Old values of the logits that were changed, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Edits {
    undo: Vec<(usize, f32)>,
}

impl Edits {
    /// Applies every processor in order; `end_tokens` are those banned before `min_new_tokens`.
    pub(super) fn apply(&mut self, params: &SamplingParams, end_tokens: &[u32], logits: &mut [f32], history: &History) {
        self.undo.clear();
        for (&token, &bias) in &params.logit_bias {
            self.change(logits, token, |logit| logit + bias);
        }
        self.repetition(params.repetition_penalty, logits, history);
        self.frequency_and_presence(params, logits, history);
        if history.generated().len() < params.min_new_tokens {
            for &token in end_tokens {
                self.change(logits, token, |_| f32::NEG_INFINITY);
            }
        }
    }

    /// Puts the logits back as they were before [`apply`](Self::apply).
    pub(super) fn revert(&mut self, logits: &mut [f32]) {
        while let Some((token, old)) = self.undo.pop() {
            logits[token] = old;
        }
    }

    /// [CTRL](https://arxiv.org/abs/1909.05858)'s penalty over prompt and generation, as transformers applies it.
    fn repetition(&mut self, penalty: f32, logits: &mut [f32], history: &History) {
        if penalty == 1.0 {
            return;
        }
        for &(token, _) in history.seen() {
            self.change(logits, token, |logit| if logit < 0.0 { logit * penalty } else { logit / penalty });
        }
    }

    /// The two subtractive penalties over the generation alone, as the OpenAI API defines them.
    fn frequency_and_presence(&mut self, params: &SamplingParams, logits: &mut [f32], history: &History) {
        let (frequency, presence) = (params.frequency_penalty, params.presence_penalty);
        if frequency == 0.0 && presence == 0.0 {
            return;
        }
        for &(token, count) in history.seen() {
            if count > 0 {
                self.change(logits, token, |logit| logit - (frequency * count as f32 + presence));
            }
        }
    }

    /// Changes one logit and notes the old one. Tokens beyond the row (a tokenizer may know more than the model
    /// predicts) cannot be drawn and are passed over.
    fn change(&mut self, logits: &mut [f32], token: u32, new: impl FnOnce(f32) -> f32) {
        let token = token as usize;
        if let Some(logit) = logits.get_mut(token) {
            self.undo.push((token, *logit));
            *logit = new(*logit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        let mut history = History::new(&[0, 1]);
        for token in [2, 2, 1] {
            history.push(token);
        }
        history
    }

    fn applied(params: &SamplingParams) -> Vec<f32> {
        let original = [2.0f32, -2.0, 4.0, 1.0];
        let mut logits = original;
        let mut edits = Edits::default();
        edits.apply(params, &[3, 900], &mut logits, &history());
        let out = logits.to_vec();
        edits.revert(&mut logits);
        assert_eq!(logits, original);
        out
    }

    #[test]
    fn repetition_counts_the_prompt_and_each_token_once() {
        assert_eq!(applied(&SamplingParams::default().repetition_penalty(2.0)), [1.0, -4.0, 2.0, 1.0]);
    }

    #[test]
    fn frequency_and_presence_count_the_generation_only() {
        assert_eq!(applied(&SamplingParams::default().frequency_penalty(0.5)), [2.0, -2.5, 3.0, 1.0]);
        assert_eq!(applied(&SamplingParams::default().presence_penalty(0.5)), [2.0, -2.5, 3.5, 1.0]);
    }

    #[test]
    fn bias_comes_before_the_penalty() {
        let params = SamplingParams::default().logit_bias([(1, 6.0)]).repetition_penalty(2.0);
        assert_eq!(applied(&params), [1.0, 2.0, 2.0, 1.0]);
    }

    #[test]
    fn end_tokens_are_banned_until_enough_were_generated() {
        let params = SamplingParams::default();
        assert_eq!(applied(&params.clone().min_new_tokens(4))[3], f32::NEG_INFINITY);
        assert_eq!(applied(&params.min_new_tokens(3))[3], 1.0);
    }
}
