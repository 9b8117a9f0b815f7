//! The folder of repacked weights: opening by key, room for new files, and what a user wants to know and do about it. It
//! deliberately prints nothing and asks nobody.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    folder::{self, DEFAULT_LIMIT},
    key::{PREFIX, RECORDS, RepackedKey},
    read::RepackedFile,
    write::RepackedWriter,
};
use crate::{
    atomic,
    error::{Blame, CheckpointError, Result},
};

/// How the names of the files end; before it stands their key.
const SUFFIX: &str = ".repacked";
/// A temporary file this old that nobody holds a lock on was left by a process that was killed.
const LEFTOVER: Duration = Duration::from_secs(3600);

/// A folder of files of repacked weights, each named after the content it was made from.
///
/// ```
/// use fornax_checkpoint::{CheckpointError, RepackedCache, RepackedFile};
/// use serde_json::json;
///
/// fn load(cache: &RepackedCache, model: &std::path::Path) -> Result<RepackedFile, CheckpointError> {
///     let key = cache.key(&[model], "q8_0 rows of 16, layout 3")?;
///     match cache.open(&key) {
///         Ok(Some(file)) => return Ok(file),
///         Ok(None) => {}
///         Err(error) => eprintln!("warning: {error}"),
///     }
///     let mut writer = cache.writer(&key)?;
///     writer.write("lm_head.weight", json!({ "shape": [2, 3] }), &[1, 2, 3, 4, 5, 6])?; // repacked here
///     writer.finish()
/// }
///
/// let folder = tempfile::tempdir()?;
/// let model = folder.path().join("model.safetensors");
/// std::fs::write(&model, "any bytes")?;
/// let cache = RepackedCache::new(folder.path().join("cache"));
/// for _start in 0..2 {
///     let file = load(&cache, &model)?;
///     file.verify()?;
///     assert_eq!(file.entry("lm_head.weight")?[..], [1, 2, 3, 4, 5, 6]);
/// }
/// assert_eq!(cache.list()?.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepackedCache {
    folder: PathBuf,
    limit: u64,
}

/// One file of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CachedFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was last opened or written.
    pub last_used: SystemTime,
    /// The layout of its entries, as the writer described it; none where the file cannot be used.
    pub variant: Option<String>,
    /// Where the model's files were when this one was written.
    pub sources: Vec<PathBuf>,
}

/// What was removed from a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// Files of repacked weights that are gone.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files that should have gone and stayed, because a process uses them.
    pub in_use: usize,
}

/// A file of the cache, from outside.
struct Candidate {
    path: PathBuf,
    bytes: u64,
    last_used: SystemTime,
}

