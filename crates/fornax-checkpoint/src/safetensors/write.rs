//! Writes safetensors, one tensor in memory at a time, in shards where asked for. Files appear under their names only
//! when they are complete and on the disk; whatever fails before leaves nothing behind. It deliberately does not convert
//! element types, and does not make a set of shards appear in one step (see [`SafetensorsWriter::finish`]).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::read::{MAX_HEADER, METADATA};
use crate::{
    atomic::{sync_folder, temporary},
    error::{Blame, CheckpointError, Result, shorten},
    view::TensorInfo,
};

/// The standard names in a folder.
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The ending that makes a path a file's.
const EXTENSION: &str = "safetensors";
/// How the names of files under way begin.
const PREFIX: &str = ".saving-";
/// The header's length is padded to this, so that the data after it is aligned.
const HEADER_ALIGNMENT: usize = 8;

/// How weights are written.
#[derive(Debug, Clone)]
pub struct SaveOptions {
    /// The most bytes of tensors in one file, when a folder is written; a larger tensor gets a file of its own.
    pub max_shard_bytes: u64,
    /// Strings for the header's `__metadata__`. `format` is always `pt`, which transformers asks for.
    pub metadata: BTreeMap<String, String>,
}

impl Default for SaveOptions {
    /// Shards of 5 GB, as transformers writes them, and no metadata of one's own.
    fn default() -> Self {
        Self { max_shard_bytes: 5_000_000_000, metadata: BTreeMap::new() }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The files with tensors, in order.
    pub files: Vec<PathBuf>,
    /// The index, where there are several files.
    pub index: Option<PathBuf>,
    /// The bytes of all tensors together.
    pub total_bytes: u64,
}

/// Writes tensors to `path`, asking `bytes_of` for one after the other.
///
/// A path that ends in `.safetensors` is one file; any other is a folder (made if need be), which gets
/// `model.safetensors`, or shards with `model.safetensors.index.json`.
///
/// # Errors
/// [`CheckpointError::Producer`] where `bytes_of` fails, else as [`SafetensorsWriter`]'s methods. Nothing is left
/// behind, and a file that was there before stays as it was.
pub fn save_safetensors<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = TensorInfo>,
    options: &SaveOptions,
    mut bytes_of: impl FnMut(&TensorInfo) -> Result<Bytes, E>,
) -> Result<Saved> {
    let path = path.as_ref();
    let mut writer = SafetensorsWriter::create(path, tensors, options)?;
    for info in writer.tensors().cloned().collect::<Vec<_>>() {
        let bytes = bytes_of(&info).map_err(|source| CheckpointError::Producer {
            path: path.to_owned(),
            tensor: shorten(&info.name),
            source: source.into(),
        })?;
        writer.write(&info.name, &bytes)?;
    }
    writer.finish()
}

/// Writes tensors in any order; [`save_safetensors`] is the short way.
///
/// Dropped without [`finish`](Self::finish), also by a panic, it leaves nothing behind. A process that is killed cannot
/// clean up: it leaves hidden files `.saving-*.tmp`, which no reader looks at and which may be deleted.
///
/// ```
/// use fornax_checkpoint::{Dtype, SafetensorsWriter, SaveOptions, TensorInfo};
///
/// let folder = tempfile::tempdir()?;
/// let tensors = [TensorInfo::new("a", Dtype::U8, [3]), TensorInfo::new("b", Dtype::I16, [1, 2])];
/// let mut writer = SafetensorsWriter::create(folder.path(), tensors, &SaveOptions::default())?;
/// writer.write("b", &[1, 0, 2, 0])?;
/// writer.write("a", &[7, 8, 9])?;
/// assert_eq!(writer.finish()?.files, [folder.path().join("model.safetensors")]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SafetensorsWriter {
    path: PathBuf,
    /// Where the files go.
    folder: PathBuf,
    shards: Vec<Shard>,
    /// Each tensor's shard and number in it.
    places: HashMap<String, (usize, usize)>,
    /// The index, as it will be written, where there are several shards.
    index: Option<String>,
    total_bytes: u64,
    /// Removes folders that were made for this, unless it is finished. Dropped after `shards`: a folder goes only when
    /// it is empty.
    made: MadeFolders,
}

