//! Vectors of 4 as an array, which the compiler keeps in the registers that any processor of the target has.

use half::{bf16, f16};

use super::{Kernel, Simd};

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

const LANES: usize = 4;

/// Adding it to a small number leaves the nearest whole number in the lowest bits.
const WHOLE: f32 = 12_582_912.0;

/// One lane after another.
macro_rules! lanes {
    ($lane:ident => $e:expr) => {{
        let mut out = [0.0; LANES];
        for $lane in 0..LANES {
            out[$lane] = $e;
        }
        out
    }};
}

/// Fused where the target always has the instruction; elsewhere it would be a call.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { a * b + c }
}

impl Simd for Portable {
    type V = [f32; LANES];
    const LANES: usize = LANES;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        super::run_portable(kernel)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: the caller's promise; an array of `f32` may lie wherever an `f32` may.
        unsafe { from.cast::<Self::V>().read() }
    }

    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> Self::V {
        // SAFETY: the caller's promise.
        lanes!(lane => if lane < count { unsafe { from.add(lane).read() } } else { 0.0 })
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> Self::V {
        // SAFETY: the caller's promise.
        lanes!(lane => unsafe { from.add(lane).read() }.to_f32())
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V {
        // SAFETY: the caller's promise.
        lanes!(lane => f32::from_bits(u32::from(unsafe { from.add(lane).read() }.to_bits()) << 16))
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Self::V {
        // SAFETY: the caller's promise.
        lanes!(lane => f32::from(unsafe { from.add(lane).read() }))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<Self::V>().write(v) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, v: Self::V, count: usize) {
        for (lane, &x) in v.iter().enumerate().take(count) {
            // SAFETY: the caller's promise.
            unsafe { to.add(lane).write(x) }
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16, v: Self::V) {
        for (lane, &x) in v.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { to.add(lane).write(f16::from_f32(x)) }
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, v: Self::V) {
        for (lane, &x) in v.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { to.add(lane).write(bf16::from_f32(x)) }
        }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(lane => a[lane] + b[lane])
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(lane => a[lane] - b[lane])
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(lane => a[lane] * b[lane])
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(lane => a[lane] / b[lane])
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(lane => if a[lane] < b[lane] { a[lane] } else { b[lane] })
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(lane => if a[lane] > b[lane] { a[lane] } else { b[lane] })
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        lanes!(lane => multiply_add(a[lane], b[lane], c[lane]))
    }

    #[inline(always)]
    fn neg_fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        lanes!(lane => multiply_add(-a[lane], b[lane], c[lane]))
    }

    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        lanes!(lane => a[lane].abs())
    }

    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        lanes!(lane => (a[lane] + WHOLE) - WHOLE)
    }

    #[inline(always)]
    fn scale(self, a: Self::V, n: Self::V) -> Self::V {
        lanes!(lane => {
            // In two steps, since 2¹²⁸ is not a number of its own.
            let whole = (n[lane] + WHOLE).to_bits().wrapping_sub(WHOLE.to_bits()) as i32;
            let half = whole >> 1;
            let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23) as u32);
            a[lane] * power(half) * power(whole.wrapping_sub(half))
        })
    }

    #[inline(always)]
    fn if_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        lanes!(lane => if a[lane] < b[lane] { yes[lane] } else { no[lane] })
    }

    #[inline(always)]
    fn any_greater(self, a: Self::V, b: Self::V) -> bool {
        let mut any = false;
        for lane in 0..LANES {
            any |= a[lane] > b[lane];
        }
        any
    }

    #[inline(always)]
    fn in_lanes(self, from: usize, to: usize, a: Self::V, other: Self::V) -> Self::V {
        lanes!(lane => if lane >= from && lane < to { a[lane] } else { other[lane] })
    }

    #[inline(always)]
    fn prefetch(self, _at: *const u8) {}

    #[inline(always)]
    fn prefetch_write(self, _at: *const u8) {}
}
