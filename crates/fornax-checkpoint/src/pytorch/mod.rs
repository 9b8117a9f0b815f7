//! What `torch.save` writes: a zip file of one pickle and one file a storage. The pickle is interpreted by a machine
//! that knows a handful of names and calls nothing (`pickle`). It deliberately reads no compressed entries (torch writes
//! none), no bare pickles, and no tensors but dense ones.

mod globals;
mod pickle;
mod zip;

use std::{collections::HashMap, fmt::Write as _};

use bytes::{Bytes, BytesMut};

use self::{
    pickle::{Machine, Node, TensorRef, Value},
    zip::Archive,
};
use crate::{
    checkpoint::{Data, Entry, MAX_NAME, MAX_TENSORS, Parsed},
    dtype::Dtype,
    error::{Blame, CheckpointError, Result, shorten},
    view::{TensorInfo, checked_elements},
};

/// The pickle's name, below the archive's folder.
const PICKLE: &str = "data.pkl";
/// The keys under which training programs wrap the weights, beside the optimizer's state.
const WRAPPERS: [&str; 4] = ["state_dict", "model_state_dict", "model", "module"];
/// How deep dictionaries and lists may be nested.
const MAX_DEPTH: usize = 32;

/// Parses a whole file.
pub(crate) fn parse(file: &Bytes, blame: Blame<'_>) -> Result<Parsed> {
    let archive = Archive::read(file, blame)?;
    let root = archive.root(PICKLE)?;
    let order = archive.find(&root, "byteorder").map(|entry| archive.bytes(entry));
    if order.as_deref().is_some_and(|order| order.trim_ascii() != b"little") {
        return Err(blame.unsupported("the byte order", "little-endian storages", "a file of a big-endian machine"));
    }
    let pickle = archive
        .find(&root, PICKLE)
        .ok_or_else(|| blame.malformed("the zip directory", 0, "an entry data.pkl", "none"))?;
    archive.check_crc(pickle)?;
    let bytes = archive.bytes(pickle);
    let mut machine = Machine::new(&bytes, file.len(), blame);
    let top = machine.run()?;
    let mut collector = Collector {
        machine: &machine,
        archive: &archive,
        root,
        storages: HashMap::new(),
        entries: Vec::new(),
        visits: 0,
        blame,
    };
    collector.collect(top)?;
    Ok(Parsed { entries: collector.entries, ..Parsed::default() })
}

/// Walks what the pickle built and turns its tensors into entries.
struct Collector<'a> {
    machine: &'a Machine<'a>,
    archive: &'a Archive<'a>,
    root: String,
    storages: HashMap<&'a str, Bytes>,
    entries: Vec<Entry>,
    visits: usize,
    blame: Blame<'a>,
}

impl<'a> Collector<'a> {
    /// Collects from the top: the weights' dictionary, or the dictionary around it.
    fn collect(&mut self, top: Value) -> Result<()> {
        let Value::Node(id) = top else {
            return Err(self.no_dictionary("a plain value"));
        };
        let Node::Dict(pairs) = self.machine.node(id) else {
            return Err(self.no_dictionary(self.machine.node(id).kind()));
        };
        let bare = pairs.iter().any(|(_, value)| self.is_tensor(*value));
        let wrapped = WRAPPERS.iter().filter(|_| !bare).find_map(|wrapper| {
            pairs.iter().find_map(|(key, value)| {
                (self.machine.string(*key) == Some(wrapper) && self.is_dictionary(*value)).then_some(*value)
            })
        });
        self.walk(wrapped.unwrap_or(top), &mut String::new(), 0)
    }

    fn no_dictionary(&self, found: &str) -> CheckpointError {
        self.blame.unsupported("the saved object", "a dictionary of tensors; save model.state_dict()", found)
    }

    fn is_tensor(&self, value: Value) -> bool {
        matches!(value, Value::Node(id) if matches!(self.machine.node(id), Node::Tensor(_)))
    }

