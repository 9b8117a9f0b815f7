//! Makes SSE and AVX treat numbers below the smallest normal one as zeros, as AMX does whatever the program asks for.
//! It is for kernels alone: the mode is as before when it returns.

use std::arch::asm;

/// All exceptions masked, rounding to nearest, denormals taken and given as zeros.
static FLUSH: u32 = 0x1f80 | 0x8000 | 0x0040;

/// Runs `kernel` so.
///
/// `kernel` must do its arithmetic in functions that are not inlined into it, as kernels compiled for more instructions
/// than their caller are: the compiler does not know that arithmetic must not leave the space between the switches.
#[inline(never)]
pub fn to_zero(kernel: impl FnOnce()) {
    /// Puts back the mode, also when a kernel panics.
    struct Before(u32);

    impl Drop for Before {
        fn drop(&mut self) {
            // SAFETY: every x86-64 processor has it, and the value is one that it gave.
            unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const self.0, options(nostack)) };
        }
    }

    let mut before = 0u32;
    // SAFETY: every x86-64 processor has it; it writes these four bytes.
    unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut before, options(nostack)) };
    let _before = Before(before);
    // SAFETY: a valid mode, put back before this function returns.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const FLUSH, options(nostack)) };
    kernel();
}
