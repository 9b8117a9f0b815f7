//! The tokens that a pass through a model computes: several sequences one after the other, without padding. The caller
//! decides which sequences are in a batch and which blocks hold their keys and values.

use std::ops::Range;

use fornax_backend::ops::Sequences;

/// Some tokens of one sequence, as part of a [`Batch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSequence<'a> {
    /// The tokens to compute.
    pub tokens: &'a [u32],
    /// How many tokens of the sequence come before `tokens`. Their keys and values are in the pool.
    pub past: usize,
    /// The blocks of the pool that hold the sequence, in the order of positions; none for a pass without a pool.
    pub blocks: &'a [u32],
    /// The number of tokens of the whole known text, of which `tokens` may be a chunk. Some scalings of rotary
    /// embeddings choose their angles by it, and all chunks of a text must get the same angles.
    pub len: usize,
    /// The tokens whose hidden states are wanted.
    pub outputs: Outputs,
}

/// The rows of a sequence that a pass returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outputs {
    /// No row, for a chunk of a prompt that is not its last.
    None,
    /// The last token's row, from which the next token is predicted.
    #[default]
    Last,
    /// All rows, for training, scores and embeddings.
    All,
}

/// Tokens of several sequences, one after the other. Hidden states of a batch are `[rows, hidden_size]`.
///
/// ```
/// use fornax_nn::Batch;
///
/// let batch = Batch::uncached(&[&[5, 6, 7], &[8, 9]]);
/// assert_eq!((batch.rows(), batch.positions()), (5, &[0, 1, 2, 0, 1][..]));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    token_types: Vec<u32>,
    lens: Vec<usize>,
    sequences: Sequences,
    outputs: Option<Vec<u32>>,
}

impl Batch {
    /// Whole sequences, without a pool for their keys and values; all states are wanted.
    pub fn uncached(sequences: &[&[u32]]) -> Self {
        let lens: Vec<usize> = sequences.iter().map(|tokens| tokens.len()).collect();
        Self {
            tokens: sequences.concat(),
            positions: lens.iter().flat_map(|&len| 0..len as u32).collect(),
            token_types: Vec::new(),
            sequences: Sequences::uncached(&lens),
            lens,
            outputs: None,
        }
    }