    fn is_dictionary(&self, value: Value) -> bool {
        matches!(value, Value::Node(id) if matches!(self.machine.node(id), Node::Dict(_)))
    }

    /// Adds the tensors below `value`, whose names are joined by dots as PyTorch joins its modules'.
    fn walk(&mut self, value: Value, name: &mut String, depth: usize) -> Result<()> {
        let machine = self.machine;
        let Value::Node(id) = value else {
            return Ok(());
        };
        // A pickle can refer to one list from many places, over and over; what is visited is limited like what is kept.
        self.visits += 1 + machine.node(id).len();
        if self.visits > 16 * MAX_TENSORS {
            return Err(self.blame.limit("values in the pickle", 16 * MAX_TENSORS, self.visits as u64));
        }
        if depth > MAX_DEPTH {
            return Err(self.blame.limit("nested dictionaries", MAX_DEPTH, depth as u64));
        }
        match machine.node(id) {
            Node::Tensor(tensor) => self.add(name, tensor),
            Node::Dict(pairs) => {
                for &(key, value) in pairs {
                    let part = match key {
                        Value::Int(key) => &key.to_string(),
                        key => machine.string(key).unwrap_or("?"),
                    };
                    self.walk_below(value, name, part, depth)?;
                }
                Ok(())
            }
            Node::List(values) => self.walk_sequence(values, name, depth),
            Node::Tuple(values) => self.walk_sequence(values, name, depth),
            Node::Storage { .. } | Node::Opaque => Ok(()),
        }
    }

    fn walk_sequence(&mut self, values: &[Value], name: &mut String, depth: usize) -> Result<()> {
        for (index, value) in values.iter().enumerate() {
            if let Value::Node(_) = value {
                self.walk_below(*value, name, &index.to_string(), depth)?;
            }
        }
        Ok(())
    }

    fn walk_below(&mut self, value: Value, name: &mut String, part: &str, depth: usize) -> Result<()> {
        let length = name.len();
        if length + part.len() >= MAX_NAME {
            return Err(self.blame.limit("bytes of a tensor's name", MAX_NAME, (length + part.len()) as u64));
        }
        let dot = if length == 0 { "" } else { "." };
        // Writing to a string cannot fail.
        let _ = write!(name, "{dot}{part}");
        self.walk(value, name, depth + 1)?;
        name.truncate(length);
        Ok(())
    }

    fn add(&mut self, name: &str, tensor: &TensorRef) -> Result<()> {
        let blame = self.blame;
        if self.entries.len() == MAX_TENSORS {
            return Err(blame.limit("tensors", MAX_TENSORS, MAX_TENSORS as u64 + 1));
        }
        let (key, storage_dtype, count) = self.machine.storage(tensor.storage);
        let key = key.ok_or_else(|| blame.tensor(name, "its storage", "a storage", "another object"))?;
        let storage = self.storage(name, key, storage_dtype, count)?;
        let info = TensorInfo { name: name.to_owned(), dtype: tensor.dtype, shape: tensor.shape.to_vec() };
        let strided = Strided::new(&info, tensor, storage, blame)?;
        let data = match strided.dense(&info) {
            Some(bytes) => Data::Dense(bytes),
            None => Data::Strided(Box::new(strided)),
        };
        self.entries.push(Entry { info, data });
        Ok(())
    }

    /// The bytes of a storage, which have the length that the pickle says.
    fn storage(&mut self, name: &str, key: &'a str, dtype: Option<Dtype>, count: usize) -> Result<Bytes> {
        let bytes = match self.storages.get(key) {
            Some(bytes) => bytes.clone(),
            None => {
                let Some(entry) = self.archive.find(&self.root, &format!("data/{key}")) else {
                    let found = format!("no entry data/{}", shorten(key));
                    return Err(self.blame.tensor(name, "its storage", "an entry of the zip file", found));
                };
                let bytes = self.archive.bytes(entry);
                self.storages.insert(key, bytes.clone());
                bytes
            }
        };
        let size = dtype.map_or(1, Dtype::block_bytes);
        if count.checked_mul(size) != Some(bytes.len()) {
            let expected = format!("{count} elements of {size} bytes, as the pickle says");
            return Err(self.blame.tensor(name, "its storage", expected, format!("{} bytes", bytes.len())));
        }
        Ok(bytes)
    }
}

