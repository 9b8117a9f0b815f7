//! Generation, scores and embeddings of whole models against transformers and llama.cpp.
//!
//! The models are the fixtures of `fornax-models`; `FORNAX_TEST_DATA` names a folder with larger ones, without which
//! those tests say so and pass.

mod common;
mod embed;
mod engine;
mod errors;
mod generation;
mod score;
mod stories;
#[cfg(feature = "tasks")]
mod tasks;
