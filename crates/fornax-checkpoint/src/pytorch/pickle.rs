//! A machine for the few pickle instructions that a dictionary of tensors takes. It deliberately imports nothing, calls
//! nothing and builds no object but dictionaries, lists, tuples, storages and tensors; a name outside the allow-list
//! (`globals`) ends it. Strings stay in the pickle, objects live in one arena, and everything it holds is charged to a
//! budget, so that a small pickle cannot ask for much memory.

use super::globals::{self, Global};
use crate::{
    dtype::Dtype,
    error::{Blame, CheckpointError, Result, shorten},
};

/// A place in the arena.
pub(crate) type NodeId = u32;

/// What stands on the stack.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value {
    /// `None`, a float, bytes: values that no tensor needs.
    Other,
    /// Which of the two does not matter to any tensor.
    Bool,
    Int(i64),
    /// Bytes `start..start + len` of the pickle, checked to be UTF-8.
    Str {
        start: u32,
        len: u32,
    },
    Global(Global),
    Node(NodeId),
}

/// What a pickle builds.
#[derive(Debug)]
pub(crate) enum Node {
    Tuple(Box<[Value]>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Storage {
        dtype: Option<Dtype>,
        key: Value,
        count: usize,
    },
    Tensor(Box<TensorRef>),
    /// A value that is skipped.
    Opaque,
}

impl Node {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Storage { .. } => "a storage",
            Self::Tensor(_) => "a tensor",
            Self::Opaque => "another object",
        }
    }

    /// How many values it holds.
    pub fn len(&self) -> usize {
        match self {
            Self::Tuple(values) => values.len(),
            Self::List(values) => values.len(),
            Self::Dict(pairs) => pairs.len(),
            _ => 0,
        }
    }
}

/// A tensor as the pickle describes it: nothing of it is checked against its storage yet.
#[derive(Debug)]
pub(crate) struct TensorRef {
    pub storage: NodeId,
    pub dtype: Dtype,
    /// In elements.
    pub offset: usize,
    pub shape: Box<[usize]>,
    /// In elements.
    pub strides: Box<[usize]>,
}

/// The most values on the stack, and remembered ones.
const MAX_STACK: usize = 1 << 16;
const MAX_MEMO: usize = 1 << 20;
/// The most dimensions of a tensor.
const MAX_DIMS: usize = 32;
/// The most arguments that an allowed function takes.
const MAX_ARGUMENTS: usize = 8;
/// The longest name of a global.
const MAX_GLOBAL: usize = 256;
/// The longest pickle: its places must fit 32 bits, and one of a model takes a few megabytes at most.
const MAX_PICKLE: usize = 64 << 20;
/// What the objects may take, beside once the size of the file.
const BUDGET: usize = 24 << 20;

/// The machine.
pub(crate) struct Machine<'a> {
    pickle: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// The stack's heights at the open marks.
    marks: Vec<usize>,
    memo: Vec<Value>,
    nodes: Vec<Node>,
    /// What the objects may take in all, and what they have taken.
    budget: usize,
    spent: usize,
    blame: Blame<'a>,
}

impl<'a> Machine<'a> {
    /// A machine for a pickle that was found in a file of `file_len` bytes.
    pub fn new(pickle: &'a [u8], file_len: usize, blame: Blame<'a>) -> Self {
        Self {
            pickle,
            at: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
            nodes: Vec::new(),
            budget: file_len.saturating_add(BUDGET),
            spent: 0,
            blame,
        }
    }

