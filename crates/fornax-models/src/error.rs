//! What can be wrong with a model that a user names: the folder, the configuration, the tensors, the tokenizer.

use std::path::PathBuf;

/// Why a model could not be loaded, made or saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A folder without `config.json`.
    #[error("{folder:?} has no config.json, so it is not a Hugging Face model folder; found: {found}")]
    NoConfig {
        /// The folder.
        folder: PathBuf,
        /// Names of a few files that are there.
        found: String,
    },
    /// A configuration whose value is missing, of the wrong type or senseless.
    #[error("configuration: `{key}`: expected {expected}, found {found}")]
    Config {
        /// The key, as in `config.json`.
        key: String,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A file that is not JSON.
    #[error("{path:?} is not valid JSON: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// No family of this name.
    #[error("the architecture {found} is unknown to this version; known are {known}")]
    UnknownArchitecture {
        /// As the checkpoint calls it.
        found: String,
        /// The names of all that are known.
        known: String,
    },
    /// A loaded model of another kind than the call needs.
    #[error("this model is {found}, but {expected} is needed")]
    WrongKind {
        /// What the call needs.
        expected: &'static str,
        /// What the model is.
        found: &'static str,
    },
    /// Tensors that do not fit the network.
    #[error(transparent)]
    Tensors(#[from] TensorMismatch),
    /// A tokenizer with more tokens than the model.
    #[error(
        "the tokenizer does not fit the model: it has ids up to {largest_id}, but the model's vocab_size is {vocab_size}; use the tokenizer that was saved with these weights"
    )]
    Vocabulary {
        /// The largest id that the tokenizer can give.
        largest_id: u32,
        /// Rows of the model's embedding.
        vocab_size: usize,
    },
    /// The checkpoint cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] fornax_checkpoint::CheckpointError),
    /// The tokenizer cannot be read or written.
    #[error(transparent)]
    Text(#[from] fornax_text::TextError),
    /// The model's files cannot be found or fetched.
    #[error(transparent)]
    Hub(#[from] fornax_hub::HubError),
    /// The device does not compute in the dtype asked for.
    #[error(transparent)]
    Dtype(#[from] fornax_backend::DtypeError),
    /// No form of weights has this name.
    #[error("weights {found:?}: expected auto, dense or one of {expected}")]
    WeightFormat {
        /// The name as it was given.
        found: String,
        /// The packed types there are.
        expected: String,
    },
    /// Packed weights asked for on a device whose kernels do not take them.
    #[error("weights {weight_type} on {device}: packed weights are for the CPU; use --device cpu, or weights auto")]
    PackedDevice {
        /// The type asked for.
        weight_type: String,
        /// The device.
        device: String,
    },
    /// A tensor that cannot be packed as asked.
    #[error("tensor {tensor:?}: {source}")]
    Pack {
        /// The tensor's name in the checkpoint.
        tensor: String,
        /// Why.
        source: fornax_cpu::CpuError,
    },
    /// The device failed while weights were brought from it.
    #[error("the device failed while weights were read from it: {reason}")]
    Device {
        /// What its driver says.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {operation} {path:?}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// The tensors of a checkpoint that do not fit the network made from its configuration, each by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TensorMismatch {
    /// Needed and not there.
    pub missing: Vec<String>,
    /// There, needed by nothing and not known to be superfluous.
    pub unexpected: Vec<String>,
    /// There with another shape or type; each with what was expected and found.
    pub misshapen: Vec<String>,
}

impl TensorMismatch {
    /// Whether everything fits.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.misshapen.is_empty()
    }
}

impl std::error::Error for TensorMismatch {}

impl std::fmt::Display for TensorMismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        /// Names shown of each kind; a wrong configuration can make thousands.
        const SHOWN: usize = 8;
        f.write_str("the checkpoint's tensors do not fit its configuration")?;
        for (kind, names) in
            [("missing", &self.missing), ("unexpected", &self.unexpected), ("misshapen", &self.misshapen)]
        {
            if names.is_empty() {
                continue;
            }
            write!(f, "\n  {kind} ({}): {}", names.len(), names[..names.len().min(SHOWN)].join(", "))?;
            if names.len() > SHOWN {
                write!(f, ", and {} more", names.len() - SHOWN)?;
            }
        }
        Ok(())
    }
}

impl ModelError {
    /// A wrong value of the configuration.
    pub(crate) fn config(key: impl Into<String>, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Config { key: key.into(), expected: expected.into(), found: found.to_string() }
    }

    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
}