impl RepackedCache {
    /// A cache in `folder`, of at most 20 GiB. Nothing is read or made yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), limit: DEFAULT_LIMIT }
    }

    /// The cache that the environment describes.
    ///
    /// The folder is `$FORNAX_CACHE`, or `$XDG_CACHE_HOME/fornax/repacked`, or `~/.cache/fornax/repacked`
    /// (`%LOCALAPPDATA%\fornax\repacked` on Windows). The limit is `$FORNAX_CACHE_LIMIT`, such as `8GiB`, or 20 GiB.
    ///
    /// # Errors
    /// [`CheckpointError::InvalidSetting`] for a limit that is no size.
    pub fn from_env() -> Result<Self> {
        let (folder, limit) = folder::from_env()?;
        Ok(Self { folder, limit })
    }

    /// The same cache with another limit in bytes. Under a limit of 0 a new file displaces all others.
    pub fn with_limit(self, bytes: u64) -> Self {
        Self { limit: bytes, ..self }
    }

    /// Where the files are. The folder need not exist.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The most bytes that all files may have together, in-use ones and the one just written excepted.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The key for the weights of `sources` (one file, or all shards in their order) in the layout that `variant` names.
    /// Whatever changes the repacked bytes must be in `variant`: weight type, layout and its version, instruction set.
    ///
    /// A file's content is hashed in parallel once; as long as its path, size, times and place on the disk stay the
    /// same, the hash is remembered in the cache's folder. Where that folder cannot be written, it is hashed every time.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] and [`CheckpointError::Unsupported`] for a path that is no readable file,
    /// [`CheckpointError::SourceChanged`] for a file that is being written, [`CheckpointError::InvalidSetting`] for an
    /// empty list.
    pub fn key<P: AsRef<Path>>(&self, sources: &[P], variant: &str) -> Result<RepackedKey> {
        let sources: Vec<&Path> = sources.iter().map(AsRef::as_ref).collect();
        RepackedKey::of(&self.folder, &sources, variant, SystemTime::now())
    }

    /// The repacked weights of this key, if they are there; they count as used now. Entries are not read: see
    /// [`RepackedFile::verify`].
    ///
    /// # Errors
    /// [`CheckpointError::UnusableCache`] for a file that is damaged or foreign: warn, and write it again.
    /// [`CheckpointError::Io`] where the system refuses to open it.
    pub fn open(&self, key: &RepackedKey) -> Result<Option<RepackedFile>> {
        let path = self.path_of(key);
        let file = match RepackedFile::open(&path) {
            Err(CheckpointError::Io { source, .. }) if is_absent(&source) => return Ok(None),
            opened => opened?,
        };
        if file.key() != key.as_str() {
            return Err(Blame { path: &path }.unusable("its key", key.as_str(), file.key()));
        }
        // On a read-only disk nothing is removed for want of room either.
        let _ = File::options().write(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Ok(Some(file))
    }

    /// Begins to write the repacked weights of this key; see [`RepackedWriter`]. A file that is there stays until the
    /// new one is finished.
    ///
    /// # Errors
    /// [`CheckpointError::UnwritableCache`]: warn, and go without.
    pub fn writer(&self, key: &RepackedKey) -> Result<RepackedWriter> {
        RepackedWriter::create(self, key)
    }

    /// All files, the most recently used first. What cannot be used is listed too, without a variant.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] where the folder cannot be read. A folder that does not exist counts as empty.
    pub fn list(&self) -> Result<Vec<CachedFile>> {
        let mut files = self.candidates()?;
        files.reverse();
        let describe = |Candidate { path, bytes, last_used }: Candidate| {
            let file = RepackedFile::open(&path).ok();
            let variant = file.as_ref().map(|file| file.variant().to_owned());
            let sources = file.iter().flat_map(|file| file.sources().map(Path::to_owned)).collect();
            CachedFile { path, bytes, last_used, variant, sources }
        };
        Ok(files.into_iter().map(describe).collect())
    }

    /// The bytes of all files together.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn total_bytes(&self) -> Result<u64> {
        Ok(self.candidates()?.iter().map(|file| file.bytes).sum())
    }

    /// Removes everything that no process uses, with the remembered hashes.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], [`CheckpointError::UnwritableCache`] where a file cannot be removed.
    pub fn clear(&self) -> Result<Removed> {
        let removed = self.remove(self.candidates()?)?;
        self.remove_leftovers(SystemTime::now())?;
        match fs::remove_dir_all(self.folder.join(RECORDS)) {
            Err(error) if !is_absent(&error) => {
                Err(Blame { path: &self.folder }.unwritable("remove the remembered hashes in", error))
            }
            _ => Ok(removed),
        }
    }

    /// Removes what was last used longer ago than `period`.
    ///
    /// # Errors
    /// As [`clear`](Self::clear).
    pub fn remove_unused(&self, period: Duration) -> Result<Removed> {
        let now = SystemTime::now();
        // A time in the future has been used just now, by a clock that runs ahead.
        let old = |file: &Candidate| now.duration_since(file.last_used).is_ok_and(|since| since > period);
        self.remove(self.candidates()?.into_iter().filter(old).collect())
    }

    /// Removes the least recently used files until the rest is within the limit. Every writer does so when it has
    /// finished.
    ///
    /// # Errors
    /// As [`clear`](Self::clear).
    pub fn trim(&self) -> Result<Removed> {
        self.trim_except(None)
    }

    pub(super) fn trim_except(&self, kept: Option<&Path>) -> Result<Removed> {
        self.remove_leftovers(SystemTime::now())?;
        let files = self.candidates()?;
        let mut total: u64 = files.iter().map(|file| file.bytes).sum();
        let mut removed = Removed::default();
        for file in files {
            if total <= self.limit {
                break;
            }
            if kept == Some(file.path.as_path()) {
                continue;
            }
            let bytes = file.bytes;
            let one = self.remove(vec![file])?;
            total -= if one.files > 0 { bytes } else { 0 };
            removed = removed.and(one);
        }
        Ok(removed)
    }

    pub(super) fn path_of(&self, key: &RepackedKey) -> PathBuf {
        self.folder.join(format!("{key}{SUFFIX}"))
    }

    /// The files of repacked weights, the least recently used first.
    fn candidates(&self) -> Result<Vec<Candidate>> {
        let mut files = Vec::new();
        for (name, path) in self.names()? {
            // One that is gone or cannot be looked at meanwhile is no candidate.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if is_ours(&name) && metadata.is_file() {
                let last_used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                files.push(Candidate { path, bytes: metadata.len(), last_used });
            }
        }
        files.sort_by(|a, b| (a.last_used, &a.path).cmp(&(b.last_used, &b.path)));
        Ok(files)
    }

    /// All names in the folder.
    fn names(&self) -> Result<Vec<(String, PathBuf)>> {
        let blame = Blame { path: &self.folder };
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            entries => entries.map_err(|error| blame.io("list", error))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| blame.io("list", error))?;
            names.extend(entry.file_name().into_string().ok().map(|name| (name, entry.path())));
        }
        Ok(names)
    }

    fn remove(&self, files: Vec<Candidate>) -> Result<Removed> {
        let mut removed = Removed::default();
        for Candidate { path, bytes, .. } in files {
            match remove_unlocked(&path) {
                Ok(true) => removed = removed.and(Removed { files: 1, bytes, in_use: 0 }),
                Ok(false) => removed.in_use += 1,
                // Another process was faster.
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(Blame { path: &path }.unwritable("remove", error)),
            }
        }
        Ok(removed)
    }

    /// Removes what killed processes left.
    fn remove_leftovers(&self, now: SystemTime) -> Result<()> {
        for (name, path) in self.names()? {
            let modified = fs::metadata(&path).and_then(|metadata| metadata.modified());
            let old = modified.is_ok_and(|time| now.duration_since(time).is_ok_and(|age| age > LEFTOVER));
            if name.starts_with(PREFIX) && name.ends_with(atomic::SUFFIX) && old {
                // One that is still in use or cannot be removed stays.
                let _ = remove_unlocked(&path);
            }
        }
        Ok(())
    }
}

