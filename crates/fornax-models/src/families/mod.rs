//! The model families, one file each: the paper, the configuration with its defaults, the names of the weights.
//! A family never uses another; what two need is moved down, to the layers or to this crate's shared readers.

pub mod bert;
pub mod gemma2;
pub mod gpt2;
pub mod llama;
pub mod mistral;
pub mod qwen2;
pub mod qwen3;
