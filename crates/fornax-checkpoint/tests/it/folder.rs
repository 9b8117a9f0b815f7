//! Folders, indexes and shards.

use std::{fs, path::Path};

use fornax_checkpoint::{Checkpoint, CheckpointError, Format};

use crate::support::{assert_same, bytes_of, expected, fixture};

/// A folder with the sharded fixture, and its index's text.
fn sharded() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    {
        fs::copy(fixture("sharded").join(name), folder.path().join(name)).unwrap();
    }
    let index = fs::read_to_string(folder.path().join("model.safetensors.index.json")).unwrap();
    (folder, index)
}

fn open_error(path: &Path) -> String {
    Checkpoint::open(path).unwrap_err().to_string()
}

#[test]
fn shards_open_by_their_folder_or_their_index() {
    let expected = expected("sharded.expected.safetensors");
    for path in [fixture("sharded"), fixture("sharded/model.safetensors.index.json")] {
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!((checkpoint.len(), checkpoint.files().len()), (3, 2));
        assert_eq!(checkpoint.path(), path);
        assert_eq!(checkpoint.metadata()["format"], "pt");
        assert_same(&checkpoint, &expected, &[]);
    }
}

#[test]
fn the_first_standard_name_wins() {
    let (folder, _) = sharded();
    fs::copy(fixture("module.bin"), folder.path().join("pytorch_model.bin")).unwrap();
    assert_eq!(Checkpoint::open(folder.path()).unwrap().len(), 3);
    fs::copy(fixture("dtypes.safetensors"), folder.path().join("model.safetensors")).unwrap();
    assert_eq!(Checkpoint::open(folder.path()).unwrap().len(), 21);
}

#[test]
fn other_folders_hold_one_file_of_any_name() {
    for (file, format) in
        [("adapter.safetensors", Format::Safetensors), ("x.gguf", Format::Gguf), ("consolidated.bin", Format::Pytorch)]
    {
        let folder = tempfile::tempdir().unwrap();
        let source = match format {
            Format::Safetensors => "dtypes.safetensors",
            Format::Gguf => "metadata.gguf",
            _ => "dict.bin",
        };
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        fs::write(folder.path().join(".hidden.safetensors"), "").unwrap();
        fs::copy(fixture(source), folder.path().join(file)).unwrap();
        assert_eq!(Checkpoint::open(folder.path()).unwrap().format(), format);
        fs::copy(fixture(source), folder.path().join(format!("b-{file}"))).unwrap();
        let error = Checkpoint::open(folder.path()).unwrap_err();
        assert!(matches!(error, CheckpointError::Ambiguous { ref files, .. } if files.len() == 2), "{error}");
    }
}

#[test]
fn pytorch_shards_have_the_same_index() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixture("module.bin"), folder.path().join("pytorch_model-00001-of-00001.bin")).unwrap();
    let names = ["0.weight", "0.bias", "1.weight", "1.bias"];
    let map: Vec<String> = names.iter().map(|name| format!("{name:?}: \"pytorch_model-00001-of-00001.bin\"")).collect();
    let index = format!("{{\"weight_map\": {{{}}}}}", map.join(","));
    fs::write(folder.path().join("pytorch_model.bin.index.json"), index).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_same(&checkpoint, &expected("module.expected.safetensors"), &[]);
}

#[test]
fn what_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    assert!(open_error(folder.path()).contains("an empty folder"));
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    let message = open_error(folder.path());
    assert!(message.contains("found config.json") && message.contains("expected model.safetensors"), "{message}");
    let message = open_error(&folder.path().join("nothing.gguf"));
    assert!(message.contains("cannot open") && message.contains("nothing.gguf"), "{message}");
    fs::write(folder.path().join("model.safetensors"), "").unwrap();
    assert!(open_error(folder.path()).contains("truncated"));
}

#[test]
fn formats_are_told_by_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, bytes_of("metadata.gguf")).unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().format(), Format::Gguf);
}

#[test]
fn index_and_shards_must_agree() {
    // What is replaced in the index, by what, and the message.
    let cases = [
        (
            "\"head.weight\"",
            "\"other.weight\"",
            "disagrees with its shards about \"head.weight\": expected in no shard",
        ),
        (
            "\"head.weight\": \"model-00002",
            "\"head.weight\": \"model-00001",
            "about \"head.weight\": expected in model-00001",
        ),
        (
            "\"weight_map\": {",
            "\"weight_map\": {\"extra\": \"model-00001-of-00002.safetensors\",",
            "about \"extra\": expected in model-00001-of-00002.safetensors, found in no shard",
        ),
        (
            "\"weight_map\": {",
            "\"weight_map\": {\"far\": \"model-00003-of-00003.safetensors\",",
            "places \"far\" in \"model-00003-of-00003.safetensors\", which is missing",
        ),
        ("\"weight_map\": {", "\"weight_map\": {\"norm.weight\": \"model-00001-of-00002.safetensors\",", "twice"),
        ("model-00001", "../model-00001", "without `..`"),
        ("model-00001", "/etc/model-00001", "not absolute"),
        ("\"model-00001-of-00002.safetensors\"", "\"\"", "a file name"),
        ("\"model-00001-of-00002.safetensors\"", "1", "the index"),
        ("weight_map", "weight_mop", "the index"),
    ];
    for (from, to, part) in cases {
        let (folder, index) = sharded();
        assert!(index.contains(from));
        fs::write(folder.path().join("model.safetensors.index.json"), index.replacen(from, to, 1)).unwrap();
        let message = open_error(folder.path());
        assert!(message.contains(part), "{to}: {message}");
    }
    let (folder, _) = sharded();
    fs::write(folder.path().join("model.safetensors.index.json"), "{\"weight_map\": {}}").unwrap();
    assert!(open_error(folder.path()).contains("at least one tensor"));
}

#[test]
fn a_missing_shard_is_named() {
    let (folder, _) = sharded();
    fs::remove_file(folder.path().join("model-00002-of-00002.safetensors")).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert!(matches!(error, CheckpointError::MissingShard { .. }), "{error}");
    assert!(error.to_string().contains("places \"head.weight\" in \"model-00002-of-00002.safetensors\""), "{error}");
}

#[test]
fn a_damaged_shard_is_named_itself() {
    let (folder, _) = sharded();
    let path = folder.path().join("model-00002-of-00002.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(open_error(folder.path()).contains("model-00002-of-00002.safetensors is truncated"));
}

#[test]
#[cfg(unix)]
fn links_are_followed_and_other_kinds_of_files_are_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(fixture("dtypes.safetensors"), folder.path().join("model.safetensors")).unwrap();
    assert_eq!(Checkpoint::open(folder.path()).unwrap().len(), 21);
    assert!(open_error(Path::new("/dev/null")).contains("a regular file"));
}