impl Removed {
    fn and(self, other: Self) -> Self {
        Self { files: self.files + other.files, bytes: self.bytes + other.bytes, in_use: self.in_use + other.in_use }
    }
}

/// Removes a file unless somebody holds a lock on it; tells whether it is gone.
fn remove_unlocked(path: &Path) -> io::Result<bool> {
    // Held until the name is gone, so that nobody begins to use the file in between. Where there are no locks, or the
    // file cannot be opened, it goes without.
    let file = File::open(path);
    match file.as_ref().map(File::try_lock) {
        Ok(Err(TryLockError::WouldBlock)) => return Ok(false),
        Err(error) if is_absent(error) => return Err(error.kind().into()),
        _ => {}
    }
    fs::remove_file(path).map(|()| true)
}

/// Whether a name is a key and the suffix, so that nothing of anybody else's is ever removed.
fn is_ours(name: &str) -> bool {
    name.strip_suffix(SUFFIX).is_some_and(|key| key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Whether a file, or the folder it would be in, is not there.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_go_when_they_are_old_and_nobody_holds_them() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepackedCache::new(folder.path());
        let make = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, "half a file").unwrap();
            path
        };
        let (left, held) = (make(".repacking-a.tmp"), make(".repacking-b.tmp"));
        let others = [make("notes.txt"), make("short.repacked"), make(".other.tmp")];
        let lock = File::open(&held).unwrap();
        lock.try_lock().unwrap();
        cache.remove_leftovers(SystemTime::now()).unwrap();
        assert!(left.exists());
        cache.remove_leftovers(SystemTime::now() + 2 * LEFTOVER).unwrap();
        assert!(!left.exists() && held.exists());
        drop(lock);
        cache.remove_leftovers(SystemTime::now() + 2 * LEFTOVER).unwrap();
        assert!(!held.exists());
        cache.clear().unwrap();
        assert!(others.iter().all(|path| path.exists()));
    }
}
