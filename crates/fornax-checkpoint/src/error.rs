//! The crate's one error type. It names the file, the tensor or key, what was expected, what was found and what to do
//! next; it deliberately holds nothing of the file's contents beyond those names.

use std::path::{Path, PathBuf};

use crate::dtype::Dtype;

/// What can go wrong while reading or writing a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused a file operation.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, as a verb ("open", "write").
        operation: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },

    /// A folder holds no weights under any known name, or the path is neither a file nor a folder.
    #[error("no weights in {}: found {found}; {}", path.display(), NO_CHECKPOINT_HELP)]
    NoCheckpoint {
        /// The folder.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },

    /// A folder holds several candidates and none has a standard name.
    #[error("{} holds several checkpoints ({}); name one of the files instead of the folder", path.display(), files.join(", "))]
    Ambiguous {
        /// The folder.
        path: PathBuf,
        /// The candidates' file names.
        files: Vec<String>,
    },

    /// The first bytes belong to no format this crate reads.
    #[error("{} is not a safetensors, GGUF or PyTorch zip file: {found}", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// What the first bytes look like, and what to do about it.
        found: String,
    },

    /// The format is known, this version or variant of it is not read.
    #[error("{}: {what}: expected {expected}, found {found}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The variant in question.
        what: &'static str,
        /// What is read, and how to get there.
        expected: String,
        /// What the file has.
        found: String,
    },

    /// The file ends before something it announces.
    #[error(
        "{} is truncated: {what} at offset {offset} needs {expected} bytes, {found} are left; fetch the file again",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What was being read.
        what: &'static str,
        /// Where it starts, in bytes from the start of the file.
        offset: u64,
        /// Bytes needed.
        expected: u64,
        /// Bytes left in the file.
        found: u64,
    },

    /// The file contradicts itself or its format.
    #[error(
        "{} is corrupt: {what} at offset {offset}: expected {expected}, found {found}; fetch or convert the file again",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The field.
        what: &'static str,
        /// Where, in bytes from the start of the file.
        offset: u64,
        /// What the format asks for.
        expected: String,
        /// What is there.
        found: String,
    },

    /// A tensor's description contradicts itself, the other tensors or the file.
    #[error("{}: tensor {tensor:?}: {what}: expected {expected}, found {found}", path.display())]
    InvalidTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The field.
        what: &'static str,
        /// What the format asks for.
        expected: String,
        /// What is there.
        found: String,
    },

    /// Two tensors have one name.
    #[error("{}: the tensor name {tensor:?} occurs twice; every name must be unique", path.display())]
    DuplicateTensor {
        /// The file.
        path: PathBuf,
        /// The name.
        tensor: String,
    },

    /// No tensor of this name.
    #[error("{} has no tensor {tensor:?}{}", path.display(), similar.as_ref().map(|name| format!("; the nearest name is {name:?}")).unwrap_or_default())]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The name asked for.
        tensor: String,
        /// A name that is there and reads alike.
        similar: Option<String>,
    },

    /// An index names a shard that is not there.
    #[error(
        "{} places {tensor:?} in {shard:?}, which is missing; fetch that file into the same folder",
        path.display()
    )]
    MissingShard {
        /// The index file.
        path: PathBuf,
        /// The shard's file name.
        shard: String,
        /// A tensor the shard should hold.
        tensor: String,
    },

    /// An index and its shards disagree.
    #[error(
        "{} disagrees with its shards about {tensor:?}: expected in {expected}, found in {found}; fetch index and shards of one revision",
        path.display()
    )]
    IndexMismatch {
        /// The index file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where the index places it.
        expected: String,
        /// Where it is.
        found: String,
    },

    /// A file asks for more than this crate is willing to hold in memory.
    #[error("{}: {what}: at most {limit} are read, the file has {found}", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// What there is too much of.
        what: &'static str,
        /// The most that is accepted.
        limit: u64,
        /// What the file announces.
        found: u64,
    },

    /// This element type cannot be used this way.
    #[error("tensor {tensor:?} has dtype {dtype}, which cannot be {operation}; {help}")]
    UnsupportedDtype {
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
        /// What was attempted ("converted to f32").
        operation: &'static str,
        /// The next step.
        help: &'static str,
    },

    /// A buffer has the wrong length for a tensor.
    #[error("tensor {tensor:?}: {what}: expected {expected}, found {found}")]
    WrongLength {
        /// The tensor.
        tensor: String,
        /// What is counted.
        what: &'static str,
        /// The length its shape and dtype ask for.
        expected: usize,
        /// The length given.
        found: usize,
    },

    /// A GGUF file lacks a metadata key.
    #[error("{} has no metadata key {key:?}; convert the model again with a current converter", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },

    /// A GGUF metadata key holds another type, or a number out of range.
    #[error("{}: metadata key {key:?}: expected {expected}, found {found}", path.display())]
    KeyType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The type asked for.
        expected: &'static str,
        /// The type (or number) there.
        found: String,
    },

    /// A pickle names a Python object outside the allow-list. Nothing of it was run.
    #[error(
        "{}: the pickle asks for the Python object {global:?}, which is not loaded because it could run code; save a plain state_dict, or better a safetensors file",
        path.display()
    )]
    ForbiddenGlobal {
        /// The file.
        path: PathBuf,
        /// `module.name`.
        global: String,
    },

    /// A tensor given to a writer is unknown to it, comes twice, or never came.
    #[error("cannot write {}: tensor {tensor:?} {problem}", path.display())]
    WriteOrder {
        /// The file being written.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        problem: &'static str,
    },

    /// The caller's source of bytes failed while a file was being written. Nothing was left behind.
    #[error("cannot write {}: the bytes of tensor {tensor:?} could not be made: {source}", path.display())]
    Producer {
        /// The file being written.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The caller's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// A file of repacked weights cannot be used: it is damaged, cut short, of another version, or no such file at all.
    /// It is rewritten from the model's own files.
    #[error(
        "{} cannot be used as repacked weights: {what}: expected {expected}, found {found}; it will be rewritten from the model's files",
        path.display()
    )]
    UnusableCache {
        /// The file.
        path: PathBuf,
        /// The field or the entry.
        what: String,
        /// What the format asks for.
        expected: String,
        /// What is there.
        found: String,
    },

    /// The folder of repacked weights cannot be written: it is read-only, or full. The model works without it, and
    /// starts more slowly. Nothing was left behind.
    #[error("cannot {operation} {}: {source}; {}", path.display(), cache_help(source))]
    UnwritableCache {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, as a verb ("create", "write").
        operation: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },

    /// A model's file changed while its weights were repacked, so that the result belongs to no one content.
    #[error("{} changed while it was being read; load the model again once nothing writes to it", path.display())]
    SourceChanged {
        /// The file.
        path: PathBuf,
    },

    /// A setting, of the environment or of a caller, makes no sense.
    #[error("{setting} is {found:?}: expected {expected}")]
    InvalidSetting {
        /// What was set.
        setting: &'static str,
        /// What would be accepted.
        expected: &'static str,
        /// What it was set to.
        found: String,
    },
}

