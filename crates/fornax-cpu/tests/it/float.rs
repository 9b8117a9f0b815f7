//! Products with 16-bit float weights at every level, against sums in `f64` and against each other.

use fornax_cpu::linear::{self, LinearMap, Matrix, OutRows};
use fornax_cpu::{Isa, PackedWeight, Pool, WeightType};
use half::{bf16, f16};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const TYPES: [WeightType; 2] = [WeightType::BF16, WeightType::F16];

/// `x Wᵀ` in tasks of `panels` panels.
fn multiply(pool: &Pool, isa: Isa, x: &[f32], rows: usize, weight: &PackedWeight, panels: usize) -> Vec<f32> {
    let mut y = vec![f32::NAN; rows * weight.out_features()];
    let prepared = linear::prepare(pool, isa, weight, x, rows);
    // SAFETY: `y` outlives the products, and is not touched until they are done.
    let out = unsafe { OutRows::new(y.as_mut_ptr(), weight.out_features(), weight.out_features()) };
    pool.run(weight.panels().div_ceil(panels), |task| {
        let panels = task * panels..((task + 1) * panels).min(weight.panels());
        // SAFETY: every task has other panels.
        unsafe { linear::multiply(isa, &prepared, weight, panels, out) };
    });
    y
}

/// Equal to the bit, but for which NaN it is.
fn assert_same(found: &[f32], expected: &[f32], what: impl Fn() -> String) {
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(same, "{}, value {at}: {found:e} for {expected:e}", what());
    }
}

/// Kinds of numbers, from those of a model to those that break things.
#[derive(Debug, Clone, Copy)]
enum Values {
    Usual,
    Sparse,
    Tiny,
    Huge,
    Special,
}

fn value(random: &mut impl Rng, values: Values) -> f32 {
    let usual = random.random_range(-1.0f32..1.0) * random.random_range(0.0f32..2.0);
    match values {
        Values::Usual => usual,
        Values::Sparse => {
            if random.random_bool(0.7) {
                0.0f32.copysign(usual)
            } else {
                usual
            }
        }
        Values::Tiny => usual * 2.0f32.powi(-random.random_range(0..146)),
        Values::Huge => usual * 2.0f32.powi(random.random_range(0..126)),
        Values::Special => match random.random_range(0..60) {
            0 => f32::INFINITY.copysign(usual),
            1 => f32::NAN,
            2 => 0.0,
            _ => usual,
        },
    }
}

fn rounded(weight_type: WeightType, value: f32) -> f64 {
    if weight_type == WeightType::F16 { f16::from_f32(value).to_f64() } else { bf16::from_f32(value).to_f64() }
}

/// Checks against sums in `f64`, as closely as rounding after each product allows.
fn assert_near(y: &[f32], x: &[f32], weight: &[f32], weight_type: WeightType, rows: usize, what: impl Fn() -> String) {
    let (in_features, out_features) = (x.len() / rows, y.len() / rows);
    let x: Vec<f64> = x.iter().map(|&value| bf16::from_f32(value).to_f64()).collect();
    let weight: Vec<f64> = weight.iter().map(|&value| rounded(weight_type, value)).collect();
    for row in 0..rows {
        for column in 0..out_features {
            let products = (0..in_features).map(|k| x[row * in_features + k] * weight[column * in_features + k]);
            let (mut sum, mut size) = (0.0, 0.0f64);
            products.for_each(|product| {
                sum += product;
                size += if product.is_finite() { product.abs() } else { 0.0 };
            });
            let found = f64::from(y[row * out_features + column]);
            let what = || format!("{}, [{row}, {column}]: {found:e} for {sum:e}", what());
            if sum.is_nan() {
                assert!(found.is_nan(), "{}", what());
            } else if size >= 1e38 {
                // A sum on the way may overflow.
            } else if sum.is_infinite() {
                assert!(found == sum, "{}", what());
            } else {
                // What is below the smallest normal number is taken as zero, in factors as in sums.
                let largest = x.iter().chain(&weight).fold(1.0, |largest, value| f64::max(largest, value.abs()));
                let tiny = 2.0 * in_features as f64 * f64::from(f32::MIN_POSITIVE) * largest;
                let steps = 4.0 + in_features as f64;
                assert!((found - sum).abs() <= size * steps * 2f64.powi(-24) + tiny, "{}", what());
            }
        }
    }
}

