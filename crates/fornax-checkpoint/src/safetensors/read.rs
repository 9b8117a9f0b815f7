//! Parses a safetensors header, straight from JSON into entries. It deliberately accepts no more than the format does:
//! tensors must fill the data without holes or overlaps, and every name must be unique.

use std::{cell::RefCell, collections::BTreeMap, fmt};

use bytes::Bytes;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::{
    checkpoint::{Data, Entry, MAX_NAME, MAX_PAIRS, MAX_TENSORS, Parsed},
    dtype::Dtype,
    error::{Blame, CheckpointError, Result, shorten},
    view::TensorInfo,
};

/// The bytes of the header's length.
const PREFIX: usize = 8;
/// The longest header that the format's own readers accept.
pub(crate) const MAX_HEADER: usize = 100_000_000;
/// The key of the string map.
pub(crate) const METADATA: &str = "__metadata__";
/// The most dimensions a tensor may have.
const MAX_DIMS: usize = 32;

/// Parses a whole file.
pub(crate) fn parse(file: &Bytes, blame: Blame<'_>) -> Result<Parsed> {
    let Some((length, rest)) = file.split_first_chunk::<PREFIX>() else {
        return Err(blame.truncated("the header's length", 0, PREFIX as u64, file.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > rest.len() as u64 {
        return Err(blame.truncated("the header", PREFIX, length, rest.len()));
    }
    // It fits a usize: it is no longer than the file.
    let length = length as usize;
    if length > MAX_HEADER {
        return Err(blame.limit("bytes of header", MAX_HEADER, length as u64));
    }
    let header = parse_header(&rest[..length], blame)?;
    let entries = place(header.tensors, file, PREFIX + length, blame)?;
    Ok(Parsed { entries, metadata: header.metadata, gguf: None })
}

/// Checks that the tensors fill the data exactly, and cuts them out of it.
fn place(mut tensors: Vec<Described>, file: &Bytes, start: usize, blame: Blame<'_>) -> Result<Vec<Entry>> {
    // A stable sort: tensors that start at the same place, as empty ones do, keep the header's order.
    tensors.sort_by_key(|tensor| (tensor.begin, tensor.end));
    let available = (file.len() - start) as u64;
    let mut next = 0;
    let mut entries = Vec::with_capacity(tensors.len());
    for Described { info, begin, end } in tensors {
        let name = &info.name;
        if begin != next || end < begin {
            let expected = format!("to start at {next}, where the tensor before it ends");
            return Err(blame.tensor(name, "its data_offsets", expected, format!("[{begin}, {end}]")));
        }
        let Some(size) = info.checked_nbytes() else {
            let expected = format!("a whole number of {} values that fits memory", info.dtype);
            return Err(blame.tensor(name, "its shape", expected, format!("{:?}", info.shape)));
        };
        if end - begin != size as u64 {
            let expected = format!("{size} bytes for {} {:?}", info.dtype, info.shape);
            return Err(blame.tensor(name, "its data_offsets", expected, format!("{} bytes", end - begin)));
        }
        if end > available {
            let left = available.saturating_sub(begin) as usize;
            return Err(blame.truncated("a tensor's data", start.saturating_add(begin as usize), size as u64, left));
        }
        next = end;
        entries.push(Entry {
            info,
            // In bounds: `end` is at most `available`.
            data: Data::Dense(file.slice(start + begin as usize..start + end as usize)),
        });
    }
    if next != available {
        let expected = format!("{next} bytes of data, as the header says");
        return Err(blame.malformed("the end of the data", start + next as usize, expected, format!("{available}")));
    }
    Ok(entries)
}

/// One tensor, as the header describes it.
struct Described {
    info: TensorInfo,
    begin: u64,
    end: u64,
}

/// A parsed header.
#[derive(Default)]
struct Header {
    tensors: Vec<Described>,
    metadata: BTreeMap<String, String>,
}

/// Parses the JSON. An error of ours travels beside serde's, which only carry text.
fn parse_header(json: &[u8], blame: Blame<'_>) -> Result<Header> {
    let ours = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let header = HeaderSeed { blame, ours: &ours }
        .deserialize(&mut deserializer)
        .and_then(|header| deserializer.end().map(|()| header));
    header.map_err(|error| {
        ours.into_inner().unwrap_or_else(|| {
            let found = shorten(&error.to_string());
            blame.malformed("the header", PREFIX, "a JSON object of tensors", found)
        })
    })
}

/// Reads the header's object.
struct HeaderSeed<'a> {
    blame: Blame<'a>,
    ours: &'a RefCell<Option<CheckpointError>>,
}

impl HeaderSeed<'_> {
    /// Puts our error where [`parse_header`] finds it, and stops serde with one of its own.
    fn fail<E: serde::de::Error>(&self, error: CheckpointError) -> E {
        *self.ours.borrow_mut() = Some(error);
        E::custom("")
    }
}

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = Header;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Header, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = Header;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let (mut header, mut metadata_seen) = (Header::default(), false);
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                if metadata_seen {
                    return Err(self.fail(self.blame.malformed("the header", PREFIX, "one __metadata__", "two")));
                }
                metadata_seen = true;
                header.metadata = map.next_value::<Metadata>()?.0;
                continue;
            }
            if name.len() > MAX_NAME {
                return Err(self.fail(self.blame.limit("bytes of a tensor's name", MAX_NAME, name.len() as u64)));
            }
            if header.tensors.len() == MAX_TENSORS {
                return Err(self.fail(self.blame.limit("tensors", MAX_TENSORS, MAX_TENSORS as u64 + 1)));
            }
            let Description { dtype, shape, data_offsets } = match map.next_value() {
                Ok(description) => description,
                // The message says which field; the name of the tensor would be lost.
                Err(error) => {
                    let found = shorten(&A::Error::to_string(&error));
                    let expected = "an object of dtype, shape and data_offsets";
                    return Err(self.fail(self.blame.tensor(&name, "its description", expected, found)));
                }
            };
            let Some(known) = Dtype::from_safetensors_name(&dtype) else {
                let found = format!("{:?}", shorten(&dtype));
                return Err(self.fail(self.blame.tensor(&name, "its dtype", "a dtype of safetensors", found)));
            };
            header.tensors.push(Described {
                info: TensorInfo { name, dtype: known, shape: shape.0 },
                begin: data_offsets[0],
                end: data_offsets[1],
            });
        }
        Ok(header)
    }
}

