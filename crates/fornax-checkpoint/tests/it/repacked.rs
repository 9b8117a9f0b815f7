//! The cache of repacked weights: what is written reads back, keys follow contents, and room is made for new files. Files
//! that were tampered with have their own module (`repacked_damage`).

use std::{
    fs::{self, File},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use fornax_checkpoint::{CheckpointError, RepackedCache, RepackedFile, RepackedKey, RepackedWriter};
use serde_json::{Value, json};

use crate::support::Random;

/// A folder with one model file and a cache.
struct Place {
    folder: tempfile::TempDir,
    cache: RepackedCache,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepackedCache::new(folder.path().join("cache"));
        Self { folder, cache }
    }

    fn model(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// The key of a model file of this content.
    fn key(&self, content: &str) -> RepackedKey {
        self.cache.key(&[self.model(content, content)], "v").unwrap()
    }

    /// A cached file of one entry of `length` bytes.
    fn write(&self, key: &RepackedKey, length: usize) -> RepackedFile {
        let mut writer = self.cache.writer(key).unwrap();
        writer.write("w", Value::Null, &vec![7; length]).unwrap();
        writer.finish().unwrap()
    }

    /// What is in the cache's folder but the remembered hashes.
    fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.cache.folder()) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "sources").collect()
    }
}