/// The next step after the cache could not be written.
fn cache_help(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "free some space, or set FORNAX_CACHE to a folder on a larger disk"
        }
        _ => "set FORNAX_CACHE to a folder that can be written",
    }
}

/// What a folder must hold to be opened.
const NO_CHECKPOINT_HELP: &str = "expected model.safetensors, model.safetensors.index.json, pytorch_model.bin, \
    pytorch_model.bin.index.json, or exactly one .safetensors, .gguf or .bin file";

/// This crate's results.
pub type Result<T, E = CheckpointError> = std::result::Result<T, E>;

/// Makes errors about one file, so that parsers need not carry its path by hand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blame<'a> {
    /// The file that is being read.
    pub path: &'a Path,
}

impl Blame<'_> {
    /// The file ends too early.
    pub fn truncated(&self, what: &'static str, offset: usize, expected: u64, found: usize) -> CheckpointError {
        CheckpointError::Truncated {
            path: self.path.into(),
            what,
            offset: offset as u64,
            expected,
            found: found as u64,
        }
    }

    /// A field is not what the format asks for.
    pub fn malformed(
        &self,
        what: &'static str,
        offset: usize,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> CheckpointError {
        CheckpointError::Malformed {
            path: self.path.into(),
            what,
            offset: offset as u64,
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// A tensor's description is wrong.
    pub fn tensor(
        &self,
        tensor: &str,
        what: &'static str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> CheckpointError {
        CheckpointError::InvalidTensor {
            path: self.path.into(),
            tensor: shorten(tensor),
            what,
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// A variant that is not read.
    pub fn unsupported(
        &self,
        what: &'static str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> CheckpointError {
        CheckpointError::Unsupported { path: self.path.into(), what, expected: expected.into(), found: found.into() }
    }

    /// Too much of something.
    pub fn limit(&self, what: &'static str, limit: usize, found: u64) -> CheckpointError {
        CheckpointError::Limit { path: self.path.into(), what, limit: limit as u64, found }
    }

    /// A file of repacked weights is not what it should be.
    pub fn unusable(
        &self,
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> CheckpointError {
        CheckpointError::UnusableCache {
            path: self.path.into(),
            what: what.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// The system refused to write to the cache.
    pub fn unwritable(&self, operation: &'static str, source: std::io::Error) -> CheckpointError {
        CheckpointError::UnwritableCache { path: self.path.into(), operation, source }
    }

    /// The system refused.
    pub fn io(&self, operation: &'static str, source: std::io::Error) -> CheckpointError {
        CheckpointError::Io { path: self.path.into(), operation, source }
    }
}

/// Cuts a name from a hostile file to a length that is fit for a message.
pub(crate) fn shorten(name: &str) -> String {
    const MAX: usize = 200;
    if name.chars().count() <= MAX {
        return name.to_owned();
    }
    name.chars().take(MAX).chain(['…']).collect()
}

/// The name among `others` that shares the longest beginning or end with `name`, if that is half of it.
pub(crate) fn nearest<'a>(name: &str, others: impl Iterator<Item = &'a str>) -> Option<String> {
    let common = |other: &str| {
        let back = name.bytes().rev().zip(other.bytes().rev()).take_while(|(a, b)| a == b).count();
        let front = name.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
        back.max(front)
    };
    let (nearest, score) = others.map(|other| (other, common(other))).max_by_key(|pair| pair.1)?;
    (score * 2 >= name.len()).then(|| shorten(nearest))
}
