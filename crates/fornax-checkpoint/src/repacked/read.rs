//! Reading a file of repacked weights: mapped as it lies, or copied to memory of the caller's. It deliberately rebuilds
//! nothing: a bad file is an error, after which the caller rewrites it.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use rayon::prelude::*;

use super::{
    checksum::{CHUNK, STREAMS, checksum, checksums_at_once},
    format::{Header, RepackedEntry},
};
use crate::{
    error::{Blame, CheckpointError, Result, nearest, shorten},
    mapping::Mapping,
};

/// A file of repacked weights, mapped.
///
/// As long as it, or bytes from it, are held, [`RepackedCache`](crate::RepackedCache) does not remove it for want of
/// room. Parallel work runs on the rayon pool of the caller.
#[derive(Debug)]
pub struct RepackedFile {
    path: PathBuf,
    header: Header,
    places: HashMap<String, usize>,
    mapping: Mapping,
    /// Holds a shared lock, where the file system has locks.
    file: Arc<File>,
}

impl RepackedFile {
    /// Maps a file and reads its header. No entry is read: see [`verify`](Self::verify).
    ///
    /// While it is mapped, nobody may change the file in place. [`RepackedWriter`](crate::RepackedWriter) does not.
    ///
    /// # Errors
    /// [`CheckpointError::UnusableCache`] for a file that is damaged, cut short, of another version or of another kind;
    /// [`CheckpointError::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let blame = Blame { path };
        // Asked before it is opened, for opening a pipe waits until somebody writes to it.
        if !fs::metadata(path).map_err(|error| blame.io("open", error))?.is_file() {
            return Err(blame.unusable("the kind of file", "a regular file", "something else"));
        }
        let file = File::open(path).map_err(|error| blame.io("open", error))?;
        match file.try_lock_shared() {
            // Without locks a file in use may be removed, which its mapping survives where such file systems are used.
            Ok(()) | Err(fs::TryLockError::Error(_)) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(blame.io("open", io::Error::new(io::ErrorKind::NotFound, "it is being removed")));
            }
        }
        Self::of_file(file, path)
    }

    /// Maps an open file, which the caller has locked as far as it can be.
    pub(super) fn of_file(file: File, path: &Path) -> Result<Self> {
        let blame = Blame { path };
        let length = file.metadata().map_err(|error| blame.io("read the size of", error))?.len();
        if length < 8 {
            return Err(blame.unusable("its length", "at least 8 bytes", length.to_string()));
        }
        let file = Arc::new(file);
        let mapping = Mapping::of_file(&file, Some(file.clone()), path)?;
        mapping.prefer_huge_pages();
        let header = Header::decode(mapping.bytes(), blame)?;
        let places = header.entries.iter().enumerate().map(|(at, entry)| (entry.name.clone(), at)).collect();
        Ok(Self { path: path.to_owned(), header, places, mapping, file })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The key it was written for; see [`RepackedKey`](crate::RepackedKey).
    pub fn key(&self) -> &str {
        &self.header.key
    }

    /// What the writer said about the layout of all entries.
    pub fn variant(&self) -> &str {
        &self.header.variant
    }

    /// Where the model's files were when this one was written. They may be gone.
    pub fn sources(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.header.sources.iter().map(Path::new)
    }

    /// The size of the whole file in bytes.
    pub fn total_bytes(&self) -> usize {
        self.mapping.bytes().len()
    }

    /// All entries, in the order in which they were written.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &RepackedEntry> {
        self.header.entries.iter()
    }

    /// One entry's description; none where there is no entry of this name.
    pub fn info(&self, name: &str) -> Option<&RepackedEntry> {
        self.places.get(name).map(|&at| &self.header.entries[at])
    }

    /// One entry's bytes: a slice of the mapping, which it keeps alive. It begins at a page, and has not been checked:
    /// see [`verify`](Self::verify).
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`].
    pub fn entry(&self, name: &str) -> Result<Bytes> {
        Ok(self.bytes_of(self.find(name)?))
    }

    /// Reads every entry and compares it with its checksums, on all threads of the pool. Afterwards the whole file is
    /// in memory and its pages are mapped, so that the first pass over the weights is as fast as the others.
    ///
    /// # Errors
    /// [`CheckpointError::UnusableCache`] naming the first damaged entry.
    pub fn verify(&self) -> Result<()> {
        let chunks: Vec<(usize, usize)> = (self.header.entries.iter().enumerate())
            .flat_map(|(at, entry)| (0..entry.checksums.len()).map(move |chunk| (at, chunk)))
            .collect();
        let damaged = chunks.par_chunks(STREAMS).find_map_first(|group| {
            let mut parts: [&[u8]; STREAMS] = Default::default();
            for (part, &(at, chunk)) in parts.iter_mut().zip(group) {
                let entry = &self.header.entries[at];
                // `Header::check` has held offset, length and number of chunks against the file.
                let start = entry.offset as usize + chunk * CHUNK;
                let end = (start + CHUNK).min(entry.offset as usize + entry.length);
                self.mapping.populate(start, end);
                *part = &self.mapping.bytes()[start..end];
            }
            let fits = |&(&(at, chunk), sum): &(&(usize, usize), u64)| self.header.entries[at].checksums[chunk] == sum;
            group.iter().zip(checksums_at_once(parts)).find(|pair| !fits(pair)).map(|(place, _)| *place)
        });
        match damaged {
            Some((at, chunk)) => Err(self.damaged(&self.header.entries[at], chunk)),
            None => Ok(()),
        }
    }

    /// Copies one entry to `buffer` by reading the file, not the mapping, on all threads of the pool, and compares it
    /// with its checksums on the way. After an error the buffer's contents mean nothing.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`], [`CheckpointError::WrongLength`] where `buffer` is not as long as the entry,
    /// [`CheckpointError::UnusableCache`], [`CheckpointError::Io`].
    pub fn read_into(&self, name: &str, buffer: &mut [u8]) -> Result<()> {
        let entry = self.find(name)?;
        if buffer.len() != entry.length {
            return Err(CheckpointError::WrongLength {
                tensor: shorten(name),
                what: "bytes",
                expected: entry.length,
                found: buffer.len(),
            });
        }
        let blame = Blame { path: &self.path };
        buffer.par_chunks_mut(CHUNK).zip(&entry.checksums).enumerate().try_for_each(|(chunk, (part, &expected))| {
            let offset = entry.offset + (chunk * CHUNK) as u64;
            read_exact_at(&self.file, part, offset).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    blame.unusable(format!("the entry {:?}", shorten(name)), "its bytes", "the end of the file")
                }
                _ => blame.io("read", error),
            })?;
            if checksum(part) == expected { Ok(()) } else { Err(self.damaged(entry, chunk)) }
        })
    }

    fn find(&self, name: &str) -> Result<&RepackedEntry> {
        self.info(name).ok_or_else(|| CheckpointError::MissingTensor {
            path: self.path.clone(),
            tensor: shorten(name),
            similar: nearest(name, self.header.entries.iter().map(|entry| entry.name.as_str())),
        })
    }

    fn bytes_of(&self, entry: &RepackedEntry) -> Bytes {
        let start = entry.offset as usize;
        self.mapping.bytes().slice(start..start + entry.length)
    }

    fn damaged(&self, entry: &RepackedEntry, chunk: usize) -> CheckpointError {
        Blame { path: &self.path }.unusable(
            format!("the entry {:?}", shorten(&entry.name)),
            "bytes that fit their checksum",
            format!("damage after byte {}", chunk * CHUNK),
        )
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt as _;
    while !buffer.is_empty() {
        match file.seek_read(buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
