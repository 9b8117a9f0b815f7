//! What Fornax is timed on: one list of cases, for criterion (`benches/`) and for `cargo xtask bench` (`src/main.rs`).
//!
//! - [`operations`]: the operations over the shapes of real models, from the tables that drive their tests
//! - [`models`]: whole models of real shapes with made-up weights: prefill, decoding, embedding, loading
//!
//! To time another operation, add an entry in `operations.rs`; everything else follows. How the times of several
//! devices and other libraries are set side by side is `cargo xtask bench`'s matter, not this crate's.

mod case;
mod checkpoint;
pub mod limits;
mod models;
mod operations;
pub mod protocol;
mod timing;

pub use case::{Case, Run};
pub use models::{half_models, models};
pub use operations::operations;
pub use timing::{Timing, time};

use fornax::prelude::Device;

/// Every case, or those of quick runs.
pub fn cases(quick: bool) -> Vec<Case> {
    operations().into_iter().chain(models()).filter(|case| !quick || case.quick).collect()
}

/// The device that `FORNAX_BENCH_DEVICE` names, the processor without.
///
/// # Errors
/// When it names none of this machine and build.
pub fn device() -> anyhow::Result<Device> {
    let name = std::env::var("FORNAX_BENCH_DEVICE").unwrap_or_else(|_| "cpu".into());
    Ok(name.parse()?)
}