/// A tensor that lies in its storage with strides.
#[derive(Debug)]
pub(crate) struct Strided {
    storage: Bytes,
    element: usize,
    offset: usize,
    shape: Box<[usize]>,
    strides: Box<[usize]>,
}

impl Strided {
    /// Checks that every element lies within the storage, and that there are no more of them than the storage has.
    fn new(info: &TensorInfo, tensor: &TensorRef, storage: Bytes, blame: Blame<'_>) -> Result<Self> {
        let element = info.dtype.block_bytes();
        let available = storage.len() / element;
        let outside = |found: String| {
            let expected = format!("elements within the {available} of its storage");
            Err(blame.tensor(&info.name, "its shape and strides", expected, found))
        };
        let describe = || format!("offset {}, shape {:?}, strides {:?}", tensor.offset, tensor.shape, tensor.strides);
        let Some(elements) = checked_elements(&tensor.shape) else {
            return outside(describe());
        };
        if tensor.shape.len() != tensor.strides.len() {
            return outside(describe());
        }
        if elements > 0 {
            let last = tensor
                .shape
                .iter()
                .zip(&tensor.strides)
                .try_fold(tensor.offset, |last, (size, stride)| last.checked_add((size - 1).checked_mul(*stride)?));
            if last.is_none_or(|last| last >= available) {
                return outside(describe());
            }
            // A stride of zero repeats elements; a small file could ask for any amount of memory so.
            if elements > available {
                return Err(blame.tensor(
                    &info.name,
                    "its shape",
                    format!("at most the {available} elements of its storage; call .contiguous() before saving"),
                    format!("an expanded tensor of {elements}"),
                ));
            }
        }
        Ok(Self {
            storage,
            element,
            offset: tensor.offset,
            shape: tensor.shape.clone(),
            strides: tensor.strides.clone(),
        })
    }

    /// The bytes, where the elements lie one after the other.
    fn dense(&self, info: &TensorInfo) -> Option<Bytes> {
        let size = info.nbytes();
        if size == 0 {
            return Some(Bytes::new());
        }
        let mut expected = 1;
        for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if size > 1 && stride != expected {
                return None;
            }
            expected *= size;
        }
        // In bounds: `new` checked the last element.
        let start = self.offset * self.element;
        Some(self.storage.slice(start..start + size))
    }

    /// The whole storage.
    pub fn storage(&self) -> &Bytes {
        &self.storage
    }

    /// Copies the elements together, row-major.
    pub fn gather(&self) -> Bytes {
        let elements: usize = self.shape.iter().product();
        let mut out = BytesMut::with_capacity(elements * self.element);
        // Tensors with no or one element are dense, so there is a last dimension and all sizes are at least 1.
        let Some((&row, outer)) = self.shape.split_last() else {
            return Bytes::new();
        };
        let row_stride = self.strides[outer.len()];
        let mut index = vec![0usize; outer.len()];
        loop {
            let start = index.iter().zip(&self.strides).fold(self.offset, |at, (i, stride)| at + i * stride);
            for i in 0..row {
                let at = (start + i * row_stride) * self.element;
                out.extend_from_slice(&self.storage[at..at + self.element]);
            }
            // Counts up, the last outer dimension fastest.
            let Some(dim) = (0..outer.len()).rev().find(|&dim| index[dim] + 1 < outer[dim]) else {
                return out.freeze();
            };
            index[dim] += 1;
            index[dim + 1..].fill(0);
        }
    }
}
