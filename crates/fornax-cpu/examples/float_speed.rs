//! How fast products with float weights are on one thread: bytes of the weight a second for few rows, operations a second
//! for many, and the linear maps of a model's layers, each with weights that no cache holds. The clock is the thread's
//! own, so that other work on the machine counts little; for `layers 2` and more threads it is the wall's.
//!
//! `cargo run -p fornax-cpu --example float_speed [bf16|f16|f32] [few|many|layers [threads]]`
#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

use std::hint::black_box;
use std::ops::Range;

use fornax_cpu::linear::{self, Activations, LinearMap, Matrix, OutRows};
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
        if asked("few", &["few", "many", "layers"]) {
            few_rows(name, weight_type);
        }
        if asked("many", &["few", "many", "layers"]) {
            many_rows(name, weight_type);
        }
        if asked("layers", &["few", "many", "layers"]) {
            let threads = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(1);
            let pool = Pool::new(threads);
            let clock = if threads == 1 { thread_seconds } else { wall_seconds };
            for (rows, layers, hidden, inner, narrow) in
                [(512, 6, 2048, 5632, Some(256)), (400, 24, 384, 1536, None), (100, 24, 384, 1536, None)]
            {
                Layers { rows, layers, hidden, inner, narrow }.time(name, weight_type, &pool, clock);
            }
        }
    }
}

/// Shapes of a model.
struct Layers {
    rows: usize,
    layers: usize,
    hidden: usize,
    inner: usize,
    /// Keys and values, where they are fewer than queries; such a model has a gate.
    narrow: Option<usize>,
}

impl Layers {
    fn time(&self, name: &str, weight_type: Option<WeightType>, pool: &Pool, clock: fn() -> f64) {
        let &Self { rows, layers, hidden, inner, narrow } = self;
        let isa = Isa::best();
        let kv = narrow.unwrap_or(hidden);
        // Out and in of queries, keys, values, the output, the gate, up and down.
        let shapes = [
            (hidden, hidden),
            (kv, hidden),
            (kv, hidden),
            (hidden, hidden),
            (inner, hidden),
            (inner, hidden),
            (hidden, inner),
        ];
        let weights: Vec<[Weight; 7]> =
            (0..layers).map(|_| shapes.map(|(to, from)| Weight::new(weight_type, to, from))).collect();
        let mut x: Vec<f32> = (0..rows * hidden).map(|at| random(at) * 2.0).collect();
        let mut values = [hidden + 2 * kv, hidden, inner].map(|columns| vec![0.0; rows * columns]);
        let operations: [usize; 4] = [&[0, 1, 2][..], &[3], if narrow.is_some() { &[4, 5] } else { &[5] }, &[6]]
            .map(|maps| maps.iter().map(|&map: &usize| 2 * rows * shapes[map].0 * shapes[map].1).sum());
        let mut seconds: [Vec<f64>; 5] = Default::default();
        for round in 0..4 {
            for layer in &weights {
                let maps = layer.each_ref().map(|weight| LinearMap { weight: weight.matrix(), bias: None });
                let mut mark = clock();
                let mut lap = |what: usize| {
                    let now = clock();
                    if round > 0 {
                        seconds[what].push(now - mark);
                    }
                    mark = clock();
                };
                let [qkv, y, z] = &mut values;
                linear::linear(pool, isa, &x, rows, &maps[..3], qkv, |_, _, _, _| {});
                lap(0);
                let add = |columns: usize, residual: &[f32], row: usize, range: Range<usize>, values: &mut [f32]| {
                    for (value, add) in values.iter_mut().zip(&residual[row * columns..][range]) {
                        *value = (*value + add).clamp(-8.0, 8.0);
                    }
                };
                linear::linear(pool, isa, &qkv[..rows * hidden], rows, &maps[3..4], y, |_, row, range, values| {
                    add(hidden, &x, row, range, values);
                });
                lap(1);
                if narrow.is_some() {
                    linear::gated_linear(pool, isa, y, rows, [maps[4], maps[5]], z, |gate, up| {
                        gate.iter_mut().zip(up).for_each(|(gate, up)| *gate *= up.max(0.0));
                    });
                } else {
                    linear::linear(pool, isa, y, rows, &maps[5..6], z, |_, _, _, values| {
                        values.iter_mut().for_each(|value| *value = value.max(0.0));
                    });
                }
                lap(2);
                linear::linear(pool, isa, z, rows, &maps[6..], &mut x, |_, row, range, values| {
                    add(hidden, y, row, range, values);
                });
                lap(3);
                if let (Some(weight), None) = (&layer[6].packed, narrow.filter(|_| round < 2)) {
                    black_box(linear::prepare(pool, isa, weight, z, rows));
                    lap(4);
                }
            }
        }
        let mut all = (0.0, 0.0);
        print!("{name} {rows} rows, {hidden} and {inner}:");
        for (what, (seconds, operations)) in
            ["qkv", "output", "up", "down"].iter().zip(seconds.iter_mut().zip(operations))
        {
            seconds.sort_by(f64::total_cmp);
            let median = seconds[seconds.len() / 2];
            all = (all.0 + median, all.1 + operations as f64);
            print!(" {what} {:.2}", operations as f64 / median / 1e12);
        }
        print!(", all {:.3} TFLOP/s", all.1 / all.0 / 1e12);
        if !seconds[4].is_empty() {
            seconds[4].sort_by(f64::total_cmp);
            let median = seconds[4][seconds[4].len() / 2];
            print!(", prepare of down {:.1} GB/s", (6 * rows * inner) as f64 / median / 1e9);
        }
        println!();
    }
}

/// A number that looks random, between -1 and 1.
fn random(at: usize) -> f32 {
    let mut bits = (at as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits ^= bits >> 29;
    bits = bits.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((bits >> 40) as f32 / (1 << 23) as f32) - 1.0
}

fn wall_seconds() -> f64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_secs_f64()
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
            value.copy_from_slice(&(random(at % 4099) / 64.0).to_le_bytes());
        }
        Self { out_features, in_features, packed, dense }
    }

    fn matrix(&self) -> Matrix<'_> {
        match &self.packed {
            Some(packed) => Matrix::Packed(packed),
            None => {
                Matrix::Dense { values: self.values(), out_features: self.out_features, in_features: self.in_features }
            }
        }
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
    let size = (in_features as f32).sqrt().recip();
    let values: Vec<f32> = (0..PANEL * in_features).map(|at| random(at) * size).collect();
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
    wall_seconds()
}
