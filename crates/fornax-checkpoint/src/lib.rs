//! Reads and writes model weights: safetensors, GGUF and PyTorch zip files, tensor by tensor.
//!
//! A [`Checkpoint`] maps its files and hands out [`TensorView`]s, whose bytes are slices of the mapping: opening a
//! checkpoint reads headers only, and no weight is copied until someone asks for another element type. Writing streams
//! one tensor at a time and is atomic. Nothing in a file is trusted: whatever lies about its sizes is a
//! [`CheckpointError`] that names the file, the tensor, what was expected and what was found.
//!
//! A program that brings weights into another layout before it computes keeps the result in a [`RepackedCache`], and maps
//! it on the next start.
//!
//! The crate deliberately knows no models, no devices and no tensor library.
//!
//! ```no_run
//! use fornax_checkpoint::Checkpoint;
//!
//! let checkpoint = Checkpoint::open("path/to/model")?; // a folder, a .safetensors, .gguf or .bin file
//! for info in checkpoint.tensors() {
//!     println!("{} {} {:?}", info.name, info.dtype, info.shape);
//! }
//! let weights: Vec<f32> = checkpoint.tensor("lm_head.weight")?.to_f32()?;
//! # Ok::<(), fornax_checkpoint::CheckpointError>(())
//! ```

mod atomic;
mod checkpoint;
mod convert;
mod dtype;
mod error;
mod folder;
mod gguf;
mod mapping;
mod pytorch;
mod repacked;
mod safetensors;
mod view;

pub use checkpoint::{Checkpoint, Format};
pub use dtype::Dtype;
pub use error::{CheckpointError, Result};
pub use gguf::{Gguf, GgufArray, GgufType, GgufValue};
pub use repacked::{CachedFile, Removed, RepackedCache, RepackedEntry, RepackedFile, RepackedKey, RepackedWriter};
pub use safetensors::{SafetensorsWriter, SaveOptions, Saved, save_safetensors};
pub use view::{TensorInfo, TensorView, dequantize};
