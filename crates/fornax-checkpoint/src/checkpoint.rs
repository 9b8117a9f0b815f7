//! The one type through which weights are read, whatever their format. It deliberately parses nothing itself: formats
//! have their own modules, folders theirs (`folder`).

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use crate::{
    error::{Blame, CheckpointError, Result, nearest, shorten},
    folder,
    gguf::{self, Gguf},
    mapping::Mapping,
    pytorch::{self, Strided},
    safetensors,
    view::{TensorInfo, TensorView},
};

/// The most tensors one file may announce, metadata pairs, and bytes a name. The largest published models stay well
/// below; the limits bound what a file that lies can make us allocate.
pub(crate) const MAX_TENSORS: usize = 1 << 17;
pub(crate) const MAX_PAIRS: usize = 1 << 16;
pub(crate) const MAX_NAME: usize = 1 << 12;

/// A file format, told by a file's first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// Hugging Face's safetensors.
    Safetensors,
    /// llama.cpp's GGUF.
    Gguf,
    /// What `torch.save` writes: a zip file with a pickle. The pickle is read, never executed.
    Pytorch,
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "GGUF",
            Self::Pytorch => "PyTorch zip",
        })
    }
}

/// The weights of a model, opened for reading.
///
/// Opening maps the files and reads their headers; tensors are read when they are asked for.
///
/// ```
/// use fornax_checkpoint::{Checkpoint, Dtype, SaveOptions, TensorInfo, save_safetensors};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("model.safetensors");
/// let bytes = [1.0f32, 2.0].map(f32::to_le_bytes).concat();
/// save_safetensors(&path, [TensorInfo::new("w", Dtype::F32, [2])], &SaveOptions::default(), |_| {
///     Ok::<_, std::io::Error>(bytes.clone().into())
/// })?;
///
/// let checkpoint = Checkpoint::open(&path)?;
/// assert_eq!(checkpoint.tensor("w")?.to_f32()?, [1.0, 2.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    format: Format,
    files: Vec<PathBuf>,
    mappings: Vec<Mapping>,
    entries: Vec<Entry>,
    /// Indices into `entries`, by name.
    sorted: Vec<u32>,
    metadata: BTreeMap<String, String>,
    gguf: Option<Gguf>,
}

