//! Parses a GGUF header over bytes that nobody vouches for: every length is compared with what the file can hold before
//! it is used, and tensors must lie one after the other as the format asks.

use bytes::Bytes;

use super::value::{Gguf, GgufArray, GgufType, GgufValue};
use crate::{
    checkpoint::{Data, Entry, MAX_NAME, MAX_PAIRS, MAX_TENSORS, Parsed},
    dtype::Dtype,
    error::{Blame, Result, shorten},
    view::{TensorInfo, checked_elements},
};

/// The length of the magic number, by which the file was told to be GGUF.
const MAGIC_LEN: usize = 4;
/// The key that sets the tensors' alignment, and its value where it is absent.
const ALIGNMENT_KEY: &str = "general.alignment";
const DEFAULT_ALIGNMENT: usize = 32;
/// The most dimensions the format has.
const MAX_DIMS: u32 = 4;
/// How deep arrays may lie within arrays.
const MAX_DEPTH: usize = 4;
/// The fewest bytes a metadata pair takes (an empty key, a type, one byte), and a tensor's description.
const MIN_PAIR: usize = 8 + 4 + 1;
const MIN_TENSOR: usize = 8 + 4 + 4 + 8;

/// Parses a whole file.
pub(crate) fn parse(file: &Bytes, blame: Blame<'_>) -> Result<Parsed> {
    let mut cursor = Cursor { file, at: MAGIC_LEN, blame };
    let version = version(&mut cursor)?;
    let tensor_count = cursor.count("the tensor count", MIN_TENSOR, MAX_TENSORS)?;
    let pair_count = cursor.count("the metadata count", MIN_PAIR, MAX_PAIRS)?;

    let mut pairs = Vec::with_capacity(pair_count);
    for _ in 0..pair_count {
        let key = cursor.string("a metadata key", MAX_NAME)?.to_owned();
        let value = cursor.value()?;
        pairs.push((key, value));
    }
    // Counts are at most MAX_PAIRS, which fits u32.
    let mut sorted: Vec<u32> = (0..pairs.len() as u32).collect();
    sorted.sort_by(|a, b| pairs[*a as usize].0.cmp(&pairs[*b as usize].0));
    for pair in sorted.windows(2) {
        let key = &pairs[pair[0] as usize].0;
        if *key == pairs[pair[1] as usize].0 {
            let found = format!("{:?} twice", shorten(key));
            return Err(blame.malformed("the metadata", cursor.at, "every key once", found));
        }
    }
    let mut gguf = Gguf { path: blame.path.into(), version, alignment: DEFAULT_ALIGNMENT, pairs, sorted };
    gguf.alignment = alignment(&gguf, cursor.at, blame)?;
    refuse_split(&gguf, blame)?;

    let mut described = Vec::with_capacity(tensor_count);
    for _ in 0..tensor_count {
        described.push(cursor.tensor()?);
    }
    let entries = place(described, &cursor, gguf.alignment)?;
    Ok(Parsed { entries, gguf: Some(gguf), ..Parsed::default() })
}

/// Reads the version, and tells a big-endian file from a later version.
fn version(cursor: &mut Cursor<'_>) -> Result<u32> {
    const EXPECTED: &str = "version 2 or 3; convert the model again with a current converter";
    let version = cursor.u32("the version")?;
    match version {
        2 | 3 => Ok(version),
        _ if matches!(version.swap_bytes(), 1..=3) => {
            Err(cursor.blame.unsupported("the byte order", "little-endian", "a big-endian file"))
        }
        _ => Err(cursor.blame.unsupported("the GGUF version", EXPECTED, version.to_string())),
    }
}

/// The tensors' alignment: a power of two.
fn alignment(gguf: &Gguf, offset: usize, blame: Blame<'_>) -> Result<usize> {
    if !gguf.contains(ALIGNMENT_KEY) {
        return Ok(DEFAULT_ALIGNMENT);
    }
    let alignment = gguf.usize(ALIGNMENT_KEY)?;
    if !alignment.is_power_of_two() || alignment > 1 << 24 {
        let expected = "a power of two up to 16 MiB";
        return Err(blame.malformed("general.alignment", offset, expected, alignment.to_string()));
    }
    Ok(alignment)
}

