//! The format of a file of repacked weights: a preamble of fixed size, the entries' bytes, and a header in JSON behind
//! them, so that the file can be written in one go, without knowing the later entries. It deliberately reads no entry:
//! their readers find damaged bytes.
//!
//! ```text
//! 0        magic, version, chunk size, place and checksum of the header, length of the file, checksum of the preamble
//! 4096     the first entry; each begins at a multiple of 4096
//! …        the header: key, variant, sources and, for each entry, name, metadata, offset, length and checksums
//! ```
//!
//! Numbers are little-endian; checksums are XXH3 of 64 bits, one for every mebibyte of an entry, so that they can be
//! checked in parallel and while the bytes are on their way. They find accidents, not forgeries. Entries begin at pages
//! and not at huge pages: huge pages of a mapped file lie at multiples of 2 MiB of the *file* (see `write`), so that they
//! serve entries that follow one another closely just as well, and nothing is lost between entries.

use std::collections::HashSet;

use super::checksum::{CHUNK, checksum};
use crate::error::{Blame, Result, shorten};
use serde::{Deserialize, Serialize};

/// The first bytes.
const MAGIC: [u8; 8] = *b"FNXRPCK\n";
/// The version of the format. A file of another version is replaced.
const VERSION: u32 = 1;
/// Entries begin at multiples of this, the page size of most machines.
pub(crate) const ALIGNMENT: u64 = 4096;
/// The preamble's bytes that mean something; zeros follow up to the first entry.
const PREAMBLE: usize = 56;
/// The most bytes of header, enough for entries of terabytes.
const MAX_HEADER: u64 = 64 << 20;

/// One entry of a file of repacked weights: its name and description, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepackedEntry {
    /// The name, unique in its file.
    pub name: String,
    /// Whatever the writer said about it: shape, weight type, layout.
    pub metadata: serde_json::Value,
    /// The number of its bytes.
    pub length: usize,
    /// From the start of the file.
    pub(crate) offset: u64,
    /// Of each [`CHUNK`].
    pub(crate) checksums: Vec<u64>,
}

/// What stands behind the entries.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    /// The hash of the sources' contents and the variant.
    pub key: String,
    /// What the caller said about the layout of all entries.
    pub variant: String,
    /// Where the sources were when this was written; for people.
    pub sources: Vec<String>,
    /// In the order of their places.
    pub entries: Vec<RepackedEntry>,
}

impl Header {
    /// The preamble and the header of a file whose entries end at `end`.
    pub fn encode(&self, end: u64, blame: Blame<'_>) -> Result<([u8; PREAMBLE], Vec<u8>)> {
        let text = serde_json::to_vec(self).map_err(|error| blame.unwritable("write the header of", error.into()))?;
        if text.len() as u64 > MAX_HEADER {
            return Err(blame.limit("bytes of header", MAX_HEADER as usize, text.len() as u64));
        }
        let length = text.len() as u64;
        let mut preamble = [0; PREAMBLE];
        preamble[..8].copy_from_slice(&MAGIC);
        preamble[8..12].copy_from_slice(&VERSION.to_le_bytes());
        preamble[12..16].copy_from_slice(&(CHUNK as u32).to_le_bytes());
        for (at, number) in [end, length, end + length, checksum(&text)].into_iter().enumerate() {
            preamble[16 + 8 * at..24 + 8 * at].copy_from_slice(&number.to_le_bytes());
        }
        let own = checksum(&preamble[..PREAMBLE - 8]);
        preamble[PREAMBLE - 8..].copy_from_slice(&own.to_le_bytes());
        Ok((preamble, text))
    }