    /// Sequences whose keys and values are kept in a pool.
    ///
    /// # Panics
    /// When a sequence has too few blocks for its tokens, or a block that one sequence writes to is named by another.
    pub fn cached<'a>(sequences: impl IntoIterator<Item = BatchSequence<'a>>) -> Self {
        let mut batch = Self::default();
        let (mut layout, mut outputs) = (Vec::new(), Vec::new());
        for BatchSequence { tokens, past, blocks, len, outputs: wanted } in sequences {
            let first = batch.tokens.len();
            batch.tokens.extend_from_slice(tokens);
            batch.positions.extend((past..past + tokens.len()).map(|position| position as u32));
            batch.lens.push(len.max(past + tokens.len()));
            let rows = first as u32..batch.tokens.len() as u32;
            match wanted {
                Outputs::None => {}
                Outputs::Last => outputs.extend(rows.last()),
                Outputs::All => outputs.extend(rows),
            }
            layout.push((tokens.len(), past, blocks));
        }
        batch.sequences = Sequences::cached(layout);
        batch.outputs = (outputs.len() < batch.rows()).then_some(outputs);
        batch
    }

    /// The same batch with the states of these rows wanted, in this order.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub fn with_outputs(mut self, rows: Vec<u32>) -> Self {
        assert!(rows.iter().all(|&row| (row as usize) < self.rows()), "batch: outputs of {} rows", self.rows());
        self.outputs = Some(rows);
        self
    }

    /// The same batch with a segment for each token, for models that tell two texts of a pair apart.
    ///
    /// # Panics
    /// When there is not one segment for each row.
    #[must_use]
    pub fn with_token_types(mut self, token_types: Vec<u32>) -> Self {
        assert_eq!(token_types.len(), self.rows(), "batch: a token type for each row");
        self.token_types = token_types;
        self
    }

    /// How many tokens there are.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// `[rows]`
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// `[rows]`, the place of each token in its sequence.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// `[rows]`, the segment of each token; empty when all tokens are of the first segment.
    pub fn token_types(&self) -> &[u32] {
        &self.token_types
    }

    /// How the rows fall into sequences, and where the sequences are in a pool.
    pub fn sequences(&self) -> &Sequences {
        &self.sequences
    }

    /// The number of tokens of the whole known text of a sequence.
    pub fn len_of(&self, sequence: usize) -> usize {
        self.lens[sequence]
    }

    /// The rows whose states are wanted; `None` for all.
    pub fn outputs(&self) -> Option<&[u32]> {
        self.outputs.as_deref()
    }

    /// How many rows' states are wanted.
    pub fn output_rows(&self) -> usize {
        self.outputs.as_ref().map_or(self.rows(), Vec::len)
    }

    /// Cuts a batch without a pool into batches of whole sequences, each of at most `rows` tokens or of one longer
    /// sequence. A thread that takes such a batch through all layers keeps it in its cache.
    ///
    /// # Panics
    /// When the sequences are kept in a pool, or only some states are wanted.
    pub fn split(&self, rows: usize) -> Vec<Self> {
        assert!(!self.sequences.is_cached() && self.outputs.is_none(), "batch: only whole sequences are split");
        let (mut parts, mut first, mut taken) = (Vec::new(), 0, 0);
        for sequence in 0..self.sequences.len() {
            let len = self.sequences.rows_of(sequence).len();
            if taken > 0 && taken + len > rows {
                parts.push(self.part(first..sequence));
                (first, taken) = (sequence, 0);
            }
            taken += len;
        }
        parts.push(self.part(first..self.sequences.len()));
        parts
    }

    fn part(&self, sequences: Range<usize>) -> Self {
        if sequences.is_empty() {
            return Self::default();
        }
        let rows = self.sequences.rows_of(sequences.start).start..self.sequences.rows_of(sequences.end - 1).end;
        let lens = self.lens[sequences].to_vec();
        Self {
            tokens: self.tokens[rows.clone()].to_vec(),
            positions: self.positions[rows.clone()].to_vec(),
            token_types: self.token_types.get(rows).unwrap_or(&[]).to_vec(),
            sequences: Sequences::uncached(&lens),
            lens,
            outputs: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_follow_their_sequences() {
        let prompt = BatchSequence { tokens: &[1, 2, 3], past: 0, blocks: &[4], len: 9, outputs: Outputs::None };
        let token = BatchSequence { tokens: &[7], past: 40, blocks: &[2, 3], len: 0, outputs: Outputs::Last };
        let batch = Batch::cached([prompt, token]);
        assert_eq!((batch.tokens(), batch.positions()), (&[1, 2, 3, 7][..], &[0, 1, 2, 40][..]));
        assert_eq!((batch.outputs(), batch.output_rows()), (Some(&[3][..]), 1));
        assert_eq!((batch.len_of(0), batch.len_of(1)), (9, 41));
        assert_eq!(Batch::cached([token]).outputs(), None, "every row");
    }

    #[test]
    fn parts_hold_whole_sequences() {
        let batch =
            Batch::uncached(&[&[1, 2], &[3], &[4, 5, 6, 7], &[8]]).with_token_types(vec![0, 1, 0, 0, 0, 1, 1, 0]);
        let parts = batch.split(3);
        let tokens: Vec<_> = parts.iter().map(|part| part.tokens().to_vec()).collect();
        assert_eq!(tokens, [vec![1, 2, 3], vec![4, 5, 6, 7], vec![8]]);
        assert_eq!((parts[1].token_types(), parts[1].sequences().len()), (&[0, 0, 1, 1][..], 1));
        assert_eq!(Batch::uncached(&[]).split(3).len(), 1);
    }
}
