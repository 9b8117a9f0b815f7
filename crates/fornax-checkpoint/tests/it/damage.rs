//! Damaged files: every truncation is an error, and every flipped bit is an error or leaves the tensors as they were.

use bytes::Bytes;
use fornax_checkpoint::{Checkpoint, TensorInfo};

use crate::support::bytes_of;

const FILES: [&str; 7] =
    ["dtypes.safetensors", "types.gguf", "metadata.gguf", "dict.bin", "module.bin", "wrapped.bin", "nested.bin"];

/// The tensors of the undamaged file.
fn originals(bytes: &Bytes) -> Vec<(TensorInfo, Bytes)> {
    let checkpoint = Checkpoint::from_bytes("original", bytes.clone()).unwrap();
    checkpoint.tensors().map(|info| (info.clone(), checkpoint.tensor(&info.name).unwrap().bytes)).collect()
}

#[test]
fn truncation_at_every_byte_is_an_error() {
    for file in FILES {
        let bytes = Bytes::from(bytes_of(file));
        let unpadded = Checkpoint::from_bytes(file, bytes.clone()).unwrap();
        // GGUF may end without its last padding, and then still holds every tensor whole.
        let end = unpadded
            .tensors()
            .map(|info| unpadded.tensor(&info.name).unwrap().bytes)
            .filter(|_| file.ends_with(".gguf"))
            .map(|data| data.as_ptr() as usize + data.len() - bytes.as_ptr() as usize)
            .max();
        for length in 0..bytes.len() {
            let opened = Checkpoint::from_bytes(file, bytes.slice(..length));
            assert_eq!(opened.is_ok(), end == Some(length), "{file} cut to {length}");
        }
    }
}

/// How many bits two equally long slices differ in.
fn distance(a: &[u8], b: &[u8]) -> u32 {
    a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum()
}

/// A file in which `bit` is flipped opens with the same tensors, or not at all. A flip within the data may show as that
/// one bit. Two things no format can tell: a name that became another, and the shape of a tensor that takes no more room
/// with it than before (none, or the same after padding), of which only the shape is off, never the place.
fn check_flip(file: &str, bytes: &[u8], originals: &[(TensorInfo, Bytes)], bit: usize, data: Option<usize>) {
    let mut flipped = bytes.to_vec();
    flipped[bit / 8] ^= 1 << (bit % 8);
    let Ok(checkpoint) = Checkpoint::from_bytes(file, flipped) else {
        return;
    };
    let padding = checkpoint.gguf().map_or(1, |gguf| gguf.alignment());
    for (info, before) in originals {
        let Ok(view) = checkpoint.tensor(&info.name) else {
            continue;
        };
        let same_place = before.len().next_multiple_of(padding) == view.bytes.len().next_multiple_of(padding);
        if view.info != *info {
            assert!(
                same_place && (before.is_empty() || padding > 1),
                "{file}, bit {bit}: {:?} is {:?}",
                info,
                view.info
            );
        }
        let allowed = u32::from(data.is_none_or(|start| bit / 8 >= start));
        assert!(distance(&view.bytes, before) <= allowed, "{file}, bit {bit}: {} holds other values", info.name);
    }
}

#[test]
fn flipped_bits_are_errors_or_harmless() {
    for file in FILES {
        let bytes = Bytes::from(bytes_of(file));
        let originals = originals(&bytes);
        // The zip format spreads its headers over the file; the others have one at the start. Tensors without elements
        // are nowhere in the file.
        let data = match file.ends_with(".bin") {
            true => None,
            false => originals
                .iter()
                .filter(|(_, data)| !data.is_empty())
                .map(|(_, data)| data.as_ptr() as usize - bytes.as_ptr() as usize)
                .min(),
        };
        // Some bits of the data too, so that the comparison is seen to allow them.
        let end = data.map_or(bytes.len(), |start| start + 8);
        for bit in 0..end * 8 {
            check_flip(file, &bytes, &originals, bit, data);
        }
    }
}
