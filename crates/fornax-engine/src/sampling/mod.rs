//! Choosing the next token from a model's logits, on the host: parameters, processors, the sampler.
//!
//! It works on plain slices of `f32` and knows no tensors, no tokenizer and no model. Text-level stopping is in
//! [`stop`](crate::stop), beam bookkeeping in [`beam`](crate::beam).
//!
//! The steps run in the order transformers uses: logit bias, repetition penalty, frequency and presence
//! penalties, the ban on ending before `min_new_tokens`; then, unless greedy, temperature, top-k, top-p, min-p and
//! the draw.

mod candidates;
mod error;
mod history;
mod math;
mod params;
mod processors;
mod sampler;
pub(crate) mod select;

pub use error::SamplingError;
pub use history::History;
pub(crate) use math::finite_max;
pub use math::{log_softmax, log_sum_exp};
pub(crate) use params::within;
pub use params::{EarlyStopping, SamplingParams};
pub use sampler::{Sampled, Sampler};

#[cfg(test)]
mod parity;