    /// Reads the header of a whole file, and checks that every entry lies within it.
    pub fn decode(file: &[u8], blame: Blame<'_>) -> Result<Self> {
        let found = file.len() as u64;
        let magic = &file[..file.len().min(8)];
        if magic != MAGIC {
            return Err(blame.unusable(
                "its first bytes",
                "those of repacked weights",
                magic.escape_ascii().to_string(),
            ));
        }
        let Some(preamble) = file.first_chunk::<PREAMBLE>() else {
            return Err(blame.unusable("its length", format!("at least {ALIGNMENT} bytes"), found.to_string()));
        };
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&preamble[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        // Before the checksum, whose place may be another in another version.
        let version = number(8) as u32;
        if version != VERSION {
            return Err(blame.unusable("its version", VERSION.to_string(), version.to_string()));
        }
        if number(PREAMBLE - 8) != checksum(&preamble[..PREAMBLE - 8]) {
            return Err(blame.unusable("its preamble", "one that fits its checksum", "a damaged one"));
        }
        let (chunk, start, length, total) = ((number(8) >> 32) as usize, number(16), number(24), number(32));
        if chunk != CHUNK {
            return Err(blame.unusable("its chunk size", CHUNK.to_string(), chunk.to_string()));
        }
        if found != total {
            return Err(blame.unusable("its length", format!("{total} bytes"), format!("{found} bytes")));
        }
        if start < ALIGNMENT || length > MAX_HEADER || start.checked_add(length) != Some(total) {
            return Err(blame.unusable("its header", "the end of the file", format!("{length} bytes at {start}")));
        }
        // In bounds: `start` is not beyond `total`, which is the file's length.
        let text = &file[start as usize..];
        if checksum(text) != number(40) {
            return Err(blame.unusable("its header", "one that fits its checksum", "a damaged one"));
        }
        let header: Self = serde_json::from_slice(text)
            .map_err(|error| blame.unusable("its header", "JSON of this version", error.to_string()))?;
        header.check(start, blame)?;
        Ok(header)
    }

    /// Refuses entries that overlap, leave the file, or have one name.
    fn check(&self, end: u64, blame: Blame<'_>) -> Result<()> {
        let mut free = ALIGNMENT;
        let mut names = HashSet::with_capacity(self.entries.len());
        for entry in &self.entries {
            let wrong = |what: &str, expected: String, found: String| {
                blame.unusable(format!("the {what} of entry {:?}", shorten(&entry.name)), expected, found)
            };
            let after = entry.offset.checked_add(entry.length as u64);
            if !entry.offset.is_multiple_of(ALIGNMENT) || entry.offset < free || after.is_none_or(|after| after > end) {
                let place = format!("{} bytes at {}", entry.length, entry.offset);
                return Err(wrong("place", format!("a page between {free} and {end}"), place));
            }
            let chunks = entry.length.div_ceil(CHUNK);
            if entry.checksums.len() != chunks {
                return Err(wrong("number of checksums", chunks.to_string(), entry.checksums.len().to_string()));
            }
            if !names.insert(&entry.name) {
                return Err(wrong("name", "one of its own".into(), "that of another entry".into()));
            }
            free = entry.offset + entry.length as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const BLAME: fn() -> Blame<'static> = || Blame { path: Path::new("file") };

    /// A file with zeros for entries.
    fn file(entries: Vec<RepackedEntry>, end: u64) -> Vec<u8> {
        let header = Header { key: "k".into(), variant: "v".into(), sources: Vec::new(), entries };
        let (preamble, text) = header.encode(end, BLAME()).unwrap();
        let mut file = preamble.to_vec();
        file.resize(end as usize, 0);
        file.extend(text);
        file
    }

    fn entry(name: &str, offset: u64, length: usize) -> RepackedEntry {
        // At most one checksum, which is enough for the valid lengths here: an invalid length would take all memory.
        let checksums = vec![0; length.div_ceil(CHUNK).min(1)];
        RepackedEntry { name: name.into(), metadata: serde_json::Value::Null, length, offset, checksums }
    }

    fn error(bytes: &[u8]) -> String {
        Header::decode(bytes, BLAME()).unwrap_err().to_string()
    }

    #[test]
    fn entries_in_their_places_are_read() {
        let header = Header::decode(&file(vec![entry("a", 4096, 5000), entry("b", 12288, 0)], 12288), BLAME()).unwrap();
        assert_eq!(header.entries.iter().map(|entry| entry.length).collect::<Vec<_>>(), [5000, 0]);
        assert!(Header::decode(&file(Vec::new(), 4096), BLAME()).unwrap().entries.is_empty());
    }

    #[test]
    fn lies_under_a_right_checksum_are_found() {
        for (entries, expected) in [
            (vec![entry("a", 0, 1)], "the place of entry \"a\""),
            (vec![entry("a", 4097, 1)], "the place"),
            (vec![entry("a", 4096, 4097), entry("b", 8192, 1)], "the place of entry \"b\""),
            (vec![entry("a", 8192, 4097)], "the place"),
            (vec![entry("a", u64::MAX - 4095, 4096)], "the place"),
            (vec![entry("a", 4096, usize::MAX)], "the place"),
            (vec![entry("a", 4096, 1), entry("a", 8192, 1)], "the name of entry \"a\""),
        ] {
            let error = error(&file(entries, 12288));
            assert!(error.contains(expected), "{error}");
        }
        let mut long = entry("a", 4096, 1);
        long.checksums.push(0);
        assert!(error(&file(vec![long], 8192)).contains("number of checksums"));
    }

    #[test]
    fn any_header_under_a_right_checksum_is_refused_or_stays_within_the_file() {
        const END: u64 = 16384;
        let good = file(vec![entry("a", 4096, 5000), entry("b", 12288, 4000)], END);
        let text = &good[END as usize..];
        let mut state = 0x5eedu64;
        let mut below = |bound: usize| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) as usize % bound
        };
        let mut accepted = 0;
        for round in 0..20_000 {
            let mut text = text.to_vec();
            for _ in 0..=below(3) {
                let at = below(text.len());
                match below(4) {
                    0 => text[at] = b"0123456789-.e{}[]\",:\\"[below(21)],
                    1 => text[at] = b"0123456789"[below(10)],
                    2 => drop(text.remove(at)),
                    _ => text.insert(at, b"0123456789"[below(10)]),
                }
            }
            let mut bytes = good[..END as usize].to_vec();
            for (place, number) in [(24, text.len() as u64), (32, END + text.len() as u64), (40, checksum(&text))] {
                bytes[place..place + 8].copy_from_slice(&number.to_le_bytes());
            }
            let own = checksum(&bytes[..PREAMBLE - 8]);
            bytes[PREAMBLE - 8..PREAMBLE].copy_from_slice(&own.to_le_bytes());
            bytes.extend(text);
            let Ok(header) = Header::decode(&bytes, BLAME()) else { continue };
            accepted += 1;
            for entry in header.entries {
                assert!(entry.offset + entry.length as u64 <= END && entry.offset >= ALIGNMENT, "round {round}");
                assert_eq!(entry.checksums.len(), entry.length.div_ceil(CHUNK), "round {round}");
            }
        }
        assert!(accepted > 100, "too few mutations were JSON to say anything: {accepted}");
    }

    #[test]
    fn other_versions_and_other_files_say_so() {
        let mut bytes = file(Vec::new(), 4096);
        bytes[8] = 2;
        assert!(error(&bytes).contains("its version: expected 1, found 2"));
        assert!(error(b"GGUF\x03\0\0\0and more").contains(r"found GGUF\x03"));
        assert!(error(b"").contains("its first bytes"));
        assert!(error(&MAGIC).contains("its length"));
    }
}
