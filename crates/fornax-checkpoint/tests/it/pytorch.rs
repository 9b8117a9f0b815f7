//! Reading what torch.save wrote, and refusing what a pickle must not do.

use fornax_checkpoint::{Checkpoint, CheckpointError, Dtype, Format};

use crate::{
    bodies::zip,
    support::{assert_same, dtype, error_of, expected, fixture},
};

#[test]
fn dictionaries_read_as_torch_says() {
    for name in ["dict", "module", "wrapped", "nested"] {
        let checkpoint = Checkpoint::open(fixture(&format!("{name}.bin"))).unwrap();
        assert_eq!(checkpoint.format(), Format::Pytorch);
        assert_same(&checkpoint, &expected(&format!("{name}.expected.safetensors")), &[]);
    }
}

#[test]
fn dtypes_are_kept_and_shared_storages_stay_shared() {
    let checkpoint = Checkpoint::open(fixture("dict.bin")).unwrap();
    for (name, expected) in [("bf16", Dtype::BF16), ("u16", Dtype::U16), ("f8", Dtype::F8E4M3), ("bool", Dtype::Bool)] {
        assert_eq!(dtype(&checkpoint, name), expected);
    }
    let view = |name| checkpoint.tensor(name).unwrap();
    assert_eq!(view("tied.a").bytes.as_ptr(), view("tied.b").bytes.as_ptr());
    // Two rows of a contiguous matrix are a slice of it, two columns are not.
    assert_eq!(view("rows").bytes.as_ptr(), view("tied.a").bytes[2 * 8 * 4..].as_ptr());
    assert_ne!(view("columns").bytes.as_ptr(), view("columns").bytes.as_ptr());
    checkpoint.release("columns");
    assert_eq!(view("columns").info.shape, [6, 3]);
}

#[test]
fn what_must_not_load_is_named() {
    let open = |name| Checkpoint::open(fixture(name)).unwrap_err();
    let error = open("forbidden.bin");
    assert!(
        matches!(&error, CheckpointError::ForbiddenGlobal { global, .. } if global == "collections.Counter"),
        "{error}"
    );
    assert!(open("expanded.bin").to_string().contains(".contiguous()"));
    assert!(open("negated.bin").to_string().contains("negated"));
    assert!(open("legacy.bin").to_string().contains("bare pickle"));
    assert!(error_of(zip(&[("word/document.xml", b"<x/>")])).contains("not of torch.save"));
}

