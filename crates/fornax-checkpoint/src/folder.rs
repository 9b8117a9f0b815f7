//! From a path to files: a file, an index with its shards, or a folder that holds one of them. It deliberately looks at
//! names only where the format cannot tell (folders and indexes), and never leaves the folder it was given.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use crate::{
    checkpoint::{Checkpoint, Format, Parsed, detect, parse},
    error::{Blame, CheckpointError, Result, shorten},
    mapping::Mapping,
    safetensors::index::{self, Index},
};

/// Where a folder's weights are looked for first, in this order; an index lists shards.
const STANDARD: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];
/// Then a single file with one of these extensions, in this order.
const EXTENSIONS: [&str; 3] = ["safetensors", "gguf", "bin"];
/// The ending of an index's name.
const INDEX: &str = ".index.json";

/// Opens whatever `path` is.
pub(crate) fn open(path: &Path) -> Result<Checkpoint> {
    let blame = Blame { path };
    let metadata = fs::metadata(path).map_err(|error| blame.io("open", error))?;
    let file = if metadata.is_dir() { weights_in(path)? } else { path.to_owned() };
    if file.file_name().is_some_and(|name| name.to_string_lossy().ends_with(INDEX)) {
        return open_sharded(path, &file);
    }
    let (format, mapping, parsed) = open_file(&file)?;
    Checkpoint::assemble(path.to_owned(), format, vec![(file, mapping)], vec![parsed])
}

/// Maps and parses one file.
fn open_file(path: &Path) -> Result<(Format, Mapping, Parsed)> {
    let blame = Blame { path };
    let mapping = Mapping::open(path)?;
    let format = detect(mapping.bytes(), blame)?;
    let parsed = parse(format, mapping.bytes(), blame)?;
    Ok((format, mapping, parsed))
}

/// The file in a folder that holds its weights, or lists their shards.
fn weights_in(folder: &Path) -> Result<PathBuf> {
    if let Some(name) = STANDARD.iter().find(|name| folder.join(name).exists()) {
        return Ok(folder.join(name));
    }
    let blame = Blame { path: folder };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| blame.io("list", error))? {
        let name = entry.map_err(|error| blame.io("list", error))?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    names.sort();
    for extension in EXTENSIONS {
        let ending = format!(".{extension}");
        // Hidden files include the temporary ones of a save that is under way.
        let candidates: Vec<_> =
            names.iter().filter(|name| name.ends_with(&ending) && !name.starts_with('.')).collect();
        match candidates[..] {
            [] => {}
            [one] => return Ok(folder.join(one)),
            _ => {
                return Err(CheckpointError::Ambiguous {
                    path: folder.to_owned(),
                    files: candidates.into_iter().take(8).cloned().collect(),
                });
            }
        }
    }
    const SHOWN: usize = 8;
    let mut found = names.iter().take(SHOWN).map(|name| shorten(name)).collect::<Vec<_>>().join(", ");
    if names.is_empty() {
        found = "an empty folder".to_owned();
    } else if names.len() > SHOWN {
        found += ", …";
    }
    Err(CheckpointError::NoCheckpoint { path: folder.to_owned(), found })
}

/// Opens all shards that an index lists, and holds index and shards against one another.
fn open_sharded(path: &Path, index_path: &Path) -> Result<Checkpoint> {
    let blame = Blame { path: index_path };
    let index = index::read(index_path)?;
    let folder = index_path.parent().unwrap_or(Path::new(""));
    let (mut opened, mut parsed, mut format) = (Vec::new(), Vec::new(), None);
    for (number, shard) in index.shards.iter().enumerate() {
        let file = folder.join(plain(shard, blame)?);
        let tensor = || index.first_of(number).map(shorten).unwrap_or_default();
        let (found, mapping, part) = match open_file(&file) {
            Err(CheckpointError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(CheckpointError::MissingShard {
                    path: index_path.to_owned(),
                    shard: shorten(shard),
                    tensor: tensor(),
                });
            }
            opened => opened?,
        };
        if *format.get_or_insert(found) != found || found == Format::Gguf {
            let expected = "shards of one format, safetensors or PyTorch zip";
            return Err(blame.unsupported("the shards' format", expected, format!("{found} in {}", shorten(shard))));
        }
        check_shard(&index, number, &part, blame)?;
        opened.push((file, mapping));
        parsed.push(part);
    }
    let Some(format) = format else {
        return Err(blame.malformed("the weight map", 0, "at least one tensor", "none"));
    };
    // Every tensor found is in the index and where it says; equal counts mean that none is missing.
    let checkpoint = Checkpoint::assemble(path.to_owned(), format, opened, parsed)?;
    if let Some((tensor, shard)) = index.iter().find(|(tensor, _)| !checkpoint.contains(tensor)) {
        return Err(CheckpointError::IndexMismatch {
            path: index_path.to_owned(),
            tensor: shorten(tensor),
            expected: shorten(shard),
            found: "no shard".to_owned(),
        });
    }
    Ok(checkpoint)
}

/// Refuses tensors of a shard that the index does not place in it.
fn check_shard(index: &Index, number: usize, part: &Parsed, blame: Blame<'_>) -> Result<()> {
    for entry in &part.entries {
        let name = &entry.info.name;
        let expected = index.shard_of(name);
        if expected != Some(number) {
            return Err(CheckpointError::IndexMismatch {
                path: blame.path.to_owned(),
                tensor: shorten(name),
                expected: expected.map_or("no shard".to_owned(), |shard| shorten(&index.shards[shard])),
                found: shorten(&index.shards[number]),
            });
        }
    }
    Ok(())
}

/// A shard's name must lead to a file below the index's folder: an index is data from outside.
fn plain<'a>(shard: &'a str, blame: Blame<'_>) -> Result<&'a Path> {
    let path = Path::new(shard);
    let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    if shard.is_empty() || !inside || shard.contains('\0') {
        let expected = "a file name without `..` and not absolute";
        return Err(blame.malformed("a shard's name", 0, expected, format!("{:?}", shorten(shard))));
    }
    Ok(path)
}
