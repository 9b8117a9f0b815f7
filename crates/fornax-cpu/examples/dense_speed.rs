//! How fast products with `f32` weights are on one thread: bytes of the weight a second for few rows, operations a second
//! for many.
//!
//! `cargo run --release -p fornax-cpu --example dense_speed`
#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

use std::time::Instant;

use fornax_cpu::linear::OutRows;
use fornax_cpu::{Isa, dense};

fn main() {
    for isa in Isa::available().into_iter().filter(|&isa| matches!(isa, Isa::Avx2 | Isa::Avx512)) {
        // 1 GiB of weight, of which a part is read each time.
        for rows in [1, 2, 4, 8, 16] {
            let seconds = measure(isa, rows, 2048, 131_072, 8);
            println!("{isa} {rows} rows: {:.1} GB/s", 2048.0 * 131_072.0 * 4.0 / 8.0 / seconds / 1e9);
        }
        for (in_features, out_features) in [(2048, 1024), (5632, 1024)] {
            for rows in [32, 128, 512] {
                let seconds = measure(isa, rows, in_features, out_features, 1);
                let operations = 2.0 * (rows * in_features * out_features) as f64;
                println!("{isa} {rows}x{in_features}x{out_features}: {:.3} TFLOP/s", operations / seconds / 1e12);
            }
        }
    }
}

/// The least seconds of some products with one of `parts` parts of a weight in turn.
fn measure(isa: Isa, rows: usize, in_features: usize, out_features: usize, parts: usize) -> f64 {
    let x = vec![0.5; rows * in_features];
    let weight = vec![0.25; out_features * in_features];
    let mut y = vec![0.0f32; rows * out_features];
    let panels = out_features / 16 / parts;
    let mut least = f64::INFINITY;
    for run in 0..2 * parts.max(4) {
        let first = run % parts * panels;
        let start = Instant::now();
        // SAFETY: `y` lives on, and there is one thread.
        unsafe {
            let out = OutRows::new(y.as_mut_ptr(), out_features, out_features);
            dense::multiply(isa, &x, rows, &weight, in_features, first..first + panels, out);
        }
        least = least.min(start.elapsed().as_secs_f64());
    }
    least
}
