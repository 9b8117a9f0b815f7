//! How fast products with 16-bit float weights are on one thread: bytes of the weight a second for few rows, operations
//! a second for many. The clock is the thread's own, so that other work on the machine counts little.
//!
//! `cargo run --release -p fornax-cpu --example float_speed [bf16|f16] [few|many]`
#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

use std::hint::black_box;

use fornax_cpu::linear::{self, OutRows};
use fornax_cpu::packed::PANEL;
use fornax_cpu::{Buffer, Isa, PackedWeight, Pool, WeightType};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = |word: &str, other: &str| {
        arguments.iter().any(|argument| argument == word) || !arguments.iter().any(|argument| argument == other)
    };
    for (name, weight_type) in [("bf16", WeightType::BF16), ("f16", WeightType::F16)] {
        if !asked(name, if name == "f16" { "bf16" } else { "f16" }) {
            continue;
        }
        if asked("few", "many") {
            few_rows(weight_type);
        }
        if asked("many", "few") {
            many_rows(weight_type);
        }
    }
}

/// From a weight larger than any cache.
fn few_rows(weight_type: WeightType) {
    let in_features = 2048;
    let weight = weight(weight_type, 393_216, in_features);
    let panel = weight.panel(0).len();
    let part = weight.panels() / 16;
    let mut round = 0;
    let mut next = || {
        round += 1;
        part * (round % 16)..part * (round % 16) + part
    };
    let seconds = median(24, || read(&weight.bytes()[next().start * panel..][..part * panel]));
    println!("{weight_type} read alone: {:.1} GB/s", (part * panel) as f64 / seconds / 1e9);
    for isa in Isa::available().into_iter().skip(1) {
        for rows in [1, 2, 3, 4, 6, 8, 12, 16, 24, 32] {
            let x = vec![0.5; rows * in_features];
            let prepared = linear::prepare(Pool::global(), isa, &weight, &x, rows);
            let mut y = vec![0.0f32; rows * weight.out_features()];
            let seconds = median(if rows > 8 { 8 } else { 24 }, || {
                // SAFETY: `y` lives on, and there is one thread.
                unsafe {
                    let out = OutRows::new(y.as_mut_ptr(), weight.out_features(), weight.out_features());
                    linear::multiply(isa, &prepared, &weight, next(), out);
                }
            });
            println!("{weight_type} {isa} {rows} rows: {:.1} GB/s", (part * panel) as f64 / seconds / 1e9);
        }
    }
}

fn many_rows(weight_type: WeightType) {
    for (in_features, out_features) in [(2048, 2048), (2048, 5632), (5632, 2048)] {
        let weight = weight(weight_type, out_features, in_features);
        for isa in Isa::available().into_iter().skip(1) {
            for rows in [16, 32, 64, 128, 512] {
                let x = vec![0.5; rows * in_features];
                let mut y = vec![0.0f32; rows * out_features];
                // As two threads would share it.
                let panels = weight.panels() / 2;
                let mut prepared = linear::prepare(Pool::global(), isa, &weight, &x, rows);
                let prepare = median(5, || prepared = linear::prepare(&Pool::new(1), isa, &weight, &x, rows));
                let seconds = median(7, || {
                    // SAFETY: `y` lives on, and there is one thread.
                    unsafe {
                        let out = OutRows::new(y.as_mut_ptr(), out_features, out_features);
                        linear::multiply(isa, &prepared, &weight, 0..panels, out);
                    }
                });
                let operations = 2.0 * rows as f64 * in_features as f64 * (panels * PANEL) as f64;
                println!(
                    "{weight_type} {isa} {rows}x{in_features}x{out_features}: {:.3} TFLOP/s, {:.0} us, prepare {:.0} us",
                    operations / seconds / 1e12,
                    seconds * 1e6,
                    prepare * 1e6
                );
            }
        }
    }
}

/// Finite numbers of no matter.
fn weight(weight_type: WeightType, out_features: usize, in_features: usize) -> PackedWeight {
    let values: Vec<f32> = (0..PANEL * in_features).map(|at| ((at * 37 % 101) as f32 - 50.0) / 512.0).collect();
    let panel = PackedWeight::quantize(weight_type, PANEL, in_features, &values).expect("float types take any shape");
    let mut buffer = Buffer::zeroed(out_features / PANEL * panel.bytes().len());
    buffer.chunks_exact_mut(panel.bytes().len()).for_each(|out| out.copy_from_slice(panel.bytes()));
    PackedWeight::from_packed(weight_type, out_features, in_features, buffer.freeze()).expect("whole panels")
}

/// Reads in four streams and does next to nothing.
fn read(bytes: &[u8]) {
    let quarter = bytes.len() / 4 / 64 * 64;
    let mut sums = [[0u64; 8]; 4];
    for at in (0..quarter).step_by(64) {
        for (stream, sum) in sums.iter_mut().enumerate() {
            let line = &bytes[stream * quarter + at..][..64];
            prefetch(line.as_ptr().wrapping_add(4096));
            for (sum, word) in sum.iter_mut().zip(line.chunks_exact(8)) {
                *sum ^= u64::from_le_bytes(word.try_into().expect("chunks of 8"));
            }
        }
    }
    black_box(sums);
}

#[inline(always)]
fn prefetch(_address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch may have any address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(_address.cast());
    }
}

/// The median of this thread's seconds.
fn median(runs: usize, mut run: impl FnMut()) -> f64 {
    run();
    let mut seconds: Vec<f64> = (0..runs)
        .map(|_| {
            let before = thread_seconds();
            run();
            thread_seconds() - before
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[runs / 2]
}

#[cfg(target_os = "linux")]
fn thread_seconds() -> f64 {
    const CLOCK_THREAD_CPUTIME_ID: i32 = 3;
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
    }
    let mut time = [0i64; 2];
    // SAFETY: the system writes two numbers of 64 bits there.
    unsafe { clock_gettime(CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time[0] as f64 + time[1] as f64 * 1e-9
}

#[cfg(not(target_os = "linux"))]
fn thread_seconds() -> f64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_secs_f64()
}
