//! How fast products with float weights are on one thread: bytes of the weight a second for few rows, operations a second
//! for many. The clock is the thread's own, so that other work on the machine counts little.
//!
//! `cargo run --release -p fornax-cpu --example float_speed [bf16|f16|f32] [few|many]`
#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

use std::hint::black_box;
use std::ops::Range;

use fornax_cpu::linear::{self, Activations, OutRows};
use fornax_cpu::packed::PANEL;
use fornax_cpu::{Buffer, Isa, PackedWeight, Pool, WeightType, dense};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = |word: &str, words: &[&str]| {
        let named = |word: &str| arguments.iter().any(|argument| argument == word);
        named(word) || !words.iter().any(|word| named(word))
    };
    let types = [("bf16", Some(WeightType::BF16)), ("f16", Some(WeightType::F16)), ("f32", None)];
    for (name, weight_type) in types.into_iter().filter(|(name, _)| asked(name, &types.map(|(name, _)| name))) {
        if asked("few", &["few", "many"]) {
            few_rows(name, weight_type);
        }
        if asked("many", &["few", "many"]) {
            many_rows(name, weight_type);
        }
    }
}

/// From a weight larger than any cache.
fn few_rows(name: &str, weight_type: Option<WeightType>) {
    // 1.6 GB.
    let weight = Weight::new(weight_type, if weight_type.is_some() { 393_216 } else { 196_608 }, 2048);
    let panels = weight.out_features / PANEL / 16;
    let bytes = weight.bytes().len() / 16;
    let mut round = 0;
    let mut next = || {
        round += 1;
        panels * (round % 16)..panels * (round % 16 + 1)
    };
    let seconds = median(24, || {
        let first = next().start / panels;
        read(&weight.bytes()[first * bytes..(first + 1) * bytes]);
    });
    println!("{name} read alone: {:.1} GB/s", bytes as f64 / seconds / 1e9);
    for isa in Isa::available().into_iter().skip(1) {
        for rows in [1, 2, 3, 4, 6, 8, 12, 16, 24, 32] {
            let mut product = Product::new(&weight, isa, rows);
            let seconds = median(if rows > 8 { 8 } else { 24 }, || product.run(next()));
            println!("{name} {isa} {rows} rows: {:.1} GB/s", bytes as f64 / seconds / 1e9);
        }
    }
}

fn many_rows(name: &str, weight_type: Option<WeightType>) {
    for (in_features, out_features) in [(2048, 2048), (2048, 5632), (5632, 2048)] {
        let weight = Weight::new(weight_type, out_features, in_features);
        for isa in Isa::available().into_iter().skip(1) {
            for rows in [16, 32, 64, 128, 512] {
                let mut product = Product::new(&weight, isa, rows);
                let prepare = median(5, || product.prepare());
                // As two threads would share it.
                let panels = out_features / PANEL / 2;
                let seconds = median(7, || product.run(0..panels));
                let operations = 2.0 * rows as f64 * in_features as f64 * (panels * PANEL) as f64;
                println!(
                    "{name} {isa} {rows}x{in_features}x{out_features}: {:.3} TFLOP/s, {:.0} us, prepare {:.0} us",
                    operations / seconds / 1e12,
                    seconds * 1e6,
                    prepare * 1e6
                );
            }
        }
    }
}

/// A weight of finite numbers of no matter, packed or of `f32`.
struct Weight {
    out_features: usize,
    in_features: usize,
    packed: Option<PackedWeight>,
    dense: Buffer,
}

impl Weight {
    fn new(weight_type: Option<WeightType>, out_features: usize, in_features: usize) -> Self {
        let packed = weight_type.map(|weight_type| packed(weight_type, out_features, in_features));
        let mut dense = Buffer::zeroed(if packed.is_none() { out_features * in_features * 4 } else { 0 });
        for (at, value) in dense.chunks_exact_mut(4).enumerate() {
            value.copy_from_slice(&((at % 101) as f32 / 512.0).to_le_bytes());
        }
        Self { out_features, in_features, packed, dense }
    }

    fn bytes(&self) -> &[u8] {
        self.packed.as_ref().map_or(&self.dense, |packed| packed.bytes())
    }

    fn values(&self) -> &[f32] {
        // SAFETY: any bits are a number.
        let (before, values, after) = unsafe { self.dense.align_to() };
        assert!(before.is_empty() && after.is_empty(), "a buffer is aligned");
        values
    }
}

struct Product<'a> {
    weight: &'a Weight,
    isa: Isa,
    rows: usize,
    x: Vec<f32>,
    prepared: Option<Activations>,
    y: Vec<f32>,
}

impl<'a> Product<'a> {
    fn new(weight: &'a Weight, isa: Isa, rows: usize) -> Self {
        let x = (0..rows * weight.in_features).map(|at| (at % 97) as f32 / 97.0).collect();
        let mut product = Self { weight, isa, rows, x, prepared: None, y: vec![0.0; rows * weight.out_features] };
        product.prepare();
        product
    }

    fn prepare(&mut self) {
        let pool = Pool::new(1);
        let prepare = |packed| linear::prepare(&pool, self.isa, packed, &self.x, self.rows);
        self.prepared = self.weight.packed.as_ref().map(prepare);
    }

    fn run(&mut self, panels: Range<usize>) {
        let (isa, weight) = (self.isa, self.weight);
        // SAFETY: `y` lives on, and there is one thread.
        unsafe {
            let out = OutRows::new(self.y.as_mut_ptr(), weight.out_features, weight.out_features);
            match (&weight.packed, &self.prepared) {
                (Some(packed), Some(x)) => linear::multiply(isa, x, packed, panels, out),
                _ => dense::multiply(isa, &self.x, self.rows, weight.values(), weight.in_features, panels, out),
            }
        }
    }
}

/// Finite numbers of no matter.
fn packed(weight_type: WeightType, out_features: usize, in_features: usize) -> PackedWeight {
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