/// One file under way.
#[derive(Debug)]
struct Shard {
    name: String,
    file: NamedTempFile,
    tensors: Vec<Slot>,
}

/// A tensor's place in its file.
#[derive(Debug)]
struct Slot {
    info: TensorInfo,
    /// From the start of the file.
    offset: u64,
    size: usize,
    written: bool,
}

impl SafetensorsWriter {
    /// Lays the files out and writes their headers to temporary files beside their final places.
    ///
    /// `path` is as for [`save_safetensors`]. Tensors of the wider element types come first in each file, so that all
    /// are aligned; otherwise they keep the given order.
    ///
    /// # Errors
    /// [`CheckpointError::DuplicateTensor`], [`CheckpointError::UnsupportedDtype`] for GGUF's block types,
    /// [`CheckpointError::InvalidTensor`] for a size that does not fit memory or a reserved name,
    /// [`CheckpointError::Limit`] for too many tensors, [`CheckpointError::Io`].
    pub fn create(
        path: impl AsRef<Path>,
        tensors: impl IntoIterator<Item = TensorInfo>,
        options: &SaveOptions,
    ) -> Result<Self> {
        let path = path.as_ref();
        let blame = Blame { path };
        let tensors: Vec<TensorInfo> = tensors.into_iter().collect();
        let sizes = check(&tensors, blame)?;
        let total_bytes = sizes.iter().sum();

        let one_file = path.extension().is_some_and(|extension| extension == EXTENSION);
        let groups = if one_file { vec![tensors] } else { split(tensors, &sizes, options.max_shard_bytes) };
        let (folder, name) = match (one_file, path.file_name()) {
            (true, Some(name)) => (path.parent().unwrap_or(Path::new("")), name.to_string_lossy().into_owned()),
            _ => (path, SINGLE.to_owned()),
        };
        // An empty parent is the current folder.
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let made = MadeFolders::create(folder)?;

        let count = groups.len();
        let (mut shards, mut places) = (Vec::with_capacity(count), HashMap::new());
        for (number, group) in groups.into_iter().enumerate() {
            let name =
                if count == 1 { name.clone() } else { format!("model-{:05}-of-{count:05}.safetensors", number + 1) };
            let shard = Shard::create(folder, name, group, &options.metadata)?;
            for (at, slot) in shard.tensors.iter().enumerate() {
                places.insert(slot.info.name.clone(), (number, at));
            }
            shards.push(shard);
        }
        let index = (count > 1).then(|| index_of(&shards, total_bytes));
        Ok(Self { path: path.to_owned(), folder: folder.to_owned(), shards, places, index, total_bytes, made })
    }

