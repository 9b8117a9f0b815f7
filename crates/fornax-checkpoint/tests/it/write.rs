//! Writing safetensors: what is written reads back, by this crate and by the independent one; what fails leaves nothing.

use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use bytes::Bytes;
use fornax_checkpoint::{
    Checkpoint, CheckpointError, Dtype, SafetensorsWriter, SaveOptions, Saved, TensorInfo, save_safetensors,
};

use crate::support::{Random, fixture};

/// Copies a checkpoint to `path`.
fn copy(from: &Checkpoint, path: &Path, options: &SaveOptions) -> Result<Saved, CheckpointError> {
    save_safetensors(path, from.tensors().cloned(), options, |info| from.tensor(&info.name).map(|view| view.bytes))
}

fn shards_of(max_shard_bytes: u64) -> SaveOptions {
    SaveOptions { max_shard_bytes, ..SaveOptions::default() }
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn assert_equal(a: &Checkpoint, b: &Checkpoint) {
    assert_eq!(a.len(), b.len());
    for info in a.tensors() {
        let (a, b) = (a.tensor(&info.name).unwrap(), b.tensor(&info.name).unwrap());
        assert_eq!((&a.info, &a.bytes), (&b.info, &b.bytes));
    }
}

/// Where the script `fixtures/check_written.py` is to find something to check, a file and a sharded folder go there.
#[test]
fn what_is_written_reads_back_in_either_reader() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = std::env::var_os("FORNAX_WRITTEN").map_or(temporary.path().to_owned(), Into::into);
    let source = Checkpoint::open(fixture("dtypes.safetensors")).unwrap();
    let path = folder.join("dtypes.safetensors");
    let options =
        SaveOptions { metadata: BTreeMap::from([("who".into(), "ünïcödé \"".into())]), ..SaveOptions::default() };
    let saved = copy(&source, &path, &options).unwrap();
    assert_eq!((&saved.files[..], &saved.index), (&[path.clone()][..], &None));
    let written = Checkpoint::open(&path).unwrap();
    assert_equal(&source, &written);
    let metadata: Vec<_> = written.metadata().iter().map(|(key, value)| (&key[..], &value[..])).collect();
    assert_eq!(metadata, [("format", "pt"), ("who", "ünïcödé \"")]);

    let bytes = fs::read(&path).unwrap();
    let independent = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(independent.len(), source.len());
    for (name, view) in independent.iter() {
        let ours = source.tensor(name).unwrap();
        assert_eq!((view.shape(), view.data()), (&ours.info.shape[..], &ours.bytes[..]), "{name}");
    }

    let sharded = folder.join("sharded");
    let saved = copy(&source, &sharded, &shards_of(200)).unwrap();
    assert!(saved.files.len() > 3);
    assert_eq!(saved.total_bytes, source.tensors().map(|info| info.nbytes() as u64).sum::<u64>());
    assert_equal(&source, &Checkpoint::open(&sharded).unwrap());
}

#[test]
fn every_tensor_is_aligned_to_its_elements() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let tensors =
        [("a", Dtype::U8, 3), ("b", Dtype::F64, 1), ("c", Dtype::F16, 1), ("d", Dtype::F32, 3), ("e", Dtype::F64, 2)]
            .map(|(name, dtype, size)| TensorInfo::new(name, dtype, [size]));
    save_safetensors(&path, tensors, &SaveOptions::default(), |info| {
        Ok::<_, std::io::Error>(vec![1; info.nbytes()].into())
    })
    .unwrap();
    let bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    assert_eq!(header % 8, 0);
    let checkpoint = Checkpoint::from_bytes("x", bytes).unwrap();
    let mut at = 0;
    for info in checkpoint.tensors() {
        assert_eq!(at % info.dtype.block_bytes(), 0, "{}", info.name);
        at += info.nbytes();
    }
    let order: Vec<_> = checkpoint.tensors().map(|info| &info.name[..]).collect();
    assert_eq!(order, ["b", "e", "d", "c", "a"]);
}

