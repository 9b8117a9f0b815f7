//! Writing a file of repacked weights, one entry at a time. It appears under its name only when it is complete and on the
//! disk; whatever fails before leaves nothing behind. It deliberately repacks nothing: it is given bytes.

use std::{
    collections::HashSet,
    fs,
    io::{self, Seek, SeekFrom, Write},
};

use serde_json::Value;
use tempfile::NamedTempFile;

use super::{
    cache::RepackedCache,
    checksum::checksums,
    format::{ALIGNMENT, Header, RepackedEntry},
    key::{PREFIX, RepackedKey},
    read::RepackedFile,
};
use crate::{
    atomic::{sync_folder, temporary},
    error::{Blame, CheckpointError, Result, shorten},
};

/// Writes the repacked weights of one key. Made by [`RepackedCache::writer`].
///
/// Dropped without [`finish`](Self::finish), also by a panic, it leaves nothing behind. A process that is killed leaves
/// a hidden file `.repacking-*.tmp`, which the cache removes later. Several processes may write the same key at once:
/// each writes a file of its own, and the last one stays.
#[derive(Debug)]
pub struct RepackedWriter {
    cache: RepackedCache,
    key: RepackedKey,
    /// None after a failure.
    file: Option<PieceWriter>,
    header: Header,
    names: HashSet<String>,
    /// The entry that could not be written.
    failed: String,
    /// Where the file ends for now.
    end: u64,
}

impl RepackedWriter {
    pub(super) fn create(cache: &RepackedCache, key: &RepackedKey) -> Result<Self> {
        let blame = Blame { path: cache.folder() };
        fs::create_dir_all(cache.folder()).map_err(|error| blame.unwritable("create", error))?;
        let file = temporary(cache.folder(), PREFIX).map_err(|error| blame.unwritable("create a file in", error))?;
        // The lock keeps other processes from removing the file as a leftover. Without locks, its age does.
        let _ = file.as_file().try_lock();
        let header = Header {
            key: key.as_str().to_owned(),
            variant: key.variant().to_owned(),
            sources: key.sources().map(|path| path.to_string_lossy().into_owned()).collect(),
            entries: Vec::new(),
        };
        let (cache, key) = (cache.clone(), key.clone());
        Ok(Self {
            cache,
            key,
            file: Some(PieceWriter::new(file)),
            header,
            names: HashSet::new(),
            failed: String::new(),
            end: 0,
        })
    }

    /// Appends one entry. `metadata` is kept as it is, for [`RepackedEntry::metadata`].
    ///
    /// # Errors
    /// [`CheckpointError::DuplicateTensor`], after which other entries can still be written.
    /// [`CheckpointError::UnwritableCache`], also for a full disk: what was written so far is gone then, and the writer
    /// is good for nothing more. [`CheckpointError::WriteOrder`] after such a failure.
    pub fn write(&mut self, name: &str, metadata: Value, bytes: &[u8]) -> Result<()> {
        let path = self.cache.path_of(&self.key);
        let Some(mut file) = self.file.take() else { return Err(self.broken()) };
        if !self.names.insert(name.to_owned()) {
            self.file = Some(file);
            return Err(CheckpointError::DuplicateTensor { path, tensor: shorten(name) });
        }
        // The first page is the preamble's, which comes last.
        let offset = self.end.next_multiple_of(ALIGNMENT).max(ALIGNMENT);
        // Sums and bytes at once: one is memory's work, the other mostly the system's.
        let (checksums, written) =
            rayon::join(|| checksums(bytes), || file.zeros(offset - self.end).and_then(|()| file.write_all(bytes)));
        if let Err(error) = written {
            self.failed = shorten(name);
            return Err(Blame { path: &path }.unwritable("write", error));
        }
        self.end = offset + bytes.len() as u64;
        self.header.entries.push(RepackedEntry {
            name: name.to_owned(),
            metadata,
            length: bytes.len(),
            offset,
            checksums,
        });
        self.file = Some(file);
        Ok(())
    }

