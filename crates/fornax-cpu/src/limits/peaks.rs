//! How many operations a second the processor does when nothing but the arithmetic holds it up: independent chains in
//! registers, no memory. Each kernel returns a value that depends on all of it, so that none of it is left out.

use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use super::best_rate;
use crate::{Isa, Pool};

/// What is multiplied; sums are kept in 32 bits always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arithmetic {
    /// Floats of 32 bits.
    F32,
    /// Floats of 16 bits with the exponent of 32.
    Bf16,
    /// Integers of 8 bits.
    Int8,
}

impl Arithmetic {
    /// Every kind.
    pub const ALL: [Arithmetic; 3] = [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::Int8];
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Arithmetic::F32 => "f32",
            Arithmetic::Bf16 => "bf16",
            Arithmetic::Int8 => "int8",
        })
    }
}

/// Rates of one kind of instruction, in operations a second; a multiply and an add count as two.
#[derive(Debug, Clone, PartialEq)]
pub struct Peak {
    /// What it multiplies.
    pub arithmetic: Arithmetic,
    /// The instruction, with the extension that brings it.
    pub instruction: &'static str,
    /// Of one thread.
    pub one_thread: f64,
    /// Of all threads together.
    pub all_threads: f64,
}

/// A kernel: `rounds` of some instructions.
#[derive(Clone, Copy)]
struct Kernel {
    arithmetic: Arithmetic,
    instruction: &'static str,
    /// Operations of one round.
    operations: usize,
    run: fn(usize),
}

/// How long one run takes: long enough for the clock and for starting the threads, short enough to find a quiet moment.
const RUN: Duration = Duration::from_millis(20);
const RUNS: usize = 4;

pub(super) fn measure(isa: Isa, one: &Pool, all: &Pool) -> Vec<Peak> {
    kernels(isa).into_iter().map(|kernel| peak(&kernel, one, all)).collect()
}

fn peak(kernel: &Kernel, one: &Pool, all: &Pool) -> Peak {
    let rounds = rounds_for(RUN, kernel.run);
    let rate = |pool: &Pool| {
        // A few tasks a thread, so that a thread that is interrupted leaves some to the others.
        let tasks = 4 * pool.threads();
        let each = rounds.div_ceil(4);
        best_rate(RUNS, (tasks * each * kernel.operations) as f64, || pool.run(tasks, |_| (kernel.run)(each)))
    };
    let one_thread = rate(one);
    let all_threads = if all.threads() == 1 { one_thread } else { rate(all) };
    Peak { arithmetic: kernel.arithmetic, instruction: kernel.instruction, one_thread, all_threads }
}

/// How many rounds take about `time`.
fn rounds_for(time: Duration, run: fn(usize)) -> usize {
    let mut rounds = 1 << 12;
    loop {
        let start = Instant::now();
        run(rounds);
        let took = start.elapsed();
        if took >= time / 4 || rounds >= 1 << 40 {
            return (rounds as f64 * time.as_secs_f64() / took.as_secs_f64().max(1e-9)) as usize + 1;
        }
        rounds *= 2;
    }
}

/// Every kernel that a processor of this level runs.
fn kernels(isa: Isa) -> Vec<Kernel> {
    let mut kernels = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        use x86::{CHAINS, fma_avx2, fma_avx512, tiles_bf16, tiles_int8, vnni};
        let mut add = |arithmetic, instruction, operations, run| {
            kernels.push(Kernel { arithmetic, instruction, operations, run });
        };
        if isa >= Isa::Avx512 {
            add(Arithmetic::F32, "vfmadd (AVX-512)", CHAINS * 16 * 2, fma_avx512 as fn(usize));
            add(Arithmetic::Int8, "vpdpbusd (AVX-512 VNNI)", CHAINS * 64 * 2, vnni);
        } else if isa == Isa::Avx2 {
            add(Arithmetic::F32, "vfmadd (AVX2)", CHAINS * 8 * 2, fma_avx2);
        }
        if isa == Isa::Amx {
            add(Arithmetic::Bf16, "tdpbf16ps (AMX)", 4 * 16 * 16 * 32 * 2, tiles_bf16);
            add(Arithmetic::Int8, "tdpbusd (AMX)", 4 * 16 * 16 * 64 * 2, tiles_int8);
        }
    }
    if kernels.is_empty() {
        debug_assert!(isa == Isa::Portable, "every other level has kernels");
        kernels.push(Kernel {
            arithmetic: Arithmetic::F32,
            instruction: "multiply and add (portable)",
            operations: PORTABLE_CHAINS * 4 * 2,
            run: portable,
        });
    }
    kernels
}

const PORTABLE_CHAINS: usize = 8;