#[test]
fn shards_are_filled_in_order_and_large_tensors_stand_alone() {
    let folder = tempfile::tempdir().unwrap();
    let sizes = [4, 4, 30, 2, 8, 1];
    let tensors: Vec<_> =
        sizes.iter().enumerate().map(|(at, size)| TensorInfo::new(format!("t{at}"), Dtype::U8, [*size])).collect();
    let saved = save_safetensors(folder.path(), tensors, &shards_of(10), |info| {
        Ok::<_, std::io::Error>(vec![info.nbytes() as u8; info.nbytes()].into())
    })
    .unwrap();
    let shards: Vec<Vec<usize>> = saved
        .files
        .iter()
        .map(|file| Checkpoint::open(file).unwrap().tensors().map(TensorInfo::nbytes).collect())
        .collect();
    assert_eq!(shards, [vec![4, 4], vec![30], vec![2, 8], vec![1]]);
    assert_eq!(names(folder.path()).len(), 5);
    assert!(saved.files[1].ends_with("model-00002-of-00004.safetensors"));
    let index: serde_json::Value = serde_json::from_slice(&fs::read(saved.index.unwrap()).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], 49);
    assert_eq!(index["weight_map"]["t4"], "model-00003-of-00004.safetensors");
}

#[test]
fn a_new_save_leaves_nothing_of_the_old_one() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("a/b");
    let source = Checkpoint::open(fixture("sharded")).unwrap();
    let single = vec!["model.safetensors".to_owned()];
    let sharded = |count| {
        let mut names: Vec<_> = (1..=count).map(|at| format!("model-{at:05}-of-{count:05}.safetensors")).collect();
        names.push("model.safetensors.index.json".to_owned());
        names
    };
    // From nothing to one file, to three shards, to the same again, to two, to one.
    for (max, expected) in
        [(1 << 20, single.clone()), (80, sharded(3)), (80, sharded(3)), (100, sharded(2)), (1 << 20, single)]
    {
        copy(&source, &folder, &shards_of(max)).unwrap();
        assert_eq!(names(&folder), expected);
        assert_equal(&source, &Checkpoint::open(&folder).unwrap());
    }
    // A file of one's own name stays, and is no shard.
    fs::write(folder.join("model-best.safetensors"), "mine").unwrap();
    copy(&source, &folder, &shards_of(80)).unwrap();
    assert_eq!(names(&folder).len(), 5);
}

#[test]
fn errors_and_panics_leave_nothing_behind_and_the_old_file_as_it_was() {
    let parent = tempfile::tempdir().unwrap();
    let source = Checkpoint::open(fixture("dtypes.safetensors")).unwrap();
    let old = parent.path().join("old.safetensors");
    fs::write(&old, "old").unwrap();
    let new = parent.path().join("new/folder");
    for path in [&old, &new] {
        for max in [100, 1 << 20] {
            let mut left = 5;
            let mut bytes_of = |info: &TensorInfo, panics: bool| {
                left -= 1;
                match left {
                    0 if panics => panic!("a panic in the caller's code"),
                    0 => Err(std::io::Error::other("the disk of the caller is gone")),
                    _ => Ok(source.tensor(&info.name).unwrap().bytes),
                }
            };
            let infos = || source.tensors().cloned();
            let error = save_safetensors(path, infos(), &shards_of(max), |info| bytes_of(info, false)).unwrap_err();
            assert!(matches!(error, CheckpointError::Producer { .. }), "{error}");
            assert!(error.to_string().contains("the disk of the caller is gone"));
            left = 5;
            let mut bytes_of = |info: &TensorInfo| {
                left -= 1;
                assert!(left > 0, "a panic in the caller's code");
                source.tensor(&info.name).map(|view| view.bytes)
            };
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let _ = save_safetensors(path, infos(), &shards_of(max), &mut bytes_of);
            }));
            assert!(panicked.is_err());
            assert_eq!(names(parent.path()), ["old.safetensors"]);
            assert_eq!(fs::read_to_string(&old).unwrap(), "old");
        }
    }
}

#[test]
fn a_mapped_file_can_be_replaced_by_its_own_copy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::copy(fixture("dtypes.safetensors"), &path).unwrap();
    let opened = Checkpoint::open(&path).unwrap();
    copy(&opened, &path, &SaveOptions::default()).unwrap();
    assert_equal(&opened, &Checkpoint::open(folder.path()).unwrap());
    assert_eq!(names(folder.path()).len(), 1);
}

