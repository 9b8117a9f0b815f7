//! What a step is to compute and move: plain data.

use std::ops::Range;

use super::Token;
use crate::tasks::Rejected;
use crate::{AdapterId, BlockId, ModelId, PlanId, SequenceId, Wait};

/// Tokens of one sequence to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The sequence.
    pub sequence: SequenceId,
    /// Where the scheduler keeps it: what [`BatchScheduler::block_table`](super::BatchScheduler::block_table) and
    /// [`BatchScheduler::tokens`](super::BatchScheduler::tokens) ask for.
    pub slot: u32,
    /// The model.
    pub model: ModelId,
    /// The adapter.
    pub adapter: Option<AdapterId>,
    /// The position of the first token to compute; the keys and values before it are there.
    pub start: u32,
    /// How many known tokens to compute, at least 1.
    pub tokens: u32,
    /// How many tokens may be guessed and computed after them.
    pub speculative: u32,
    /// How many tokens to sample after the last one: 0 where the prompt goes on, 1 for a sequence, more where it is to
    /// become several.
    pub samples: u32,
}

impl Item {
    /// The positions of the known tokens.
    pub fn positions(&self) -> Range<usize> {
        self.start as usize..(self.start + self.tokens) as usize
    }
}

/// A block to be copied, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyBlock {
    /// The model whose memory it is.
    pub model: ModelId,
    /// The block to read.
    pub from: BlockId,
    /// The block to write.
    pub to: BlockId,
}

/// Blocks to be moved between the device and host memory; in pairs by place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    /// Whose they are.
    pub sequence: SequenceId,
    /// The model whose memory it is.
    pub model: ModelId,
    /// Blocks on the device.
    pub device: Vec<BlockId>,
    /// Blocks in host memory.
    pub host: Vec<BlockId>,
}

/// A sequence that had to give up its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preempted {
    /// The sequence; it waits again.
    pub sequence: SequenceId,
    /// Whether its blocks were kept in host memory.
    pub swapped: bool,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model, or who carries out the plans, said so.
    Stopped,
    /// It has as many tokens as it may.
    Length,
    /// Its request was cancelled.
    Cancelled,
    /// Its deadline passed.
    Late,
}

/// A sequence that ended; its blocks are free, or cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The sequence.
    pub sequence: SequenceId,
    /// Why.
    pub reason: FinishReason,
    /// How many tokens it put out.
    pub new_tokens: u32,
}

/// What to do now. Moves come first, in this order: `swap_out`, `copy`, `swap_in`; then the items are computed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The plan's name, to report it by; none if there is nothing to do, or another plan is under way.
    pub id: Option<PlanId>,
    /// Blocks to move to host memory.
    pub swap_out: Vec<Swap>,
    /// Blocks to copy, in this order.
    pub copy: Vec<CopyBlock>,
    /// Blocks to move from host memory.
    pub swap_in: Vec<Swap>,
    /// What to compute.
    pub items: Vec<Item>,
    /// Sequences that had to give up their blocks.
    pub preempted: Vec<Preempted>,
    /// Sequences that ended.
    pub finished: Vec<Finished>,
    /// Why those that were looked at still wait; [`BatchScheduler::why`](super::BatchScheduler::why) answers for the others.
    pub waiting: Vec<(SequenceId, Wait)>,
    /// Events that were refused.
    pub rejected: Vec<Rejected>,
}

impl Plan {
    /// How many tokens are computed, speculative ones included.
    pub fn tokens(&self) -> usize {
        self.items.iter().map(|item| (item.tokens + item.speculative) as usize).sum()
    }

    pub(super) fn clear(&mut self) {
        self.id = None;
        self.swap_out.clear();
        self.copy.clear();
        self.swap_in.clear();
        self.items.clear();
        self.preempted.clear();
        self.finished.clear();
        self.waiting.clear();
        self.rejected.clear();
    }
}

/// Tokens that a plan's results begin with, for tests and simulators: as many as each item samples.
impl Plan {
    /// Outputs as a model gives them that never guesses right: each item puts out what it samples, `token` every time.
    pub fn plain_outputs(&self, token: Token) -> (Vec<super::Output>, Vec<Token>) {
        let outputs = self.items.iter().map(|item| super::Output { tokens: item.samples, finished: false }).collect();
        let total: u32 = self.items.iter().map(|item| item.samples).sum();
        (outputs, vec![token; total as usize])
    }
}
