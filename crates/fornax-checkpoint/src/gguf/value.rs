//! GGUF's typed metadata: values, arrays that stay in the file until they are asked for, and getters whose errors name
//! the key. It deliberately knows no key's meaning but the alignment's (which the reader uses).

use std::path::PathBuf;

use bytes::Bytes;

use crate::error::{CheckpointError, Result, shorten};

/// The type of a metadata value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The variants are the types' names.
pub enum GgufType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl GgufType {
    /// The types in the order of their numbers in the file.
    const ALL: [Self; 13] = {
        use GgufType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64]
    };

    /// The type of this number in a file.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// The size of one value, where all have the same.
    pub(crate) const fn size(self) -> Option<usize> {
        Some(match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::String | Self::Array => return None,
        })
    }

    /// The name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }
}

/// One metadata value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // The variants are the types' names.
pub enum GgufValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(GgufArray),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl GgufValue {
    /// The value's type.
    pub fn kind(&self) -> GgufType {
        match self {
            Self::U8(_) => GgufType::U8,
            Self::I8(_) => GgufType::I8,
            Self::U16(_) => GgufType::U16,
            Self::I16(_) => GgufType::I16,
            Self::U32(_) => GgufType::U32,
            Self::I32(_) => GgufType::I32,
            Self::F32(_) => GgufType::F32,
            Self::Bool(_) => GgufType::Bool,
            Self::String(_) => GgufType::String,
            Self::Array(_) => GgufType::Array,
            Self::U64(_) => GgufType::U64,
            Self::I64(_) => GgufType::I64,
            Self::F64(_) => GgufType::F64,
        }
    }

    /// The number, where the value is an integer of any width and sign.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(value) => value.into(),
            Self::I8(value) => value.into(),
            Self::U16(value) => value.into(),
            Self::I16(value) => value.into(),
            Self::U32(value) => value.into(),
            Self::I32(value) => value.into(),
            Self::U64(value) => value.into(),
            Self::I64(value) => value.into(),
            _ => return None,
        })
    }

    /// Reads a value of fixed size from exactly its bytes; `None` for strings, arrays and wrong lengths. Any nonzero
    /// byte is true, as C has it.
    pub(crate) fn fixed(kind: GgufType, bytes: &[u8]) -> Option<Self> {
        Some(match kind {
            GgufType::U8 => Self::U8(u8::from_le_bytes(bytes.try_into().ok()?)),
            GgufType::I8 => Self::I8(i8::from_le_bytes(bytes.try_into().ok()?)),
            GgufType::Bool => Self::Bool(u8::from_le_bytes(bytes.try_into().ok()?) != 0),
            GgufType::U16 => Self::U16(u16::from_le_bytes(bytes.try_into().ok()?)),
            GgufType::I16 => Self::I16(i16::from_le_bytes(bytes.try_into().ok()?)),
            GgufType::U32 => Self::U32(u32::from_le_bytes(bytes.try_into().ok()?)),
            GgufType::I32 => Self::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
            GgufType::F32 => Self::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
            GgufType::U64 => Self::U64(u64::from_le_bytes(bytes.try_into().ok()?)),
            GgufType::I64 => Self::I64(i64::from_le_bytes(bytes.try_into().ok()?)),
            GgufType::F64 => Self::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
            GgufType::String | GgufType::Array => return None,
        })
    }
}

/// An array of metadata values. It is checked when the file is opened and decoded when it is asked for, so that a
/// vocabulary of a hundred thousand strings costs nothing until then.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufArray {
    pub(crate) element: GgufType,
    pub(crate) len: usize,
    /// The elements as they stand in the file. The reader has walked them: every string and array within ends in
    /// bounds and every string is UTF-8.
    pub(crate) bytes: Bytes,
}

