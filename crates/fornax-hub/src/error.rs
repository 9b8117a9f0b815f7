//! What can go wrong while finding a model's files, each with the next step. No error text ever holds a token
//! or the query of a signed address.

use std::path::PathBuf;

/// Why a model's files could not be found or fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The name reads as a path of this machine, and nothing is there.
    #[error("there is no file or folder {}; give an existing path, or a hub id such as Qwen/Qwen2.5-0.5B-Instruct", path.display())]
    NoSuchPath {
        /// The path as given.
        path: PathBuf,
    },
    /// A hub id, revision or file name that the hub could not have.
    #[error("{name:?} is not a valid {what}: {reason}")]
    InvalidName {
        /// What the name was to be: `hub id`, `revision`, `file name`.
        what: &'static str,
        /// The name as given.
        name: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The address of the hub cannot be used.
    #[error(
        "the hub's address {endpoint:?} cannot be used: {reason}; set HF_ENDPOINT to an address such as https://huggingface.co"
    )]
    InvalidEndpoint {
        /// The address as given.
        endpoint: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The file of certificates holds none.
    #[error("{} holds no certificates in PEM form; mend SSL_CERT_FILE, or unset it to use the built-in ones", path.display())]
    NoCertificates {
        /// The file.
        path: PathBuf,
    },
    /// The server named a file that would lie outside of the model's folder.
    #[error("{repo} names a file {name:?}, which is refused: {reason}; do not trust this repository or this server")]
    UnsafeName {
        /// The repository.
        repo: String,
        /// The name, as the server sent it.
        name: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The hub does not know the repository (or hides it from those without access).
    #[error(
        "{endpoint} has no repository {repo}, or it is private, and there is no file or folder of that name; check the spelling, or set HF_TOKEN to a token that may read it"
    )]
    RepoNotFound {
        /// The repository.
        repo: String,
        /// The hub that was asked.
        endpoint: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{repo} has no revision {revision:?}; give a branch, a tag or a full commit hash after the @")]
    RevisionNotFound {
        /// The repository.
        repo: String,
        /// The revision that was asked for.
        revision: String,
    },
    /// The repository has no such file.
    #[error("{repo} has no file {file:?} at revision {revision}{}", options(.found))]
    FileNotFound {
        /// The repository.
        repo: String,
        /// The revision.
        revision: String,
        /// The file that was asked for.
        file: String,
        /// Files of that kind which the repository has.
        found: Vec<String>,
    },
    /// The hub refuses access (401 or 403).
    #[error("the hub refuses access to {repo} (status {status}); {}", if *.with_token { "the token in use may not read it: accept the model's conditions on its page, or use another HF_TOKEN" } else { "set HF_TOKEN to a token of an account that may read it, and accept the model's conditions on its page if it has any" })]
    AccessDenied {
        /// The repository.
        repo: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The server answered with a status that is neither success nor one of those above.
    #[error("{url} answered with status {status} ({attempts} attempts); try again later")]
    Status {
        /// The address, without its query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// How often it was tried.
        attempts: u32,
    },
    /// The server could not be reached, or the connection broke, as often as was allowed.
    #[error(
        "{url} could not be fetched ({attempts} attempts): {reason}; check the connection and run the command again: it continues where it stopped"
    )]
    Network {
        /// The address, without its query.
        url: String,
        /// How often it was tried.
        attempts: u32,
        /// The last attempt's failure.
        reason: String,
    },
    /// A name that may have been meant as a path, and that the hub could not be asked about or does not know.
    #[error("there is no file or folder {model:?} here, and as a model of the hub: {source}")]
    NotHere {
        /// The name as it was given.
        model: String,
        /// What the hub's part was.
        source: Box<Self>,
    },
    /// The server could not prove who it is.
    #[error(
        "the connection to {url} is not secure: {reason}; where a proxy of your network signs for every host, set SSL_CERT_FILE to a PEM file with its certificate"
    )]
    Untrusted {
        /// The address, without its query.
        url: String,
        /// What is wrong with its certificate.
        reason: String,
    },
    /// The server did not answer as a hub does.
    #[error("{url} did not answer as a hub does: expected {expected}, found {found}; check HF_ENDPOINT and any proxy")]
    BadAnswer {
        /// The address, without its query.
        url: String,
        /// What a hub sends.
        expected: &'static str,
        /// What came.
        found: String,
    },
    /// The bytes of a file do not have the hash that the hub states. The partial file has been removed.
    #[error(
        "{file} of {repo} is damaged: expected {algorithm} {expected}, found {found}; what was downloaded has been removed, run the command again"
    )]
    HashMismatch {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// `sha256`, or `git sha1` for a file that is not in large file storage.
        algorithm: &'static str,
        /// The hash that the hub states.
        expected: String,
        /// The hash of what came.
        found: String,
    },
    /// A file has another length than the hub states. The partial file has been removed.
    #[error(
        "{file} of {repo} has the wrong length: expected {expected} bytes, found {found}; what was downloaded has been removed, run the command again"
    )]
    SizeMismatch {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// The length that the hub states, in bytes.
        expected: u64,
        /// The length of what came, in bytes.
        found: u64,
    },
    /// Offline, and the cache does not hold all of the model.
    #[error("offline, and {repo} (revision {revision}) is not complete in {}: missing {}; run once without --offline and HF_HUB_OFFLINE, or give a local folder", cache_dir.display(), list(.missing))]
    NotCached {
        /// The repository.
        repo: String,
        /// The revision.
        revision: String,
        /// The cache that was searched.
        cache_dir: PathBuf,
        /// What is missing, by name.
        missing: Vec<String>,
    },
    /// The repository has no weights in a format that is read here.
    #[error("{repo} has no weights that can be read (model.safetensors, pytorch_model.bin or *.gguf); it has {}", list(.found))]
    NoWeights {
        /// The repository.
        repo: String,
        /// The files that it has.
        found: Vec<String>,
    },
    /// The repository has several GGUF files and nothing says which one is meant.
    #[error("{repo} has several models; choose one as {repo}:FILE, where FILE is one of {}", list(.options))]
    ChooseFile {
        /// The repository.
        repo: String,
        /// The files to choose from.
        options: Vec<String>,
    },
    /// A file of this machine could not be read or written.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `rename` …
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl HubError {
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }

    /// Whether a complete copy in the cache may stand in for the hub's answer, by the rule of Python's
    /// huggingface_hub: whenever the hub could not or would not answer, but not when it answered that
    /// the revision does not exist.
    pub(crate) fn allows_cache(&self) -> bool {
        matches!(
            self,
            Self::RepoNotFound { .. }
                | Self::AccessDenied { .. }
                | Self::Status { .. }
                | Self::Network { .. }
                | Self::Untrusted { .. }
                | Self::BadAnswer { .. }
        )
    }
}

impl HubError {
    /// Says, where the hub failed or does not know the name, that no path has it either.
    pub(crate) fn of_a_name(self, model: &str) -> Self {
        match self {
            Self::Network { .. } | Self::RepoNotFound { .. } => {
                Self::NotHere { model: model.to_owned(), source: Box::new(self) }
            }
            other => other,
        }
    }
}

/// The first few names, and how many more there are.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 12;
    if names.is_empty() {
        return "nothing".into();
    }
    let mut text = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}

fn options(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; it has {}", list(names)) }
}