/// Says that a file was last used so many minutes ago.
fn used(path: &Path, minutes_ago: u64) {
    let time = SystemTime::now() - Duration::from_secs(60 * minutes_ago);
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

fn random_bytes(length: usize, random: &mut Random) -> Vec<u8> {
    (0..length).map(|_| random.next() as u8).collect()
}

#[test]
fn what_is_written_reads_back_in_every_way() {
    let place = Place::new();
    let key = place.key("model");
    assert!(place.cache.open(&key).unwrap().is_none());
    const MIB: usize = 1 << 20;
    let mut random = Random(1);
    let lengths = [0, 1, 4095, 4096, 4097, MIB - 1, MIB, MIB + 1, 0, 3 * MIB + 5];
    let entries: Vec<(String, Value, Vec<u8>)> = (lengths.iter().enumerate())
        .map(|(at, &length)| {
            (format!("layer.{at}/wéight"), json!({ "shape": [at, length] }), random_bytes(length, &mut random))
        })
        .collect();
    let mut writer = place.cache.writer(&key).unwrap();
    for (name, metadata, bytes) in &entries {
        writer.write(name, metadata.clone(), bytes).unwrap();
    }
    let written = writer.finish().unwrap();
    let opened = place.cache.open(&key).unwrap().expect("it was just written");
    for file in [written, opened] {
        file.verify().unwrap();
        assert_eq!((file.key(), file.variant()), (key.as_str(), "v"));
        assert!(file.sources().eq([fs::canonicalize(place.folder.path().join("model")).unwrap()]));
        assert_eq!(file.total_bytes() as u64, place.cache.total_bytes().unwrap());
        let found: Vec<_> = file.entries().map(|entry| (&entry.name, &entry.metadata, entry.length)).collect();
        let expected: Vec<_> = entries.iter().map(|(name, metadata, bytes)| (name, metadata, bytes.len())).collect();
        assert_eq!(found, expected);
        let mut kept = Vec::new();
        for (name, _, bytes) in &entries {
            let mut buffer = vec![0xAA; bytes.len()];
            file.read_into(name, &mut buffer).unwrap();
            assert!(buffer == *bytes, "{name}");
            let mapped = file.entry(name).unwrap();
            assert!(bytes.is_empty() || (mapped.as_ptr() as usize).is_multiple_of(4096), "{name}");
            assert_eq!(file.info(name).unwrap().name, *name);
            kept.push((mapped, bytes));
        }
        // The mapping outlives the file's handle.
        drop(file);
        assert!(kept.iter().all(|(mapped, bytes)| mapped == *bytes));
    }
}

#[test]
fn a_file_without_entries_is_a_file() {
    let place = Place::new();
    let key = place.key("model");
    let file = place.cache.writer(&key).unwrap().finish().unwrap();
    file.verify().unwrap();
    assert_eq!((file.entries().len(), file.info("w")), (0, None));
}

#[test]
fn wrong_names_and_lengths_say_so() {
    let place = Place::new();
    let key = place.key("model");
    let mut writer = place.cache.writer(&key).unwrap();
    writer.write("layers.0.weight", json!("q8_0"), &[1, 2]).unwrap();
    let error = writer.write("layers.0.weight", json!("q8_0"), &[3, 4]).unwrap_err();
    assert!(matches!(error, CheckpointError::DuplicateTensor { .. }), "{error}");
    writer.write("layers.1.weight", json!("q8_0"), &[5]).unwrap();
    let file = writer.finish().unwrap();
    file.verify().unwrap();
    assert_eq!(file.entry("layers.0.weight").unwrap()[..], [1, 2]);
    let error = file.entry("layers.1.weights").unwrap_err().to_string();
    assert!(error.contains("layers.1.weights") && error.contains("the nearest name"), "{error}");
    let error = file.read_into("layers.0.weight", &mut [0; 3]).unwrap_err().to_string();
    assert!(error.contains("expected 2, found 3"), "{error}");
}

#[test]
fn keys_follow_contents_order_and_variant() {
    let place = Place::new();
    let (a, b) = (place.model("a", "one shard"), place.model("b", "another"));
    let key = |sources: &[&PathBuf], variant: &str| place.cache.key(sources, variant).unwrap().to_string();
    let all = key(&[&a, &b], "v");
    assert_eq!(all.len(), 64);
    // The same contents under other names are the same model.
    let (c, d) = (place.model("c", "one shard"), place.model("d", "another"));
    assert_eq!(all, key(&[&c, &d], "v"));
    let moved = place.model("e", "ano");
    for other in
        [key(&[&b, &a], "v"), key(&[&a, &b], "w"), key(&[&a], "v"), key(&[&a, &b, &b], "v"), key(&[&a, &moved], "v")]
    {
        assert_ne!(all, other);
    }
    fs::write(&b, "ANOTHER").unwrap();
    assert_ne!(all, key(&[&a, &b], "v"));
    let empty = place.model("empty", "");
    assert_ne!(key(&[&empty], "v"), key(&[&empty, &empty], "v"));
}

#[test]
fn what_is_no_file_has_no_key() {
    let place = Place::new();
    let error = |sources: &[PathBuf]| place.cache.key(sources, "v").unwrap_err().to_string();
    assert!(error(&[]).contains("at least one file"));
    assert!(error(&[place.folder.path().join("absent")]).contains("absent"));
    assert!(error(&[place.folder.path().to_owned()]).contains("a regular file"));
}

#[test]
fn what_is_not_finished_leaves_nothing() {
    let place = Place::new();
    let key = place.key("model");
    let begin = || -> RepackedWriter {
        let mut writer = place.cache.writer(&key).unwrap();
        writer.write("w", Value::Null, &[1; 5000]).unwrap();
        writer
    };
    drop(begin());
    assert_eq!(place.names(), [""; 0]);
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let _writer = begin();
        panic!("while repacking");
    }));
    assert!(panic.is_err());
    assert_eq!(place.names(), [""; 0]);

    // The model changes while it is being repacked.
    let writer = begin();
    place.model("model", "something else");
    let error = writer.finish().unwrap_err();
    assert!(matches!(error, CheckpointError::SourceChanged { .. }), "{error}");
    assert_eq!(place.names(), [""; 0]);
    // And it is gone when it should be.
    let key = place.key("other");
    let writer = place.cache.writer(&key).unwrap();
    fs::remove_file(place.folder.path().join("other")).unwrap();
    assert!(matches!(writer.finish(), Err(CheckpointError::SourceChanged { .. })));
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_of_its_own() {
    let place = Place::new();
    let key = place.key("model");
    // Below a file there can be no folder, whatever rights the user has.
    let cache = RepackedCache::new(place.folder.path().join("model").join("cache"));
    assert_eq!(cache.key(&[place.folder.path().join("model")], "v").unwrap().as_str(), key.as_str());
    assert!(cache.open(&key).unwrap().is_none());
    assert!(cache.list().unwrap().is_empty());
    assert_eq!(cache.clear().unwrap().files, 0);
    let error = cache.writer(&key).unwrap_err();
    assert!(matches!(error, CheckpointError::UnwritableCache { .. }), "{error}");
    assert!(error.to_string().contains("set FORNAX_CACHE"), "{error}");
}

