//! Files of repacked weights that were damaged, cut or exchanged: an error, or the very content that was written; never
//! other content.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use fornax_checkpoint::{CheckpointError, RepackedCache, RepackedFile, RepackedKey};
use serde_json::{Value, json};

/// Everything a reader can learn from a file.
type Content = (String, String, Vec<(String, Value, Vec<u8>)>);

/// A small cached file.
fn small(folder: &Path) -> (RepackedCache, RepackedKey, PathBuf) {
    let model = folder.join("model");
    fs::write(&model, "the model").unwrap();
    let cache = RepackedCache::new(folder.join("cache"));
    let key = cache.key(&[model], "layout 1").unwrap();
    let path = write(&cache, &key);
    (cache, key, path)
}

fn write(cache: &RepackedCache, key: &RepackedKey) -> PathBuf {
    let mut writer = cache.writer(key).unwrap();
    writer.write("a", json!({ "shape": [3, 5] }), b"the bytes of a.").unwrap();
    writer.write("b", json!("f16"), &[]).unwrap();
    writer.write("c", json!(null), &(0..100).collect::<Vec<u8>>()).unwrap();
    writer.finish().unwrap().path().to_owned()
}

/// Reads a file by mapping it, and again by copying; both must agree.
fn read(path: &Path) -> Result<Content, CheckpointError> {
    let file = RepackedFile::open(path)?;
    let verified = file.verify();
    let mut entries = Vec::new();
    for entry in file.entries() {
        let mut copy = vec![0; entry.length];
        let copied = file.read_into(&entry.name, &mut copy);
        match (&verified, copied) {
            (Ok(()), copied) => copied.expect("what is verified can be read"),
            (Err(_), Err(_)) => {}
            // Another entry is the damaged one.
            (Err(_), Ok(())) => continue,
        }
        if verified.is_ok() {
            assert_eq!(file.entry(&entry.name)?, copy);
        }
        entries.push((entry.name.clone(), entry.metadata.clone(), copy));
    }
    verified?;
    Ok((file.key().to_owned(), file.variant().to_owned(), entries))
}

/// Asserts that `path` reads as `expected` or is refused as a cache file; tells which.
fn same_or_refused(path: &Path, expected: &Content, what: &str) -> bool {
    match read(path) {
        Ok(found) => {
            assert_eq!(found, *expected, "{what}");
            true
        }
        Err(CheckpointError::UnusableCache { .. }) => false,
        Err(error) => panic!("{what}: {error}"),
    }
}

#[test]
fn every_flipped_byte_is_found_or_means_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (_, _, path) = small(folder.path());
    let expected = read(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let copy = folder.path().join("copy");
    fs::write(&copy, &bytes).unwrap();
    let mut accepted = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        // A single bit, all of them, and a zero.
        for other in [byte ^ 1 << (at % 8), !byte, 0] {
            let mut file = File::options().write(true).open(&copy).unwrap();
            let mut put = |byte: u8| {
                file.seek(SeekFrom::Start(at as u64)).unwrap();
                file.write_all(&[byte]).unwrap();
            };
            put(other);
            let same = same_or_refused(&copy, &expected, &format!("byte {at} as {other}"));
            accepted += usize::from(same && other != byte);
            put(byte);
        }
    }
    // Only the zeros between preamble, entries and header mean nothing: twice each, for they are zeros already.
    let meaning = 56 + 15 + 100 + (bytes.len() - (8192 + 100));
    assert_eq!(accepted, 2 * (bytes.len() - meaning));
}

#[test]
fn every_cut_and_every_growth_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (_, _, path) = small(folder.path());
    let expected = read(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let copy = folder.path().join("copy");
    fs::write(&copy, &bytes).unwrap();
    // Shortened byte by byte, which takes a tenth of the time of writing the file again.
    for length in (0..bytes.len()).rev() {
        File::options().write(true).open(&copy).unwrap().set_len(length as u64).unwrap();
        assert!(!same_or_refused(&copy, &expected, &format!("cut to {length}")), "{length}");
    }
    for more in [1, 4096] {
        fs::write(&copy, [&bytes[..], &vec![0; more]].concat()).unwrap();
        assert!(!same_or_refused(&copy, &expected, "grown"));
    }
    // What the disk holds after a loss of power, where nobody waited for it.
    fs::write(&copy, vec![0; bytes.len()]).unwrap();
    assert!(!same_or_refused(&copy, &expected, "zeros"));
}

#[test]
fn damage_names_the_entry_and_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::write(&model, "the model").unwrap();
    let cache = RepackedCache::new(folder.path().join("cache"));
    let key = cache.key(&[model], "v").unwrap();
    let mut writer = cache.writer(&key).unwrap();
    writer.write("good", Value::Null, &[1; 3 << 20]).unwrap();
    writer.write("bad", Value::Null, &[2; 3 << 20]).unwrap();
    let path = writer.finish().unwrap().path().to_owned();
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096 + (3 << 20) + (2 << 20) + 17] ^= 0x10;
    fs::write(&path, bytes).unwrap();

    // The header is whole, so that the file opens; nothing was read yet.
    let file = cache.open(&key).unwrap().unwrap();
    let error = file.verify().unwrap_err().to_string();
    assert!(error.contains(r#"the entry "bad""#) && error.contains("after byte 2097152"), "{error}");
    assert!(error.contains("rewritten"), "{error}");
    let mut buffer = vec![0; 3 << 20];
    file.read_into("good", &mut buffer).unwrap();
    assert_eq!(file.read_into("bad", &mut buffer).unwrap_err().to_string(), error);
}

#[test]
fn a_file_in_anothers_place_is_refused_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, key, path) = small(folder.path());
    let other = cache.key(&[folder.path().join("model")], "layout 2").unwrap();
    let place = cache.folder().join(format!("{other}.repacked"));
    let gguf = b"GGUF\x03\0\0\0 and so on".to_vec();
    for content in [fs::read(&path).unwrap(), gguf, Vec::new()] {
        fs::write(&place, content).unwrap();
        let error = cache.open(&other).unwrap_err();
        assert!(matches!(error, CheckpointError::UnusableCache { .. }), "{error}");
        write(&cache, &other);
        assert_eq!(cache.open(&other).unwrap().unwrap().variant(), "layout 2");
    }
    assert_eq!(cache.open(&key).unwrap().unwrap().variant(), "layout 1");
    // Not even a file.
    fs::remove_file(&place).unwrap();
    fs::create_dir(&place).unwrap();
    let error = cache.open(&other).unwrap_err().to_string();
    assert!(error.contains("a regular file"), "{error}");
    let mut writer = cache.writer(&other).unwrap();
    writer.write("a", Value::Null, &[1]).unwrap();
    assert!(matches!(writer.finish(), Err(CheckpointError::UnwritableCache { .. })));
    assert_eq!(
        fs::read_dir(cache.folder())
            .unwrap()
            .filter(|entry| { entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.') })
            .count(),
        0
    );
}