    /// All tensors, in the order in which the files store them; to write them so is fastest.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.shards.iter().flat_map(|shard| &shard.tensors).map(|slot| &slot.info)
    }

    /// Writes the elements of one tensor: little-endian, row-major.
    ///
    /// # Errors
    /// [`CheckpointError::WriteOrder`] for a name that was not announced or was written before,
    /// [`CheckpointError::WrongLength`], [`CheckpointError::Io`].
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let order = |problem| CheckpointError::WriteOrder { path: self.path.clone(), tensor: shorten(name), problem };
        let &(shard, at) = self.places.get(name).ok_or_else(|| order("was not announced to the writer"))?;
        let shard = &mut self.shards[shard];
        let slot = &mut shard.tensors[at];
        if slot.written {
            return Err(order("was written before"));
        }
        if bytes.len() != slot.size {
            return Err(CheckpointError::WrongLength {
                tensor: shorten(name),
                what: "bytes",
                expected: slot.size,
                found: bytes.len(),
            });
        }
        let blame = Blame { path: &self.path };
        let file = shard.file.as_file_mut();
        file.seek(SeekFrom::Start(slot.offset))
            .and_then(|_| file.write_all(bytes))
            .map_err(|error| blame.io("write", error))?;
        slot.written = true;
        Ok(())
    }

    /// Brings the files to the disk and gives them their names. Weights of an earlier save in the same folder that
    /// would stand beside the new ones are removed.
    ///
    /// One file replaces another in one step: a reader, or a machine that loses power, finds the old or the new one.
    /// Several cannot; where shards replace shards, the old index goes first, so that a cut in between leaves a folder
    /// that does not open instead of a mixture. To replace shards in one step, write to a new folder and rename it.
    ///
    /// # Errors
    /// [`CheckpointError::WriteOrder`] naming a tensor that was never written, [`CheckpointError::Io`].
    pub fn finish(mut self) -> Result<Saved> {
        let missing = self.shards.iter().flat_map(|shard| &shard.tensors).find(|slot| !slot.written);
        if let Some(slot) = missing {
            return Err(CheckpointError::WriteOrder {
                tensor: shorten(&slot.info.name),
                path: self.path,
                problem: "was announced but never written",
            });
        }
        let blame = Blame { path: &self.path };
        for shard in &self.shards {
            shard.file.as_file().sync_all().map_err(|error| blame.io("write", error))?;
        }
        let index = match &self.index {
            Some(text) => Some(write_index(&self.folder, text, blame)?),
            None => None,
        };

        let in_folder = self.path.extension().is_none_or(|extension| extension != EXTENSION);
        let names: BTreeSet<String> = self.shards.iter().map(|shard| shard.name.clone()).collect();
        let stale = if in_folder { stale_files(&self.folder, &names) } else { Vec::new() };
        let index_path = self.folder.join(INDEX);
        if index.is_some() && names.iter().any(|name| self.folder.join(name).exists()) {
            remove_if_there(&index_path).map_err(|error| blame.io("replace the index of", error))?;
        }

        let mut placed = Placed::default();
        for shard in self.shards.drain(..) {
            placed.add(shard.file, self.folder.join(&shard.name), blame)?;
        }
        let files = placed.paths.clone();
        if let Some(index) = index {
            placed.add(index, index_path.clone(), blame)?;
        }
        // From here on the new files are complete, and stay.
        placed.keep();
        self.made.keep();
        sync_folder(&self.folder).map_err(|error| blame.io("write", error))?;
        let has_index = self.index.is_some();
        for file in stale.iter().chain((in_folder && !has_index).then_some(&index_path)) {
            remove_if_there(file).map_err(|error| blame.io("remove the earlier weights in", error))?;
        }
        Ok(Saved { files, index: has_index.then_some(index_path), total_bytes: self.total_bytes })
    }
}

impl Shard {
    /// Writes the header, and makes room for the rest.
    fn create(
        folder: &Path,
        name: String,
        mut group: Vec<TensorInfo>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let path = folder.join(&name);
        let blame = Blame { path: &path };
        group.sort_by_key(|info| std::cmp::Reverse(info.dtype.alignment()));

        let mut strings = metadata.clone();
        strings.insert("format".to_owned(), "pt".to_owned());
        let mut header = serde_json::Map::with_capacity(group.len() + 1);
        header.insert(METADATA.to_owned(), json!(strings));
        let (mut slots, mut offset) = (Vec::with_capacity(group.len()), 0u64);
        for info in group {
            let size = info.nbytes();
            let end = offset + size as u64;
            let value = json!({
                // `check` has refused types without a name.
                "dtype": info.dtype.safetensors_name().unwrap_or_default(),
                "shape": info.shape,
                "data_offsets": [offset, end],
            });
            header.insert(info.name.clone(), value);
            slots.push(Slot { info, offset, size, written: false });
            offset = end;
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(HEADER_ALIGNMENT), b' ');
        if text.len() > MAX_HEADER {
            return Err(blame.limit("bytes of header", MAX_HEADER, text.len() as u64));
        }
        let start = 8 + text.len() as u64;
        for slot in &mut slots {
            slot.offset += start;
        }
        let mut file = temporary(folder, PREFIX).map_err(|error| blame.io("create", error))?;
        file.write_all(&(text.len() as u64).to_le_bytes())
            .and_then(|()| file.write_all(&text))
            .and_then(|()| file.as_file().set_len(start + offset))
            .map_err(|error| blame.io("write", error))?;
        Ok(Self { name, file, tensors: slots })
    }
}

