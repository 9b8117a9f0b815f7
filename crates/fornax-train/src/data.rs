//! Training sequences cut at random from one long stream of tokens. Files and datasets are not read here.

use fornax_nn::Batch;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::TrainError;

/// Windows into a stream of tokens, drawn with a seed.
#[derive(Debug, Clone)]
pub struct TokenWindows {
    tokens: Vec<u32>,
    length: usize,
    rng: ChaCha8Rng,
}

impl TokenWindows {
    /// Windows of `length` tokens, each with the token after it to predict.
    ///
    /// # Errors
    /// [`TrainError::TooFewTokens`] when there is not one window, [`TrainError::Argument`] for a length of 0.
    pub fn new(tokens: Vec<u32>, length: usize, seed: u64) -> Result<Self, TrainError> {
        if length == 0 {
            return Err(TrainError::Argument {
                argument: "sequence_length",
                found: "0".into(),
                expected: "at least 1".into(),
            });
        }
        if tokens.len() <= length {
            return Err(TrainError::TooFewTokens { found: tokens.len(), needed: length + 1 });
        }
        Ok(Self { tokens, length, rng: ChaCha8Rng::seed_from_u64(seed) })
    }

    /// The largest token id.
    pub fn largest_id(&self) -> u32 {
        self.tokens.iter().copied().max().unwrap_or(0)
    }

    /// `batch` windows as inputs, and for each of their rows the next token as its target.
    pub fn draw(&mut self, batch: usize) -> (Batch, Vec<u32>) {
        let starts: Vec<usize> =
            (0..batch).map(|_| self.rng.random_range(0..self.tokens.len() - self.length)).collect();
        let window = |start: usize| &self.tokens[start..start + self.length];
        let inputs: Vec<&[u32]> = starts.iter().map(|&start| window(start)).collect();
        (Batch::uncached(&inputs), starts.iter().flat_map(|&start| window(start + 1)).copied().collect())
    }
}