#[test]
fn the_least_recently_used_go_first() {
    let place = Place::new();
    let keys: Vec<RepackedKey> = ["a", "b", "c", "d"].map(|name| place.key(name)).into();
    for (key, minutes_ago) in keys.iter().zip([40, 30, 20]) {
        let path = place.write(key, 10_000).path().to_owned();
        used(&path, minutes_ago);
    }
    let one = place.cache.total_bytes().unwrap() / 3;
    // To open a file is to use it: now "b" is the oldest.
    drop(place.cache.open(&keys[0]).unwrap().unwrap());
    let cache = place.cache.clone().with_limit(3 * one + one / 2);
    let there = || keys.iter().map(|key| cache.folder().join(format!("{key}.repacked")).exists()).collect::<Vec<_>>();
    let mut writer = cache.writer(&keys[3]).unwrap();
    writer.write("w", Value::Null, &[7; 10_000]).unwrap();
    let last = writer.finish().unwrap();
    assert_eq!(there(), [true, false, true, true]);
    used(last.path(), 50);

    // What is in use stays, though it is the oldest; also while only its bytes are held.
    let bytes = last.entry("w").unwrap();
    drop(last);
    let removed = cache.clone().with_limit(one + one / 2).trim().unwrap();
    assert_eq!((removed.files, removed.bytes > 0, removed.in_use), (2, true, 1));
    assert_eq!(there(), [false, false, false, true]);
    assert_eq!(bytes[..], [7; 10_000]);
    drop(bytes);
    let removed = cache.clone().with_limit(0).trim().unwrap();
    assert_eq!((removed.files, removed.in_use), (1, 0));
    // The file just written stays under any limit.
    drop(place.write(&keys[0], 10));
    let mut writer = cache.clone().with_limit(0).writer(&keys[1]).unwrap();
    writer.write("w", Value::Null, &[1; 100_000]).unwrap();
    drop(writer.finish().unwrap());
    assert_eq!(there(), [false, true, false, false]);
}

#[test]
fn lists_clears_and_forgets() {
    let place = Place::new();
    assert!(place.cache.list().unwrap().is_empty());
    let (a, b) = (place.key("a"), place.key("b"));
    let paths = [&a, &b].map(|key| place.write(key, 5000).path().to_owned());
    used(&paths[0], 60);
    fs::write(&paths[1], "no such thing").unwrap();
    let listed = place.cache.list().unwrap();
    let summary: Vec<_> = listed.iter().map(|file| (&file.path, file.variant.as_deref(), file.sources.len())).collect();
    assert_eq!(summary, [(&paths[1], None, 0), (&paths[0], Some("v"), 1)]);
    assert_eq!(listed.iter().map(|file| file.bytes).sum::<u64>(), place.cache.total_bytes().unwrap());

    assert_eq!(place.cache.remove_unused(Duration::from_secs(7200)).unwrap().files, 0);
    let removed = place.cache.remove_unused(Duration::from_secs(1800)).unwrap();
    assert_eq!((removed.files, removed.bytes), (1, listed[1].bytes));
    let file = place.write(&a, 100);
    let removed = place.cache.clear().unwrap();
    assert_eq!((removed.files, removed.in_use), (1, 1));
    drop(file);
    assert_eq!(place.cache.clear().unwrap().files, 1);
    assert_eq!(place.names(), [""; 0]);
    assert!(!place.cache.folder().join("sources").exists());
}

/// A lock belongs to an open file, so that threads meet each other as processes do.
#[test]
fn many_write_open_and_trim_at_once() {
    let place = Place::new();
    let keys: Vec<RepackedKey> = ["a", "b", "c"].map(|name| place.key(name)).into();
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (keys, cache) = (&keys, place.cache.clone().with_limit(40_000));
            scope.spawn(move || {
                let mut random = Random(thread);
                for _ in 0..40 {
                    let key = &keys[random.below(keys.len())];
                    let file = match cache.open(key).unwrap() {
                        Some(file) => file,
                        None => {
                            let mut writer = cache.writer(key).unwrap();
                            writer.write("w", json!(key.as_str()), &key.as_str().as_bytes().repeat(300)).unwrap();
                            writer.finish().unwrap()
                        }
                    };
                    file.verify().unwrap();
                    assert_eq!(file.entry("w").unwrap(), key.as_str().as_bytes().repeat(300));
                }
            });
        }
    });
    assert!(place.names().iter().all(|name| name.ends_with(".repacked")), "{:?}", place.names());
}
