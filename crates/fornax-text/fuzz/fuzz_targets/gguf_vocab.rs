//! Fuzz target: see `gguf_vocab` in `bodies.rs`.

#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    bodies::gguf_vocab(bytes);
});