impl Checkpoint {
    /// Opens a `.safetensors`, `.gguf` or PyTorch zip file, an index of shards, or a folder. The format is told by the
    /// first bytes, not by the name.
    ///
    /// In a folder these are looked for, in this order: `model.safetensors`, `model.safetensors.index.json`,
    /// `pytorch_model.bin`, `pytorch_model.bin.index.json`, then a single `.safetensors`, `.gguf` or `.bin` file.
    ///
    /// The files stay mapped while the checkpoint, or any [`TensorView`] of it, lives. **They must not be changed or
    /// shortened in place meanwhile**: changed bytes would show in the weights, and reading past a shortened file's end
    /// ends the process with a signal (`SIGBUS`), which no program can turn into an error. Replacing a file by renaming
    /// another over it is safe; [`save_safetensors`](crate::save_safetensors) does that.
    ///
    /// # Errors
    /// Whatever is wrong with the files: see [`CheckpointError`]. Nothing in them makes this panic, run code, or
    /// allocate more than a small multiple of the headers.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        folder::open(path)
    }

    /// Reads a file that is in memory already. `name` stands for its path in messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: impl Into<Bytes>) -> Result<Self> {
        let (path, bytes) = (name.into(), bytes.into());
        let blame = Blame { path: &path };
        let format = detect(&bytes, blame)?;
        let parsed = parse(format, &bytes, blame)?;
        Self::assemble(path, format, Vec::new(), vec![parsed])
    }

    /// Puts a checkpoint together from its parsed files.
    pub(crate) fn assemble(
        path: PathBuf,
        format: Format,
        opened: Vec<(PathBuf, Mapping)>,
        parsed: Vec<Parsed>,
    ) -> Result<Self> {
        let mut whole = Parsed::default();
        for part in parsed {
            whole.entries.extend(part.entries);
            whole.metadata.extend(part.metadata);
            whole.gguf = whole.gguf.or(part.gguf);
        }
        let Parsed { entries, metadata, gguf } = whole;
        // Far below u32::MAX: files are limited to MAX_TENSORS each, and an index to as many as it lists.
        let mut sorted: Vec<u32> = (0..entries.len() as u32).collect();
        let name = |index: u32| entries[index as usize].info.name.as_str();
        sorted.sort_unstable_by(|a, b| name(*a).cmp(name(*b)));
        if let Some(pair) = sorted.windows(2).find(|pair| name(pair[0]) == name(pair[1])) {
            return Err(CheckpointError::DuplicateTensor { tensor: shorten(name(pair[0])), path });
        }
        let (files, mappings) = opened.into_iter().unzip();
        Ok(Self { path, format, files, mappings, entries, sorted, metadata, gguf })
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold the tensors, in order; empty for [`from_bytes`](Self::from_bytes).
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The files' format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// All tensors, in the order in which the files store them.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.entries.iter().map(|entry| &entry.info)
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The description of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.find(name).map(|entry| &entry.info)
    }

    /// One tensor. Its bytes are a slice of the mapped file, without a copy; only a PyTorch tensor with strides is
    /// gathered into memory of its own.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`], with the nearest name.
    pub fn tensor(&self, name: &str) -> Result<TensorView> {
        let entry = self.find(name).ok_or_else(|| CheckpointError::MissingTensor {
            path: self.path.clone(),
            tensor: shorten(name),
            similar: nearest(name, self.tensors().map(|info| info.name.as_str())),
        })?;
        Ok(TensorView {
            info: entry.info.clone(),
            bytes: match &entry.data {
                Data::Dense(bytes) => bytes.clone(),
                Data::Strided(strided) => strided.gather(),
            },
        })
    }

    /// The string map of a safetensors file (`__metadata__`), of all shards together; empty for other formats.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The header of a GGUF file; `None` for other formats.
    pub fn gguf(&self) -> Option<&Gguf> {
        self.gguf.as_ref()
    }

    /// Tells the system that a tensor's pages are not needed for now, so that they stop counting as this process's
    /// memory. The tensor stays readable (its pages come back from the file); views of it stay valid. A loader that
    /// converts weights tensor by tensor calls this after each, and so never holds the file and the result together.
    ///
    /// Does nothing for unknown names, for bytes in memory, and on systems without `madvise`.
    pub fn release(&self, name: &str) {
        let bytes = match self.find(name).map(|entry| &entry.data) {
            Some(Data::Dense(bytes)) => bytes,
            Some(Data::Strided(strided)) => strided.storage(),
            None => return,
        };
        for mapping in &self.mappings {
            if mapping.release(bytes) {
                return;
            }
        }
    }

    fn find(&self, name: &str) -> Option<&Entry> {
        let named = |index: &u32| self.entries[*index as usize].info.name.as_str();
        let at = self.sorted.binary_search_by(|index| named(index).cmp(name)).ok()?;
        Some(&self.entries[self.sorted[at] as usize])
    }
}

/// A tensor of an open file.
#[derive(Debug)]
pub(crate) struct Entry {
    pub info: TensorInfo,
    pub data: Data,
}

/// Where a tensor's elements are.
#[derive(Debug)]
pub(crate) enum Data {
    /// One after the other.
    Dense(Bytes),
    /// Spread over a PyTorch storage.
    Strided(Box<Strided>),
}

/// What one file holds.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub entries: Vec<Entry>,
    pub metadata: BTreeMap<String, String>,
    pub gguf: Option<Gguf>,
}

/// Tells a file's format by its first bytes.
pub(crate) fn detect(bytes: &[u8], blame: Blame<'_>) -> Result<Format> {
    let unknown = |found: &str| CheckpointError::UnknownFormat { path: blame.path.into(), found: found.to_owned() };
    match bytes {
        [b'G', b'G', b'U', b'F', ..] => Ok(Format::Gguf),
        [b'P', b'K', 3, 4, ..] => Ok(Format::Pytorch),
        // The eight bytes of the header's length come first in safetensors, then a JSON object.
        [_, _, _, _, _, _, _, _, b'{', ..] => Ok(Format::Safetensors),
        [0x80, 2..=5, ..] => Err(unknown(
            "it is a bare pickle, as torch.save wrote before PyTorch 1.6; load it in Python and save it again",
        )),
        _ if bytes.starts_with(b"version https://git-lfs") => {
            Err(unknown("it is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"))
        }
        _ if bytes.len() < 9 => Err(blame.truncated("the header", 0, 9, bytes.len())),
        _ => Err(unknown("its first bytes are of no format that is read; is it the right file, and complete?")),
    }
}

/// Parses a whole file of a known format.
pub(crate) fn parse(format: Format, bytes: &Bytes, blame: Blame<'_>) -> Result<Parsed> {
    match format {
        Format::Safetensors => safetensors::parse(bytes, blame),
        Format::Gguf => gguf::parse(bytes, blame),
        Format::Pytorch => pytorch::parse(bytes, blame),
    }
}
