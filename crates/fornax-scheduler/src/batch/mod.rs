//! Batching for language models: requests in, for each step a plan of which tokens to compute and where.
//!
//! # A step
//! A sequence is a list of tokens. The keys and values of its first tokens are computed already; the remaining tokens
//! are computed in chunks. Once only the last token remains, the sequence *decodes*: one token a step. So a prompt, a
//! prompt after preemption and a single token are one kind of work (as in Sarathi-Serve, Agrawal et al., OSDI 2024,
//! <https://arxiv.org/abs/2403.02310>), and a step mixes them (Orca, Yu et al., OSDI 2022). [`BatchScheduler::step`]
//! 1. takes in the events, such as the results of the oldest plan in flight;
//! 2. gives every decoding sequence its token; where no block is available, it preempts the sequence that is last by
//!    the policy (`decode.rs`);
//! 3. gives the step's remaining tokens to prompts, begun and new ones alike, in the policy's order, whole or in chunks
//!    (`prompt.rs`);
//! 4. computes draft tokens with the tokens and blocks that no other sequence needs.
//!
//! # Memory
//! Keys and values lie in blocks of equal size (PagedAttention, Kwon et al., SOSP 2023,
//! <https://arxiv.org/abs/2309.06180>). Full blocks are findable by content ([`kv`](crate::kv)). Forks share blocks,
//! and copy the last block before they write to it. A preempted sequence either gives up its blocks and is computed
//! again later, or its blocks move to host memory.
//!
//! # What it relies on
//! Plans are carried out one after another, each in this order: swap out, copy, swap in, compute. So a block can be
//! given to another sequence as soon as its owner has ended, even while plans are in flight: the new owner writes to
//! the block only in a later plan. A plan holds all that is needed to carry it out. At most one or two plans are in
//! flight ([`BatchConfig::plans_in_flight`]).
//!
//! # Files
//! `config.rs` the configuration, `request.rs` requests and events, `plan.rs` plans, `sequence.rs` the state of a
//! sequence, `running.rs` the decoding and the deferred sequences, `holders.rs` who is preempted first, `id_map.rs` the
//! slot of each sequence, `scheduler.rs` the step, `events.rs`, `results.rs`, `decode.rs`, `prompt.rs` and `memory.rs`
//! its parts, `serving.rs` the loop around it, `explain.rs` why a sequence waits, `audit.rs` the invariants,
//! `small_world.rs` their exhaustive test.

mod audit;
mod config;
mod decode;
mod events;
mod explain;
mod holders;
mod id_map;
mod memory;
mod plan;
mod prompt;
mod request;
mod results;
mod running;
mod scheduler;
mod sequence;
mod serving;
#[cfg(test)]
mod small_world;

pub use config::{Admission, BatchConfig, ModelConfig, Preemption};
pub use plan::{CopyBlock, EndReason, Finished, Item, Plan, PlanStatus, Preempted, Swap};
pub use request::{BatchEvent, Output, OutputStatus, PENDING, Request, Token};
pub use scheduler::{BatchScheduler, BatchStats};
pub use serving::{Client, PlanResults, ServingLoop};
