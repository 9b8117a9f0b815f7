//! The fuzz targets' bodies over mutated fixtures, a few thousand rounds, from a seed that is printed on failure. The
//! targets themselves, with a coverage-guided mutator, are in `../../fuzz`.

use crate::{
    bodies,
    support::{Random, bytes_of},
};

/// Numbers at which parsers break.
const EDGES: [u64; 12] = [0, 1, 7, 8, 127, 255, 65535, u32::MAX as u64, 1 << 31, i64::MAX as u64, 1 << 63, u64::MAX];

/// Changes `bytes` in one to four places.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            bytes.push(random.next() as u8);
        }
        // Headers come first, so early places are favoured.
        let reach = if random.below(2) == 0 { bytes.len().min(512) } else { bytes.len() };
        let at = random.below(reach);
        let span = (1 + random.below(16)).min(bytes.len() - at);
        match random.below(8) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => {
                let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&edge[..width]);
            }
            3 => drop(bytes.drain(at..at + span)),
            4 => {
                let copy = bytes[at..at + span].to_vec();
                bytes.splice(at..at, copy);
            }
            5 => bytes.truncate(at),
            6 => {
                let from = random.below(other.len());
                let piece = &other[from..(from + span).min(other.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
            _ => {
                let digit = b"0123456789-.e{}[]\",:"[random.below(20)];
                bytes[at] = digit;
            }
        }
    }
}

/// Runs `body` on mutations of `seeds`.
fn run(name: &str, seeds: &[Vec<u8>], rounds: u64, body: fn(&[u8])) {
    for round in 0..rounds {
        let seed = 0x5eed_0000 + round;
        let mut random = Random(seed);
        let mut bytes = seeds[random.below(seeds.len())].clone();
        let other = &seeds[random.below(seeds.len())];
        mutate(&mut bytes, other, &mut random);
        if let Err(panic) = std::panic::catch_unwind(|| body(&bytes)) {
            let reason = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            panic!("{name}, seed {seed:#x}: {reason}");
        }
    }
}

#[test]
fn mutated_safetensors_never_panic() {
    let seeds = ["dtypes.safetensors", "sharded.expected.safetensors", "sharded/model-00002-of-00002.safetensors"];
    run("safetensors", &seeds.map(bytes_of), 3000, bodies::safetensors);
}

#[test]
fn mutated_gguf_never_panic() {
    run("gguf", &["metadata.gguf", "types.gguf"].map(bytes_of), 3000, bodies::gguf);
}

#[test]
fn mutated_zips_and_pickles_never_panic() {
    let files = ["module.bin", "nested.bin", "wrapped.bin", "dict.bin", "negated.bin"].map(bytes_of);
    run("zip", &files, 2000, bodies::pytorch);
    // The pickle comes first in a file of torch.save, behind a header whose lengths say where.
    let pickles = files.map(|file| {
        let number = |at: usize| usize::from(u16::from_le_bytes([file[at], file[at + 1]]));
        let start = 30 + number(26) + number(28);
        let end = file.windows(4).position(|window| window == b"PK\x07\x08").expect("torch writes descriptors");
        file[start..end].to_vec()
    });
    run("pickle", &pickles, 3000, bodies::pytorch);
}
