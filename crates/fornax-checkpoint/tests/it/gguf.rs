//! Reading GGUF: every type bit for bit against the `gguf` package, typed metadata, and headers that lie.

use fornax_checkpoint::{Checkpoint, CheckpointError, Dtype, Format, GgufType, GgufValue};

use crate::support::{GgufBuilder, assert_same, bytes_of, dtype, error_of, expected, fixture, string};

#[test]
fn every_type_expands_as_the_python_package_says() {
    let checkpoint = Checkpoint::open(fixture("types.gguf")).unwrap();
    assert_eq!(checkpoint.format(), Format::Gguf);
    let listed_only = ["drawn.IQ4_NL", "drawn.IQ4_XS", "drawn.MXFP4", "drawn.TQ2_0", "cube"];
    let expected = expected("types.expected.safetensors");
    assert_eq!(expected.len(), 23);
    assert_same(&checkpoint, &expected, &listed_only);
    for name in &listed_only[..4] {
        let error = checkpoint.tensor(name).unwrap().to_f32().unwrap_err();
        assert!(matches!(error, CheckpointError::UnsupportedDtype { dtype, .. } if name.ends_with(dtype.name())));
    }
    assert_eq!(dtype(&checkpoint, "drawn.Q6_K"), Dtype::Q6_K);
    assert_eq!(checkpoint.info("cube").unwrap().shape, [2, 3, 4]);
}

#[test]
fn rows_can_be_expanded_apart() {
    let checkpoint = Checkpoint::open(fixture("types.gguf")).unwrap();
    let view = checkpoint.tensor("drawn.Q4_K").unwrap();
    let whole = view.to_f32().unwrap();
    let (row, bytes) = (view.info.shape[1], view.bytes.len() / 2);
    let mut second = vec![0.0; row];
    fornax_checkpoint::dequantize(view.info.dtype, &view.bytes[bytes..], &mut second).unwrap();
    assert_eq!(second, whole[row..]);
    assert!(fornax_checkpoint::dequantize(view.info.dtype, &view.bytes[1..], &mut second).is_err());
}

