//! Reads arbitrary bytes as a PyTorch zip file, and as the pickle of one. The body, and the corpus to start from
//! (`../tests/fixtures`), are those of the ordinary tests.
#![no_main]
#![allow(dead_code)] // The other targets' bodies stand in the same file.

#[path = "../../tests/it/bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| bodies::pytorch(input));
