//! As much of zip as torch writes: stored entries, their place taken from the central directory and confirmed by the
//! local headers, with zip64. It deliberately decompresses nothing, and refuses archives with gaps or overlaps, so that
//! a damaged directory cannot shift a tensor unnoticed.

use bytes::Bytes;

use crate::error::{Blame, CheckpointError, Result, shorten};

const LOCAL: [u8; 4] = *b"PK\x03\x04";
const DIRECTORY: [u8; 4] = *b"PK\x01\x02";
const END: [u8; 4] = *b"PK\x05\x06";
const END64: [u8; 4] = *b"PK\x06\x06";
const LOCATOR64: [u8; 4] = *b"PK\x06\x07";
const DESCRIPTOR: [u8; 4] = *b"PK\x07\x08";

const LOCAL_LEN: usize = 30;
const DIRECTORY_LEN: usize = 46;
const END_LEN: usize = 22;
const END64_LEN: usize = 56;
const LOCATOR64_LEN: usize = 20;
/// The longest comment behind the end record.
const MAX_COMMENT: usize = u16::MAX as usize;
/// The most entries that are read: one a storage, and a few beside.
const MAX_ENTRIES: usize = (1 << 17) + 64;
/// Flags: encrypted (1), sizes in a descriptor behind the data (8), name in UTF-8 (2048). Others change the layout.
const FLAG_DESCRIPTOR: u16 = 8;
const KNOWN_FLAGS: u16 = FLAG_DESCRIPTOR | 2048;

/// One stored entry.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    name: &'a str,
    crc: u32,
    flags: u16,
    /// The local header.
    header: usize,
    /// The data.
    start: usize,
    size: usize,
}

/// A zip file's directory.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    file: &'a Bytes,
    /// Sorted by name.
    entries: Vec<Entry<'a>>,
    blame: Blame<'a>,
}

impl<'a> Archive<'a> {
    /// Reads and checks the directory.
    pub fn read(file: &'a Bytes, blame: Blame<'a>) -> Result<Self> {
        let (count, start, end) = directory(file, blame)?;
        let mut entries = Vec::with_capacity(count);
        let mut at = start;
        for _ in 0..count {
            let (entry, next) = directory_entry(file, at, end, blame)?;
            entries.push(entry);
            at = next;
        }
        if at != end {
            return Err(blame.malformed(
                "the zip directory",
                at,
                format!("{count} entries up to {end}"),
                at.to_string(),
            ));
        }
        entries.sort_unstable_by_key(|entry| entry.header);
        check_layout(file, &mut entries, start, blame)?;
        entries.sort_unstable_by_key(|entry| entry.name);
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
            let found = format!("{:?} twice", shorten(pair[0].name));
            return Err(blame.malformed("the zip directory", start, "every name once", found));
        }
        Ok(Self { file, entries, blame })
    }

    /// The folder, with its slash, in which `name` lies.
    pub fn root(&self, name: &str) -> Result<String> {
        let mut roots = self.entries.iter().filter_map(|entry| {
            let root = entry.name.strip_suffix(name)?;
            // One folder, or none.
            let depth = root.matches('/').count();
            ((root.is_empty() || root.ends_with('/')) && depth <= 1).then_some(root)
        });
        match (roots.next(), roots.next()) {
            (Some(root), None) => Ok(root.to_owned()),
            (None, _) => Err(CheckpointError::UnknownFormat {
                path: self.blame.path.into(),
                found: format!("it is a zip file, but not of torch.save: it has no {name}"),
            }),
            (Some(_), Some(_)) => Err(self.blame.malformed("the zip directory", 0, format!("one {name}"), "several")),
        }
    }

    /// The entry `root` + `name`.
    pub fn find(&self, root: &str, name: &str) -> Option<&Entry<'a>> {
        let wanted = || root.bytes().chain(name.bytes());
        let at = self.entries.binary_search_by(|entry| entry.name.bytes().cmp(wanted())).ok()?;
        Some(&self.entries[at])
    }

    /// An entry's data.
    pub fn bytes(&self, entry: &Entry<'_>) -> Bytes {
        // In bounds: `check_layout` has seen to it.
        self.file.slice(entry.start..entry.start + entry.size)
    }

    /// Holds an entry's data against its checksum.
    pub fn check_crc(&self, entry: &Entry<'_>) -> Result<()> {
        let found = crc32(&self.bytes(entry));
        if found == entry.crc {
            return Ok(());
        }
        let expected = format!("checksum {:08x}", entry.crc);
        Err(self.blame.malformed("the pickle", entry.start, expected, format!("{found:08x}")))
    }
}

