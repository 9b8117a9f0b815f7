//! Model families, one file each, and the registry that picks one from a checkpoint.
//!
//! [`AutoModel::load`] takes a folder, a GGUF file or a hub id, finds the family by the configuration, makes its network
//! and fills it tensor by tensor, so that nothing is missing, left over or misshapen without an error that names it.
//! How a network is run (sampling, caches, batches) is the engine's matter, and how it is trained the trainer's.

mod auto;
mod config;
mod error;
pub mod families;
mod gguf;
mod load;
mod naming;
mod network;
mod packing;
mod path;
mod registry;
mod repacked;
mod rotary;
mod save;
mod weights;

pub use auto::{AutoModel, GenerationDefaults, LoadOptions, PackedCache};
pub use config::RopeParameters;
pub use error::{ModelError, TensorMismatch};
pub use gguf::GgufModel;
pub use network::{Network, NetworkConfig};
pub use packing::WeightFormat;
pub use registry::{Family, GgufFamily, ReadConfig, known_architectures};
pub use weights::{Layout, Rule, WeightMap};
