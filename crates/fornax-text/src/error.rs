//! What can go wrong with text: one error type for the crate.
//!
//! It deliberately carries no error of the `tokenizers` or `minijinja` crates as a type, only their message:
//! neither crate is part of this crate's public API.

use std::path::PathBuf;

/// A tokenizer, template or decoding step failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file could not be read or written.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was being done, such as `read`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },

    /// A folder holds no tokenizer.
    #[error("no tokenizer in {folder}: expected {expected}; copy it next to the weights", folder = folder.display())]
    NoTokenizer {
        /// The folder that was searched.
        folder: PathBuf,
        /// The file that was looked for.
        expected: &'static str,
    },

    /// A file or a piece of metadata is there but cannot be used.
    #[error("{what} is not usable: {reason}; fetch it again or convert the model again")]
    Invalid {
        /// The file or the field, such as `tokenizer.json`.
        what: String,
        /// What was expected and what was found.
        reason: String,
    },

    /// The GGUF metadata names a kind of tokenizer that this crate does not have.
    #[error("unknown tokenizer model {found:?}: known are {}; use the model's tokenizer.json instead", known.join(", "))]
    UnknownModel {
        /// The name in `tokenizer.ggml.model`.
        found: String,
        /// The names that are understood.
        known: Vec<&'static str>,
    },

    /// The GGUF metadata names a pre-tokenizer that this crate does not have.
    #[error("unknown pre-tokenizer {found:?}: known are {}; use the model's tokenizer.json instead", known.join(", "))]
    UnknownPreTokenizer {
        /// The name in `tokenizer.ggml.pre`.
        found: String,
        /// The names that are understood.
        known: Vec<&'static str>,
    },

    /// An array of the vocabulary has another length than the token list.
    #[error("{field} has {found} entries, but there are {expected} tokens; convert the model again")]
    VocabLength {
        /// The metadata array.
        field: &'static str,
        /// The number of tokens.
        expected: usize,
        /// The number of entries.
        found: usize,
    },

    /// Two ids have the same token.
    #[error("token {token:?} has the ids {first} and {second}; a vocabulary names each token once")]
    DuplicateToken {
        /// The token.
        token: String,
        /// The smaller id.
        first: u32,
        /// The larger id.
        second: u32,
    },

    /// An id has no token.
    #[error(
        "token id {id} is not in the vocabulary (largest id {max_id}); the model and the tokenizer do not belong together, or the id is of a padding row"
    )]
    UnknownId {
        /// The id that was asked for.
        id: u32,
        /// The largest id that has a token.
        max_id: u32,
    },

    /// A text could not be turned into tokens.
    #[error("cannot encode the text: {reason}")]
    Encode {
        /// Why.
        reason: String,
    },

    /// Tokens could not be turned into a text.
    #[error("cannot decode the tokens: {reason}")]
    Decode {
        /// Why.
        reason: String,
    },

    /// A batch needs padding and the tokenizer names no padding token.
    #[error("the tokenizer has no padding token; set one in tokenizer_config.json or encode without padding")]
    NoPadToken,

    /// A batch has a maximal length that leaves no room for the special tokens.
    #[error("max_length {found} leaves no room for text: the special tokens alone take {needed}")]
    MaxLength {
        /// The length that was asked for.
        found: usize,
        /// The number of special tokens.
        needed: usize,
    },

    /// The asked-for chat template is not there.
    #[error("no chat template named {name:?}: this tokenizer has {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
    NoTemplate {
        /// The name that was asked for.
        name: String,
        /// The names that are there.
        known: Vec<String>,
    },

    /// A chat template cannot be compiled or failed while it ran.
    #[error("chat template {name:?} failed{}: {reason}", line.map(|n| format!(" in line {n}")).unwrap_or_default())]
    Template {
        /// The template's name; `default` is the usual one.
        name: String,
        /// The line in the template, counted from 1.
        line: Option<usize>,
        /// Why; for `raise_exception` the template's own words.
        reason: String,
    },

    /// A setting is outside of its range.
    #[error("{name} is {found}: expected {expected}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// The range.
        expected: String,
        /// The value.
        found: String,
    },
}

/// The result of this crate's functions.
pub type Result<T, E = TextError> = std::result::Result<T, E>;

impl TextError {
    pub(crate) fn invalid(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Invalid { what: what.into(), reason: reason.to_string() }
    }

    pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