impl GgufArray {
    /// The elements' type.
    pub fn element_type(&self) -> GgufType {
        self.element
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The strings, borrowed from the file; `None` where the elements are no strings.
    pub fn strings(&self) -> Option<impl ExactSizeIterator<Item = &str>> {
        let mut rest = &self.bytes[..];
        (self.element == GgufType::String).then(|| {
            (0..self.len).map(move |_| {
                // The reader checked every length and the encoding, so the fallbacks are never taken.
                let length = take_u64(&mut rest);
                let (string, tail) = rest.split_at_checked(length).unwrap_or_default();
                rest = tail;
                std::str::from_utf8(string).unwrap_or_default()
            })
        })
    }

    /// The elements one by one, each decoded on the way; arrays within arrays share the file's bytes.
    pub fn values(&self) -> impl ExactSizeIterator<Item = GgufValue> + '_ {
        let mut rest = self.bytes.clone();
        (0..self.len).map(move |_| {
            // As above: the reader walked these bytes, so the fallbacks are never taken.
            let taken = match self.element.size() {
                Some(size) => GgufValue::fixed(self.element, &rest.split_to(size.min(rest.len()))),
                None if self.element == GgufType::String => {
                    let length = split_u64(&mut rest).min(rest.len());
                    let string = rest.split_to(length);
                    Some(GgufValue::String(String::from_utf8_lossy(&string).into_owned()))
                }
                None => super::reader::split_array(&mut rest).map(GgufValue::Array),
            };
            taken.unwrap_or(GgufValue::Bool(false))
        })
    }

    /// The integers, where the elements are integers and all of them fit `T`.
    pub fn integers<T: TryFrom<i128>>(&self) -> Option<Vec<T>> {
        self.values().map(|value| T::try_from(value.as_integer()?).ok()).collect()
    }

    /// The floats, where the elements are `f32` or `f64` (rounded).
    pub fn floats(&self) -> Option<Vec<f32>> {
        match self.element {
            GgufType::F32 | GgufType::F64 => self
                .values()
                .map(|value| match value {
                    GgufValue::F32(value) => Some(value),
                    GgufValue::F64(value) => Some(value as f32),
                    _ => None,
                })
                .collect(),
            _ => None,
        }
    }

    /// What the array is, for messages.
    fn describe(&self) -> String {
        format!("an array of {} {}", self.len, self.element.name())
    }
}

/// Takes a length from the front; 0 where there is none.
fn take_u64(bytes: &mut &[u8]) -> usize {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return 0;
    };
    *bytes = rest;
    usize::try_from(u64::from_le_bytes(*length)).unwrap_or(0)
}

/// As [`take_u64`], for shared bytes.
fn split_u64(bytes: &mut Bytes) -> usize {
    let mut front = &bytes[..];
    let length = take_u64(&mut front);
    let taken = bytes.len() - front.len();
    let _ = bytes.split_to(taken);
    length
}

/// A GGUF file's header: its version and its metadata.
#[derive(Debug, Clone)]
pub struct Gguf {
    pub(crate) path: PathBuf,
    pub(crate) version: u32,
    pub(crate) alignment: usize,
    /// In the file's order.
    pub(crate) pairs: Vec<(String, GgufValue)>,
    /// Indices into `pairs`, by key.
    pub(crate) sorted: Vec<u32>,
}

