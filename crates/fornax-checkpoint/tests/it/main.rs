//! The crate's integration tests, in one binary. What they compare with was written by other programs: see
//! `../fixtures/make.py`.

mod bodies;
mod damage;
mod folder;
mod fuzz;
mod gguf;
mod memory;
mod pytorch;
mod real;
mod repacked;
mod repacked_damage;
mod safetensors;
mod support;
mod write;
