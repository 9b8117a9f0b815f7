//! The index of a sharded checkpoint (`*.index.json`): which tensor is in which file. It deliberately does not open
//! the shards (`folder` does), and serves PyTorch shards as well, whose index has the same form.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};

use crate::error::{Blame, Result, shorten};

/// The longest index that is read; those of the largest models take a few megabytes.
const MAX_BYTES: u64 = 32 << 20;
/// The most tensors an index may list.
const MAX_ENTRIES: usize = 1 << 19;

/// Which tensor is in which shard.
#[derive(Debug)]
pub(crate) struct Index {
    /// The shards' file names, sorted.
    pub shards: Vec<String>,
    /// The tensors, sorted by name, each with the index of its shard.
    tensors: Vec<(Box<str>, u32)>,
}

impl Index {
    /// The shard of a tensor.
    pub fn shard_of(&self, tensor: &str) -> Option<usize> {
        let at = self.tensors.binary_search_by(|(name, _)| (**name).cmp(tensor)).ok()?;
        Some(self.tensors[at].1 as usize)
    }

    /// The first tensor of a shard, by name.
    pub fn first_of(&self, shard: usize) -> Option<&str> {
        self.tensors.iter().find(|(_, number)| *number as usize == shard).map(|(name, _)| &**name)
    }

    /// All tensors, each with its shard's file name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tensors.iter().map(|(name, shard)| (&**name, self.shards[*shard as usize].as_str()))
    }
}

/// Reads and checks an index.
pub(crate) fn read(path: &Path) -> Result<Index> {
    let blame = Blame { path };
    let length = fs::metadata(path).map_err(|error| blame.io("open", error))?.len();
    if length > MAX_BYTES {
        return Err(blame.limit("bytes of index", MAX_BYTES as usize, length));
    }
    let json = fs::read(path).map_err(|error| blame.io("read", error))?;
    let file: File = serde_json::from_slice(&json)
        .map_err(|error| blame.malformed("the index", 0, "JSON with a weight_map", shorten(&error.to_string())))?;
    Ok(sort(file.weight_map))
}

/// Sorts shards and tensors, renumbering the shards.
fn sort(map: WeightMap) -> Index {
    let WeightMap { shards, mut tensors } = map;
    let mut renumbered = vec![0; shards.len()];
    let mut sorted = Vec::with_capacity(shards.len());
    for (new, (shard, old)) in shards.into_iter().enumerate() {
        renumbered[old as usize] = new as u32;
        sorted.push(shard);
    }
    for (_, shard) in &mut tensors {
        *shard = renumbered[*shard as usize];
    }
    tensors.sort_unstable();
    Index { shards: sorted, tensors }
}

/// The parts of the file that matter here; `metadata.total_size` is informative, and often wrong.
#[derive(serde::Deserialize)]
struct File {
    weight_map: WeightMap,
}

/// The map as it is read: each shard's name is held once.
struct WeightMap {
    shards: BTreeMap<String, u32>,
    tensors: Vec<(Box<str>, u32)>,
}

impl<'de> serde::Deserialize<'de> for WeightMap {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = WeightMap;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object from tensor names to file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let (mut shards, mut tensors) = (BTreeMap::new(), Vec::new());
                while let Some(tensor) = map.next_key::<Box<str>>()? {
                    if tensors.len() == MAX_ENTRIES {
                        map.next_value::<IgnoredAny>()?;
                        return Err(A::Error::custom(format!("more than {MAX_ENTRIES} tensors")));
                    }
                    let shard: String = map.next_value()?;
                    let count = shards.len() as u32;
                    let number = *shards.entry(shard).or_insert(count);
                    tensors.push((tensor, number));
                }
                let mut names: Vec<&str> = tensors.iter().map(|(name, _)| &**name).collect();
                names.sort_unstable();
                if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                    return Err(A::Error::custom(format!("the tensor {:?} twice", shorten(pair[0]))));
                }
                Ok(WeightMap { shards, tensors })
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
