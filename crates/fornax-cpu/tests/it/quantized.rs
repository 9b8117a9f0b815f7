//! Quantized weights: against Python's `gguf` (a fixture that `tests/fixtures/quantized.py` writes), against sums in `f64`,
//! and levels, batches and threads against one another.

use fornax_cpu::linear::{LinearMap, Matrix, OutRows, gated_linear, linear, multiply, prepare};
use fornax_cpu::{Isa, PackedWeight, Pool, WeightType};
use rand::{Rng, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const TYPES: [WeightType; 10] = [
    WeightType::Q8_0,
    WeightType::Q4_0,
    WeightType::Q4_1,
    WeightType::Q5_0,
    WeightType::Q5_1,
    WeightType::Q2_K,
    WeightType::Q3_K,
    WeightType::Q4_K,
    WeightType::Q5_K,
    WeightType::Q6_K,
];

/// Cuts the fixture into its parts, in order.
struct Fixture(&'static [u8]);

impl Fixture {
    fn new() -> Self {
        Self(include_bytes!("../fixtures/quantized.bin"))
    }

    fn bytes(&mut self, len: usize) -> &'static [u8] {
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }

    fn floats(&mut self, len: usize) -> Vec<f32> {
        self.bytes(4 * len).as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }
}

#[test]
fn weights_read_back_as_gguf_defines_them() {
    let mut fixture = Fixture::new();
    for weight_type in TYPES {
        let source = fixture.bytes(weight_type.row_bytes(256));
        let expected = fixture.floats(256);
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        let whole = PackedWeight::pack(weight_type, 1, 256, source).unwrap();
        assert_eq!(bits(&whole.to_f32()), bits(&expected), "{weight_type}");
        // The same weights as several rows, of one block each and of an odd number of them.
        for rows in [2, 8] {
            let columns = 256 / rows;
            if columns % weight_type.block() == 0 {
                let rows = PackedWeight::pack(weight_type, rows, columns, source).unwrap();
                assert_eq!(bits(&rows.to_f32()), bits(&expected), "{weight_type}, rows of {columns}");
            }
        }
    }
}

#[test]
fn q8_0_and_q4_0_are_quantized_as_gguf_does() {
    let mut fixture = Fixture::new();
    for weight_type in TYPES {
        fixture.bytes(weight_type.row_bytes(256) + 4 * 256);
    }
    let values = fixture.floats(512);
    for weight_type in [WeightType::Q8_0, WeightType::Q4_0] {
        let expected = PackedWeight::pack(weight_type, 4, 128, fixture.bytes(weight_type.row_bytes(512))).unwrap();
        let found = PackedWeight::quantize(weight_type, 4, 128, &values).unwrap();
        assert_eq!(found.bytes(), expected.bytes(), "{weight_type}");
    }
    assert!(fixture.0.is_empty());
}

#[test]
fn quantizing_loses_little() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    // Sums of uniform numbers, nearly normal, of unit variance, and their groups of different sizes.
    let values: Vec<f32> = (0..1 << 16)
        .map(|at| (0..12).map(|_| rng.random_range(-0.5f32..0.5)).sum::<f32>() * (1.0 + (at / 64 % 3) as f32))
        .collect();
    let square = |values: &[f32]| values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
    for (weight_type, most) in
        [(WeightType::Q8_0, 0.0060), (WeightType::Q6_K, 0.0175), (WeightType::Q4_K, 0.0700), (WeightType::Q4_0, 0.0900)]
    {
        let found = PackedWeight::quantize(weight_type, 64, 1024, &values).unwrap().to_f32();
        let errors: Vec<f32> = found.iter().zip(&values).map(|(found, value)| found - value).collect();
        let loss = (square(&errors) / square(&values)).sqrt();
        assert!(loss < most && loss > most / 3.0, "{weight_type}: {loss}");
        // What a type can express is kept.
        for row in [vec![0.0; 256], vec![-1.5; 256], vec![2.0; 256]] {
            let found = PackedWeight::quantize(weight_type, 1, 256, &row).unwrap().to_f32();
            let kept = found.iter().zip(&row).all(|(found, value)| (found - value).abs() <= value.abs() * 0.01);
            assert!(kept, "{weight_type}: {} for {}", found[0], row[0]);
        }
    }
}

