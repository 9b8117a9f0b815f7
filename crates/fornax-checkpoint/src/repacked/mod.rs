//! Weights that were brought into the layout the kernels want, kept in files so that the next start maps them: where
//! the files are, what they are named after, their format, and how much room they may take. It deliberately knows no
//! layout: an entry is a name, the caller's description and bytes.

mod cache;
mod checksum;
mod folder;
mod format;
mod key;
mod read;
mod write;

pub use cache::{CachedFile, Removed, RepackedCache};
pub use format::RepackedEntry;
pub use key::RepackedKey;
pub use read::RepackedFile;
pub use write::RepackedWriter;
