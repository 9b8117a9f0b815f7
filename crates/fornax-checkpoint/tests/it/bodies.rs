//! What is done with bytes of unknown origin: the bodies of the fuzz targets, which an ordinary test shares (`fuzz`).
//! A body asserts what must hold of whatever opens, and otherwise only that nothing panics.

use fornax_checkpoint::{Checkpoint, GgufValue};

/// A safetensors file; with an odd first byte the rest is a header, to which the length is put, and data.
pub fn safetensors(input: &[u8]) {
    open(input);
    if let Some((first, rest)) = input.split_first() {
        let header = rest.len().saturating_sub(usize::from(*first));
        open(&[&(header as u64).to_le_bytes(), rest].concat());
    }
}

/// A GGUF file; also with the magic number and a good version put before the bytes.
pub fn gguf(input: &[u8]) {
    open(input);
    open(&[b"GGUF\x03\0\0\0", input].concat());
}

/// A PyTorch zip file; also as the pickle of one, whose checksum is right.
pub fn pytorch(input: &[u8]) {
    open(input);
    let storage: Vec<u8> = (0..64).collect();
    open(&zip(&[("a/data.pkl", input), ("a/data/0", &storage), ("a/data/1", &storage[..8])]));
}

/// Opens the bytes and reads everything in them.
fn open(bytes: &[u8]) {
    let checkpoint = match Checkpoint::from_bytes("fuzz", bytes.to_vec()) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let mut total = 0;
    for info in checkpoint.tensors() {
        let view = checkpoint.tensor(&info.name).expect("it is listed");
        assert_eq!(&view.info, info);
        assert_eq!(view.bytes.len(), info.nbytes());
        total += view.bytes.len();
        if info.elements() <= 1 << 16 && total < 1 << 20 {
            match view.to_f32() {
                Ok(values) => assert_eq!(values.len(), info.elements()),
                Err(_) => assert!(!info.dtype.converts_to_f32()),
            }
        }
    }
    for (key, value) in checkpoint.gguf().iter().flat_map(|gguf| gguf.iter()) {
        // The same value, not an equal one: a NaN is not equal to itself.
        assert!(checkpoint.gguf().and_then(|gguf| gguf.value(key)).is_some_and(|found| std::ptr::eq(found, value)));
        if let GgufValue::Array(array) = value {
            assert_eq!(array.values().count(), array.len());
            if let Some(strings) = array.strings() {
                let decoded: Vec<GgufValue> = strings.map(|text| GgufValue::String(text.to_owned())).collect();
                assert_eq!(decoded, array.values().collect::<Vec<_>>());
            }
        }
    }
}

/// A zip file of stored entries.
pub fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let (at, size) = ((file.len() as u32).to_le_bytes(), (data.len() as u32).to_le_bytes());
        let name_len = (name.len() as u16).to_le_bytes();
        // Version, flags, method, time, date; checksum, sizes; lengths of name and extra field.
        let common = [&[0; 10][..], &crc32(data).to_le_bytes(), &size, &size, &name_len, &[0; 2]].concat();
        file.extend([b"PK\x03\x04", &common[..], name.as_bytes(), data].concat());
        directory.extend([b"PK\x01\x02\0\0", &common[..], &[0; 10], &at, name.as_bytes()].concat());
    }
    let (count, start) = ((entries.len() as u16).to_le_bytes(), (file.len() as u32).to_le_bytes());
    let size = (directory.len() as u32).to_le_bytes();
    file.extend(directory);
    file.extend([b"PK\x05\x06\0\0\0\0", &count[..], &count, &size, &start, &[0; 2]].concat());
    file
}

/// Zip's checksum, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc: u32, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}