/// Finds the directory: how many entries, from where, to where.
fn directory(file: &[u8], blame: Blame<'_>) -> Result<(usize, usize, usize)> {
    let tail = file.len().saturating_sub(END_LEN + MAX_COMMENT);
    // The comment's length must lead to the file's end, else the signature was part of the comment.
    let end = (tail..(file.len() + 1).saturating_sub(END_LEN))
        .rev()
        .find(|&at| file[at..].starts_with(&END) && at + END_LEN + usize::from(u16_at(file, at + 20)) == file.len());
    let Some(end) = end else {
        return Err(blame.truncated("the zip directory's end", file.len(), END_LEN as u64, 0));
    };
    let mut count = u64::from(u16_at(file, end + 10));
    let mut size = u64::from(u32_at(file, end + 12));
    let mut start = u64::from(u32_at(file, end + 16));
    let mut limit = end;
    if u16_at(file, end + 4) != 0 || u16_at(file, end + 6) != 0 || u16_at(file, end + 8) != u16_at(file, end + 10) {
        return Err(blame.unsupported("the zip file", "one part", "one part of several"));
    }
    let locator = end.checked_sub(LOCATOR64_LEN).filter(|&at| file[at..].starts_with(&LOCATOR64));
    if let Some(locator) = locator {
        let at = u64_at(file, locator + 8);
        let record = usize::try_from(at)
            .ok()
            .filter(|&at| at <= locator.saturating_sub(END64_LEN) && file[at..].starts_with(&END64))
            .ok_or_else(|| {
                blame.malformed("the zip64 directory's end", locator, "a record before it", at.to_string())
            })?;
        if u64_at(file, record + 24) != u64_at(file, record + 32) {
            return Err(blame.unsupported("the zip file", "one part", "one part of several"));
        }
        (count, size, start) = (u64_at(file, record + 32), u64_at(file, record + 40), u64_at(file, record + 48));
        limit = record;
    }
    if start.checked_add(size) != Some(limit as u64) {
        let expected = format!("to end at {limit}, where its end record starts");
        return Err(blame.malformed("the zip directory", end, expected, format!("{size} bytes from {start}")));
    }
    // Both fit usize: their sum is `limit`.
    let (start, size) = (start as usize, size as usize);
    if count > (size / DIRECTORY_LEN) as u64 {
        return Err(blame.truncated("the zip directory", start, count.saturating_mul(DIRECTORY_LEN as u64), size));
    }
    if count > MAX_ENTRIES as u64 {
        return Err(blame.limit("zip entries", MAX_ENTRIES, count));
    }
    Ok((count as usize, start, limit))
}

/// Reads one entry of the directory, and says where the next starts.
fn directory_entry<'a>(file: &'a [u8], at: usize, end: usize, blame: Blame<'_>) -> Result<(Entry<'a>, usize)> {
    let left = end - at;
    if left < DIRECTORY_LEN {
        return Err(blame.truncated("a zip entry", at, DIRECTORY_LEN as u64, left));
    }
    if !file[at..].starts_with(&DIRECTORY) {
        return Err(blame.malformed("a zip entry", at, "its signature", "other bytes"));
    }
    let [name_len, extra_len, comment_len] = [28, 30, 32].map(|field| usize::from(u16_at(file, at + field)));
    let next = at + DIRECTORY_LEN + name_len + extra_len + comment_len;
    if next > end {
        return Err(blame.truncated("a zip entry", at, (next - at) as u64, left));
    }
    let name = &file[at + DIRECTORY_LEN..][..name_len];
    let name = std::str::from_utf8(name)
        .map_err(|_| blame.malformed("a zip entry's name", at + DIRECTORY_LEN, "UTF-8", "other bytes"))?;
    let (flags, method) = (u16_at(file, at + 8), u16_at(file, at + 10));
    if method != 0 || flags & !KNOWN_FLAGS != 0 {
        return Err(blame.unsupported(
            "a zip entry",
            "one stored as it is, as torch.save writes; unpack and save it again",
            format!("{:?} with method {method} and flags {flags:#06x}", shorten(name)),
        ));
    }
    let mut sizes = [24, 20, 42].map(|field| u64::from(u32_at(file, at + field)));
    widen(&mut sizes, &file[at + DIRECTORY_LEN + name_len..][..extra_len]);
    let [size, stored, header] = sizes;
    let fits = usize::try_from(size).ok().zip(usize::try_from(header).ok());
    let (Some((size, header)), true) = (fits, size == stored) else {
        let found = format!("{stored} stored, {size} real bytes at {header}");
        return Err(blame.malformed("a zip entry's size", at, "equal sizes within the file", found));
    };
    let entry = Entry { name, crc: u32_at(file, at + 16), flags, header, start: 0, size };
    Ok((entry, next))
}

