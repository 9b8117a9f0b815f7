//! One thing to time, with what it must move and compute at the least.

use fornax::backend::ops::Cost;
use fornax::prelude::{Backend, Device};
use fornax_cpu::limits::Arithmetic;
use serde_json::{Value, json};

/// One call. A device may go on computing after it returns; [`time`](crate::time) waits for the last.
pub type Run = Box<dyn FnMut() -> anyhow::Result<()>>;

type Prepare = Box<dyn Fn(&Device) -> anyhow::Result<Run>>;

/// Operands that a model would not have in a cache are kept this many bytes at a time, in copies that the calls
/// take in turn: weights of another layer, as it were.
const COLD_BYTES: usize = 256 << 20;

/// One thing to time.
pub struct Case {
    /// The operation.
    pub op: &'static str,
    /// The sizes, and what else tells it from other cases of the operation.
    pub name: String,
    /// Its least work.
    pub cost: Cost,
    /// What it multiplies, which decides the limit that its operations are held against.
    pub arithmetic: Arithmetic,
    /// Whether quick runs have it.
    pub quick: bool,
    /// All that another library needs to compute the same.
    pub shape: Value,
    /// How many copies of its cold operands the calls take in turn; 1 where it has none.
    pub copies: usize,
    /// The one backend that has it; `None` where all do.
    pub only: Option<Backend>,
    /// What a call yields, where that is what users count: tokens, texts.
    pub yields: Option<(&'static str, usize)>,
    prepare: Prepare,
}

impl Case {
    /// A case in f32, part of quick runs, on all backends.
    ///
    /// `prepare` makes the operands and returns the call; it gets the number of [`copies`](Self::cold).
    pub fn new(
        op: &'static str,
        name: impl Into<String>,
        cost: Cost,
        prepare: impl Fn(&Device) -> anyhow::Result<Run> + 'static,
    ) -> Self {
        Self {
            op,
            name: name.into(),
            cost,
            arithmetic: Arithmetic::F32,
            quick: true,
            shape: json!({}),
            copies: 1,
            only: None,
            yields: None,
            prepare: Box::new(prepare),
        }
    }

    /// With its shape as the other libraries' runners (`peers/`) read it.
    #[must_use]
    pub fn shape(self, shape: Value) -> Self {
        Self { shape, ..self }
    }

    /// With so many copies of what must not be in a cache; as many as outgrow every cache.
    #[must_use]
    pub fn cold(self, copies: usize) -> Self {
        Self { copies, ..self }
    }

    /// Held against the limit of this arithmetic.
    #[must_use]
    pub fn arithmetic(self, arithmetic: Arithmetic) -> Self {
        Self { arithmetic, ..self }
    }

    /// On this backend alone.
    #[must_use]
    pub fn only(self, backend: Backend) -> Self {
        Self { only: Some(backend), ..self }
    }

    /// Left out of quick runs.
    #[must_use]
    pub fn slow(self) -> Self {
        Self { quick: false, ..self }
    }

    /// Yielding so many of something users count.
    #[must_use]
    pub fn yields(self, unit: &'static str, count: usize) -> Self {
        Self { yields: Some((unit, count)), ..self }
    }

    /// Makes the operands on `device`, and the call.
    ///
    /// # Errors
    /// When the device or the disk fails.
    pub fn prepare(&self, device: &Device) -> anyhow::Result<Run> {
        (self.prepare)(device)
    }

    /// Why it does not run on `device`.
    pub fn unsupported_on(&self, device: &Device) -> Option<String> {
        let only = self.only.filter(|&only| only != device.backend())?;
        Some(format!("only on {}", only.name()))
    }
}

/// How many copies of an operand of `bytes` make [`COLD_BYTES`].
pub fn copies(bytes: usize) -> usize {
    COLD_BYTES.div_ceil(bytes.max(1)).clamp(1, 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_fill_the_cold_bytes() {
        assert_eq!(copies(COLD_BYTES), 1);
        assert_eq!(copies(COLD_BYTES - 1), 2);
        assert_eq!(copies(1 << 40), 1);
        assert_eq!(copies(0), 512);
    }
}
