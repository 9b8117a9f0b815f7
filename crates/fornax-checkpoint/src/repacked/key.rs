//! What a file of repacked weights is named after: the contents of the model's files and the caller's variant. Contents
//! are hashed once; a record of what a file looked like from outside then tells that it need not be read again. It
//! deliberately knows nothing of formats: any file is bytes.

use std::{
    fmt,
    fs::{self, File, Metadata},
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    atomic::temporary,
    error::{Blame, CheckpointError, Result},
    mapping::Mapping,
};

/// Where, in the cache's folder, the records are: one small file for every file that was hashed, so that processes need
/// not agree on who writes a common one.
pub(crate) const RECORDS: &str = "sources";
/// How the names of files under way begin.
pub(crate) const PREFIX: &str = ".repacking-";
/// Separates these hashes from any other use of BLAKE3, and from keys of another kind.
const CONTEXT: &str = "fornax-checkpoint repacked weights 1";
/// A file that changed this recently may change again without looking different, for clocks of file systems are
/// coarse: it is not recorded.
const SETTLING: Duration = Duration::from_secs(2);
/// How much is hashed before its pages are given back.
const PIECE: usize = 64 << 20;

/// The name of a file of repacked weights: a BLAKE3 hash over the contents of the model's files, in the order given, and
/// the variant. Made by [`RepackedCache::key`](crate::RepackedCache::key); its `Display` is 64 hexadecimal digits.
#[derive(Debug, Clone)]
pub struct RepackedKey {
    hash: String,
    variant: String,
    sources: Vec<Source>,
    hashed_bytes: u64,
}

/// One of the model's files as it was when its content was hashed.
#[derive(Debug, Clone)]
struct Source {
    path: PathBuf,
    identity: Identity,
}

/// What a file looks like without reading it. The time of the last change of its entry (`changed`) cannot be set by
/// programs, so that it also tells a copy with preserved times from the original.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    length: u64,
    device: u64,
    inode: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What is kept about a file that was hashed.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// For people; the record's own name is the hash of the exact path.
    path: String,
    identity: Identity,
    hash: String,
}

impl RepackedKey {
    /// Hashes what has no record in `folder`, and leaves a record of it where that is possible.
    pub(super) fn of(folder: &Path, sources: &[&Path], variant: &str, now: SystemTime) -> Result<Self> {
        if sources.is_empty() {
            return Err(CheckpointError::InvalidSetting {
                setting: "the list of files to repack",
                expected: "at least one file",
                found: String::new(),
            });
        }
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&(variant.len() as u64).to_le_bytes()).update(variant.as_bytes());
        let mut key = Self { hash: String::new(), variant: variant.to_owned(), sources: Vec::new(), hashed_bytes: 0 };
        for source in sources {
            let blame = Blame { path: source };
            let path = fs::canonicalize(source).map_err(|error| blame.io("open", error))?;
            let metadata = fs::metadata(&path).map_err(|error| blame.io("open", error))?;
            if !metadata.is_file() {
                return Err(blame.unsupported("the kind of file", "a regular file", "something else"));
            }
            let mut identity = Identity::of(&metadata);
            let record = folder.join(RECORDS).join(record_name(&path));
            let hash = match recorded(&record, &identity) {
                Some(hash) => hash,
                None => {
                    let hash;
                    (identity, hash) = hash_content(&path)?;
                    key.hashed_bytes += identity.length;
                    if identity.is_settled(now) {
                        // Without a record the file is hashed again next time. Why it cannot be written, the writer of
                        // the much larger repacked weights will say.
                        let _ = record_hash(&record, &path, identity, &hash);
                    }
                    hash
                }
            };
            hasher.update(hash.as_bytes());
            key.sources.push(Source { path, identity });
        }
        key.hash = hasher.finalize().to_hex().to_string();
        Ok(key)
    }

    /// The hash, as 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.hash
    }

    /// What the caller said about the layout.
    pub fn variant(&self) -> &str {
        &self.variant
    }

    /// How many bytes had to be read to make this key: 0 where every file had been hashed before.
    pub fn hashed_bytes(&self) -> u64 {
        self.hashed_bytes
    }

    /// The model's files, without links.
    pub fn sources(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.sources.iter().map(|source| source.path.as_path())
    }

    /// Fails where one of the files no longer looks as it did when this key was made.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        let changed = self.sources.iter().find(|source| {
            fs::metadata(&source.path).map_or(true, |metadata| Identity::of(&metadata) != source.identity)
        });
        match changed {
            Some(source) => Err(CheckpointError::SourceChanged { path: source.path.clone() }),
            None => Ok(()),
        }
    }
}

impl fmt::Display for RepackedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hash)
    }
}

impl Identity {
    #[cfg(unix)]
    fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        Self {
            length: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Where files have no numbers that the standard library would tell.
    #[cfg(not(unix))]
    fn of(metadata: &Metadata) -> Self {
        let time = |time: std::io::Result<SystemTime>| {
            let since = time.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
            (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), i64::from(since.subsec_nanos()))
        };
        let modified = time(metadata.modified());
        Self { length: metadata.len(), device: 0, inode: 0, modified, changed: modified }
    }

