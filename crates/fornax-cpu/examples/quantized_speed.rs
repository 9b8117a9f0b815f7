//! Speed of the kernels for quantized weights on one thread: bytes of weights a second with a few rows, operations with
//! many. `quantized_speed [type,... [rows,... [in_features [gigabytes]]]]`.
//!
//! Weights are read from a region larger than any cache, each panel once a round, against a plain sum of it on several
//! streams.
#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::time::{Duration, Instant};

use fornax_cpu::linear::{OutRows, multiply, prepare};
use fornax_cpu::{Buffer, Isa, PackedWeight, Pool, WeightType};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let list = |index: usize, default: &str| -> Vec<String> {
        arguments.get(index).map_or(default, String::as_str).split(',').map(str::to_owned).collect()
    };
    let types = list(0, "q8_0,q4_0,q4_k,q6_k");
    let rows = list(1, "1,2,4,8,16,32,128,512");
    let in_features: usize = list(2, "2048")[0].parse().expect("columns");
    let gigabytes: f64 = list(3, "1.5")[0].parse().expect("gigabytes");
    let isa = std::env::var("ISA").map_or(Isa::best(), |name| name.parse().expect("a level"));

    let mut memory = Buffer::zeroed((gigabytes * 1e9) as usize);
    // Any bytes are some weights; scales of 1 and so on are not of interest here, only that they are not denormal.
    memory.chunks_mut(8).enumerate().for_each(|(index, bytes)| {
        let value = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0x3fff_3fff_3fff_3fff;
        bytes.copy_from_slice(&value.to_le_bytes()[..bytes.len()]);
    });
    let bytes = memory.freeze();
    println!("sum of 8 streams: {:.1} GB/s", sum(&bytes) / 1e9);
    let pool = Pool::new(1);
    for name in &types {
        let weight_type: WeightType = name.parse().expect("a type");
        let source = vec![0; 16 * weight_type.row_bytes(in_features)];
        let one = PackedWeight::pack(weight_type, 16, in_features, &source).expect("a panel of zeros");
        let panel_bytes = one.bytes().len();
        let panels = bytes.len() / panel_bytes;
        let weight =
            PackedWeight::from_packed(weight_type, panels * 16, in_features, bytes.slice(..panels * panel_bytes))
                .expect("as many bytes as it needs");
        for rows in &rows {
            let rows: usize = rows.parse().expect("a number of rows");
            let x: Vec<f32> = (0..rows * in_features).map(|index| (index as f32).sin()).collect();
            let mut y = vec![0.0f32; rows * 128];
            let since = Instant::now();
            let prepared = prepare(&pool, isa, &weight, &x, rows);
            let preparing = since.elapsed();
            let mut times = Vec::new();
            let started = Instant::now();
            let mut next = 0;
            while started.elapsed() < Duration::from_millis(1500) {
                if next + 64 > panels {
                    next = 0;
                }
                let before = cpu_time();
                for part in 0..8 {
                    let first = next + 8 * part;
                    // The results of all panels go to the same 128 columns.
                    let start = y.as_mut_ptr().wrapping_sub(first * 16);
                    // SAFETY: eight panels are 128 columns, and `y` has room for those of every row.
                    unsafe {
                        let out = OutRows::new(start, 128, panels * 16);
                        multiply(isa, &prepared, &weight, first..first + 8, out);
                    }
                }
                times.push(cpu_time() - before);
                next += 64;
            }
            times.sort_by(f64::total_cmp);
            let median = times[times.len() / 2];
            println!(
                "{name:>5} {isa} K={in_features} M={rows:<4} {:6.2} GB/s  {:6.3} TOP/s  {:8.1} us  (prepared in {preparing:?})",
                64.0 * panel_bytes as f64 / median / 1e9,
                2.0 * (64 * 16 * rows * in_features) as f64 / median / 1e12,
                median * 1e6,
            );
        }
    }
}

/// Bytes a second of a plain sum of memory on 8 streams.
fn sum(bytes: &[u8]) -> f64 {
    let (_, words, _) = {
        // SAFETY: bytes are fine words.
        unsafe { bytes.align_to::<u64>() }
    };
    let piece = 1 << 16;
    let mut rates = Vec::new();
    let mut total = 0u64;
    for run in words.chunks_exact(8 * piece).take(300) {
        let before = cpu_time();
        let mut sums = [[0u64; 8]; 8];
        for index in (0..piece).step_by(8) {
            for (stream, sums) in sums.iter_mut().enumerate() {
                let line = &run[stream * piece + index..stream * piece + index + 8];
                for (sum, word) in sums.iter_mut().zip(line) {
                    *sum = sum.wrapping_add(*word);
                }
            }
        }
        total = sums.iter().flatten().fold(total, |total, &sum| total.wrapping_add(sum));
        rates.push((8 * 8 * piece) as f64 / (cpu_time() - before));
    }
    std::hint::black_box(total);
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Seconds that this thread has computed.
#[cfg(target_os = "linux")]
fn cpu_time() -> f64 {
    let mut time = [0i64; 2];
    // SAFETY: clock_gettime writes a timespec, which is two 64-bit numbers on 64-bit Linux.
    unsafe {
        unsafe extern "C" {
            fn clock_gettime(clock: i32, time: *mut i64) -> i32;
        }
        clock_gettime(3, time.as_mut_ptr());
    }
    time[0] as f64 + time[1] as f64 * 1e-9
}

/// Seconds since the first call.
#[cfg(not(target_os = "linux"))]
fn cpu_time() -> f64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}