#[test]
fn mistakes_of_the_caller_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let create = |tensors: Vec<TensorInfo>| SafetensorsWriter::create(folder.path(), tensors, &SaveOptions::default());
    let t = |name: &str| TensorInfo::new(name, Dtype::U8, [2]);
    let refused = |tensors| create(tensors).unwrap_err().to_string();
    assert!(refused(vec![t("a"), t("a")]).contains("\"a\" occurs twice"));
    assert!(refused(vec![t("__metadata__")]).contains("reserved"));
    assert!(refused(vec![TensorInfo::new("q", Dtype::Q4_0, [32])]).contains("Q4_0, which cannot be written"));
    assert!(refused(vec![TensorInfo::new("big", Dtype::F64, [usize::MAX])]).contains("fits a file"));
    assert!(
        refused(vec![TensorInfo::new("a", Dtype::U8, [1 << 62]), TensorInfo::new("b", Dtype::U8, [1 << 62])])
            .contains("fits a file")
    );

    let mut writer = create(vec![t("a"), t("b")]).unwrap();
    assert!(writer.write("c", &[1, 2]).unwrap_err().to_string().contains("was not announced"));
    assert!(matches!(writer.write("a", &[1]), Err(CheckpointError::WrongLength { expected: 2, found: 1, .. })));
    writer.write("a", &[1, 2]).unwrap();
    assert!(writer.write("a", &[1, 2]).unwrap_err().to_string().contains("was written before"));
    assert!(writer.finish().unwrap_err().to_string().contains("\"b\" was announced but never written"));
    assert!(names(folder.path()).is_empty());
    // Nothing at all can be written, too.
    create(Vec::new()).unwrap().finish().unwrap();
    assert!(Checkpoint::open(folder.path()).unwrap().is_empty());
}

#[test]
fn a_name_that_cannot_be_taken_undoes_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("model-00002-of-00003.safetensors");
    fs::create_dir(&blocked).unwrap();
    let source = Checkpoint::open(fixture("sharded")).unwrap();
    let error = copy(&source, folder.path(), &shards_of(80)).unwrap_err();
    assert!(matches!(error, CheckpointError::Io { operation: "rename into place", .. }), "{error}");
    assert_eq!(names(folder.path()), ["model-00002-of-00003.safetensors"]);
}

#[test]
fn a_folder_that_is_a_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "x").unwrap();
    for path in [path.clone(), path.join("below"), path.join("model.safetensors")] {
        let error = save_safetensors(&path, [], &SaveOptions::default(), |_| Ok::<Bytes, std::io::Error>(Bytes::new()));
        assert!(matches!(error, Err(CheckpointError::Io { .. })), "{}: {error:?}", path.display());
    }
    assert_eq!(names(folder.path()), ["file"]);
}

#[test]
#[cfg(unix)]
fn files_get_the_ordinary_rights() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("other"), "").unwrap();
    let source = Checkpoint::open(fixture("sharded")).unwrap();
    let saved = copy(&source, folder.path(), &shards_of(80)).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    for file in saved.files.iter().chain(&saved.index) {
        assert_eq!(mode(file), mode(&folder.path().join("other")));
    }
}

#[test]
fn random_sets_of_tensors_survive_the_round_trip() {
    let mut random = Random(7);
    let dtypes: Vec<Dtype> = Dtype::all().filter(|dtype| dtype.safetensors_name().is_some()).collect();
    for round in 0..40 {
        let folder = tempfile::tempdir().unwrap();
        let mut made = BTreeMap::new();
        let tensors: Vec<TensorInfo> = (0..random.below(12))
            .map(|at| {
                let dtype = dtypes[random.below(dtypes.len())];
                let mut shape: Vec<usize> = (0..random.below(4)).map(|_| random.below(5)).collect();
                shape.push(dtype.block_len() * random.below(3));
                let info = TensorInfo::new(format!("t{at}\n\"{round}"), dtype, shape);
                let bytes: Bytes = (0..info.nbytes()).map(|_| random.next() as u8).collect();
                made.insert(info.name.clone(), bytes);
                info
            })
            .collect();
        let options = shards_of(random.below(300) as u64);
        save_safetensors(folder.path(), tensors.clone(), &options, |info| {
            Ok::<_, std::io::Error>(made[&info.name].clone())
        })
        .unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(checkpoint.len(), tensors.len());
        for info in &tensors {
            let view = checkpoint.tensor(&info.name).unwrap();
            assert_eq!((&view.info, &view.bytes), (info, &made[&info.name]));
        }
    }
}