/// Random blocks with scales of a sensible size, and now and then zero.
fn random_weight(rng: &mut impl Rng, weight_type: WeightType, rows: usize, columns: usize) -> PackedWeight {
    let mut source = vec![0; rows * weight_type.row_bytes(columns)];
    rng.fill(source.as_mut_slice());
    for block in source.chunks_exact_mut(weight_type.row_bytes(weight_type.block())) {
        let halves: &[usize] = match weight_type {
            WeightType::Q4_1 | WeightType::Q5_1 | WeightType::Q4_K | WeightType::Q5_K => &[0, 2],
            WeightType::Q2_K => &[80, 82],
            WeightType::Q3_K => &[108],
            WeightType::Q6_K => &[208],
            _ => &[0],
        };
        for &at in halves {
            // Exponents of 2^-13 to 2^-6, any sign.
            let half =
                u16::from(rng.random::<bool>()) << 15 | rng.random_range(2u16..10) << 10 | rng.random_range(0..1024);
            let half = if rng.random_ratio(1, 30) { 0 } else { half };
            block[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
    }
    PackedWeight::pack(weight_type, rows, columns, &source).unwrap()
}

/// Rows of values of very different sizes, zeros and denormals among them.
fn random_rows(rng: &mut impl Rng, rows: usize, columns: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(rows * columns);
    for _ in 0..rows {
        let size = match rng.random_range(0..8) {
            0 => 0.0,
            1 => 1e-40,
            2 => 1e-36,
            3 => 1e25,
            4 => 1e-10,
            _ => 1.0,
        };
        let outliers = rng.random::<bool>();
        for _ in 0..columns {
            let value = rng.random_range(-1.0f32..=1.0) * size;
            values.push(if outliers && rng.random_ratio(1, 50) { value * 100.0 } else { value });
        }
    }
    values
}

/// `x Wᵀ` at a level, all panels in one call or in several.
fn product(isa: Isa, weight: &PackedWeight, x: &[f32], rows: usize, parts: usize) -> Vec<f32> {
    let pool = Pool::new(1);
    product_on(&pool, isa, weight, x, rows, parts)
}

fn product_on(pool: &Pool, isa: Isa, weight: &PackedWeight, x: &[f32], rows: usize, parts: usize) -> Vec<f32> {
    let columns = weight.out_features();
    // One column more than is written, to see that it is not.
    let stride = columns + 1;
    let mut y = vec![f32::MAX; rows * stride];
    let prepared = prepare(pool, isa, weight, x, rows);
    // SAFETY: `y` has these rows, and each part has its own panels.
    let out = unsafe { OutRows::new(y.as_mut_ptr(), stride, columns) };
    let part = weight.panels().div_ceil(parts).max(1);
    pool.run(weight.panels().div_ceil(part), |index| {
        let panels = index * part..((index + 1) * part).min(weight.panels());
        // SAFETY: as above.
        unsafe { multiply(isa, &prepared, weight, panels, out) };
    });
    let mut results = Vec::with_capacity(rows * columns);
    for row in y.chunks_exact(stride) {
        assert_eq!(row[columns], f32::MAX, "wrote beyond the last column");
        results.extend_from_slice(&row[..columns]);
    }
    results
}

/// A row as the kernels quantize it, with a scale for as many values as a block of the weights has, and with it the product
/// and a bound of what `f32` may lose of it.
fn reference(weight_type: WeightType, x: &[f32], weights: &[f32]) -> (f64, f64) {
    let (mut sum, mut size) = (0.0, 0.0);
    let (run, groups) = (weight_type.block(), weights.len() / 16);
    for (x, weights) in x.chunks_exact(run).zip(weights.chunks_exact(run)) {
        let largest = x.iter().fold(0f32, |max, value| max.max(value.abs()));
        let (scale, inverse) =
            if largest < 127.0 * f32::MIN_POSITIVE { (0.0, 0.0) } else { (largest / 127.0, 127.0 / largest) };
        for (x, &weight) in x.iter().zip(weights) {
            let quantized = f64::from((x * inverse).round_ties_even());
            sum += f64::from(scale) * quantized * f64::from(weight);
            size += f64::from(scale) * quantized.abs();
        }
    }
    let largest = weights.iter().fold(0f64, |max, &weight| max.max(f64::from(weight).abs()));
    // The product of two scales may be denormal, and is multiplied with up to 32 · 127 · 128.
    let denormal = groups as f64 * 520_192.0 * f64::from(f32::from_bits(1));
    (sum, size * largest * (2 * groups + 8) as f64 * f64::from(f32::EPSILON) + denormal)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn products_are_those_of_the_numbers_in_every_type_and_at_every_level() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut values = 0;
    for case in 0..10_500 {
        let weight_type = TYPES[case % TYPES.len()];
        let block = weight_type.block();
        let columns = block * rng.random_range(1..=if case % 97 == 0 { 1024 } else { 512 } / block);
        let (out_features, rows) = match case % 50 {
            0..10 => (rng.random_range(1..=50), rng.random_range(1..=40)),
            10..30 => (rng.random_range(1..=20), rng.random_range(1..=9)),
            _ => (rng.random_range(1..=40), 1),
        };
        let weight = random_weight(&mut rng, weight_type, out_features, columns);
        let x = random_rows(&mut rng, rows, columns);
        let levels = Isa::available();
        let found = product(levels[0], &weight, &x, rows, 1);
        for &isa in &levels[1..] {
            let other = product(isa, &weight, &x, rows, 1);
            assert_eq!(bits(&found), bits(&other), "{weight_type} [{out_features}, {columns}], {rows} rows, {isa}");
        }
        let weights = weight.to_f32();
        for (x, found) in x.chunks_exact(columns).zip(found.chunks_exact(out_features)) {
            for (weights, &found) in weights.chunks_exact(columns).zip(found) {
                let (expected, bound) = reference(weight_type, x, weights);
                let error = (f64::from(found) - expected).abs();
                assert!(
                    error <= bound,
                    "{weight_type} [{out_features}, {columns}], {rows} rows: {found} for {expected}, within {bound}"
                );
                values += 1;
            }
        }
    }
    assert!(values > 100_000);
}

#[test]
fn a_row_is_the_same_alone_and_in_any_batch() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let pool = Pool::new(3);
    for weight_type in TYPES {
        let (out_features, columns) = (150, 1280);
        let weight = random_weight(&mut rng, weight_type, out_features, columns);
        // Larger batches have the same rows again and again.
        let x = random_rows(&mut rng, 61, columns).repeat(20);
        let alone: Vec<f32> =
            x.chunks_exact(columns).take(61).flat_map(|x| product(Isa::best(), &weight, x, 1, 1)).collect();
        let alone = alone.repeat(20);
        for isa in Isa::available() {
            for rows in [1, 2, 3, 5, 8, 11, 16, 17, 33, 40, 64, 512, 1100] {
                // The lower levels are too slow for all of them.
                if (isa == Isa::Portable && rows > 40) || (isa == Isa::Avx2 && rows > 64) {
                    continue;
                }
                let batch = product_on(&pool, isa, &weight, &x[..rows * columns], rows, 1 + rows % 5);
                assert_eq!(bits(&batch), bits(&alone[..batch.len()]), "{weight_type}, {isa}, {rows} rows");
            }
        }
    }
}

#[test]
fn the_largest_sums_are_the_same_in_any_batch() {
    // Equal numbers make the largest weights, scales and activations there are, and sums that no f32 holds exactly.
    let (columns, rows) = (512, 33);
    for weight_type in [WeightType::Q8_0, WeightType::Q4_0, WeightType::Q4_K, WeightType::Q6_K] {
        for sign in [1.0, -1.0] {
            let weight = PackedWeight::quantize(weight_type, 17, columns, &vec![sign; 17 * columns]).unwrap();
            let x = vec![1.0; rows * columns];
            for isa in Isa::available() {
                let all = product(isa, &weight, &x, rows, 1);
                let one = product(isa, &weight, &x[..columns], 1, 1);
                for row in all.chunks_exact(17) {
                    assert_eq!(bits(row), bits(&one), "{weight_type} at {isa}");
                }
                let expected = sign * columns as f32;
                assert!(one.iter().all(|y| (y - expected).abs() < 0.05 * columns as f32), "{weight_type}: {one:?}");
            }
        }
    }
}

#[test]
fn maps_of_one_call_may_want_different_activations() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let pool = Pool::new(2);
    let (out_features, columns) = (90, 512);
    let mut weights: Vec<PackedWeight> =
        TYPES.into_iter().map(|weight_type| random_weight(&mut rng, weight_type, out_features, columns)).collect();
    let floats = random_rows(&mut rng, out_features, columns);
    weights.push(PackedWeight::quantize(WeightType::BF16, out_features, columns, &floats).unwrap());
    let map = |weight| LinearMap { weight: Matrix::Packed(weight), bias: None };
    for rows in [1, 7, 20] {
        let x = random_rows(&mut rng, rows, columns);
        for isa in Isa::available() {
            let alone: Vec<Vec<f32>> = weights.iter().map(|weight| product(isa, weight, &x, rows, 1)).collect();
            let maps: Vec<LinearMap> = weights.iter().map(map).collect();
            let mut found = vec![0.0; rows * out_features * weights.len()];
            linear(&pool, isa, &x, rows, &maps, &mut found, |_, _, _, _| {});
            for (index, alone) in alone.iter().enumerate() {
                let side_by_side = found.chunks_exact(out_features).skip(index).step_by(weights.len());
                let found: Vec<f32> = side_by_side.flatten().copied().collect();
                assert_eq!(bits(&found), bits(alone), "map {index}, {isa}, {rows} rows");
            }
            for (gate, up) in [(7, 3), (3, 7), (9, 10), (0, 9)] {
                let mut sums = vec![0.0; rows * out_features];
                let pair = [map(&weights[gate]), map(&weights[up])];
                gated_linear(&pool, isa, &x, rows, pair, &mut sums, |gate, up| {
                    gate.iter_mut().zip(up).for_each(|(gate, up)| *gate += up);
                });
                let expected: Vec<f32> = alone[gate].iter().zip(&alone[up]).map(|(gate, up)| gate + up).collect();
                assert_eq!(bits(&sums), bits(&expected), "maps {gate} and {up}, {isa}, {rows} rows");
            }
        }
    }
}