#[test]
fn products_are_right_at_every_level() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut cases = 0;
    // Threads are the other tests' matter: these products are too small for them.
    let pool = Pool::new(1);
    for values in [Values::Usual, Values::Sparse, Values::Tiny, Values::Huge, Values::Special] {
        for case in 0..1100 {
            // Mostly small, so that there can be many, with all tails of 16 and 32.
            let (rows, out_features, in_features) = if case % 40 == 0 {
                (random.random_range(1..41), random.random_range(1..200), random.random_range(1..400))
            } else {
                (random.random_range(1..7), random.random_range(1..40), random.random_range(1..70))
            };
            let x: Vec<f32> = (0..rows * in_features).map(|_| value(&mut random, values)).collect();
            let weight: Vec<f32> = (0..out_features * in_features).map(|_| value(&mut random, values)).collect();
            for weight_type in TYPES {
                let packed = PackedWeight::quantize(weight_type, out_features, in_features, &weight).unwrap();
                let what = |isa| format!("{isa} {weight_type} {values:?} {rows}x{in_features}x{out_features}");
                let portable = multiply(&pool, Isa::Portable, &x, rows, &packed, 4);
                assert_near(&portable, &x, &weight, weight_type, rows, || what(Isa::Portable));
                for isa in Isa::available() {
                    let tasks = random.random_range(1..9);
                    assert_same(&multiply(&pool, isa, &x, rows, &packed, tasks), &portable, || what(isa));
                    cases += 1;
                }
            }
        }
    }
    assert!(cases >= 10_000, "{cases}");
}

#[test]
fn a_row_is_the_same_in_any_company() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for (in_features, out_features) in [(200, 75), (2048, 96), (5633, 33)] {
        let rows = 512;
        let x: Vec<f32> = (0..rows * in_features).map(|_| value(&mut random, Values::Usual)).collect();
        let weight: Vec<f32> = (0..out_features * in_features).map(|_| value(&mut random, Values::Usual)).collect();
        for weight_type in TYPES {
            let packed = PackedWeight::quantize(weight_type, out_features, in_features, &weight).unwrap();
            let fastest = multiply(Pool::global(), Isa::best(), &x, rows, &packed, 8);
            for batch in [1, 2, 3, 5, 8, 16, 17, 40, 512] {
                for isa in Isa::available() {
                    // The slower levels are compared over some of the rows.
                    let count = if isa == Isa::best() { rows } else { batch.clamp(6, 17) };
                    for first in (0..count).step_by(batch) {
                        let count = batch.min(count - first);
                        let x = &x[first * in_features..(first + count) * in_features];
                        let expected = &fastest[first * out_features..(first + count) * out_features];
                        let tasks = 1 + first % 5;
                        assert_same(&multiply(Pool::global(), isa, x, count, &packed, tasks), expected, || {
                            format!(
                                "{isa} {weight_type} {count} rows of {batch} from {first}, {in_features}x{out_features}"
                            )
                        });
                    }
                }
            }
        }
    }
}

