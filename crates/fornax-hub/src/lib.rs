//! Finds a model's files: a folder, a GGUF file, or a repository of the Hugging Face hub, cached on disk.
//!
//! [`resolve`] takes what a user calls a model and gives local paths. A repository is fetched into the cache that
//! Python's huggingface_hub uses, in its layout, so that both share files. It reads no weights and no
//! configuration (other crates do), and it uploads nothing.
//!
//! # What is fetched
//! Configuration, tokenizer and chat template, the small modules of sentence-transformers, and the weights in one
//! format: `model.safetensors`, or the shards that its index names, or else `pytorch_model.bin`, or else the GGUF
//! file. Nothing of other frameworks. One file of a repository is chosen by `repo:file.gguf`, or by a word of its
//! name, `repo:Q4_K_M`.
//!
//! # What is promised
//! - A file appears in a snapshot only after its length and its hash (sha256 for large files, git's sha1 for small
//!   ones) agree with the hub's. A file that fails the check is removed.
//! - A transfer that breaks off continues where it stopped, in the same call or in a later one.
//! - Processes that fetch the same file wait for each other, huggingface_hub's among them.
//! - Where the hub does not answer, refuses, or fails, a complete copy in the cache is used, and
//!   [`Event::UsingCache`] says so; a revision that the hub does not have is an error all the same. That is
//!   huggingface_hub's rule. With `offline` no request is made.
//! - A token goes to the endpoint's own scheme, host and port, and to no other.
//!
//! # Why the protocol is written here
//! The hf-hub crate (1.0.0) restarts interrupted transfers, compares no hash, does not read `HF_HUB_OFFLINE`, and
//! brings 235 crates with an async runtime, a second transfer protocol and aws-lc's C code. Its blocking
//! version (0.5) resumes, and compares no hash either. The protocol itself is three requests, so that they are
//! written here on ureq (blocking, rustls with ring: a C compiler is all that it needs).
//!
//! # Example
//! ```
//! use fornax_hub::{HubConfig, ModelSource, Silent, resolve};
//!
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! # std::fs::write(folder.join("config.json"), "{}")?;
//! let source = resolve(folder.to_str().unwrap(), &HubConfig::from_env(), &Silent)?;
//! assert_eq!(source, ModelSource::Folder(folder.to_path_buf()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cache;
mod config;
mod error;
mod fetch;
mod http;
mod hub;
mod name;
mod progress;
mod select;

pub use config::{DEFAULT_ENDPOINT, DEFAULT_REVISION, HubConfig, Token};
pub use error::HubError;
pub use hub::{Hub, ModelSource};
pub use progress::{Event, Progress, Silent};

use std::path::PathBuf;

/// Where the files of a model are, fetching what is not there.
///
/// `model` is the path of a folder or of a file; or else `org/name`, `org/name@revision`, or
/// `org/name:file.gguf` on the hub. A path that exists goes before a repository of the same name.
///
/// # Errors
/// See [`HubError`]; each says what to do next.
///
/// ```
/// use fornax_hub::{HubConfig, HubError, Silent, resolve};
///
/// let cache = tempfile::tempdir()?;
/// let offline = HubConfig { offline: true, ..HubConfig::new(cache.path()) };
/// let error = resolve("Qwen/Qwen2.5-0.5B-Instruct", &offline, &Silent).unwrap_err();
/// assert!(matches!(error, HubError::NotCached { .. }));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn resolve(model: &str, config: &HubConfig, progress: &dyn Progress) -> Result<ModelSource, HubError> {
    match hub::local(model)? {
        // What is on this machine needs no hub, and no valid address of one.
        Some(source) => Ok(source),
        None => Hub::new(config.clone())?.resolve(model, progress),
    }
}

/// Fetches a model of the hub into the cache, as [`resolve`] does, without looking for a path of that name.
///
/// Returns the snapshot's folder, or the file where `repo` chooses one.
///
/// # Errors
/// See [`HubError`]; each says what to do next.
pub fn download(repo: &str, config: &HubConfig, progress: &dyn Progress) -> Result<PathBuf, HubError> {
    Hub::new(config.clone())?.download(repo, progress)
}