/// Chains of four numbers, which is what every target's vectors hold at the least.
fn portable(rounds: usize) {
    let (factor, addend) = (black_box([0.999_f32; 4]), black_box([0.001_f32; 4]));
    let mut chains = [[1.0_f32; 4]; PORTABLE_CHAINS];
    for _ in 0..rounds {
        for chain in &mut chains {
            for lane in 0..4 {
                chain[lane] = chain[lane] * factor[lane] + addend[lane];
            }
        }
    }
    black_box(chains);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Independent sums: more than latency times width of the multipliers, fewer than registers.
    pub const CHAINS: usize = 12;

    pub fn fma_avx512(rounds: usize) {
        #[target_feature(enable = "avx512f")]
        fn body(rounds: usize) {
            let (factor, addend) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
            let mut chains = [_mm512_set1_ps(1.0); CHAINS];
            for _ in 0..rounds {
                for chain in &mut chains {
                    *chain = _mm512_fmadd_ps(*chain, factor, addend);
                }
            }
            black_box(chains.map(|chain| _mm512_reduce_add_ps(chain)));
        }
        // SAFETY: it is in the list of kernels only where the processor has AVX-512.
        unsafe { body(rounds) }
    }

    pub fn fma_avx2(rounds: usize) {
        #[target_feature(enable = "avx2,fma")]
        fn body(rounds: usize) {
            let (factor, addend) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
            let mut chains = [_mm256_set1_ps(1.0); CHAINS];
            for _ in 0..rounds {
                for chain in &mut chains {
                    *chain = _mm256_fmadd_ps(*chain, factor, addend);
                }
            }
            black_box(chains.map(|chain| _mm256_cvtss_f32(chain)));
        }
        // SAFETY: it is in the list of kernels only where the processor has AVX2 and FMA.
        unsafe { body(rounds) }
    }

    pub fn vnni(rounds: usize) {
        #[target_feature(enable = "avx512f,avx512vnni")]
        fn body(rounds: usize) {
            let (bytes, factors) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(-5)));
            let mut chains = [_mm512_setzero_si512(); CHAINS];
            for _ in 0..rounds {
                for chain in &mut chains {
                    *chain = _mm512_dpbusd_epi32(*chain, bytes, factors);
                }
            }
            black_box(chains.map(|chain| _mm512_reduce_add_epi32(chain)));
        }
        // SAFETY: it is in the list of kernels only where the processor has AVX-512 with VNNI.
        unsafe { body(rounds) }
    }

    pub fn tiles_bf16(rounds: usize) {
        let _shapes = Tiles::configure();
        // SAFETY: the tiles are configured, and all that the instructions change is named.
        unsafe {
            std::arch::asm!(
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {rounds}",
                "jnz 2b",
                rounds = inout(reg) rounds.max(1) => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nostack, nomem)
            );
        }
    }

    pub fn tiles_int8(rounds: usize) {
        let _shapes = Tiles::configure();
        // SAFETY: as above.
        unsafe {
            std::arch::asm!(
                "2:",
                "tdpbusd tmm0, tmm4, tmm6",
                "tdpbusd tmm1, tmm4, tmm7",
                "tdpbusd tmm2, tmm5, tmm6",
                "tdpbusd tmm3, tmm5, tmm7",
                "dec {rounds}",
                "jnz 2b",
                rounds = inout(reg) rounds.max(1) => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nostack, nomem)
            );
        }
    }

    /// The thread's tiles, eight of 16 rows of 64 bytes, all zeros; given back when this is dropped.
    struct Tiles;

    /// The operand of `ldtilecfg`.
    #[repr(C, align(64))]
    struct Shapes {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    impl Tiles {
        fn configure() -> Self {
            let mut shapes = Shapes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
            shapes.row_bytes[..8].fill(64);
            shapes.rows[..8].fill(16);
            // SAFETY: the process was permitted to use tiles when the level was detected, and `Shapes` is the 64 bytes
            // that the instruction reads, a palette that every AMX processor has. It zeroes the tiles.
            unsafe {
                std::arch::asm!("ldtilecfg [{}]", in(reg) &shapes, options(nostack, readonly, preserves_flags));
            }
            Self
        }
    }

    impl Drop for Tiles {
        fn drop(&mut self) {
            // SAFETY: nobody's tiles but ours are given back: each kernel configures its own and ends here.
            unsafe { std::arch::asm!("tilerelease", options(nostack, nomem, preserves_flags)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_f32_and_its_kernels_run() {
        let pool = Pool::new(2);
        for isa in Isa::available() {
            let kernels = kernels(isa);
            assert_eq!(kernels.iter().filter(|kernel| kernel.arithmetic == Arithmetic::F32).count(), 1, "{isa}");
            for kernel in kernels {
                // On threads that never ran it: tiles are configured by each.
                pool.run(4, |_| (kernel.run)(3));
                assert!(kernel.operations > 0);
            }
        }
    }

    #[test]
    fn tiles_bring_int8_and_bf16() {
        if Isa::Amx.is_available() {
            let of = |arithmetic| kernels(Isa::Amx).iter().filter(|kernel| kernel.arithmetic == arithmetic).count();
            assert_eq!([of(Arithmetic::Int8), of(Arithmetic::Bf16)], [2, 1]);
        }
    }
}