/// A pickle of one tensor `w` with this storage tuple, and these arguments behind the storage.
fn tensor_pickle(count: u8, arguments: &[u8]) -> Vec<u8> {
    let storage =
        [b"(X\x07\0\0\0storagectorch\nByteStorage\nX\x01\0\0\0", &b"0X\x03\0\0\0cpuK"[..], &[count], b"tQ"].concat();
    [b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(", &storage[..], arguments, b"tRs."].concat()
}

fn open_pickle(pickle: &[u8]) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::from_bytes("pickle", zip(&[("a/data.pkl", pickle), ("a/data/0", &[1, 2, 3, 4, 5, 6])]))
}

#[test]
fn offsets_and_strides_are_held_against_the_storage() {
    // Offset, (size,), (stride,), requires_grad, hooks.
    let good = open_pickle(&tensor_pickle(6, b"K\x01K\x02\x85K\x02\x85\x89}")).unwrap();
    assert_eq!(good.tensor("w").unwrap().to_f32().unwrap(), [2.0, 4.0]);
    let cases: &[(u8, &[u8], &str)] = &[
        (6, b"K\x05K\x02\x85K\x01\x85\x89}", "within the 6 of its storage"),
        (6, b"K\x00K\x07\x85K\x01\x85\x89}", "within the 6"),
        (6, b"K\x00K\x02\x85K\x06\x85\x89}", "within the 6"),
        (6, b"K\x00K\x07\x85K\x00\x85\x89}", ".contiguous()"),
        (6, b"K\x00K\x02\x85)\x89}", "within the 6"),
        (6, b"K\x00J\xff\xff\xff\xff\x85K\x01\x85\x89}", "at most 32 sizes"),
        (6, b"J\xff\xff\xff\xffK\x01\x85K\x01\x85\x89}", "an offset of at least 0"),
        (6, b"K\x00\x8a\x08\0\0\0\0\0\0\0\x40K\x02\x86\x8a\x08\0\0\0\0\0\0\0\x40K\x01\x86\x89}", "within the 6"),
        (5, b"K\x00K\x01\x85K\x01\x85\x89}", "5 elements of 1 bytes"),
    ];
    for (count, arguments, part) in cases {
        let error = open_pickle(&tensor_pickle(*count, arguments)).unwrap_err().to_string();
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
}

#[test]
fn hostile_pickles_end_in_errors() {
    let many = |part: &[u8], times: usize| [b"\x80\x02", &part.repeat(times)[..], b"."].concat();
    let global = |text: &str| format!("c{text}").into_bytes();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "truncated"),
        (b".".to_vec(), "a value on the stack"),
        (b"N.".to_vec(), "a dictionary of tensors"),
        (b"].".to_vec(), "found a list"),
        (b"\x80\x00}.".to_vec(), "2 to 5"),
        (global("os\nsystem\n"), "\"os.system\""),
        (global("torch\nload\n"), "\"torch.load\""),
        (global("torch\nEvilStorage\n"), "torch.EvilStorage"),
        (global(&"x".repeat(1000)), "a short line"),
        (b"\x8c\x02os\x8c\x06system\x93.".to_vec(), "\"os.system\""),
        (b"\x8c\x02osK\x01\x93.".to_vec(), "two strings"),
        (b"i__main__\nX\n.".to_vec(), "instruction 0x69"),
        (b"\x81.".to_vec(), "instruction 0x81"),
        (b"K\x01)R.".to_vec(), "a function on the allow-list"),
        (b"ccollections\nOrderedDict\nK\x01R.".to_vec(), "a tuple of arguments"),
        (b"K\x01Q.".to_vec(), "a storage's type"),
        (b"h\x00.".to_vec(), "a remembered value"),
        (b"}q\x05.".to_vec(), "memo indices in order"),
        (b"}r\xff\xff\xff\xff.".to_vec(), "memo indices in order"),
        (b"X\xff\xff\xff\xffa.".to_vec(), "truncated"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.".to_vec(), "truncated"),
        (b"X\x01\0\0\0\xff.".to_vec(), "UTF-8"),
        (b"(\x85.".to_vec(), "a value on the stack"),
        (b"t.".to_vec(), "a value on the stack"),
        (b"}K\x01a.".to_vec(), "a list to append to"),
        (b"}(K\x01u.".to_vec(), "pairs of keys and values"),
        (many(b"N", 100_000), "on the pickle's stack"),
        (many(b"(", 100_000), "marks"),
        // A list in a list in a list, then a list that holds itself.
        ([b"}K\x00", &b"]".repeat(50)[..], &b"a".repeat(49), b"s."].concat(), "nested dictionaries"),
        (b"}q\x00K\x00h\x00s.".to_vec(), "nested dictionaries"),
    ];
    for (pickle, part) in cases {
        let message = open_pickle(&pickle).unwrap_err().to_string();
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn lists_of_lists_of_lists_do_not_multiply_without_end() {
    // Twenty lists, each of which holds the one before ten times: 10^20 values, were they all walked.
    let mut pickle = b"\x80\x02]q\x000".to_vec();
    for level in 1..=20 {
        pickle.extend([b"](", &[b'h', level - 1].repeat(10)[..], &[b'e', b'q', level, b'0']].concat());
    }
    pickle.extend(b"}K\x00h\x14s.");
    let message = open_pickle(&pickle).unwrap_err().to_string();
    assert!(message.contains("values in the pickle"), "{message}");
}

#[test]
fn zips_that_lie_are_refused() {
    let pickle = b"\x80\x02}.".as_slice();
    let good = || zip(&[("a/data.pkl", pickle), ("a/data/0", b"1234")]);
    assert!(Checkpoint::from_bytes("zip", good()).unwrap().is_empty());
    let end = good().len() - 22;
    let directory = good().windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    // Where, what, and the message.
    let cases: &[(usize, &[u8], &str)] = &[
        (end + 10, &[0xff, 0xff], "one part of several"),
        (end + 8, &[0xff, 0xff, 0xff, 0xff], "the zip directory"),
        (end + 12, &[0xff, 0xff, 0xff, 0x7f], "to end at"),
        (end + 16, &[0], "to end at"),
        (end + 20, &[1], "the zip directory's end"),
        (directory + 10, &[8], "stored as it is"),
        (directory + 8, &[1], "stored as it is"),
        (directory + 20, &[5], "equal sizes"),
        (directory + 42, &[1], "one at 0"),
        (directory + 28, &[0xff, 0xff], "truncated"),
        (directory + 16, &[0], "checksum"),
        (0, b"PK\x03\x04", ""),
        (8, &[8], "the one in the directory"),
        (26, &[9], "the one in the directory"),
        (28, &[1], "truncated"),
        (30, b"b", "the one in the directory"),
    ];
    for (at, bytes, part) in cases {
        let mut file = good();
        file[*at..at + bytes.len()].copy_from_slice(bytes);
        if part.is_empty() {
            assert!(Checkpoint::from_bytes("zip", file).is_ok());
            continue;
        }
        let message = error_of(file);
        assert!(message.contains(part), "{at}: {message}");
    }
    assert!(error_of(zip(&[("a/data.pkl", pickle), ("a/data.pkl", pickle)])).contains("twice"));
    assert!(error_of(zip(&[("a/data.pkl", pickle), ("b/data.pkl", pickle)])).contains("several"));
    assert!(error_of(zip(&[("a/data.pkl", pickle), ("a/byteorder", b"big")])).contains("byte order"));
    assert!(error_of(zip(&[("a/data.pkl", &tensor_pickle(6, b"K\x00K\x01\x85K\x01\x85\x89}"))])).contains("data/0"));
    assert!(Checkpoint::from_bytes("flat", zip(&[("data.pkl", pickle)])).is_ok());
}

#[test]
fn zip64_records_are_read() {
    let plain =
        zip(&[("a/data.pkl", &tensor_pickle(6, b"K\x00K\x06\x85K\x01\x85\x89}")), ("a/data/0", &[1, 2, 3, 4, 5, 6])]);
    let end = plain.len() - 22;
    let number = |at: usize| u64::from(u32::from_le_bytes(plain[at..at + 4].try_into().unwrap())).to_le_bytes();
    let record = [
        b"PK\x06\x06",
        &44u64.to_le_bytes()[..],
        &[0; 12],
        &2u64.to_le_bytes(),
        &2u64.to_le_bytes(),
        &number(end + 12),
        &number(end + 16),
    ]
    .concat();
    let locator = [b"PK\x06\x07", &[0; 4][..], &(end as u64).to_le_bytes(), &1u32.to_le_bytes()].concat();
    let tail = [b"PK\x05\x06\0\0\0\0", &[0xff; 12][..], &[0; 2]].concat();
    let file = [&plain[..end], &record, &locator, &tail].concat();
    let checkpoint = Checkpoint::from_bytes("zip64", file.clone()).unwrap();
    assert_eq!(checkpoint.tensor("w").unwrap().to_f32().unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let mut lying = file;
    let at = end + record.len() + 8;
    lying[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(error_of(lying).contains("zip64"));
}