    /// Whether the last change lies far enough back that another one would show.
    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let Ok(changed) = u64::try_from(self.changed.0) else { return true };
        Duration::from_secs(changed).saturating_add(SETTLING) < now
    }
}

/// The content's hash, and what the file looked like before and after.
fn hash_content(path: &Path) -> Result<(Identity, String)> {
    let blame = Blame { path };
    let look = |file: &File| file.metadata().map_err(|error| blame.io("read the size of", error));
    let file = File::open(path).map_err(|error| blame.io("open", error))?;
    let before = Identity::of(&look(&file)?);
    let mut hasher = blake3::Hasher::new();
    if before.length < PIECE as u64 {
        let bytes = fs::read(path).map_err(|error| blame.io("read", error))?;
        hasher.update_rayon(&bytes);
    } else {
        let mapping = Mapping::of_file(&file, None, path)?;
        for piece in mapping.bytes().chunks(PIECE) {
            hasher.update_rayon(piece);
            mapping.release(piece);
        }
    }
    let now = fs::metadata(path).map_err(|error| blame.io("read the size of", error))?;
    if Identity::of(&look(&file)?) != before || Identity::of(&now) != before {
        return Err(CheckpointError::SourceChanged { path: path.to_owned() });
    }
    Ok((before, hasher.finalize().to_hex().to_string()))
}

/// Two paths have one name only where their bytes are equal.
fn record_name(path: &Path) -> String {
    format!("{}.json", blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex())
}

/// The hash that a record holds for a file of this identity. A record that cannot be read is none.
fn recorded(record: &Path, identity: &Identity) -> Option<String> {
    let record: Record = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
    let is_hash = record.hash.len() == 64 && record.hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    (record.identity == *identity && is_hash).then_some(record.hash)
}

fn record_hash(record: &Path, path: &Path, identity: Identity, hash: &str) -> std::io::Result<()> {
    let contents = Record { path: path.to_string_lossy().into_owned(), identity, hash: hash.to_owned() };
    // The record's path has been joined to the cache's folder, and so has a parent.
    let folder = record.parent().unwrap_or(record);
    fs::create_dir_all(folder)?;
    let mut file = temporary(folder, PREFIX)?;
    file.write_all(&serde_json::to_vec(&contents)?)?;
    file.persist(record)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A moment at which everything written until now has settled.
    fn later() -> SystemTime {
        SystemTime::now() + Duration::from_secs(3600)
    }

    #[test]
    fn a_file_is_hashed_once_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, model) = (folder.path().join("cache"), folder.path().join("model"));
        fs::write(&model, b"weights").unwrap();
        let key = |now| RepackedKey::of(&cache, &[&model], "v", now).unwrap();

        // Fresh files are hashed every time.
        let first = key(SystemTime::now());
        assert_eq!((first.hashed_bytes(), key(SystemTime::now()).hashed_bytes()), (7, 7));
        assert!(!cache.exists());
        assert_eq!((key(later()).hashed_bytes(), key(later()).hashed_bytes()), (7, 0));
        assert_eq!(key(later()).as_str(), first.as_str());

        // Other content of the same length under the same modification time: what a copy with kept times leaves.
        let time = fs::metadata(&model).unwrap().modified().unwrap();
        let other = folder.path().join("other");
        fs::write(&other, b"WEIGHTS").unwrap();
        File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
        fs::rename(&other, &model).unwrap();
        let changed = key(later());
        #[cfg(unix)]
        assert_eq!(changed.hashed_bytes(), 7);
        #[cfg(unix)]
        assert_ne!(changed.as_str(), first.as_str());
        let _ = changed;
    }

    #[test]
    fn damaged_records_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        fs::write(&model, b"weights").unwrap();
        let key = || RepackedKey::of(folder.path(), &[&model], "v", later()).unwrap();
        let good = key();
        let record = folder.path().join(RECORDS).join(record_name(&fs::canonicalize(&model).unwrap()));
        let text = fs::read(&record).unwrap();
        for at in 0..text.len() {
            fs::write(&record, &text[..at]).unwrap();
            let key = key();
            assert_eq!((key.as_str(), key.hashed_bytes()), (good.as_str(), 7), "{at}");
        }
        // The record is believed while it fits: that is what makes starting fast.
        let other = blake3::hash(b"other").to_hex().to_string();
        let text = String::from_utf8(text).unwrap();
        fs::write(&record, text.replace(&blake3::hash(b"weights").to_hex().to_string(), &other)).unwrap();
        assert_eq!(key().hashed_bytes(), 0);
        assert_ne!(key().as_str(), good.as_str());
        fs::write(&record, text.replace(&blake3::hash(b"weights").to_hex().to_string(), "../../x")).unwrap();
        assert_eq!(key().as_str(), good.as_str());
    }

    #[test]
    fn large_files_hash_like_small_ones() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        let bytes: Vec<u8> = (0..PIECE + 12345).map(|at| (at / 7) as u8).collect();
        fs::write(&model, &bytes).unwrap();
        let (identity, hash) = hash_content(&model).unwrap();
        assert_eq!((identity.length, hash), (bytes.len() as u64, blake3::hash(&bytes).to_hex().to_string()));
    }
}
