//! Batching for language models: requests in, for each step a plan of which tokens to compute and where.
//!
//! # A step
//! Every sequence that is under way is some tokens, of which the keys and values of the first so many are computed. What is
//! left is computed in pieces; when nothing but the last token is left, the sequence *decodes*, one token a step. So a
//! prompt, a prompt after preemption and a single token are one kind of work (as in Sarathi-Serve, Agrawal et al., OSDI
//! 2024, <https://arxiv.org/abs/2403.02310>), and a step mixes them (Orca, Yu et al., OSDI 2022). [`BatchScheduler::step`]
//! 1. takes in the events, of which the results of the oldest plan in flight are one;
//! 2. gives every decoding sequence its token, preempting the last by the policy where no block is left (`decode.rs`);
//! 3. gives what is left of the step's tokens to prompts, begun ones and new ones alike, in the policy's order, whole or
//!    in chunks (`prompt.rs`);
//! 4. computes draft tokens with what nobody else wants.
//!
//! # Memory
//! Keys and values lie in blocks of equal size (PagedAttention, Kwon et al., SOSP 2023,
//! <https://arxiv.org/abs/2309.06180>). Full blocks are findable by content ([`kv`](crate::kv)), forks share blocks and copy
//! the last one when they write to it. A preempted sequence gives its blocks up and is computed again later, or moves them
//! to host memory.
//!
//! # What it relies on
//! Plans are carried out one after another, each in this order: swap out, copy, swap in, compute. So a block can be given to
//! another sequence as soon as its owner has ended, whatever is in flight: who gets it writes to it in a later plan. A plan
//! holds all that is needed to carry it out; one or two are in flight ([`BatchConfig::plans_in_flight`]).
//!
//! # Files
//! `config.rs` what can be chosen, `request.rs` requests and events, `plan.rs` plans, `sequence.rs` what is known of a
//! sequence, `running.rs` the decoding and the deferred ones, `id_map.rs` which slot is whose, `scheduler.rs` the step,
//! `events.rs`, `results.rs`, `decode.rs`, `prompt.rs` and `memory.rs` its parts, `explain.rs` reasons, `audit.rs` the
//! invariants. `serving.rs` is the loop around all of it, which engines and the simulator run.

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
