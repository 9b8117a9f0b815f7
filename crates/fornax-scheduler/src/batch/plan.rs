//! A plan: what a step computes and moves, as plain data, complete in itself.

use super::{Output, PENDING, Token};
use crate::kv::KvEvent;
use crate::tasks::Rejected;
use crate::{AdapterId, BlockId, ModelId, PlanId, SequenceId, Wait};

/// Tokens of one sequence to compute. [`Plan::tokens_of`] and [`Plan::blocks_of`] give the tokens and the block table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The sequence.
    pub sequence: SequenceId,
    /// The model.
    pub model: ModelId,
    /// The adapter.
    pub adapter: Option<AdapterId>,
    /// The position of the first token to compute. The keys and values before it are computed already, or by the plan
    /// before this one.
    pub start: u32,
    /// How many tokens of the sequence to compute, at least 1. The first of them may be [`PENDING`].
    pub tokens: u32,
    /// How many draft tokens to compute after them.
    pub drafts: u32,
    /// How many samples to draw after the last of `tokens`: 0 where more of the prompt follows or no output is wanted,
    /// 1 for one sequence, and more where the sequence becomes several, itself and the next indices. The rows of draft
    /// tokens are sampled too.
    pub samples: u32,
    /// How many tokens the prompt has.
    pub prompt_len: u32,
    /// How many tokens the sequence has in all, with tokens beyond this item and a pending token, without draft tokens.
    pub len: u32,
    /// Where its `tokens + drafts` tokens begin in [`Plan::tokens`].
    pub first_token: u32,
    /// Where its block table begins in [`Plan::blocks`].
    pub first_block: u32,
    /// The length of its block table: enough for all positions up to the last draft token.
    pub blocks: u32,
}

impl Item {
    /// How many rows it has: its tokens and draft tokens.
    pub fn rows(&self) -> u32 {
        self.tokens + self.drafts
    }

    /// How many [`Output`]s its results have: one for each sample. An item without samples has one too, so that it can
    /// fail.
    pub fn outputs(&self) -> u32 {
        self.samples.max(1)
    }
}

/// A whole block to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyBlock {
    /// The model whose memory it is.
    pub model: ModelId,
    /// The block to read.
    pub from: BlockId,
    /// The block to write.
    pub to: BlockId,
}

/// Blocks to move between the device and host memory: the first of `device` goes with the first of `host`, and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    /// The sequence that holds them.
    pub sequence: SequenceId,
    /// The model whose memory it is.
    pub model: ModelId,
    /// Blocks on the device.
    pub device: Vec<BlockId>,
    /// Blocks in host memory.
    pub host: Vec<BlockId>,
}

/// A sequence that was preempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preempted {
    /// The sequence; it waits again. If it was deferred, its row will be sampled again.
    pub sequence: SequenceId,
    /// Whether its blocks move to host memory.
    pub swapped: bool,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// Its output or an event ended it: an end token, a stop string, a dropped beam.
    Stopped,
    /// It has the most tokens that it may.
    Length,
    /// Its prompt is computed, and no output was asked for.
    Computed,
    /// Its request was cancelled.
    Cancelled,
    /// Its deadline passed.
    Late,
    /// Its item or its sample failed.
    Failed,
}

/// A sequence that ended; its blocks are free or cached. Results in flight for it are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The sequence. Continuations that have not begun are listed as one, by their first index: all of a request whose
    /// prompt is not computed yet, or later the continuations that wait for running slots.
    pub sequence: SequenceId,
    /// Why.
    pub reason: EndReason,
    /// The number of its output tokens.
    pub new_tokens: u32,
}

/// Whether there is something to do, and if not, why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlanStatus {
    /// The plan has work, and an id.
    Work,
    /// There are no sequences: nothing to do until a request comes.
    #[default]
    Idle,
    /// Plans are in flight: nothing to do until results come.
    InFlight,
    /// All sequences are deferred, not ready, or wait for such sequences: nothing to do until another event comes.
    Blocked,
}

/// What to do now. Blocks are moved first, in this order: `swap_out`, `copy`, `swap_in`; then the items are computed.
/// Plans are carried out in the order of their ids. One plan is finished before the next moves or writes anything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The plan's id, by which its results are reported; none if there is nothing to do.
    pub id: Option<PlanId>,
    /// Whether there is something to do.
    pub status: PlanStatus,
    /// Blocks to move to host memory.
    pub swap_out: Vec<Swap>,
    /// Blocks to copy, in this order.
    pub copy: Vec<CopyBlock>,
    /// Blocks to move from host memory.
    pub swap_in: Vec<Swap>,
    /// What to compute, sorted by model and adapter. Of equal ones, decoding sequences come before prompts.
    pub items: Vec<Item>,
    /// The tokens of all items, draft tokens included.
    pub tokens: Vec<Token>,
    /// The block tables of all items: position `p` of a sequence lies in block `p / block_size` of its table.
    pub blocks: Vec<BlockId>,
    /// Sequences that were preempted.
    pub preempted: Vec<Preempted>,
    /// Sequences that ended.
    pub finished: Vec<Finished>,
    /// Why the sequences wait that the step looked at. [`BatchScheduler::why`](super::BatchScheduler::why) answers for
    /// every sequence.
    pub waiting: Vec<(SequenceId, Wait)>,
    /// Events that were refused.
    pub rejected: Vec<Rejected>,
    /// Blocks that became findable by content or were evicted, if
    /// [`BatchConfig::kv_events`](super::BatchConfig::kv_events) is set.
    pub kv_events: Vec<(ModelId, KvEvent)>,
}

impl Plan {
    /// The tokens that an item computes, its draft tokens last. The first may be [`PENDING`].
    pub fn tokens_of(&self, item: &Item) -> &[Token] {
        &self.tokens[item.first_token as usize..][..item.rows() as usize]
    }

    /// The block table of an item's sequence, as far as the item reads and writes.
    pub fn blocks_of(&self, item: &Item) -> &[BlockId] {
        &self.blocks[item.first_block as usize..][..item.blocks as usize]
    }

    /// Whether an item's first token becomes known only when the plan before this one is carried out.
    pub fn is_pending(&self, item: &Item) -> bool {
        self.tokens[item.first_token as usize] == PENDING
    }

    /// The items of each model.
    pub fn by_model(&self) -> impl Iterator<Item = (ModelId, &[Item])> {
        self.items.chunk_by(|one, other| one.model == other.model).map(|items| (items[0].model, items))
    }

    /// Outputs with `token` for each sample and no accepted draft token. For tests and simulators.
    pub fn plain_outputs(&self, token: Token) -> (Vec<Output>, Vec<Token>) {
        let (mut outputs, mut tokens) = (Vec::new(), Vec::new());
        for item in &self.items {
            let output = if item.samples == 0 { Output::NONE } else { Output::tokens(1) };
            outputs.extend((0..item.outputs()).map(|_| output));
            tokens.extend((0..item.samples).map(|_| token));
        }
        (outputs, tokens)
    }

    pub(super) fn clear(&mut self) {
        self.id = None;
        self.status = PlanStatus::Idle;
        self.swap_out.clear();
        self.copy.clear();
        self.swap_in.clear();
        self.items.clear();
        self.tokens.clear();
        self.blocks.clear();
        self.preempted.clear();
        self.finished.clear();
        self.waiting.clear();
        self.rejected.clear();
        self.kv_events.clear();
    }
}
