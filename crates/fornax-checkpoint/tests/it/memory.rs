//! Memory: whatever a file says, opening it takes at most twice its size and 64 MiB; counted by an allocator that knows
//! which thread asks.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use bytes::Bytes;
use fornax_checkpoint::Checkpoint;

use crate::{
    bodies::zip,
    support::{GgufBuilder, safetensors, string},
};

/// The system's allocator, with a count for each thread.
struct Counting;

thread_local! {
    /// Bytes held now, and the most there were.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// Threads that end have no count any more, which does not matter to anyone.
fn count(change: isize) {
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + change, most.max(now + change)));
    });
}

// SAFETY: every call goes on to the system's allocator unchanged; the counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes held at once while `bytes` are opened, beyond those held before, and whether they opened.
fn opening(bytes: Vec<u8>) -> (isize, bool) {
    let bytes = Bytes::from(bytes);
    let before = HELD.get().0;
    HELD.set((before, before));
    let opened = Checkpoint::from_bytes("hostile", bytes).is_ok();
    (HELD.get().1 - before, opened)
}

fn assert_bounded(what: &str, bytes: Vec<u8>) {
    let input = bytes.len() as isize;
    let (most, opened) = opening(bytes);
    assert!(most <= 2 * input + (64 << 20), "{what}: {input} bytes took {most}");
    // The figure is worth seeing where someone looks for it.
    #[allow(clippy::print_stderr)]
    {
        eprintln!("{what}: {input} bytes, {most} held at most, {}", if opened { "opened" } else { "refused" });
    }
}

/// As many as `limit`, and many more than it.
fn counts(limit: usize) -> [usize; 2] {
    [limit, 4 * limit]
}

#[test]
fn many_small_tensors() {
    for count in counts(1 << 17) {
        let tensors: Vec<String> =
            (0..count).map(|at| format!(r#""{at:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#)).collect();
        assert_bounded("safetensors tensors", safetensors(&format!("{{{}}}", tensors.join(",")), 0));
        let mut builder = GgufBuilder::new();
        for at in 0..count {
            builder = builder.tensor(format!("{at:x}"), &[1], 24, 32 * at as u64);
        }
        assert_bounded("GGUF tensors", builder.data(32 * count).build());
    }
}

#[test]
fn many_small_strings() {
    for count in counts(1 << 16) {
        let strings: Vec<String> = (0..count).map(|at| format!(r#""{at:x}":"""#)).collect();
        assert_bounded(
            "safetensors metadata",
            safetensors(&format!(r#"{{"__metadata__":{{{}}}}}"#, strings.join(",")), 0),
        );
        let mut builder = GgufBuilder::new();
        for at in 0..count {
            builder = builder.pair(format!("{at:x}"), 8, string(""));
        }
        assert_bounded("GGUF metadata", builder.build());
    }
    let mut array = [&8u32.to_le_bytes()[..], &3_000_000u64.to_le_bytes()].concat();
    array.resize(array.len() + 8 * 3_000_000, 0);
    assert_bounded("GGUF strings", GgufBuilder::new().pair("k", 9, &array).build());
    array[..4].copy_from_slice(&9u32.to_le_bytes());
    array[4..12].copy_from_slice(&2_000_000u64.to_le_bytes());
    assert_bounded("GGUF arrays", GgufBuilder::new().pair("k", 9, array).build());
}

#[test]
fn pickles_of_small_objects() {
    let pickle = |part: &[u8]| [b"\x80\x02", &part.repeat(8_000_000 / part.len())[..], b"."].concat();
    // Dropped lists, kept lists, remembered lists, growing lists and dictionaries, tuples, marks.
    let parts: [&[u8]; 9] =
        [b"]0", b"]", b"]\x940", b"}(NNNNNNNNu0", b"(NNNNNNNNt0", b"N\x850", b"(", b"(NN1", b"](NNNNNNNNe0"];
    for part in parts {
        assert_bounded(
            &format!("pickle of {:?}", part.escape_ascii().to_string()),
            zip(&[("a/data.pkl", &pickle(part))]),
        );
    }
    let names: Vec<String> = (0..(1 << 18)).map(|at| format!("{at:x}")).collect();
    let entries: Vec<(&str, &[u8])> = names.iter().take(65535).map(|name| (&name[..], &b""[..])).collect();
    assert_bounded("zip entries", zip(&entries));
}

#[test]
fn many_tensors_of_one_storage() {
    // 150,000 tensors that share a storage: more than are read.
    let tensor = b"h\x01(h\x00K\x00))))tR";
    let mut pickle = b"\x80\x02(X\x07\0\0\0storagectorch\nByteStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x08tQ\x94ctorch._utils\n_rebuild_tensor_v2\n\x94}".to_vec();
    for at in 0..150_000u32 {
        pickle.push(b'J');
        pickle.extend(at.to_le_bytes());
        pickle.extend(tensor);
        pickle.push(b's');
    }
    pickle.push(b'.');
    assert_bounded("tensors of one storage", zip(&[("a/data.pkl", &pickle), ("a/data/0", &[0; 8])]));
}
