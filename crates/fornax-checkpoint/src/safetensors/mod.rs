//! safetensors: reading, the index of shards, and writing. It deliberately parses the header itself instead of calling
//! the `safetensors` crate, which does not report duplicate names nor bound what a header can make it allocate; that
//! crate serves the tests as the independent reader.

pub(crate) mod index;
mod read;
mod write;

pub(crate) use read::parse;
pub use write::{SafetensorsWriter, SaveOptions, Saved, save_safetensors};