/// One file of several holds only some of the tensors, which no model would load from.
fn refuse_split(gguf: &Gguf, blame: Blame<'_>) -> Result<()> {
    match gguf.value("split.count").and_then(GgufValue::as_integer) {
        Some(count) if count > 1 => Err(blame.unsupported(
            "the file is one part of a split model",
            "one whole file; join the parts with llama-gguf-split --merge",
            format!("{count} parts"),
        )),
        _ => Ok(()),
    }
}

/// A tensor's description, with its offset from the start of the data.
type Described = (TensorInfo, usize);

/// Checks the offsets against one another and the file, and cuts the tensors out of it. The format lays tensors one
/// after the other, each padded to the alignment; anything else is a description that lies.
fn place(described: Vec<Described>, cursor: &Cursor<'_>, alignment: usize) -> Result<Vec<Entry>> {
    let (blame, file) = (cursor.blame, cursor.file);
    if described.is_empty() {
        return Ok(Vec::new());
    }
    let start = cursor.at.next_multiple_of(alignment);
    let (mut entries, mut next, mut end) = (Vec::with_capacity(described.len()), 0usize, start);
    for (info, offset) in described {
        let size = info
            .checked_nbytes()
            .ok_or_else(|| blame.tensor(&info.name, "its size", "one that fits memory", format!("{:?}", info.shape)))?;
        if offset != next {
            let expected = format!("{next}, after the tensor before it");
            return Err(blame.tensor(&info.name, "its offset", expected, offset.to_string()));
        }
        // Additions cannot overflow: `size` is at most isize::MAX and checked against the file before it is added on.
        let from = start + offset;
        let left = file.len().saturating_sub(from);
        if size > left {
            return Err(blame.truncated("a tensor's data", from, size as u64, left));
        }
        end = from + size;
        next = (offset + size).next_multiple_of(alignment);
        entries.push(Entry { info, data: Data::Dense(file.slice(from..end)) });
    }
    if file.len() != end && file.len() != start + next {
        let expected = format!("{end} bytes in all, or {} with padding", start + next);
        return Err(blame.malformed("the end of the data", end, expected, format!("{} bytes", file.len())));
    }
    Ok(entries)
}