    /// The bytes written so far, with what lies between entries.
    pub fn total_bytes(&self) -> u64 {
        self.end
    }

    /// Brings the file to the disk, gives it its name and maps it. Then the least recently used files are removed until
    /// the cache is within its limit; this file stays even where it is larger than that.
    ///
    /// # Errors
    /// [`CheckpointError::SourceChanged`] where one of the model's files has changed since the key was made,
    /// [`CheckpointError::UnwritableCache`], [`CheckpointError::Limit`] for more metadata than a header holds,
    /// [`CheckpointError::WriteOrder`] after a failed write. Nothing is left behind.
    pub fn finish(mut self) -> Result<RepackedFile> {
        let path = self.cache.path_of(&self.key);
        let blame = Blame { path: &path };
        let Some(mut file) = self.file.take() else { return Err(self.broken()) };
        let end = self.end.max(ALIGNMENT);
        let (preamble, text) = self.header.encode(end, blame)?;
        let write = || -> io::Result<NamedTempFile> {
            file.zeros(end - self.end)?;
            file.write_all(&text)?;
            let mut file = file.into_file()?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&preamble)?;
            file.as_file().sync_all()?;
            Ok(file)
        };
        let file = write().map_err(|error| blame.unwritable("write", error))?;
        self.key.check_unchanged()?;
        let file = match file.persist(&path) {
            Ok(file) => file,
            // Some systems replace no file that is mapped. Where that file is the right one, nothing is lost.
            Err(error) => match self.cache.open(&self.key) {
                Ok(Some(file)) => return Ok(file),
                _ => return Err(blame.unwritable("rename into place", error.error)),
            },
        };
        sync_folder(self.cache.folder()).map_err(|error| blame.unwritable("write", error))?;
        // From a writer's lock to a reader's. If the file is removed in between, only its name is lost.
        let _ = file.unlock().and_then(|()| file.try_lock_shared().map_err(io::Error::from));
        let file = RepackedFile::of_file(file, &path)?;
        // The weights are there, whatever becomes of older ones; the next writer tries again.
        let _ = self.cache.trim_except(Some(&path));
        Ok(file)
    }

    fn broken(&self) -> CheckpointError {
        CheckpointError::WriteOrder {
            path: self.cache.path_of(&self.key),
            tensor: self.failed.clone(),
            problem: "could not be written, so that the file was given up",
        }
    }
}

/// What goes to the system at once, from multiples of which on: the size of a huge page. A file that is written so lies
/// in huge pages of the system's page cache, so that mapping 600 MB takes less than a millisecond instead of 15, and
/// kernels read it a fifth faster.
const PIECE: usize = 2 << 20;

/// Collects bytes until they fill a piece of the file.
#[derive(Debug)]
struct PieceWriter {
    file: NamedTempFile,
    /// Less than a piece, which belongs at the end of what is written.
    pending: Vec<u8>,
}

impl PieceWriter {
    fn new(file: NamedTempFile) -> Self {
        Self { file, pending: Vec::with_capacity(PIECE) }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        if !self.pending.is_empty() {
            let (head, tail) = rest.split_at(rest.len().min(PIECE - self.pending.len()));
            self.pending.extend_from_slice(head);
            rest = tail;
            if self.pending.len() < PIECE {
                return Ok(());
            }
            self.file.write_all(&self.pending)?;
            self.pending.clear();
        }
        let (whole, tail) = rest.split_at(rest.len() / PIECE * PIECE);
        self.file.write_all(whole)?;
        self.pending.extend_from_slice(tail);
        Ok(())
    }

    /// Writes `count` zeros, of which there is at most a page.
    fn zeros(&mut self, count: u64) -> io::Result<()> {
        self.write_all(&[0; ALIGNMENT as usize][..count as usize])
    }

    /// The file, with everything in it.
    fn into_file(mut self) -> io::Result<NamedTempFile> {
        self.file.write_all(&self.pending)?;
        Ok(self.file)
    }
}
