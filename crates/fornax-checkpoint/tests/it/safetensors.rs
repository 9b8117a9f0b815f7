//! Reading safetensors: every dtype against the Python library, and headers that lie.

use fornax_checkpoint::{Checkpoint, CheckpointError, Dtype, Format};

use crate::support::{assert_same, dtype, error_of, expected, fixture, safetensors};

#[test]
fn every_dtype_reads_as_the_python_library_wrote_it() {
    let checkpoint = Checkpoint::open(fixture("dtypes.safetensors")).unwrap();
    assert_eq!(checkpoint.format(), Format::Safetensors);
    assert_eq!(checkpoint.metadata()["note"], "with \"quotes\" and ünïcödé");
    let bytes_only = ["c64", "f8e8m0", "f8e4m3fnuz", "f8e5m2fnuz"];
    assert_same(&checkpoint, &expected("dtypes.expected.safetensors"), &bytes_only);
    assert_eq!(checkpoint.len(), 21);
    assert_eq!(dtype(&checkpoint, "f8e8m0"), Dtype::F8E8M0);
    for name in bytes_only {
        let view = checkpoint.tensor(name).unwrap();
        assert_eq!(view.bytes.len(), 24 * view.info.dtype.block_bytes());
        assert!(matches!(view.to_f32(), Err(CheckpointError::UnsupportedDtype { .. })));
    }
    assert_eq!(checkpoint.tensor("scalar").unwrap().info.shape, [0usize; 0]);
}

#[test]
fn bytes_are_slices_of_the_file_and_outlive_the_checkpoint() {
    let checkpoint = Checkpoint::open(fixture("dtypes.safetensors")).unwrap();
    let (first, second) = (checkpoint.tensor("f64").unwrap(), checkpoint.tensor("f64").unwrap());
    assert_eq!(first.bytes.as_ptr(), second.bytes.as_ptr(), "no copy is made");
    let values = first.to_f32().unwrap();
    checkpoint.release("f64");
    checkpoint.release("no such tensor");
    drop((checkpoint, first));
    assert_eq!(second.to_f32().unwrap().len(), values.len());
}

#[test]
fn tensors_are_listed_in_the_order_of_their_data() {
    let header =
        r#"{"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    let checkpoint = Checkpoint::from_bytes("two", safetensors(header, 3)).unwrap();
    assert_eq!(checkpoint.tensors().map(|info| &info.name[..]).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(checkpoint.tensor("b").unwrap().to_f32().unwrap(), [1.0, 2.0]);
    assert!(checkpoint.contains("a") && !checkpoint.contains("c") && !checkpoint.is_empty());
}

#[test]
fn a_missing_tensor_is_named_with_its_nearest_neighbour() {
    let checkpoint = Checkpoint::open(fixture("sharded")).unwrap();
    let message = checkpoint.tensor("model.embed.weight").unwrap_err().to_string();
    assert!(
        message.contains("\"model.embed.weight\"") && message.contains("nearest name is \"embed.weight\""),
        "{message}"
    );
    assert!(!checkpoint.tensor("zzz").unwrap_err().to_string().contains("nearest"));
}

#[test]
fn an_empty_header_is_an_empty_checkpoint() {
    assert!(Checkpoint::from_bytes("empty", safetensors("{}  ", 0)).unwrap().is_empty());
    let null = Checkpoint::from_bytes("null", safetensors(r#"{"__metadata__":null}"#, 0)).unwrap();
    assert!(null.metadata().is_empty());
}

/// What a header says, the bytes of data behind it, and a part of the message.
const LIES: &[(&str, usize, &str)] = &[
    ("{", 0, "the header"),
    ("{}x", 0, "the header"),
    ("{}", 1, "the end of the data"),
    (r#"{"a":1}"#, 0, "\"a\": its description"),
    (r#"{"a":{"dtype":"U8","shape":[1]}}"#, 1, "data_offsets"),
    (r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}}"#, 1, "its description"),
    (r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}"#, 1, "its description"),
    (r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#, 1, "its description"),
    (r#"{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}"#, 1, "its description"),
    (r#"{"a":{"dtype":"Q4_0","shape":[32],"data_offsets":[0,18]}}"#, 18, "found \"Q4_0\""),
    (r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#, 2, "its shape"),
    // Holes, overlaps, an end before its beginning, sizes that disagree.
    (r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#, 2, "to start at 0"),
    (
        r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#,
        3,
        "\"b\": its data_offsets: expected to start at 2",
    ),
    (
        r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#,
        2,
        "to start at 2",
    ),
    (
        r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,1]}}"#,
        2,
        "to start at",
    ),
    (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, 4, "expected 8 bytes for F32 [2], found 4 bytes"),
    (r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,3]}}"#, 3, "expected 2 bytes"),
    // Past the end, and sizes that overflow.
    (r#"{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}"#, 3, "needs 9 bytes, 3 are left"),
    (r#"{"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}}"#, 3, "its shape"),
    (r#"{"a":{"dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}}"#, 0, "its shape"),
    (r#"{"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}}"#, 0, "its shape"),
    (r#"{"a":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,0]}}"#, 0, "its description"),
    (
        r#"{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}}"#,
        1,
        "more than 32 dimensions",
    ),
    // Names.
    (
        r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#,
        0,
        "\"a\" occurs twice",
    ),
    (r#"{"__metadata__":{"a":1}}"#, 0, "the header"),
    (r#"{"__metadata__":{},"__metadata__":{}}"#, 0, "one __metadata__"),
    ("{\"a\\ud800\":{}}", 0, "the header"),
];

#[test]
fn lies_are_told_by_name() {
    for (header, data, part) in LIES {
        let message = error_of(safetensors(header, *data));
        assert!(message.contains(part), "{header}: {message}");
    }
    let long = format!(r#"{{"{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}}}"#, "n".repeat(5000));
    assert!(error_of(safetensors(&long, 0)).contains("at most 4096"));
    let mut invalid = safetensors(r#"{"?":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#, 0);
    invalid[10] = 0xff;
    assert!(error_of(invalid).contains("the header"));
}

#[test]
fn lengths_of_the_header_that_lie_are_refused() {
    for length in [3u64, 1 << 20, 100_000_001, u64::MAX, u64::MAX - 7, 1 << 63] {
        let mut file = safetensors("{}", 0);
        file[..8].copy_from_slice(&length.to_le_bytes());
        assert!(error_of(file).contains("truncated"), "{length}");
    }
    // The file is long enough, the header absurd.
    let mut file = vec![b' '; 100_000_020];
    file[..9].copy_from_slice(&[&100_000_001u64.to_le_bytes()[..], b"{"].concat());
    assert!(error_of(file).contains("at most 100000000"));
}

#[test]
fn other_files_are_told_apart() {
    assert!(error_of(*b"version https://git-lfs.github.com/spec/v1\n").contains("git lfs pull"));
    assert!(error_of(*b"<!DOCTYPE html><html>").contains("not a safetensors, GGUF or PyTorch zip file"));
    assert!(error_of(*b"").contains("truncated"));
    assert!(error_of(std::fs::read(fixture("legacy.bin")).unwrap()).contains("bare pickle"));
}