/// A position in the header.
struct Cursor<'a> {
    file: &'a Bytes,
    at: usize,
    blame: Blame<'a>,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, what: &'static str, length: usize) -> Result<&'a [u8]> {
        let left = self.file.len() - self.at;
        if length > left {
            return Err(self.blame.truncated(what, self.at, length as u64, left));
        }
        let taken = &self.file[self.at..self.at + length];
        self.at += length;
        Ok(taken)
    }

    fn array_of<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(what, N)?);
        Ok(array)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32> {
        self.array_of(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64> {
        self.array_of(what).map(u64::from_le_bytes)
    }

    /// A count of things of which each takes at least `least` bytes of the rest of the file.
    fn count(&mut self, what: &'static str, least: usize, limit: usize) -> Result<usize> {
        let at = self.at;
        let count = self.u64(what)?;
        let left = self.file.len() - self.at;
        match usize::try_from(count) {
            Ok(count) if count > left / least => {
                let expected = (count as u64).saturating_mul(least as u64);
                Err(self.blame.truncated(what, at, expected, left))
            }
            Ok(count) if count > limit => Err(self.blame.limit(what, limit, count as u64)),
            Ok(count) => Ok(count),
            Err(_) => Err(self.blame.truncated(what, at, u64::MAX, left)),
        }
    }

    fn string(&mut self, what: &'static str, limit: usize) -> Result<&'a str> {
        let at = self.at;
        let length = self.count(what, 1, usize::MAX)?;
        if length > limit {
            return Err(self.blame.limit(what, limit, length as u64));
        }
        let bytes = self.take(what, length)?;
        std::str::from_utf8(bytes).map_err(|_| self.blame.malformed(what, at, "UTF-8", "other bytes"))
    }

    fn kind(&mut self) -> Result<GgufType> {
        let at = self.at;
        let number = self.u32("a metadata value's type")?;
        GgufType::from_number(number).ok_or_else(|| {
            self.blame.malformed("a metadata value's type", at, "a number from 0 to 12", number.to_string())
        })
    }

    fn value(&mut self) -> Result<GgufValue> {
        const WHAT: &str = "a metadata value";
        match self.kind()? {
            GgufType::String => Ok(GgufValue::String(self.string(WHAT, usize::MAX)?.to_owned())),
            GgufType::Array => Ok(GgufValue::Array(self.array(0)?)),
            kind => {
                // Every type but the two above has a size, and `fixed` reads every type that has one.
                let at = self.at;
                let bytes = self.take(WHAT, kind.size().unwrap_or(0))?;
                GgufValue::fixed(kind, bytes).ok_or_else(|| self.blame.malformed(WHAT, at, kind.name(), "other bytes"))
            }
        }
    }

    /// Walks an array, so that it can be decoded later without a check.
    fn array(&mut self, depth: usize) -> Result<GgufArray> {
        const WHAT: &str = "a metadata array";
        if depth == MAX_DEPTH {
            return Err(self.blame.limit("arrays within arrays", MAX_DEPTH, depth as u64 + 1));
        }
        let element = self.kind()?;
        let least = match element {
            GgufType::String => 8,
            GgufType::Array => 12,
            kind => kind.size().unwrap_or(1),
        };
        let len = self.count(WHAT, least, usize::MAX)?;
        let start = self.at;
        match element {
            GgufType::String => {
                for _ in 0..len {
                    self.string("a string in a metadata array", usize::MAX)?;
                }
            }
            GgufType::Array => {
                for _ in 0..len {
                    self.array(depth + 1)?;
                }
            }
            // The product is at most the rest of the file: `count` has divided by it.
            _ => {
                self.take(WHAT, len * least)?;
            }
        }
        Ok(GgufArray { element, len, bytes: self.file.slice(start..self.at) })
    }

    fn tensor(&mut self) -> Result<Described> {
        let blame = self.blame;
        let name = self.string("a tensor's name", MAX_NAME)?.to_owned();
        let dims = self.u32("a tensor's dimensions")?;
        if dims > MAX_DIMS {
            return Err(blame.tensor(&name, "its number of dimensions", "at most 4", dims.to_string()));
        }
        let mut shape = Vec::with_capacity(dims as usize);
        for _ in 0..dims {
            let size = self.u64("a tensor's shape")?;
            match usize::try_from(size) {
                Ok(size) if size > 0 => shape.push(size),
                _ => return Err(blame.tensor(&name, "a dimension", "a size of at least 1", size.to_string())),
            }
        }
        let number = self.u32("a tensor's type")?;
        let dtype = Dtype::from_ggml_type(number).ok_or_else(|| {
            blame.tensor(&name, "its type", "a type of GGUF that this version knows", format!("type {number}"))
        })?;
        let row = shape.first().copied().unwrap_or(1);
        if !row.is_multiple_of(dtype.block_len()) {
            let expected = format!("a multiple of {} for {dtype}", dtype.block_len());
            return Err(blame.tensor(&name, "its row length", expected, row.to_string()));
        }
        // The file counts from the innermost dimension.
        shape.reverse();
        if checked_elements(&shape).is_none() {
            return Err(blame.tensor(&name, "its size", "one that fits memory", format!("{shape:?}")));
        }
        let offset = self.u64("a tensor's offset")?;
        let offset = usize::try_from(offset)
            .map_err(|_| blame.tensor(&name, "its offset", "one within the file", offset.to_string()))?;
        Ok((TensorInfo { name, dtype, shape }, offset))
    }
}

/// Takes one array off the front of bytes that [`parse`] has walked before.
pub(super) fn split_array(bytes: &mut Bytes) -> Option<GgufArray> {
    let file = bytes.clone();
    let mut cursor = Cursor { file: &file, at: 0, blame: Blame { path: std::path::Path::new("") } };
    let array = cursor.array(1).ok()?;
    let _ = bytes.split_to(cursor.at);
    Some(array)
}