#[test]
fn metadata_of_every_type_reads_back() {
    let checkpoint = Checkpoint::open(fixture("metadata.gguf")).unwrap();
    let gguf = checkpoint.gguf().unwrap();
    assert_eq!((gguf.version(), gguf.alignment()), (3, 64));
    let value = |key| gguf.value(key).unwrap().clone();
    assert_eq!(value("k.u8"), GgufValue::U8(200));
    assert_eq!(value("k.i8"), GgufValue::I8(-100));
    assert_eq!(value("k.u16"), GgufValue::U16(60000));
    assert_eq!(value("k.i16"), GgufValue::I16(-30000));
    assert_eq!(value("k.u32"), GgufValue::U32(4_000_000_000));
    assert_eq!(value("k.i32"), GgufValue::I32(-2_000_000_000));
    assert_eq!(value("k.u64"), GgufValue::U64((1 << 63) + 5));
    assert_eq!(value("k.i64"), GgufValue::I64(-(1 << 62)));
    assert_eq!(value("k.f32"), GgufValue::F32(0.1));
    assert_eq!(value("k.f64"), GgufValue::F64(0.1));
    assert_eq!(value("k.bool"), GgufValue::Bool(true));
    assert_eq!(value("k.string"), GgufValue::String("ünïcödé 🦀".into()));

    assert_eq!(gguf.str("general.architecture").unwrap(), "fixture");
    assert_eq!(gguf.u32("k.u8").unwrap(), 200);
    assert_eq!(gguf.u64("k.u64").unwrap(), (1 << 63) + 5);
    assert_eq!(gguf.i64("k.i64").unwrap(), -(1 << 62));
    assert_eq!(gguf.usize("k.u16").unwrap(), 60000);
    assert_eq!(gguf.f32("k.f64").unwrap(), 0.1);
    assert!(gguf.bool("k.bool").unwrap());
    assert_eq!(gguf.strings("a.strings").unwrap(), ["", "one", "二", "🦀"]);
    assert_eq!(gguf.i32s("a.i32").unwrap(), [1, -2, 3]);
    assert_eq!(gguf.f32s("a.f32").unwrap(), [0.5, -1.25]);
    assert_eq!(
        gguf.array("a.bool").unwrap().values().collect::<Vec<_>>(),
        [GgufValue::Bool(true), GgufValue::Bool(false)]
    );
    let nested = gguf.array("a.nested").unwrap();
    assert_eq!((nested.len(), nested.element_type()), (2, GgufType::Array));
    let inner: Vec<_> = nested
        .values()
        .map(|value| match value {
            GgufValue::Array(array) => array.integers::<i32>().unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(inner, [vec![1, 2], vec![3]]);
    assert_eq!(gguf.iter().next().unwrap().0, "general.architecture");

    assert_eq!(checkpoint.tensor("a").unwrap().to_f32().unwrap(), [0.0, 1.0, 2.0]);
    assert_eq!(checkpoint.tensor("b").unwrap().to_f32().unwrap(), [0.0, 1.0, 2.0, 3.0]);
}

#[test]
fn getters_name_the_key_and_both_types() {
    let checkpoint = Checkpoint::open(fixture("metadata.gguf")).unwrap();
    let gguf = checkpoint.gguf().unwrap();
    let messages = [
        (gguf.u32("no.key").unwrap_err(), "no metadata key \"no.key\""),
        (gguf.u32("k.i8").unwrap_err(), "found -100"),
        (gguf.u32("k.u64").unwrap_err(), "found 9223372036854775813"),
        (gguf.u32("k.f32").unwrap_err(), "found f32"),
        (gguf.f32("k.u32").unwrap_err(), "expected f32, found u32"),
        (gguf.str("k.bool").unwrap_err(), "expected string, found bool"),
        (gguf.bool("k.string").unwrap_err(), "found the string"),
        (gguf.array("k.u8").unwrap_err(), "expected array, found u8"),
        (gguf.strings("a.i32").unwrap_err(), "found an array of 3 i32"),
        (gguf.u32s("a.i32").unwrap_err(), "integers that fit u32"),
        (gguf.f32s("a.i32").unwrap_err(), "expected an array of f32"),
    ];
    for (error, part) in messages {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn version_two_reads_alike_and_others_are_told_apart() {
    let two = GgufBuilder::new().version(2).tensor("t", &[2], 0, 0).data(8).build();
    assert_eq!(Checkpoint::from_bytes("two", two).unwrap().gguf().unwrap().version(), 2);
    for (version, part) in [(1, "version 2 or 3"), (4, "version 2 or 3"), (3u32.swap_bytes(), "big-endian")] {
        let message = error_of(GgufBuilder::new().version(version).build());
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn offsets_and_shapes_that_lie_are_refused() {
    let t = |sizes: &[u64], kind, offset, data| GgufBuilder::new().tensor("t", sizes, kind, offset).data(data).build();
    let two = |second, data| GgufBuilder::new().tensor("a", &[2], 0, 0).tensor("b", &[2], 0, second).data(data).build();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (t(&[2, 2, 2, 2, 2], 0, 0, 128), "at most 4"),
        (t(&[0], 0, 0, 8), "a size of at least 1"),
        (t(&[u64::MAX], 0, 0, 8), "its size"),
        (t(&[1 << 32, 1 << 32], 0, 0, 8), "its size"),
        (t(&[1 << 61], 0, 0, 8), "its size"),
        (t(&[1 << 40], 0, 0, 8), "truncated"),
        (t(&[33], 2, 0, 36), "a multiple of 32 for Q4_0"),
        (t(&[2], 4, 0, 8), "found type 4"),
        (t(&[2], 0, 32, 40), "its offset"),
        (t(&[2], 0, u64::MAX, 8), "its offset"),
        (t(&[2], 0, 0, 7), "truncated"),
        (t(&[2], 0, 0, 9), "the end of the data"),
        (t(&[2], 0, 0, 64), "the end of the data"),
        (two(0, 40), "\"b\": its offset: expected 32"),
        (two(8, 40), "expected 32, after the tensor before it, found 8"),
        (two(64, 72), "found 64"),
        (GgufBuilder::new().tensor("t", &[2], 0, 0).tensor("t", &[2], 0, 32).data(40).build(), "\"t\" occurs twice"),
        (GgufBuilder::new().tensor(b"\xff", &[2], 0, 0).data(8).build(), "UTF-8"),
        (GgufBuilder::new().tensor("n".repeat(5000), &[2], 0, 0).data(8).build(), "at most 4096"),
    ];
    for (file, part) in cases {
        let message = error_of(file);
        assert!(message.contains(part), "{part}: {message}");
    }
    // Without and with the padding at the end.
    for data in [8, 32] {
        assert_eq!(Checkpoint::from_bytes("t", t(&[2], 0, 0, data)).unwrap().len(), 1);
    }
    assert!(error_of(GgufBuilder::new().tensor("t", &[], 0, 0).data(3).build()).contains("truncated"));
    assert_eq!(Checkpoint::from_bytes("scalar", t(&[], 0, 0, 4)).unwrap().info("t").unwrap().shape, [0usize; 0]);
}

#[test]
fn counts_that_lie_allocate_nothing() {
    for count in [2, 1 << 20, 1 << 40, u64::MAX] {
        let mut builder = GgufBuilder::new();
        builder.tensor_count = Some(count);
        assert!(error_of(builder.build()).contains("the tensor count"), "{count}");
        builder.tensor_count = None;
        builder.pair_count = Some(count);
        assert!(error_of(builder.build()).contains("the metadata count"), "{count}");
    }
}

#[test]
fn metadata_that_lies_is_refused() {
    let u32_value = |value: u32| value.to_le_bytes();
    let array = |kind: u32, len: u64, body: &[u8]| [&kind.to_le_bytes()[..], &len.to_le_bytes(), body].concat();
    let deep = (0..8).fold(array(0, 1, &[7]), |inner, _| array(9, 1, &inner));
    let cases: Vec<(GgufBuilder, &str)> = vec![
        (GgufBuilder::new().pair("general.alignment", 4, u32_value(0)), "general.alignment"),
        (GgufBuilder::new().pair("general.alignment", 4, u32_value(33)), "a power of two"),
        (GgufBuilder::new().pair("general.alignment", 4, u32_value(1 << 31)), "a power of two"),
        (GgufBuilder::new().pair("general.alignment", 8, string("32")), "found the string"),
        (GgufBuilder::new().pair("k", 0, [1]).pair("k", 0, [2]), "\"k\" twice"),
        (GgufBuilder::new().pair(b"\xc3\x28", 0, [1]), "UTF-8"),
        (GgufBuilder::new().pair("k", 8, string(b"\xff")), "UTF-8"),
        (GgufBuilder::new().pair("k", 8, u64::MAX.to_le_bytes()), "truncated"),
        (GgufBuilder::new().pair("k", 13, [0; 8]), "a number from 0 to 12"),
        (GgufBuilder::new().pair("k", 9, array(13, 1, &[0])), "a number from 0 to 12"),
        (GgufBuilder::new().pair("k", 9, array(10, u64::MAX / 8 + 2, &[0; 16])), "truncated"),
        (GgufBuilder::new().pair("k", 9, array(8, 2, &string("x"))), "truncated"),
        (GgufBuilder::new().pair("k", 9, array(8, 1, &string(b"\xff"))), "UTF-8"),
        (GgufBuilder::new().pair("k", 9, deep), "arrays within arrays"),
        (GgufBuilder::new().pair("split.count", 2, 3u16.to_le_bytes()), "llama-gguf-split"),
    ];
    for (builder, part) in cases {
        let message = error_of(builder.build());
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn a_flipped_type_of_the_same_size_class_is_caught_by_the_end_of_the_file() {
    let mut file = bytes_of("types.gguf");
    file.extend([0; 64]);
    assert!(error_of(file).contains("the end of the data"));
}
