//! Everything that a new device has to show, in one program: the tests of the operations, the tests of the model
//! families, and figures.
//!
//! A GPU backend may bring a hundred megabytes of compiler into every program that uses it, so one program is much
//! smaller than three. `cargo xtask device` builds this one and packs it with a script that runs it; see
//! `docs/benchmarks/README.md`. The tests are those of `fornax-backend` and `fornax-models`, whose own test programs
//! compile the same files.

#[path = "../../../crates/fornax-backend/tests/it/main.rs"]
mod operations;

#[path = "../../../crates/fornax-models/tests/it/main.rs"]
mod models;

mod figures;
mod table;