#[test]
fn maps_over_all_threads_are_the_products() {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let pool = Pool::new(2);
    // Rows and columns beside the sizes of blocks and of tasks; the first results are large enough to be written past the
    // caches.
    for (rows, in_features, out_features) in
        [(1040, 40, 1030), (513, 300, 75), (100, 384, 100), (33, 513, 17), (32, 64, 48), (40, 0, 20)]
    {
        let special = |random: &mut ChaCha8Rng, at: usize| {
            value(random, if at.is_multiple_of(97) { Values::Special } else { Values::Usual })
        };
        let x: Vec<f32> = (0..rows * in_features).map(|at| special(&mut random, at)).collect();
        let mut weights = |weight_type| {
            let values: Vec<f32> = (0..out_features * in_features).map(|at| special(&mut random, at)).collect();
            PackedWeight::quantize(weight_type, out_features, in_features, &values).unwrap()
        };
        let weights = [WeightType::BF16, WeightType::BF16, WeightType::F16, WeightType::F16].map(&mut weights);
        let biases = [0, 1].map(|_| (0..out_features).map(|at| special(&mut random, at + 1)).collect::<Vec<f32>>());
        for isa in Isa::available() {
            if isa < Isa::best() && rows > 100 {
                continue;
            }
            let what = |map: usize| format!("{isa} {rows}x{in_features}x{out_features}, map {map}");
            let mut products = weights.each_ref().map(|weight| multiply(&pool, isa, &x, rows, weight, 3));
            let bias = |map: usize| map.is_multiple_of(2).then(|| biases[map / 2].as_slice());
            for (map, product) in products.iter_mut().enumerate() {
                for row in product.chunks_exact_mut(out_features) {
                    row.iter_mut().zip(bias(map).into_iter().flatten()).for_each(|(value, bias)| *value += bias);
                }
            }
            let maps: Vec<LinearMap> = weights
                .iter()
                .enumerate()
                .map(|(map, weight)| LinearMap { weight: Matrix::Packed(weight), bias: bias(map) })
                .collect();
            // One value aside, so that rows do not begin with a line.
            let mut found = vec![f32::NAN; rows * out_features * maps.len() + 1];
            linear::linear(&pool, isa, &x, rows, &maps, &mut found[1..], |map, row, columns, values| {
                for (column, value) in columns.zip(values) {
                    *value = if (map + row + column) % 3 == 0 { -*value } else { *value };
                }
            });
            for (map, product) in products.iter().enumerate() {
                let side_by_side = found[1..].chunks_exact(out_features).skip(map).step_by(maps.len());
                let found: Vec<f32> = side_by_side.flatten().copied().collect();
                let expected: Vec<f32> = product
                    .iter()
                    .enumerate()
                    .map(|(at, &value)| {
                        let (row, column) = (at / out_features, at % out_features);
                        if (map + row + column) % 3 == 0 { -value } else { value }
                    })
                    .collect();
                assert_same(&found, &expected, || what(map));
            }
            for [gate, up] in [[0, 1], [2, 3], [1, 2]] {
                let mut found = vec![f32::NAN; rows * out_features];
                linear::gated_linear(&pool, isa, &x, rows, [maps[gate], maps[up]], &mut found, |gate, up| {
                    gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = *gate * 0.5 - up);
                });
                let expected: Vec<f32> =
                    products[gate].iter().zip(&products[up]).map(|(gate, up)| gate * 0.5 - up).collect();
                assert_same(&found, &expected, || what(gate));
            }
        }
    }
}

#[test]
fn weights_keep_every_bit() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    for (out_features, in_features) in [(1, 1), (16, 32), (17, 33), (50, 131), (3, 64)] {
        let bits: Vec<u16> = (0..out_features * in_features).map(|_| random.random()).collect();
        let source: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        for weight_type in TYPES {
            let packed = PackedWeight::pack(weight_type, out_features, in_features, &source).unwrap();
            let expected: Vec<f32> = bits
                .iter()
                .map(|&bits| match weight_type {
                    WeightType::F16 => f16::from_bits(bits).to_f32(),
                    _ => bf16::from_bits(bits).to_f32(),
                })
                .collect();
            assert_same(&packed.to_f32(), &expected, || format!("{weight_type} {out_features}x{in_features}"));
        }
    }
}

#[test]
fn floats_are_rounded_to_nearest() {
    let mut values: Vec<f32> =
        vec![0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, 1e-40, 65504.0];
    // Halfway between two bf16 and two f16, and beside it.
    for bits in
        [0x3f80_8000u32, 0x3f81_8000, 0x3f80_8001, 0x3f80_7fff, 0x3f80_1000, 0x3f80_3000, 0x3f80_1001, 0xff7f_8000]
    {
        values.push(f32::from_bits(bits));
    }
    let mut random = ChaCha8Rng::seed_from_u64(4);
    values.extend((0..1000).map(|_| f32::from_bits(random.random())));
    for weight_type in TYPES {
        let packed = PackedWeight::quantize(weight_type, 1, values.len(), &values).unwrap();
        let expected: Vec<f32> = values.iter().map(|&value| rounded(weight_type, value) as f32).collect();
        assert_same(&packed.to_f32(), &expected, || weight_type.to_string());
    }
}

#[test]
fn nothing_times_nothing_is_zero() {
    for weight_type in TYPES {
        for isa in Isa::available() {
            let empty = PackedWeight::quantize(weight_type, 20, 0, &[]).unwrap();
            assert_eq!(multiply(Pool::global(), isa, &[], 3, &empty, 2), vec![0.0; 60]);
            let weight = PackedWeight::quantize(weight_type, 20, 2, &[1.0; 40]).unwrap();
            assert!(multiply(Pool::global(), isa, &[], 0, &weight, 2).is_empty());
        }
    }
}
