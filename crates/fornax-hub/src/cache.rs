//! The cache on disk, in the layout that Python's huggingface_hub uses, so that both share files:
//! `models--org--name/blobs/<etag>` holds the bytes, `snapshots/<commit>/<file>` links to them, and
//! `refs/<branch>` holds a commit. It makes no request, and removes nothing but what it replaces.

use crate::name::{check_file, is_commit, join};
use crate::select::{Selection, Unselected, Weights, select, shards};
use crate::{Event, HubError, ModelSource, Progress};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// One repository's part of the cache.
#[derive(Debug)]
pub(crate) struct RepoCache {
    pub repo: String,
    folder: PathBuf,
    locks: PathBuf,
}

/// The exclusive right to write a blob, until it is dropped.
#[derive(Debug)]
pub(crate) struct BlobLock(#[expect(dead_code, reason = "closing the file gives the lock back")] Option<File>);

impl RepoCache {
    pub fn new(cache_dir: &Path, repo: &str) -> Self {
        let name = format!("models--{}", repo.replace('/', "--"));
        let locks = cache_dir.join(".locks").join(&name);
        Self { repo: repo.into(), folder: cache_dir.join(name), locks }
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// The file of a partly fetched blob. huggingface_hub used the same name as long as it resumed transfers.
    pub fn partial(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// The commit of a revision, as far as the cache knows.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.into());
        }
        let text = fs::read_to_string(join(&self.folder.join("refs"), revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes the commit of a branch or tag. Done last, so that a branch never points to half a model while
    /// the one before it is whole.
    pub fn write_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = join(&self.folder.join("refs"), revision);
        create_parent(&path)?;
        let temporary = temporary_beside(&path);
        fs::write(&temporary, commit).map_err(HubError::io("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(HubError::io("rename", &path))
    }

    /// The model at a commit if all of it is here; otherwise the names of what is missing.
    pub fn complete(&self, commit: &str, chosen: Option<&str>) -> Result<ModelSource, Vec<String>> {
        let snapshot = self.snapshot(commit);
        let mut names = BTreeSet::new();
        walk(&snapshot, "", &mut names);
        if names.is_empty() {
            return Err(vec!["all of its files".into()]);
        }
        names.extend(self.listing_of_python(commit));
        let selection = match select(&names, chosen) {
            Ok(selection) => selection,
            Err(Unselected::NoWeights) => return Err(vec!["its weights".into()]),
            Err(Unselected::NoFile(_)) => return Err(vec![chosen.unwrap_or_default().to_owned()]),
            Err(Unselected::Choose(options)) => {
                return Err(vec![format!("a choice between {}", options.join(" and "))]);
            }
        };
        let mut wanted = selection.files.clone();
        match &selection.weights {
            Weights::Files(files) | Weights::Single(files) => wanted.extend(files.iter().cloned()),
            Weights::Index(index) => {
                wanted.push(index.clone());
                let bytes = fs::read(join(&snapshot, index)).map_err(|_| vec![index.clone()])?;
                wanted.extend(shards(&bytes, &self.repo, index).map_err(|_| vec![index.clone()])?);
            }
        }
        let missing: Vec<String> = wanted.into_iter().filter(|name| !join(&snapshot, name).is_file()).collect();
        if missing.is_empty() { Ok(self.source(commit, &selection)) } else { Err(missing) }
    }

    /// Where a selection lies once it is complete.
    pub fn source(&self, commit: &str, selection: &Selection) -> ModelSource {
        let snapshot = self.snapshot(commit);
        match &selection.weights {
            Weights::Single(files) if !files.is_empty() => ModelSource::File(join(&snapshot, &files[0])),
            _ => ModelSource::Folder(snapshot),
        }
    }

    /// Waits until no other process writes this blob. Where the file system has no locks, two processes may
    /// fetch the same blob into the same file; its hash, checked before it is taken, tells whether that went well.
    pub fn lock(&self, etag: &str, file: &str, progress: &dyn Progress) -> Result<BlobLock, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        create_parent(&path)?;
        let lock = File::options().create(true).append(true).open(&path).map_err(HubError::io("open", &path))?;
        match lock.try_lock() {
            Ok(()) => return Ok(BlobLock(Some(lock))),
            Err(fs::TryLockError::WouldBlock) => progress.event(&Event::Waiting { file }),
            Err(fs::TryLockError::Error(_)) => {}
        }
        match lock.lock() {
            Ok(()) => Ok(BlobLock(Some(lock))),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(BlobLock(None)),
            Err(error) => Err(HubError::io("lock", &path)(error)),
        }
    }

    /// Lets a snapshot's file show a blob.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let pointer = join(&self.snapshot(commit), file);
        create_parent(&pointer)?;
        if pointer.is_file() {
            return Ok(());
        }
        let ups = "../".repeat(file.split('/').count() + 1);
        let relative = join(Path::new(&ups), &format!("blobs/{etag}"));
        place(&relative, &self.blob(etag), &pointer, &[symlink, hard_link, copy])
    }

    /// The file names that Python's huggingface_hub noted when it made the snapshot, if it did.
    fn listing_of_python(&self, commit: &str) -> Vec<String> {
        let path = self.folder.join("trees").join(format!("{commit}.json"));
        let Ok(bytes) = fs::read(path) else { return Vec::new() };
        let Ok(json) = serde_json::from_slice::<serde_json::Value>(&bytes) else { return Vec::new() };
        let files = json.get("files").and_then(|files| files.as_object());
        files.into_iter().flat_map(|map| map.keys()).filter(|name| check_file(name).is_ok()).cloned().collect()
    }
}

type Way = fn(relative: &Path, blob: &Path, pointer: &Path) -> io::Result<()>;

/// Tries one way after another; the new file appears under its name at once and whole.
fn place(relative: &Path, blob: &Path, pointer: &Path, ways: &[Way]) -> Result<(), HubError> {
    let temporary = temporary_beside(pointer);
    let mut last = io::Error::from(ErrorKind::Unsupported);
    for way in ways {
        match way(relative, blob, &temporary) {
            Ok(()) => return fs::rename(&temporary, pointer).map_err(HubError::io("rename", pointer)),
            Err(error) => last = error,
        }
        // A copy that failed halfway is in the next way's place; that there is none is the usual case.
        let _ = fs::remove_file(&temporary);
    }
    Err(HubError::io("link", pointer)(last))
}

#[cfg(unix)]
fn symlink(relative: &Path, _: &Path, pointer: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(relative, pointer)
}

#[cfg(windows)]
fn symlink(relative: &Path, _: &Path, pointer: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(relative, pointer)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

fn hard_link(_: &Path, blob: &Path, pointer: &Path) -> io::Result<()> {
    fs::hard_link(blob, pointer)
}

fn copy(_: &Path, blob: &Path, pointer: &Path) -> io::Result<()> {
    fs::copy(blob, pointer).map(drop)
}

pub(crate) fn create_parent(path: &Path) -> Result<(), HubError> {
    // Every path here has been joined to the cache's folder, and so has a parent.
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(HubError::io("create", parent))
}

/// A name in the same folder that no other thread or process uses.
fn temporary_beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}-{count}.tmp", std::process::id()))
}

/// The names of the files below a folder, with `/` between their parts. What cannot be read counts as absent,
/// and so does a link to a blob that is gone.
fn walk(folder: &Path, prefix: &str, names: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            walk(&entry.path(), &format!("{prefix}{name}/"), names);
        } else if entry.path().is_file() {
            names.insert(format!("{prefix}{name}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;

    const COMMIT: &str = "0123456789012345678901234567890123456789";

    #[test]
    fn links_copies_where_it_cannot_link() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let blob = folder.path().join("blob");
        fs::write(&blob, "bytes").expect("written");
        let fails: Way = |_, _, _| Err(ErrorKind::PermissionDenied.into());
        for (name, ways) in [("hard", &[fails, hard_link][..]), ("copy", &[fails, fails, copy][..])] {
            let pointer = folder.path().join(name);
            place(Path::new("blob"), &blob, &pointer, ways).expect("placed");
            assert_eq!(fs::read_to_string(&pointer).expect("readable"), "bytes");
        }
        let pointer = folder.path().join("none");
        assert!(matches!(place(Path::new("blob"), &blob, &pointer, &[fails]), Err(HubError::Io { .. })));
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 3, "a temporary file is left");
    }

    #[test]
    fn links_replace_a_dangling_one_and_are_relative() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cache = RepoCache::new(folder.path(), "a/b");
        let blob = cache.blob("e1");
        create_parent(&blob).expect("created");
        fs::write(&blob, "bytes").expect("written");
        let pointer = cache.snapshot(COMMIT).join("1_Pooling").join("config.json");
        create_parent(&pointer).expect("created");
        symlink(Path::new("gone"), &blob, &pointer).expect("linked");
        cache.link(COMMIT, "1_Pooling/config.json", "e1").expect("linked");
        assert_eq!(fs::read_to_string(&pointer).expect("readable"), "bytes");
        let target = fs::read_link(&pointer).expect("a link");
        assert_eq!(target, Path::new("../../../blobs/e1"));
    }

    #[test]
    fn refs_hold_commits_only() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cache = RepoCache::new(folder.path(), "a/b");
        assert_eq!(cache.commit("main"), None);
        cache.write_ref("refs/pr/1", COMMIT).expect("written");
        assert_eq!(cache.commit("refs/pr/1").as_deref(), Some(COMMIT));
        assert_eq!(cache.commit(COMMIT).as_deref(), Some(COMMIT));
        fs::write(folder.path().join("models--a--b/refs/main"), "../../../etc").expect("written");
        assert_eq!(cache.commit("main"), None);
    }

    #[test]
    fn the_listing_of_python_tells_what_is_missing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cache = RepoCache::new(folder.path(), "a/b");
        assert!(cache.complete(COMMIT, None).is_err());
        let snapshot = cache.snapshot(COMMIT);
        fs::create_dir_all(&snapshot).expect("created");
        fs::write(snapshot.join("config.json"), "{}").expect("written");
        assert_eq!(cache.complete(COMMIT, None), Err(vec!["its weights".to_owned()]));
        fs::write(snapshot.join("model.safetensors"), "").expect("written");
        assert_eq!(cache.complete(COMMIT, None), Ok(ModelSource::Folder(snapshot)));
        let trees = folder.path().join("models--a--b/trees");
        fs::create_dir_all(&trees).expect("created");
        let listing = r#"{"format_version": 1, "files": {"tokenizer.json": {}, "tf_model.h5": {}, "../x": {}}}"#;
        fs::write(trees.join(format!("{COMMIT}.json")), listing).expect("written");
        assert_eq!(cache.complete(COMMIT, None), Err(vec!["tokenizer.json".to_owned()]));
    }

    #[test]
    fn one_writer_at_a_time() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cache = RepoCache::new(folder.path(), "a/b");
        let held = cache.lock("e1", "f", &Silent).expect("the lock");
        let path = folder.path().join(".locks/models--a--b/e1.lock");
        let other = File::options().append(true).open(&path).expect("the lock's file");
        assert!(matches!(other.try_lock(), Err(fs::TryLockError::WouldBlock)));
        drop(held);
        other.try_lock().expect("free again");
    }
}