/// Replaces sizes that did not fit 32 bits by those of the zip64 extra field.
fn widen(sizes: &mut [u64; 3], mut extra: &[u8]) {
    while extra.len() >= 4 {
        let (id, length) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let Some(mut body) = extra.get(4..4 + length) else {
            return;
        };
        if id == 1 {
            for size in sizes.iter_mut().filter(|size| **size == u64::from(u32::MAX)) {
                let Some((wide, rest)) = body.split_first_chunk::<8>() else {
                    return;
                };
                *size = u64::from_le_bytes(*wide);
                body = rest;
            }
            return;
        }
        extra = &extra[4 + length..];
    }
}

/// Finds each entry's data by its local header, and checks that header, data and what follows tile the file: entries
/// are sorted by place.
fn check_layout(file: &[u8], entries: &mut [Entry<'_>], directory: usize, blame: Blame<'_>) -> Result<()> {
    let mut expected = 0;
    for index in 0..entries.len() {
        let next = entries.get(index + 1).map_or(directory, |next| next.header);
        let entry = &mut entries[index];
        if entry.header != expected {
            let found = format!("{:?} at {}", shorten(entry.name), entry.header);
            return Err(blame.malformed("a zip entry's place", entry.header, format!("one at {expected}"), found));
        }
        let at = entry.header;
        let end = next.min(directory);
        let left = end.saturating_sub(at);
        if left < LOCAL_LEN {
            return Err(blame.truncated("a zip entry's header", at, LOCAL_LEN as u64, left));
        }
        let name_len = usize::from(u16_at(file, at + 26));
        let start = at + LOCAL_LEN + name_len + usize::from(u16_at(file, at + 28));
        let name = file.get(at + LOCAL_LEN..at + LOCAL_LEN + name_len);
        let same = file[at..].starts_with(&LOCAL)
            && u16_at(file, at + 6) == entry.flags
            && u16_at(file, at + 8) == 0
            && name == Some(entry.name.as_bytes());
        if !same {
            let found = format!("another for {:?}", shorten(entry.name));
            return Err(blame.malformed("a zip entry's header", at, "the one in the directory", found));
        }
        let after = start.checked_add(entry.size).filter(|&after| after <= end);
        let Some(after) = after else {
            return Err(blame.truncated("a zip entry's data", start, entry.size as u64, end.saturating_sub(start)));
        };
        check_tail(&file[after..end], entry, after, blame)?;
        entry.start = start;
        expected = next;
    }
    Ok(())
}

/// Behind the data stands the descriptor that the flags announce, or nothing.
fn check_tail(tail: &[u8], entry: &Entry<'_>, at: usize, blame: Blame<'_>) -> Result<()> {
    let good = if entry.flags & FLAG_DESCRIPTOR == 0 {
        tail.is_empty()
    } else {
        // The two sizes may have four or eight bytes each. The signature, though optional elsewhere, must be there: without
        // it, data shifted by four bytes would pass.
        let body = tail.strip_prefix(&DESCRIPTOR).unwrap_or_default();
        matches!(body.len(), 12 | 20) && u32_at(body, 0) == entry.crc && {
            let sizes = &body[4..];
            sizes.chunks_exact(sizes.len() / 2).all(|size| {
                let mut wide = [0; 8];
                wide[..size.len()].copy_from_slice(size);
                u64::from_le_bytes(wide) == entry.size as u64
            })
        }
    };
    if good {
        return Ok(());
    }
    let found = format!("{} other bytes behind {:?}", tail.len(), shorten(entry.name));
    Err(blame.malformed("the end of a zip entry", at, "its descriptor, then the next entry", found))
}

/// The numbers at fixed places; callers have checked that they are within the record.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Zip's checksum, a byte at a time: it is used for the pickle only.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut value, mut bit) = (byte as u32, 0);
            while bit < 8 {
                value = if value & 1 == 1 { value >> 1 ^ 0xedb8_8320 } else { value >> 1 };
                bit += 1;
            }
            table[byte] = value;
            byte += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc: u32, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_zips() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn wide_sizes_come_from_the_extra_field_in_order() {
        let max = u64::from(u32::MAX);
        let mut sizes = [max, 7, max];
        let extra = [&[9, 0, 1, 0, 0, 1, 0, 16, 0][..], &5u64.to_le_bytes(), &6u64.to_le_bytes()].concat();
        widen(&mut sizes, &extra);
        assert_eq!(sizes, [5, 7, 6]);
        let mut short = [max, max, max];
        widen(&mut short, &extra[..extra.len() - 4]);
        assert_eq!(short, [max, max, max]);
    }
}
