//! GGUF, the format of llama.cpp: reading versions 2 and 3, little-endian. It deliberately does not write, and knows
//! no architecture's keys.

pub(crate) mod dequant;
mod reader;
mod value;

pub(crate) use reader::parse;
pub use value::{Gguf, GgufArray, GgufType, GgufValue};