/// Refuses what no safetensors file can hold, and returns the sizes.
fn check(tensors: &[TensorInfo], blame: Blame<'_>) -> Result<Vec<u64>> {
    let mut names = BTreeSet::new();
    let mut total = 0u64;
    let mut sizes = Vec::with_capacity(tensors.len());
    for info in tensors {
        if info.dtype.safetensors_name().is_none() {
            return Err(CheckpointError::UnsupportedDtype {
                tensor: shorten(&info.name),
                dtype: info.dtype,
                operation: "written to safetensors",
                help: "convert it to F32, F16 or BF16 first (`TensorView::to_f32`)",
            });
        }
        if info.name == METADATA {
            return Err(blame.tensor(&info.name, "its name", "any but the reserved __metadata__", "that"));
        }
        if !names.insert(&info.name) {
            return Err(CheckpointError::DuplicateTensor { path: blame.path.to_owned(), tensor: shorten(&info.name) });
        }
        let size = info.checked_nbytes().map(|size| size as u64);
        let sum = size.and_then(|size| total.checked_add(size)).filter(|sum| *sum <= i64::MAX as u64);
        let (Some(size), Some(sum)) = (size, sum) else {
            let expected = format!("a whole number of {} values that fits a file", info.dtype);
            return Err(blame.tensor(&info.name, "its shape", expected, format!("{:?}", info.shape)));
        };
        total = sum;
        sizes.push(size);
    }
    Ok(sizes)
}

/// Fills shards in the given order.
fn split(tensors: Vec<TensorInfo>, sizes: &[u64], max: u64) -> Vec<Vec<TensorInfo>> {
    let (mut groups, mut filled) = (vec![Vec::new()], 0u64);
    for (info, &size) in tensors.into_iter().zip(sizes) {
        if filled.saturating_add(size) > max && groups.last().is_some_and(|group| !group.is_empty()) {
            groups.push(Vec::new());
            filled = 0;
        }
        filled += size;
        // There is always a last one: the vector starts with one, and none is removed.
        if let Some(group) = groups.last_mut() {
            group.push(info);
        }
    }
    groups
}

/// The index's text.
fn index_of(shards: &[Shard], total_bytes: u64) -> String {
    let names = |shard: &'_ Shard| -> Vec<(String, String)> {
        shard.tensors.iter().map(|slot| (slot.info.name.clone(), shard.name.clone())).collect()
    };
    let weight_map: BTreeMap<String, String> = shards.iter().flat_map(names).collect();
    format!("{:#}\n", json!({ "metadata": { "total_size": total_bytes }, "weight_map": weight_map }))
}

fn write_index(folder: &Path, text: &str, blame: Blame<'_>) -> Result<NamedTempFile> {
    let write = || {
        let mut file = temporary(folder, PREFIX)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        Ok(file)
    };
    write().map_err(|error| blame.io("write the index of", error))
}

/// Weights of an earlier save that a reader would find beside the new ones, or instead of them.
fn stale_files(folder: &Path, new: &BTreeSet<String>) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| is_shard(name) && !new.contains(name)).map(|name| folder.join(name)).collect()
}

/// `model.safetensors`, or `model-00001-of-00002.safetensors`.
fn is_shard(name: &str) -> bool {
    let numbers = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    name == SINGLE
        || numbers.and_then(|numbers| numbers.split_once("-of-")).is_some_and(|(a, b)| digits(a) && digits(b))
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Files that have their names already; removed again if a later one fails to get its own.
#[derive(Default)]
struct Placed {
    paths: Vec<PathBuf>,
    kept: bool,
}

impl Placed {
    fn add(&mut self, file: NamedTempFile, path: PathBuf, blame: Blame<'_>) -> Result<()> {
        file.persist(&path).map_err(|error| blame.io("rename into place", error.error))?;
        self.paths.push(path);
        Ok(())
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        if !self.kept {
            for path in &self.paths {
                // Nothing better is left to do when this fails as well.
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// The folders that a save made, outermost first; removed if they are empty unless kept.
#[derive(Debug, Default)]
struct MadeFolders(Vec<PathBuf>);

impl MadeFolders {
    fn create(folder: &Path) -> Result<Self> {
        let blame = Blame { path: folder };
        let mut missing: Vec<&Path> =
            folder.ancestors().take_while(|part| !part.as_os_str().is_empty() && !part.exists()).collect();
        missing.reverse();
        let mut made = Self::default();
        for part in missing {
            match fs::create_dir(part) {
                Ok(()) => made.0.push(part.to_owned()),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(blame.io("create", error)),
            }
        }
        Ok(made)
    }

    fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for MadeFolders {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            // Refused where someone else has put a file there meanwhile, which is right.
            let _ = fs::remove_dir(folder);
        }
    }
}
