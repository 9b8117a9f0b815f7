//! What an operation must move and compute at the least, for setting a measured time against the machine's limits.

/// The least work of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Bytes read and written, each operand once.
    pub bytes: u64,
    /// Floating-point operations; a multiply and an add count as two.
    pub flops: u64,
}

impl Cost {
    /// A cost from element counts of `f32` operands.
    pub fn f32(elements_moved: usize, flops: usize) -> Self {
        Self { bytes: 4 * elements_moved as u64, flops: flops as u64 }
    }
}
