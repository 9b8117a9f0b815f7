//! Loaded models against what transformers computes with the same weights; `../fixtures/README.md` says how the
//! expectations were made. `FORNAX_TEST_DEVICE` names the device, `cpu` without it.

mod common;
mod encoders;
mod errors;
mod gguf;
mod gradients;
mod logits;
// Weights are packed for the CPU alone.
#[cfg(feature = "cpu")]
mod packed;
#[cfg(feature = "cpu")]
mod repacked;
mod saved;