impl Gguf {
    /// The format's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The tensors' alignment in the file, in bytes.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// All keys and values, in the file's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &GgufValue)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Whether the file has this key.
    pub fn contains(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<&GgufValue> {
        let name = |index: &u32| self.pairs[*index as usize].0.as_str();
        let at = self.sorted.binary_search_by(|index| name(index).cmp(key)).ok()?;
        Some(&self.pairs[self.sorted[at] as usize].1)
    }

    /// An unsigned number, from an integer of any width and sign.
    ///
    /// # Errors
    /// [`CheckpointError::MissingKey`]; [`CheckpointError::KeyType`] where it is no integer or out of range.
    pub fn u32(&self, key: &str) -> Result<u32> {
        self.integer(key, "an integer from 0 to 4294967295")
    }

    /// An unsigned number, from an integer of any width and sign.
    ///
    /// # Errors
    /// As [`u32`](Self::u32).
    pub fn u64(&self, key: &str) -> Result<u64> {
        self.integer(key, "an integer from 0 to 18446744073709551615")
    }

    /// A signed number, from an integer of any width and sign.
    ///
    /// # Errors
    /// As [`u32`](Self::u32).
    pub fn i64(&self, key: &str) -> Result<i64> {
        self.integer(key, "an integer that fits 64 bits")
    }

    /// A size or a count, from an integer of any width and sign.
    ///
    /// # Errors
    /// As [`u32`](Self::u32).
    pub fn usize(&self, key: &str) -> Result<usize> {
        self.integer(key, "an integer that is a valid size")
    }

    /// A float; an `f64` is rounded.
    ///
    /// # Errors
    /// [`CheckpointError::MissingKey`]; [`CheckpointError::KeyType`] where it is no float.
    pub fn f32(&self, key: &str) -> Result<f32> {
        match self.required(key)? {
            GgufValue::F32(value) => Ok(*value),
            GgufValue::F64(value) => Ok(*value as f32),
            other => Err(self.wrong(key, "f32", other)),
        }
    }

    /// A truth value.
    ///
    /// # Errors
    /// [`CheckpointError::MissingKey`]; [`CheckpointError::KeyType`] where it is no truth value.
    pub fn bool(&self, key: &str) -> Result<bool> {
        match self.required(key)? {
            GgufValue::Bool(value) => Ok(*value),
            other => Err(self.wrong(key, "bool", other)),
        }
    }

    /// A string.
    ///
    /// # Errors
    /// [`CheckpointError::MissingKey`]; [`CheckpointError::KeyType`] where it is no string.
    pub fn str(&self, key: &str) -> Result<&str> {
        match self.required(key)? {
            GgufValue::String(value) => Ok(value),
            other => Err(self.wrong(key, "string", other)),
        }
    }

    /// An array of any type.
    ///
    /// # Errors
    /// [`CheckpointError::MissingKey`]; [`CheckpointError::KeyType`] where it is no array.
    pub fn array(&self, key: &str) -> Result<&GgufArray> {
        match self.required(key)? {
            GgufValue::Array(value) => Ok(value),
            other => Err(self.wrong(key, "array", other)),
        }
    }

    /// An array of strings, borrowed from the file.
    ///
    /// # Errors
    /// As [`array`](Self::array), also where the elements are no strings.
    pub fn strings(&self, key: &str) -> Result<Vec<&str>> {
        let array = self.array(key)?;
        let strings = array.strings().ok_or_else(|| self.wrong_array(key, "an array of strings", array))?;
        Ok(strings.collect())
    }

    /// An array of floats.
    ///
    /// # Errors
    /// As [`array`](Self::array), also where the elements are no floats.
    pub fn f32s(&self, key: &str) -> Result<Vec<f32>> {
        let array = self.array(key)?;
        array.floats().ok_or_else(|| self.wrong_array(key, "an array of f32", array))
    }

    /// An array of signed numbers, from integers of any width and sign.
    ///
    /// # Errors
    /// As [`array`](Self::array), also where an element is no integer or out of range.
    pub fn i32s(&self, key: &str) -> Result<Vec<i32>> {
        let array = self.array(key)?;
        array.integers().ok_or_else(|| self.wrong_array(key, "an array of integers that fit i32", array))
    }

    /// An array of unsigned numbers, from integers of any width and sign.
    ///
    /// # Errors
    /// As [`array`](Self::array), also where an element is no integer or out of range.
    pub fn u32s(&self, key: &str) -> Result<Vec<u32>> {
        let array = self.array(key)?;
        array.integers().ok_or_else(|| self.wrong_array(key, "an array of integers that fit u32", array))
    }

    fn integer<T: TryFrom<i128>>(&self, key: &str, expected: &'static str) -> Result<T> {
        let value = self.required(key)?;
        let number = value.as_integer().ok_or_else(|| self.wrong(key, expected, value))?;
        T::try_from(number).map_err(|_| self.key_type(key, expected, number.to_string()))
    }

    fn required(&self, key: &str) -> Result<&GgufValue> {
        self.value(key).ok_or_else(|| CheckpointError::MissingKey { path: self.path.clone(), key: key.to_owned() })
    }

    fn wrong(&self, key: &str, expected: &'static str, found: &GgufValue) -> CheckpointError {
        let found = match found {
            GgufValue::Array(array) => array.describe(),
            GgufValue::String(value) => format!("the string {:?}", shorten(value)),
            other => other.kind().name().to_owned(),
        };
        self.key_type(key, expected, found)
    }

    fn wrong_array(&self, key: &str, expected: &'static str, found: &GgufArray) -> CheckpointError {
        self.key_type(key, expected, found.describe())
    }

    fn key_type(&self, key: &str, expected: &'static str, found: String) -> CheckpointError {
        CheckpointError::KeyType { path: self.path.clone(), key: key.to_owned(), expected, found }
    }
}
