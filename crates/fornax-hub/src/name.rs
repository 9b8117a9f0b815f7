//! The names that travel between user, server and disk, and the rules that keep them from being anything else
//! than a name: hub ids, revisions, file names. It opens no file and makes no request.

use crate::HubError;
use std::path::{Path, PathBuf};

/// What a user calls a model of the hub: `[hf://]org/name[@revision][:file]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RepoRef {
    /// `org/name`, or a lone `name` for the hub's oldest models.
    pub id: String,
    pub revision: Option<String>,
    /// A file of the repository, or a word that picks one GGUF file, such as `Q4_K_M`.
    pub file: Option<String>,
}

impl RepoRef {
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let rest = text.strip_prefix("hf://").unwrap_or(text);
        let (rest, file) = match rest.split_once(':') {
            Some((rest, file)) => (rest, Some(file)),
            None => (rest, None),
        };
        let (id, revision) = match rest.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (rest, None),
        };
        check_id(id)?;
        revision.map(check_revision).transpose()?;
        if let Some(file) = file {
            let invalid = |reason| HubError::InvalidName { what: "file name", name: file.to_owned(), reason };
            check_file(file).map_err(invalid)?;
        }
        Ok(Self { id: id.into(), revision: revision.map(Into::into), file: file.map(Into::into) })
    }
}

/// Whether a name that is not on the disk was meant as a path all the same, so that a mistyped path gives
/// "no such file" and not a request to the hub.
pub(crate) fn looks_like_path(text: &str) -> bool {
    const FILES: [&str; 7] = [".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".json"];
    let drive = text.as_bytes().get(1) == Some(&b':') && text.as_bytes()[0].is_ascii_alphabetic();
    let id = text.strip_prefix("hf://").unwrap_or(text).split(['@', ':']).next().unwrap_or(text);
    text.is_empty()
        || drive
        || text.contains('\\')
        || text.starts_with(['/', '.', '~'])
        || id.ends_with('/')
        || id.matches('/').count() > 1 && !text.contains("://")
        || FILES.iter().any(|end| id.to_ascii_lowercase().ends_with(end))
}

fn check_id(id: &str) -> Result<(), HubError> {
    let reason = if id.matches('/').count() > 1 {
        "it has the form name or org/name"
    } else if id.split('/').any(|part| part.is_empty() || part.len() > 96) {
        "each of its parts has 1 to 96 characters"
    } else if !id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b)) {
        "it has only letters, digits, '-', '_' and '.'"
    } else if id.split('/').any(|part| part.starts_with(['-', '.']) || part.ends_with(['-', '.'])) {
        "no part of it starts or ends with '-' or '.'"
    } else if id.contains("--") || id.contains("..") {
        "it has no '--' and no '..'"
    } else if id.ends_with(".git") {
        "it does not end in .git"
    } else {
        return Ok(());
    };
    Err(HubError::InvalidName { what: "hub id", name: id.into(), reason })
}

/// A revision becomes a file under `refs`, and may have folders there, as `refs/pr/1` has.
pub(crate) fn check_revision(revision: &str) -> Result<(), HubError> {
    check_file(revision).map_err(|reason| HubError::InvalidName { what: "revision", name: revision.into(), reason })
}

/// A full commit hash, as the hub's repositories have them.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a name with `/` between its parts stays below the folder that it is joined to, on every system.
pub(crate) fn check_file(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > 1024 {
        Err("a name has 1 to 1024 bytes")
    } else if name.chars().any(|c| c.is_control() || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')) {
        Err("it has a character that no portable file name has")
    } else if name.starts_with('/') {
        Err("it is an absolute path")
    } else if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        Err("it has an empty part, '.' or '..'")
    } else {
        Ok(())
    }
}

/// An etag names a blob on disk, so that it has to be a plain name.
pub(crate) fn is_plain_etag(etag: &str) -> bool {
    (1..=128).contains(&etag.len())
        && !etag.starts_with('.')
        && !etag.ends_with(".incomplete")
        && etag.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// A checked name below a folder, in this system's separators.
pub(crate) fn join(folder: &Path, name: &str) -> PathBuf {
    name.split('/').fold(folder.to_owned(), |path, part| path.join(part))
}

/// A name for a URL's path; `/` stays where `slash` says so.
pub(crate) fn percent_encode(name: &str, slash: bool) -> String {
    let mut out = String::with_capacity(name.len());
    for b in name.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || (slash && b == b'/') {
            out.push(char::from(b));
        } else {
            out += &format!("%{b:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ids_revisions_and_files() {
        let repo = |id: &str, revision: Option<&str>, file: Option<&str>| RepoRef {
            id: id.into(),
            revision: revision.map(Into::into),
            file: file.map(Into::into),
        };
        let parsed = |text| RepoRef::parse(text).expect("a valid id");
        assert_eq!(parsed("gpt2"), repo("gpt2", None, None));
        assert_eq!(parsed("Qwen/Qwen2.5-0.5B-Instruct"), repo("Qwen/Qwen2.5-0.5B-Instruct", None, None));
        assert_eq!(parsed("a/b@refs/pr/1"), repo("a/b", Some("refs/pr/1"), None));
        assert_eq!(parsed("hf://a/b@v1:q/x.gguf"), repo("a/b", Some("v1"), Some("q/x.gguf")));
        assert_eq!(parsed("a/b:Q4_K_M"), repo("a/b", None, Some("Q4_K_M")));
    }

    #[test]
    fn refuses_what_is_no_id() {
        for bad in [
            "a/b/c",
            "",
            "/a",
            "a/",
            "a b",
            "a/b--c",
            "a..b",
            "-a/b",
            "a/b.",
            "x.git",
            "ä/b",
            "a/b@",
            "a/b@../x",
            "a/b@/x",
            "a/b:",
            "a/b:../x",
            "a/b:/etc/passwd",
            "a/b@m:x:y",
            "http://host/a",
        ] {
            assert!(RepoRef::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn refuses_names_that_leave_the_folder() {
        for bad in ["../x", "/x", "a/../x", "a//b", "./x", "a/.", "", "..\\x", "C:/x", "C:x", "x\0", "a\nb"] {
            assert!(check_file(bad).is_err(), "{bad:?} was taken");
        }
        for good in ["config.json", "1_Pooling/config.json", ".gitattributes", "a..b", "ä ö.txt"] {
            assert_eq!(check_file(good), Ok(()), "{good:?} was refused");
        }
    }

    #[test]
    fn knows_paths_from_ids() {
        for path in ["./x", "../x", "/x", "~/x", "x.gguf", "a/x.safetensors", "a/b/c", "C:\\x", "C:/x", "a/", ""] {
            assert!(looks_like_path(path), "{path:?}");
        }
        for id in ["gpt2", "a/b", "a/b:x.gguf", "a/b@refs/pr/1", "hf://a/b", "a/b-GGUF:Q4_K_M"] {
            assert!(!looks_like_path(id), "{id:?}");
        }
    }

    #[test]
    fn encodes_for_urls() {
        assert_eq!(percent_encode("a b/ä#?.x", true), "a%20b/%C3%A4%23%3F.x");
        assert_eq!(percent_encode("refs/pr/1", false), "refs%2Fpr%2F1");
    }

    #[test]
    fn etags_are_plain_names() {
        assert!(is_plain_etag("d41d8cd98f00b204e9800998ecf8427e"));
        for bad in ["", "../x", "a/b", ".x", "a.incomplete", "a b", "a\\b"] {
            assert!(!is_plain_etag(bad), "{bad:?}");
        }
    }
}
