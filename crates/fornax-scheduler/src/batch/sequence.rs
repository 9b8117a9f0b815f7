//! The state of a sequence.

use super::Token;
use crate::kv::{Scope, block_hash};
use crate::policy::Candidate;
use crate::{AdapterId, BlockId, SequenceId, Time};

/// Where a sequence stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum State {
    /// The slot is not in use.
    #[default]
    Vacant,
    /// It waits and holds no device blocks, but may hold host blocks.
    Waiting,
    /// It waits for the next chunk of its prompt and holds blocks.
    Held,
    /// The last chunk of its prompt is in a plan in flight, and gives no token or several samples.
    Planned,
    /// It decodes, or will decode once the last chunk of its prompt, which is in flight, is computed.
    Decoding,
    /// All its tokens are computed, and its row was sampled without a token: it holds blocks and waits to be continued.
    Deferred,
    /// It waits to become ready and holds no blocks.
    NotReady,
}

/// The largest buffer that is kept for another sequence, in tokens. A longer one takes more time to fill than to
/// allocate.
const LARGE: usize = 1 << 14;

/// Empty buffers of an ended sequence, kept for the next sequence that begins to run. That spares an allocation, and
/// the buffers were used recently, so that they are in the processor's caches. Waiting sequences have no such buffers.
#[derive(Clone, Debug)]
pub(super) struct Buffers {
    table: Vec<BlockId>,
    tokens: Vec<Token>,
}

/// A sequence.
#[derive(Clone, Debug, Default)]
pub(super) struct Sequence {
    pub(super) state: State,
    /// Whether the last block may have other owners.
    pub(super) shared_tail: bool,
    pub(super) model: u16,
    /// Its place among the decoding, or among the deferred sequences.
    pub(super) place: u32,
    /// Tells it from the sequences that had this slot before; 0 in a vacant slot.
    pub(super) serial: u64,
    /// Changes when items in flight cease to count: their results are then ignored.
    pub(super) epoch: u64,
    /// How many plans in flight have an item of it.
    pub(super) flights: u32,
    /// How many of its tokens these items compute, without draft tokens.
    pub(super) ahead: u32,
    /// How many of these items have one sample: each is expected to give one token.
    pub(super) pending: u32,
    /// How many tokens have their keys and values computed, by the results that are in.
    pub(super) computed: u32,
    pub(super) prompt: u32,
    /// How many tokens it has put out.
    pub(super) produced: u32,
    pub(super) max_new: u32,
    /// How many of its blocks are indexed.
    pub(super) committed: u32,
    /// The hash of the last block that was indexed.
    pub(super) last_hash: u64,
    /// How many sequences it becomes once its prompt is computed, itself included. Admitted, it holds a running slot
    /// for each.
    pub(super) samples: u32,
    /// How many further continuations found no free running slot when it was admitted. They begin to wait once the
    /// prompt is computed, so that they find it in the cache.
    pub(super) rest: u32,
    pub(super) table: Vec<BlockId>,
    pub(super) tokens: Vec<Token>,
    /// The hashes of its prompt's full blocks, and after preemption of its output's too.
    pub(super) hashes: Vec<u64>,

    pub(super) id: SequenceId,
    pub(super) adapter: Option<AdapterId>,
    /// Whether it holds its running slots.
    pub(super) holds_slots: bool,
    /// The last plan that copies or moves one of its blocks.
    pub(super) moved: u64,
    /// The last plan for which it was preempted; 0 if there was none.
    pub(super) preempted: u64,
    pub(super) admitted: bool,
    pub(super) reuse_prefix: bool,
    pub(super) plan_ahead: bool,
    pub(super) passed: u32,
    pub(super) predicted: u32,
    /// How many blocks it still needs for the rest of its prompt.
    pub(super) promised: usize,
    /// How many blocks reserved admission sets aside for it.
    pub(super) reserved: usize,
    pub(super) scope: Scope,
    pub(super) root: u64,
    /// Its blocks in host memory.
    pub(super) host: Vec<BlockId>,
    pub(super) first_token: Option<Time>,
    /// Draft tokens for the next plan, or those of its item in flight.
    pub(super) drafts: Vec<Token>,
    /// What the policy sees; `cost` and `demand` are those at its arrival.
    pub(super) candidate: Candidate,
}

impl Default for Candidate {
    fn default() -> Self {
        Self {
            number: 0,
            tenant: crate::TenantId::DEFAULT,
            arrival: Time::ZERO,
            priority: 0,
            demand: 0.0,
            cost: 1.0,
            deadline: Time::NEVER,
        }
    }
}

impl Sequence {
    /// How many tokens it has.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Takes buffers that have room to grow, if it has none.
    pub(super) fn take_buffers(&mut self, spare: &mut Vec<Buffers>) {
        if self.table.capacity() > 0 {
            return;
        }
        let Some(mut buffers) = spare.pop() else { return };
        self.table = buffers.table;
        if buffers.tokens.capacity() > self.tokens.len() {
            buffers.tokens.extend_from_slice(&self.tokens);
            self.tokens = buffers.tokens;
        }
    }

    /// The position of the first token that is neither computed nor in flight.
    pub(super) fn next_position(&self) -> u32 {
        self.computed + self.ahead
    }

    /// How many tokens are neither computed nor in flight, a pending one included.
    pub(super) fn remaining(&self) -> usize {
        self.tokens.len() + self.pending as usize - self.next_position() as usize
    }

    /// Whether a decoding sequence can be given its next token before the results in flight are in.
    pub(super) fn can_decode(&self) -> bool {
        self.flights == 0
            || (self.plan_ahead && self.drafts.is_empty() && self.pending == 1 && self.produced + 1 < self.max_new)
    }

    /// Computes the missing hashes of the first `most` blocks, or of all full blocks if they are fewer.
    pub(super) fn hash_blocks(&mut self, block_size: usize, most: usize) {
        let known = self.hashes.len();
        if known >= most.min(self.tokens.len() / block_size) {
            return;
        }
        self.hashes.reserve(most.min(self.tokens.len() / block_size) - known);
        let mut hash = self.hashes.last().copied().unwrap_or(self.root);
        for block in self.tokens.chunks_exact(block_size).take(most).skip(known) {
            hash = block_hash(hash, block);
            self.hashes.push(hash);
        }
    }

    /// The hash of block `at`, which holds `content`; the blocks before it are indexed.
    pub(super) fn hash_of(&self, at: usize, content: &[Token]) -> u64 {
        if let Some(&known) = self.hashes.get(at) {
            return known;
        }
        let parent = match at.checked_sub(1) {
            None => self.root,
            Some(before) => self.hashes.get(before).copied().unwrap_or(self.last_hash),
        };
        block_hash(parent, content)
    }

    /// Makes the slot vacant. The buffer of hashes stays in the slot; if the sequence ran, its other buffers go to
    /// `spare`.
    pub(super) fn clear(&mut self, spare: &mut Vec<Buffers>) {
        let (mut table, mut tokens) = (std::mem::take(&mut self.table), std::mem::take(&mut self.tokens));
        if table.capacity() > 0 && tokens.capacity() <= LARGE {
            table.clear();
            tokens.clear();
            spare.push(Buffers { table, tokens });
        }
        let mut hashes = std::mem::take(&mut self.hashes);
        hashes.clear();
        *self = Self { hashes, ..Self::default() };
    }
}
