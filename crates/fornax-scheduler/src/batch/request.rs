//! Requests, and the events that come from outside.

use crate::{AdapterId, ModelId, PlanId, RequestId, SequenceId, TenantId, Time};

/// A token's number in its vocabulary. The largest number, [`PENDING`], is no token.
pub type Token = u32;

/// Stands in a plan for a token that is not known yet: the one that the same sequence's item in the previous plan samples.
pub const PENDING: Token = Token::MAX;

/// A prompt to be continued, or only to be computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Its name while it has not ended.
    pub id: RequestId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The model that continues it.
    pub model: ModelId,
    /// The adapter that the model is to use.
    pub adapter: Option<AdapterId>,
    /// At least one token.
    pub prompt: Vec<Token>,
    /// The maximum number of tokens put out by each sequence. With 0 the prompt is computed and nothing is sampled: for
    /// scores, embeddings, or to fill the prefix cache.
    ///
    /// All of them have to fit in the memory of the model with the prompt, or the request is refused
    /// ([`NeverFits`](crate::SchedulerError::NeverFits)), though it might have ended before: it would otherwise be cut
    /// where nobody asked for that. Whoever takes requests with a limit that is none, such as 32,768, lowers it to what the
    /// context and the memory have room for.
    pub max_new_tokens: u32,
    /// The number of continuations, at least 1; they share the prompt's blocks. Where fewer running slots are free, as many
    /// begin as there are, and the others when more come free: they then find the prompt in the cache. Without
    /// [`prefix_caching`](super::BatchConfig::prefix_caching) or `reuse_prefix` all begin together. A beam search gives
    /// the most beams that are ever alive at once, so that memory is checked to suffice for all of them.
    pub sequences: u32,
    /// The higher, the more urgent.
    pub priority: i32,
    /// When it came, for policies that look at the time that it has waited: it may have waited for the step that takes it
    /// in. Without one, and if it is later, the time of that step.
    pub arrival: Option<Time>,
    /// When it is to be done, if ever.
    pub deadline: Option<Time>,
    /// An estimate of the number of tokens put out; without one, `max_new_tokens`.
    pub predicted_new_tokens: Option<u32>,
    /// A group of tenants that may find each other's prefixes; without one, a tenant's are its own.
    pub cache_group: Option<u64>,
    /// Whether it can be admitted at once. A request that is not ready is passed over until [`BatchEvent::Ready`].
    pub ready: bool,
    /// Whether cached blocks of its prompt may be used. If not, every token of the prompt is computed, also a second time
    /// after preemption: for scores, which need the logits of every position.
    pub reuse_prefix: bool,
    /// Whether its next token may be planned before its last one is known, where
    /// [`plans_in_flight`](super::BatchConfig::plans_in_flight) is 2. Not for sequences whose next step depends on the
    /// result: those with draft tokens, grammars, or rows that are deferred.
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
    /// The sequence ends with the last of these tokens, such as an end token.
    Ended,
    /// The sequence ends, and the tokens of this output do not count. Where all samples of an item failed, what it computed
    /// does not count either.
    Failed,
}

/// What one sample of an item gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// How many tokens it put out: 1, or up to one more than the draft tokens that the item had: the accepted ones and the
    /// one sampled after them. 0 for an item without samples, for a deferred or failed sample, and for an end without a
    /// token.
    pub tokens: u32,
    /// Whether its sequence goes on.
    pub status: OutputStatus,
}

impl Output {
    /// No token: of an item without samples, or of a sample that is deferred.
    pub const NONE: Self = Self { tokens: 0, status: OutputStatus::GoesOn };
    /// The sample, or the whole item, failed.
    pub const FAILED: Self = Self { tokens: 0, status: OutputStatus::Failed };

    /// So many tokens, and the sequence goes on.
    pub const fn tokens(tokens: u32) -> Self {
        Self { tokens, status: OutputStatus::GoesOn }
    }

    /// So many tokens, and the sequence ends with the last of them.
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
    /// A second sequence begins as a copy of one that decodes or is deferred, and whose results are in; they share blocks
    /// until one writes.
    Fork {
        /// The one to copy.
        from: SequenceId,
        /// The copy's index within the request.
        index: u32,
        /// Of a decoding sequence: what the copy's last token is instead, if it is another. Of a deferred sequence: the
        /// token that the copy goes on with; without one the copy is deferred too.
        last: Option<Token>,
    },
    /// Draft tokens that a decoding sequence, whose results are in, has for the next plan. The plan computes as many of
    /// them as there is room for; none of them counts after it.
    Drafts {
        /// The sequence.
        sequence: SequenceId,
        /// What is expected to follow its last token.
        tokens: Vec<Token>,
    },
    /// The plan that is the longest in flight was carried out.
    Done {
        /// The plan.
        plan: PlanId,
        /// [`Item::outputs`](super::Item::outputs) for each item, in the plan's order. Those of sequences that have ended
        /// since are not looked at.
        outputs: Vec<Output>,
        /// The tokens put out, of all outputs one after another. Accepted draft tokens are among them.
        tokens: Vec<Token>,
    },
    /// The plan that is the longest in flight failed: none of its tokens count, and what it moved is taken for lost and
    /// computed again. A later plan that is in flight fails with it.
    Failed {
        /// The plan.
        plan: PlanId,
    },
    /// The blocks of a swapped-out sequence are lost; it will be computed again.
    SwapLost(SequenceId),
}
