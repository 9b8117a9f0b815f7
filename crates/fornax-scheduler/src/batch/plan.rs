//! What a step is to compute and move: plain data, complete in itself.

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
    /// The position of the first token to compute; the keys and values before it are there, or are computed by the plan
    /// before this one.
    pub start: u32,
    /// How many tokens of the sequence to compute, at least 1. The first of them may be [`PENDING`].
    pub tokens: u32,
    /// How many draft tokens to compute after them.
    pub drafts: u32,
    /// How many samples to draw after the last of `tokens`: 0 where a prompt goes on or nothing is to be put out, 1 for a
    /// sequence, more where it is to become several: this one and those of the next indices. With draft tokens, their rows are sampled too.
    pub samples: u32,
    /// How many tokens the prompt has.
    pub prompt_len: u32,
    /// How many tokens the sequence has in all, those beyond this item and a pending one included, draft tokens not.
    pub len: u32,
    /// Where its tokens begin in [`Plan::tokens`]; they are `tokens + drafts`.
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

    /// How many [`Output`]s its results have: one a sample, and one for an item without samples, so that it too can fail.
    pub fn outputs(&self) -> u32 {
        self.samples.max(1)
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
    /// The sequence; it waits again. If it was deferred, its row will be sampled again.
    pub sequence: SequenceId,
    /// Whether its blocks were kept in host memory.
    pub swapped: bool,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The model, or the engine, said so.
    Stopped,
    /// It has as many tokens as it may.
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

/// A sequence that ended; its blocks are free, or cached. What plans in flight still give for it is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The sequence. Those that have not begun end as the first of them alone: with their request before its prompt is
    /// computed, or later where they wait for running slots.
    pub sequence: SequenceId,
    /// Why.
    pub reason: EndReason,
    /// How many tokens it put out.
    pub new_tokens: u32,
}

/// Whether there is something to do, and if not, why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlanStatus {
    /// There is: the plan has an id.
    Work,
    /// Nothing is to be done until a request comes: there are no sequences.
    #[default]
    Idle,
    /// Nothing is to be done until results come: plans are in flight.
    InFlight,
    /// Nothing is to be done until another event comes: all sequences are deferred or not ready, or wait for those.
    Blocked,
}

/// What to do now. Moves come first, in this order: `swap_out`, `copy`, `swap_in`; then the items are computed. Plans are
/// carried out in the order of their ids, each whole before the next begins to move or write anything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The plan's name, to report it by; none if there is nothing to do.
    pub id: Option<PlanId>,
    /// Whether there is something to do.
    pub status: PlanStatus,
    /// Blocks to move to host memory.
    pub swap_out: Vec<Swap>,
    /// Blocks to copy, in this order.
    pub copy: Vec<CopyBlock>,
    /// Blocks to move from host memory.
    pub swap_in: Vec<Swap>,
    /// What to compute, by model, and of a model by adapter; otherwise decoding sequences come before prompts.
    pub items: Vec<Item>,
    /// The tokens of all items, draft tokens included.
    pub tokens: Vec<Token>,
    /// The block tables of all items: position `p` of a sequence lies in block `p / block_size` of its table.
    pub blocks: Vec<BlockId>,
    /// Sequences that had to give up their blocks.
    pub preempted: Vec<Preempted>,
    /// Sequences that ended.
    pub finished: Vec<Finished>,
    /// Why those that were looked at still wait; [`BatchScheduler::why`](super::BatchScheduler::why) answers for the others.
    pub waiting: Vec<(SequenceId, Wait)>,
    /// Events that were refused.
    pub rejected: Vec<Rejected>,
    /// What became of cached blocks, if [`BatchConfig::kv_events`](super::BatchConfig::kv_events) asks for it.
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

    /// Whether an item's first token is known only once the plan before this one is carried out.
    pub fn is_pending(&self, item: &Item) -> bool {
        self.tokens[item.first_token as usize] == PENDING
    }

    /// The items of each model.
    pub fn by_model(&self) -> impl Iterator<Item = (ModelId, &[Item])> {
        self.items.chunk_by(|one, other| one.model == other.model).map(|items| (items[0].model, items))
    }

    /// Outputs as a model gives them that accepts no draft token: `token` for each sample. For tests and simulators.
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
