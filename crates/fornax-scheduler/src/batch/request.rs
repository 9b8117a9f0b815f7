//! Requests, and the events that come from outside.

use crate::{AdapterId, ModelId, PlanId, RequestId, SequenceId, TenantId, Time};

/// A token's number in its vocabulary. The largest number, [`PENDING`], is no token.
pub type Token = u32;

/// Stands in a plan for a token that is not known yet: the token that the sequence's item in the previous plan samples.
pub const PENDING: Token = Token::MAX;

/// A prompt to be continued, or only to be computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Identifies it until it has ended.
    pub id: RequestId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The model that continues it.
    pub model: ModelId,
    /// The adapter that the model is to use.
    pub adapter: Option<AdapterId>,
    /// At least one token.
    pub prompt: Vec<Token>,
    /// The most output tokens of each sequence. With 0 the prompt is computed and nothing is sampled: for scores,
    /// embeddings, or to fill the prefix cache.
    ///
    /// The prompt and that many output tokens have to fit into the model's memory, or the request is refused
    /// ([`NeverFits`](crate::SchedulerError::NeverFits)): admitted, it might have to be cut short. A server that
    /// accepts nominal limits, such as 32,768, lowers them to the room in the context and the memory.
    pub max_new_tokens: u32,
    /// The number of continuations, at least 1; they share the prompt's blocks. If fewer running slots are free, only
    /// as many continuations begin; the others begin when slots come free, and find the prompt in the cache. Without
    /// [`prefix_caching`](super::BatchConfig::prefix_caching) or `reuse_prefix` all begin together. A beam search gives
    /// the largest number of beams alive at once, so that memory is checked to suffice for all of them.
    pub sequences: u32,
    /// The higher, the more urgent.
    pub priority: i32,
    /// When the request came, for policies that count waiting: it may have waited for the step that takes it in. The time
    /// of that step, if this is None or later.
    pub arrival: Option<Time>,
    /// When it has to be done, if it has a deadline.
    pub deadline: Option<Time>,
    /// An estimate of the number of tokens put out; without one, `max_new_tokens`.
    pub predicted_new_tokens: Option<u32>,
    /// A group of tenants that may find each other's prefixes; without one, a tenant finds only its own.
    pub cache_group: Option<u64>,
    /// Whether it can be admitted at once. A request that is not ready is passed over until [`BatchEvent::Ready`].
    pub ready: bool,
    /// Whether cached blocks of its prompt may be used. If not, every token of the prompt is computed, also a second time
    /// after preemption: for scores, which need the logits of every position.
    pub reuse_prefix: bool,
    /// Whether its next token may be planned before its last token is known, where
    /// [`plans_in_flight`](super::BatchConfig::plans_in_flight) is 2. Set it to false where the next step depends on
    /// the last token: with draft tokens, grammars, or deferred rows.
    pub plan_ahead: bool,
}

impl Request {
    /// One continuation of `prompt` by model 0, at most `max_new_tokens` long, for the default tenant.
    pub fn new(id: u64, prompt: Vec<Token>, max_new_tokens: u32) -> Self {
        Self {
            id: RequestId(id),
            tenant: TenantId::DEFAULT,
            model: ModelId(0),
            adapter: None,
            prompt,
            max_new_tokens,
            sequences: 1,
            priority: 0,
            arrival: None,
            deadline: None,
            predicted_new_tokens: None,
            cache_group: None,
            ready: true,
            reuse_prefix: true,
            plan_ahead: true,
        }
    }
}

/// How a sample ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputStatus {
    /// The sequence goes on. Without a token it is *deferred*: it keeps its blocks and waits for
    /// [`BatchEvent::Continue`], [`BatchEvent::Stop`] or forks.
    #[default]
    GoesOn,
    /// The sequence ends with the last of these tokens, such as an end token. An item without samples cannot end its
    /// sequence so; [`BatchEvent::Stop`] can.
    Ended,
    /// The sequence ends, and the tokens of this output do not count. Where all samples of an item failed, the keys and
    /// values that the item computed do not count either.
    Failed,
}

/// The result of one sample of an item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// How many tokens it put out. Usually 1; for an item with draft tokens, the accepted draft tokens and the token
    /// sampled after them. 0 for an item without samples, for a deferred or failed sample, and for an end without a
    /// token.
    pub tokens: u32,
    /// Whether its sequence goes on.
    pub status: OutputStatus,
}

impl Output {
    /// No token: for an item without samples, or for a deferred sample.
    pub const NONE: Self = Self { tokens: 0, status: OutputStatus::GoesOn };
    /// The sample, or the whole item, failed.
    pub const FAILED: Self = Self { tokens: 0, status: OutputStatus::Failed };

    /// `tokens` tokens, and the sequence goes on.
    pub const fn tokens(tokens: u32) -> Self {
        Self { tokens, status: OutputStatus::GoesOn }
    }

    /// `tokens` tokens, and the sequence ends with the last of them.
    pub const fn ended(tokens: u32) -> Self {
        Self { tokens, status: OutputStatus::Ended }
    }
}

/// What happened since the last step. Events of one step are taken in one after another.
#[derive(Clone, Debug, PartialEq)]
pub enum BatchEvent {
    /// A request came.
    Submit(Request),
    /// A request that was not ready can be admitted now.
    Ready(RequestId),
    /// A request is no longer wanted, with all of its sequences.
    Cancel(RequestId),
    /// A sequence is complete: a stop string was found, or a beam was dropped.
    Stop(SequenceId),
    /// A deferred sequence goes on with this token.
    Continue {
        /// The sequence.
        sequence: SequenceId,
        /// The token that its deferred row chose.
        token: Token,
        /// Whether the sequence ends with it.
        ended: bool,
    },
    /// A new sequence begins as a copy of a decoding or deferred sequence whose results are in. Both share their blocks
    /// until one of them writes to a block.
    Fork {
        /// The sequence to copy.
        from: SequenceId,
        /// The copy's index within the request.
        index: u32,
        /// For a copy of a decoding sequence: a token to replace its last token. For a copy of a deferred sequence: the
        /// token that the copy goes on with; without one, the copy is deferred too.
        last: Option<Token>,
    },
    /// Draft tokens for the next plan, of a decoding sequence whose results are in. The plan computes as many of them
    /// as there is room for, and drops the others.
    Drafts {
        /// The sequence.
        sequence: SequenceId,
        /// The tokens expected after its last token.
        tokens: Vec<Token>,
    },
    /// The oldest plan in flight was carried out.
    Done {
        /// The plan.
        plan: PlanId,
        /// As many outputs for each item as [`Item::outputs`](super::Item::outputs) says, in the plan's order. Outputs
        /// of sequences that have ended since are ignored.
        outputs: Vec<Output>,
        /// The tokens of all outputs, one output after another, accepted draft tokens included.
        tokens: Vec<Token>,
    },
    /// The oldest plan in flight failed: none of its tokens count, and the blocks that it moved are taken for lost and
    /// computed again. A later plan in flight fails with it.
    Failed {
        /// The plan.
        plan: PlanId,
    },
    /// The blocks of a swapped-out sequence are lost; it will be computed again.
    SwapLost(SequenceId),
}
