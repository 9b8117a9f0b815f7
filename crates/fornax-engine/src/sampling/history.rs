//! The tokens of one sequence so far, kept so that penalties cost time by distinct token, not by position.
//!
//! It holds no text and no logits.

use std::collections::HashMap;

/// The prompt and the generated tokens of one sequence.
///
/// ```
/// use fornax_engine::sampling::History;
///
/// let mut history = History::new(&[5, 7]);
/// history.push(7);
/// assert_eq!(history.prompt_len(), 2);
/// assert_eq!(history.generated(), [7]);
/// ```
#[derive(Debug, Clone, Default)]
pub struct History {
    prompt_len: usize,
    generated: Vec<u32>,
    /// Each distinct token with how often it was generated (0: it stands in the prompt only).
    seen: Vec<(u32, u32)>,
    /// Where a token lies in `seen`.
    slots: HashMap<u32, usize>,
}

impl History {
    /// Starts a sequence from its prompt's token ids.
    pub fn new(prompt: &[u32]) -> Self {
        let mut history = Self { prompt_len: prompt.len(), ..Self::default() };
        for &token in prompt {
            history.slot(token);
        }
        history
    }

    /// Appends a generated token.
    pub fn push(&mut self, token: u32) {
        let slot = self.slot(token);
        self.seen[slot].1 += 1;
        self.generated.push(token);
    }

    /// The number of tokens of the prompt.
    pub fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    /// The tokens generated so far, oldest first.
    pub fn generated(&self) -> &[u32] {
        &self.generated
    }

    /// Each distinct token of prompt and generation, with the number of times it was generated.
    pub(super) fn seen(&self) -> &[(u32, u32)] {
        &self.seen
    }

    fn slot(&mut self, token: u32) -> usize {
        *self.slots.entry(token).or_insert_with(|| {
            self.seen.push((token, 0));
            self.seen.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_generated_tokens_only() {
        let mut history = History::new(&[4, 4, 9]);
        for token in [9, 2, 2] {
            history.push(token);
        }
        assert_eq!(history.seen(), [(4, 0), (9, 1), (2, 2)]);
        assert_eq!(history.generated(), [9, 2, 2]);
        assert_eq!(history.prompt_len(), 3);
    }
}