#[test]
fn integers_are_multiplied_exactly() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for (columns, rows) in [(32, 1), (64, 3), (96, 16), (992, 40)] {
        // With a scale of 1 and a largest magnitude of 127, nothing is rounded.
        let integers = |rng: &mut ChaCha8Rng, len: usize| -> Vec<f32> {
            (0..len).map(|at| if at % 32 == 5 { -127.0 } else { rng.random_range(-127..=127) as f32 }).collect()
        };
        let (weights, x) = (integers(&mut rng, 21 * columns), integers(&mut rng, rows * columns));
        let weight = PackedWeight::quantize(WeightType::Q8_0, 21, columns, &weights).unwrap();
        let expected: Vec<f32> = x
            .chunks_exact(columns)
            .flat_map(|x| weights.chunks_exact(columns).map(|w| x.iter().zip(w).map(|(x, w)| x * w).sum()))
            .collect();
        for isa in Isa::available() {
            assert_eq!(product(isa, &weight, &x, rows, 1), expected, "{isa}, {columns} columns, {rows} rows");
        }
    }
}

#[test]
fn what_is_not_finite_stays_so_and_in_its_row() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for (case, weight_type) in TYPES.into_iter().cycle().take(100).enumerate() {
        let (out_features, columns, rows) = (rng.random_range(1..40), 256, rng.random_range(1..=20));
        let weight = random_weight(&mut rng, weight_type, out_features, columns);
        let mut x = random_rows(&mut rng, rows, columns);
        let clean = product(Isa::best(), &weight, &x, rows, 1);
        let (row, column) = (rng.random_range(0..rows), rng.random_range(0..columns));
        let value = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 2e36][case % 4];
        x[row * columns + column] = value;
        let weights = weight.to_f32();
        for isa in Isa::available() {
            let found = product(isa, &weight, &x, rows, 1);
            for (index, (&found, &clean)) in found.iter().zip(&clean).enumerate() {
                let one = f64::from(weights[index % out_features * columns + column]);
                let name = format!("{weight_type}, {isa}, {value} times {one}: {found}");
                if index / out_features != row {
                    assert_eq!(found.to_bits(), clean.to_bits(), "{name} beside");
                } else if value.is_nan() || (value.is_infinite() && one == 0.0) {
                    assert!(found.is_nan(), "{name}");
                } else if value.is_infinite() {
                    assert_eq!(found, value * one.signum() as f32, "{name}");
                } else {
                    // The row's other values vanish beside it.
                    let expected = f64::from(value) * one;
                    assert!((f64::from(found) - expected).abs() <= expected.abs() * 1e-3 + 1e30, "{name}");
                }
            }
        }
    }
}
