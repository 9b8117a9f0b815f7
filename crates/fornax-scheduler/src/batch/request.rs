//! Requests, and the events that come from outside.

use crate::{AdapterId, ModelId, PlanId, RequestId, SequenceId, TenantId, Time};

/// A token's number in its vocabulary.
pub type Token = u32;

/// A prompt to be continued.
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
    /// The most tokens put out by each sequence, at least 1.
    pub max_new_tokens: u32,
    /// How many continuations, at least 1; they share the prompt's blocks.
    pub sequences: u32,
    /// The higher, the more urgent.
    pub priority: i32,
    /// When it is to be done, if ever.
    pub deadline: Option<Time>,
    /// How many tokens it will put out by estimate; without one, `max_new_tokens`.
    pub predicted_new_tokens: Option<u32>,
    /// The most speculative tokens that it can use in a step.
    pub speculation: u32,
    /// A group of tenants that may find each other's prefixes; without one, a tenant's are its own.
    pub cache_group: Option<u64>,
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
            deadline: None,
            predicted_new_tokens: None,
            speculation: 0,
            cache_group: None,
        }
    }
}

/// What a plan's item gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// How many tokens it put out: none for an unfinished prompt, one a sequence for a finished one, one for a token
    /// decoded, and up to one more than the speculative tokens granted.
    pub tokens: u32,
    /// Whether the sequence came to its end with the last of them (for a prompt with several sequences: all of them).
    pub finished: bool,
}

/// What happened since the last step.
#[derive(Clone, Debug, PartialEq)]
pub enum BatchEvent {
    /// A request came.
    Submit(Request),
    /// A request is no longer wanted, with all of its sequences.
    Cancel(RequestId),
    /// A sequence is complete: a stop string was found, or a beam was dropped.
    Stop(SequenceId),
    /// A second sequence begins as a copy of one that decodes; they share blocks until one writes.
    Fork {
        /// The one to copy.
        from: SequenceId,
        /// The copy's index within the request.
        index: u32,
        /// What the copy's last token is instead, if it is another: beams differ there.
        last: Option<Token>,
    },
    /// A plan was carried out.
    Done {
        /// The plan.
        plan: PlanId,
        /// One output an item, in the plan's order.
        outputs: Vec<Output>,
        /// The tokens put out, of all items one after another.
        tokens: Vec<Token>,
    },
    /// A plan failed: none of its tokens count, and what it moved is taken for lost and computed again.
    Failed {
        /// The plan.
        plan: PlanId,
    },
    /// The blocks of a swapped-out sequence are lost; it will be computed again.
    SwapLost(SequenceId),
}
