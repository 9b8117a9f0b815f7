//! One way to write a kernel for every level of instructions: its body is generic over [`Simd`], a vector of `f32` with
//! what the kernels need of it, and [`dispatch`] compiles the body once a level. Kernels that gain from instructions
//! of one level alone (dot products of bytes, tiles) are written with that level's intrinsics where they live.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod math;
mod portable;

use half::{bf16, f16};

pub(crate) use math::{erfc_positive, exp2, sigmoid, tanh};
pub(crate) use portable::Portable;

use crate::Isa;

/// A vector of `f32`. Values of the type that implements it exist only where the processor has its instructions, so its
/// methods are safe but for the pointers they take.
pub(crate) trait Simd: Copy {
    type V: Copy;
    /// Numbers of a vector; a power of two, at most 16.
    const LANES: usize;
    /// Rows of a register tile two vectors wide; 12, or 6 where there are but 16 registers.
    const TILE_ROWS: usize;

    /// Runs a kernel as a function of its own, compiled for these instructions. What is inlined everywhere else takes
    /// the compiler long.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `from` points to [`LANES`](Self::LANES) readable values, as for all loads; stores likewise.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// Reads `count ≤ LANES` values, the others are zero.
    unsafe fn load_first(self, from: *const f32, count: usize) -> Self::V;
    unsafe fn load_f16(self, from: *const f16) -> Self::V;
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V;
    unsafe fn load_i8(self, from: *const i8) -> Self::V;
    unsafe fn store(self, to: *mut f32, v: Self::V);
    /// Writes `count ≤ LANES` values.
    unsafe fn store_first(self, to: *mut f32, v: Self::V, count: usize);
    unsafe fn store_f16(self, to: *mut f16, v: Self::V);
    unsafe fn store_bf16(self, to: *mut bf16, v: Self::V);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller one; `b` where either is not a number.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger one; `b` where either is not a number.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c − a · b`
    fn neg_fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn abs(self, a: Self::V) -> Self::V;
    /// The nearest whole number, for what is smaller than 2²².
    fn round(self, a: Self::V) -> Self::V;
    /// `a · 2ⁿ` for whole `n` in -126 to 128.
    fn scale(self, a: Self::V, n: Self::V) -> Self::V;
    /// Lane by lane `yes` where `a < b`, else `no`.
    fn if_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// Whether `a > b` in any lane.
    fn any_greater(self, a: Self::V, b: Self::V) -> bool;
    /// `a` in the lanes `from ≤ lane < to`, else `other`.
    fn in_lanes(self, from: usize, to: usize, a: Self::V, other: Self::V) -> Self::V;

    /// Asks for a line of memory that will be read soon; anywhere, also where there is none.
    fn prefetch(self, at: *const u8);
    /// As [`prefetch`](Self::prefetch), for what will be written.
    fn prefetch_write(self, at: *const u8);

    /// [`load_first`](Self::load_first), faster for whole vectors.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn load_some(self, from: *const f32, count: usize) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { if count == Self::LANES { self.load(from) } else { self.load_first(from, count) } }
    }

    /// [`store_first`](Self::store_first), faster for whole vectors.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn store_some(self, to: *mut f32, v: Self::V, count: usize) {
        // SAFETY: the caller's promise.
        unsafe { if count == Self::LANES { self.store(to, v) } else { self.store_first(to, v, count) } }
    }

    /// The sum of all lanes, in halves.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let mut lanes = self.lanes(v);
        let mut width = Self::LANES;
        while width > 1 {
            width /= 2;
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
        }
        lanes[0]
    }

    /// The largest lane; not a number is passed over or comes through, always the same for the same lanes.
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        let mut lanes = self.lanes(v);
        let mut width = Self::LANES;
        while width > 1 {
            width /= 2;
            for lane in 0..width {
                if lanes[lane + width] > lanes[lane] {
                    lanes[lane] = lanes[lane + width];
                }
            }
        }
        lanes[0]
    }

    #[inline(always)]
    fn lanes(self, v: Self::V) -> [f32; 16] {
        let mut lanes = [0.0; 16];
        // SAFETY: there are at most 16 lanes.
        unsafe { self.store(lanes.as_mut_ptr(), v) };
        lanes
    }
}

/// Work that is the same code at every level. `run` and all it calls with a [`Simd`] must be `#[inline(always)]`, since
/// only what is inlined into [`dispatch`]'s functions is compiled for their instructions.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Runs a kernel with the instructions of `isa`, or of the best level below it that the processor has.
#[inline]
pub(crate) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa.min(Isa::best()) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has these instructions, by the minimum with its best level.
        Isa::Avx512 | Isa::Amx => unsafe { run_avx512(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { run_avx2(kernel) },
        _ => run_portable(kernel),
    }
}

#[inline(never)]
fn run_portable<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Portable)
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's features are what the type stands for.
    kernel.run(unsafe { avx512::Avx512::new() })
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: as above.
    kernel.run(unsafe { avx2::Avx2::new() })
}

/// A type of number that vectors are loaded from and stored to.
pub(crate) trait Element: Copy + 'static {
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::V;
    /// Rounds to the type; integers hold -127 to 127.
    ///
    /// # Safety
    /// As [`Simd::store`].
    unsafe fn store<S: Simd>(s: S, to: *mut Self, v: S::V);
    fn to_f32(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load(from) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, to: *mut Self, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { s.store(to, v) }
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_f16(from) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, to: *mut Self, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { s.store_f16(to, v) }
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_bf16(from) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, to: *mut Self, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { s.store_bf16(to, v) }
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
}

impl Element for i8 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_i8(from) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, to: *mut Self, v: S::V) {
        // What is no number becomes 0 in the conversion.
        let lanes = s.lanes(s.round(v));
        for (lane, &x) in lanes.iter().enumerate().take(S::LANES) {
            // SAFETY: the caller's promise.
            unsafe { to.add(lane).write(x as i8) };
        }
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from(self)
    }
}