/// A tensor's value in the header.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    dtype: String,
    shape: Shape,
    data_offsets: [u64; 2],
}

/// A shape of at most [`MAX_DIMS`] sizes.
struct Shape(Vec<usize>);

impl<'de> serde::Deserialize<'de> for Shape {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sizes;
        impl<'de> Visitor<'de> for Sizes {
            type Value = Shape;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an array of sizes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(size) = sequence.next_element::<usize>()? {
                    if shape.len() == MAX_DIMS {
                        return Err(A::Error::custom(format!("more than {MAX_DIMS} dimensions")));
                    }
                    shape.push(size);
                }
                shape.shrink_to_fit();
                Ok(Shape(shape))
            }
        }
        deserializer.deserialize_seq(Sizes)
    }
}

/// The string map. `null` stands for an empty one, as some writers put it.
struct Metadata(BTreeMap<String, String>);

impl<'de> serde::Deserialize<'de> for Metadata {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = Metadata;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of strings for __metadata__")
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Metadata, E> {
                Ok(Metadata(BTreeMap::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut strings = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    if strings.len() == MAX_PAIRS {
                        map.next_value::<IgnoredAny>()?;
                        return Err(A::Error::custom(format!("more than {MAX_PAIRS} entries in __metadata__")));
                    }
                    strings.insert(key, map.next_value()?);
                }
                Ok(Metadata(strings))
            }
        }
        deserializer.deserialize_any(Strings)
    }
}