    /// Runs to the end and returns the value the pickle stands for.
    pub fn run(&mut self) -> Result<Value> {
        if self.pickle.len() > MAX_PICKLE {
            return Err(self.blame.limit("bytes of pickle", MAX_PICKLE, self.pickle.len() as u64));
        }
        loop {
            let at = self.at;
            let [opcode] = self.array("an instruction")?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode, at)?;
        }
    }

    /// An object.
    pub fn node(&self, id: NodeId) -> &Node {
        // Ids are made by `add` only, and nothing is ever removed.
        &self.nodes[id as usize]
    }

    /// The string that a value is.
    pub fn string(&self, value: Value) -> Option<&'a str> {
        let Value::Str { start, len } = value else {
            return None;
        };
        std::str::from_utf8(&self.pickle[start as usize..][..len as usize]).ok()
    }

    /// A storage's key, element type and number of elements.
    pub fn storage(&self, id: NodeId) -> (Option<&'a str>, Option<Dtype>, usize) {
        match self.node(id) {
            Node::Storage { dtype, key, count } => (self.string(*key), *dtype, *count),
            _ => (None, None, 0),
        }
    }

    /// One instruction, by the letters and numbers of Python's `pickletools`.
    fn step(&mut self, opcode: u8, at: usize) -> Result<()> {
        match opcode {
            // PROTO, FRAME
            0x80 => self.protocol(at),
            0x95 => self.array::<8>("a frame's length").map(|_| ()),
            // MARK, POP, POP_MARK, DUP
            b'(' => self.mark(),
            b'0' => self.pop().map(|_| ()),
            b'1' => self.pop_mark().map(|_| ()),
            b'2' => self.top().and_then(|value| self.push(value)),
            // NONE, NEWTRUE, NEWFALSE, BINFLOAT
            b'N' => self.push(Value::Other),
            0x88 | 0x89 => self.push(Value::Bool),
            b'G' => self.array::<8>("a float").and_then(|_| self.push(Value::Other)),
            // BININT, BININT1, BININT2, LONG1
            b'J' => self.array("an integer").and_then(|bytes| self.push(Value::Int(i32::from_le_bytes(bytes).into()))),
            b'K' => self.array("an integer").and_then(|[byte]| self.push(Value::Int(byte.into()))),
            b'M' => self.array("an integer").and_then(|bytes| self.push(Value::Int(u16::from_le_bytes(bytes).into()))),
            0x8a => self.long(),
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8; SHORT_BINBYTES, BINBYTES, SHORT_BINSTRING, BINSTRING
            0x8c => self.array("a string").and_then(|[len]| self.text(len.into())),
            b'X' => self.array("a string").and_then(|len| self.text(u32::from_le_bytes(len).into())),
            0x8d => self.array("a string").and_then(|len| self.text(u64::from_le_bytes(len))),
            b'C' => self.array("bytes").and_then(|[len]| self.skip(len.into())),
            b'B' => self.array("bytes").and_then(|len| self.skip(u32::from_le_bytes(len).into())),
            b'U' => self.array("a string").and_then(|[len]| self.text(len.into())),
            b'T' => self.array("a string").and_then(|len| self.text(u32::from_le_bytes(len).into())),
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.tuple(0),
            0x85 => self.tuple(1),
            0x86 => self.tuple(2),
            0x87 => self.tuple(3),
            b't' => {
                let values = self.pop_mark()?;
                self.build_tuple(values)
            }
            // EMPTY_LIST, EMPTY_DICT
            b']' => self.add_and_push(Node::List(Vec::new())),
            b'}' => self.add_and_push(Node::Dict(Vec::new())),
            // APPEND, APPENDS, SETITEM, SETITEMS
            b'a' => {
                let value = self.pop()?;
                self.extend_list(&[value], at)
            }
            b'e' => {
                let values = self.pop_mark()?;
                self.extend_list(&values, at)
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend_dict(&[key, value], at)
            }
            b'u' => {
                let values = self.pop_mark()?;
                self.extend_dict(&values, at)
            }
            // GLOBAL, STACK_GLOBAL, REDUCE, BUILD, BINPERSID
            b'c' => self.global(at),
            0x93 => self.stack_global(at),
            b'R' => self.reduce(at),
            b'b' => self.build(at),
            b'Q' => self.persistent(at),
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' => self.array("a memo index").and_then(|[index]| self.remember(index.into(), at)),
            b'r' => self.array("a memo index").and_then(|index| self.remember(u32::from_le_bytes(index), at)),
            0x94 => self.remember(self.memo.len() as u32, at),
            b'h' => self.array("a memo index").and_then(|[index]| self.recall(index.into(), at)),
            b'j' => self.array("a memo index").and_then(|index| self.recall(u32::from_le_bytes(index), at)),
            _ => Err(self.unsupported("a pickle instruction", format!("instruction {opcode:#04x} at {at}"))),
        }
    }

    fn protocol(&mut self, at: usize) -> Result<()> {
        let [version] = self.array("the protocol")?;
        if (2..=5).contains(&version) {
            return Ok(());
        }
        Err(self.blame.malformed("the pickle's protocol", at, "2 to 5", version.to_string()))
    }

    /// LONG1: a little-endian integer of any length, of which 64 bits are read.
    fn long(&mut self) -> Result<()> {
        let [len] = self.array("an integer")?;
        let bytes = self.take(u64::from(len), "an integer")?;
        if bytes.len() > 8 {
            // Random seeds are that long; no size of a tensor is.
            return self.push(Value::Other);
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)))
    }

    fn text(&mut self, len: u64) -> Result<()> {
        let at = self.at;
        let bytes = self.take(len, "a string")?;
        if std::str::from_utf8(bytes).is_err() {
            return Err(self.blame.malformed("a string in the pickle", at, "UTF-8", "other bytes"));
        }
        // Both fit: a pickle is at most MAX_PICKLE long.
        self.push(Value::Str { start: at as u32, len: len as u32 })
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        self.take(len, "bytes")?;
        self.push(Value::Other)
    }

    fn tuple(&mut self, len: usize) -> Result<()> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let Some(start) = self.stack.len().checked_sub(len).filter(|start| *start >= floor) else {
            return Err(self.underflow());
        };
        let values = self.stack.split_off(start);
        self.build_tuple(values)
    }

    fn build_tuple(&mut self, values: Vec<Value>) -> Result<()> {
        self.charge(values.len() * size_of::<Value>())?;
        self.add_and_push(Node::Tuple(values.into()))
    }

    fn extend_list(&mut self, values: &[Value], at: usize) -> Result<()> {
        self.charge(2 * size_of_val(values))?;
        match self.top_node()? {
            Some(Node::List(list)) => {
                list.extend_from_slice(values);
                Ok(())
            }
            _ => Err(self.misuse(at, "a list to append to")),
        }
    }

    fn extend_dict(&mut self, values: &[Value], at: usize) -> Result<()> {
        // Twice, for the room a growing vector keeps.
        self.charge(2 * size_of_val(values))?;
        let (pairs, rest) = values.as_chunks::<2>();
        match self.top_node()? {
            Some(Node::Dict(dict)) if rest.is_empty() => {
                dict.extend(pairs.iter().map(|[key, value]| (*key, *value)));
                Ok(())
            }
            _ => Err(self.misuse(at, "a dictionary, and pairs of keys and values")),
        }
    }

    /// GLOBAL: two lines of text.
    fn global(&mut self, at: usize) -> Result<()> {
        let module = self.line(at)?;
        let name = self.line(at)?;
        self.push_global(module, name)
    }

    fn stack_global(&mut self, at: usize) -> Result<()> {
        let (name, module) = (self.pop()?, self.pop()?);
        match (self.string(module), self.string(name)) {
            (Some(module), Some(name)) => self.push_global(module, name),
            _ => Err(self.misuse(at, "two strings that name a global")),
        }
    }

    fn push_global(&mut self, module: &str, name: &str) -> Result<()> {
        match globals::find(module, name) {
            Some(global) => self.push(Value::Global(global)),
            None => Err(CheckpointError::ForbiddenGlobal {
                path: self.blame.path.into(),
                global: shorten(&format!("{module}.{name}")),
            }),
        }
    }

    /// A line of a global's name.
    fn line(&mut self, at: usize) -> Result<&'a str> {
        let rest = &self.pickle[self.at..];
        let line = rest.iter().take(MAX_GLOBAL).position(|byte| *byte == b'\n');
        let text = line.and_then(|end| std::str::from_utf8(&rest[..end]).ok());
        let text = text.ok_or_else(|| self.blame.malformed("a name in the pickle", at, "a short line", "none"))?;
        self.at += text.len() + 1;
        Ok(text)
    }

    /// REDUCE: Python would call the function below the arguments; this knows what the allowed ones make.
    fn reduce(&mut self, at: usize) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Global(function) = function else {
            return Err(self.misuse(at, "a function on the allow-list"));
        };
        let arguments = match arguments {
            Value::Node(id) => match self.node(id) {
                Node::Tuple(values) if values.len() <= MAX_ARGUMENTS => values.clone(),
                _ => return Err(self.misuse(at, "a short tuple of arguments")),
            },
            _ => return Err(self.misuse(at, "a tuple of arguments")),
        };
        match function {
            Global::OrderedDict if arguments.is_empty() => self.add_and_push(Node::Dict(Vec::new())),
            Global::RebuildTensorV2 => self.rebuild_tensor(&arguments, None, at),
            Global::RebuildTensorV3 => match arguments.get(6) {
                Some(Value::Global(Global::Dtype(dtype))) => {
                    let dtype = *dtype;
                    self.rebuild_tensor(&arguments, Some(dtype), at)
                }
                _ => Err(self.misuse(at, "a dtype for _rebuild_tensor_v3")),
            },
            Global::RebuildParameter => match arguments.first() {
                Some(Value::Node(id)) if matches!(self.node(*id), Node::Tensor(_)) => self.push(Value::Node(*id)),
                _ => Err(self.misuse(at, "a tensor for _rebuild_parameter")),
            },
            Global::Skipped => self.add_and_push(Node::Opaque),
            _ => Err(self.misuse(at, "other arguments")),
        }
    }

    /// `(storage, offset, size, stride, requires_grad, hooks[, dtype][, metadata])`.
    fn rebuild_tensor(&mut self, arguments: &[Value], dtype: Option<Dtype>, at: usize) -> Result<()> {
        let metadata = arguments.get(if dtype.is_some() { 7 } else { 6 });
        if metadata.is_some_and(|metadata| self.is_filled(*metadata)) {
            // The negated and conjugated views, whose storage holds other values than the tensor.
            return Err(self.unsupported("a tensor with metadata", "a lazily negated or conjugated view".to_owned()));
        }
        let [Value::Node(storage), offset, shape, strides, ..] = *arguments else {
            return Err(self.misuse(at, "a storage, an offset, a size and strides"));
        };
        let Node::Storage { dtype: typed, .. } = self.node(storage) else {
            return Err(self.misuse(at, "a storage"));
        };
        let (Some(dtype), Value::Int(offset)) = (dtype.or(*typed), offset) else {
            return Err(self.misuse(at, "a dtype and an offset"));
        };
        let (shape, strides) = (self.sizes(shape, at)?, self.sizes(strides, at)?);
        let offset = usize::try_from(offset).map_err(|_| self.misuse(at, "an offset of at least 0"))?;
        self.charge(size_of::<TensorRef>() + (shape.len() + strides.len()) * size_of::<usize>())?;
        self.add_and_push(Node::Tensor(Box::new(TensorRef { storage, dtype, offset, shape, strides })))
    }

    /// A dictionary with entries, or anything that is neither a dictionary nor `None`.
    fn is_filled(&self, value: Value) -> bool {
        match value {
            Value::Other => false,
            Value::Node(id) => !matches!(self.node(id), Node::Dict(pairs) if pairs.is_empty()),
            _ => true,
        }
    }

    /// A tuple of sizes.
    fn sizes(&self, value: Value, at: usize) -> Result<Box<[usize]>> {
        let sizes = match value {
            Value::Node(id) => match self.node(id) {
                Node::Tuple(values) if values.len() <= MAX_DIMS => values
                    .iter()
                    .map(|value| match value {
                        Value::Int(size) => usize::try_from(*size).ok(),
                        _ => None,
                    })
                    .collect(),
                _ => None,
            },
            _ => None,
        };
        sizes.ok_or_else(|| self.misuse(at, "a tuple of at most 32 sizes"))
    }

    /// BUILD sets an object's attributes. A state dict carries its modules' versions there, which no one needs here.
    fn build(&mut self, at: usize) -> Result<()> {
        self.pop()?;
        match self.top_node()? {
            Some(Node::Dict(_) | Node::Opaque) => Ok(()),
            _ => Err(self.misuse(at, "a dictionary")),
        }
    }

    /// BINPERSID: `("storage", type, key, location, count)`.
    fn persistent(&mut self, at: usize) -> Result<()> {
        let id = self.pop()?;
        let storage = match id {
            Value::Node(id) => match self.node(id) {
                Node::Tuple(values) => match **values {
                    [kind, Value::Global(Global::Storage(dtype)), key @ Value::Str { .. }, _, Value::Int(count)]
                        if self.string(kind) == Some("storage") =>
                    {
                        usize::try_from(count).ok().map(|count| Node::Storage { dtype, key, count })
                    }
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        };
        match storage {
            Some(storage) => self.add_and_push(storage),
            None => Err(self.misuse(at, "a storage's type, key, place and size")),
        }
    }

    /// Pickles number what they remember in order; a number that skips ahead would only serve to allocate.
    fn remember(&mut self, index: u32, at: usize) -> Result<()> {
        let value = self.top()?;
        let index = index as usize;
        if index > self.memo.len() {
            return Err(self.misuse(at, "memo indices in order"));
        }
        if index == MAX_MEMO {
            return Err(self.blame.limit("remembered values in the pickle", MAX_MEMO, MAX_MEMO as u64 + 1));
        }
        match self.memo.get_mut(index) {
            Some(place) => *place = value,
            None => self.memo.push(value),
        }
        Ok(())
    }

    fn recall(&mut self, index: u32, at: usize) -> Result<()> {
        match self.memo.get(index as usize) {
            Some(value) => self.push(*value),
            None => Err(self.misuse(at, "a remembered value")),
        }
    }

    fn add_and_push(&mut self, node: Node) -> Result<()> {
        self.charge(2 * size_of::<Node>())?;
        // The budget bounds the count far below u32::MAX.
        let id = self.nodes.len() as NodeId;
        self.nodes.push(node);
        self.push(Value::Node(id))
    }

    fn charge(&mut self, bytes: usize) -> Result<()> {
        self.spent = self.spent.saturating_add(bytes);
        if self.spent > self.budget {
            return Err(self.blame.limit("bytes of objects in the pickle", self.budget, self.spent as u64));
        }
        Ok(())
    }

    fn push(&mut self, value: Value) -> Result<()> {
        if self.stack.len() == MAX_STACK {
            return Err(self.blame.limit("values on the pickle's stack", MAX_STACK, MAX_STACK as u64 + 1));
        }
        self.stack.push(value);
        Ok(())
    }

    /// The topmost value above the last mark.
    fn top(&self) -> Result<Value> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.get(floor..).and_then(<[_]>::last) {
            Some(value) => Ok(*value),
            None => Err(self.underflow()),
        }
    }

    fn pop(&mut self) -> Result<Value> {
        let value = self.top()?;
        self.stack.pop();
        Ok(value)
    }

    /// The object on top of the stack.
    fn top_node(&mut self) -> Result<Option<&mut Node>> {
        Ok(match self.top()? {
            Value::Node(id) => self.nodes.get_mut(id as usize),
            _ => None,
        })
    }

    fn mark(&mut self) -> Result<()> {
        if self.marks.len() == MAX_STACK {
            return Err(self.blame.limit("marks on the pickle's stack", MAX_STACK, MAX_STACK as u64 + 1));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// Takes everything above the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop().ok_or_else(|| self.underflow())?;
        Ok(self.stack.split_off(mark))
    }

    fn take(&mut self, len: u64, what: &'static str) -> Result<&'a [u8]> {
        let rest = &self.pickle[self.at..];
        match usize::try_from(len).ok().and_then(|len| rest.get(..len)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(self.blame.truncated(what, self.at, len, rest.len())),
        }
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    fn underflow(&self) -> CheckpointError {
        self.misuse(self.at, "a value on the stack")
    }

    fn misuse(&self, at: usize, expected: &'static str) -> CheckpointError {
        self.blame.malformed("the pickle", at, expected, "something else")
    }

    fn unsupported(&self, what: &'static str, found: String) -> CheckpointError {
        self.blame.unsupported(what, "a plain state_dict; save it again as one, or as safetensors", found)
    }
}
