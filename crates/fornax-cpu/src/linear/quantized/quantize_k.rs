//! From `f32` into the blocks of Q4_K and Q6_K. Scales and minima are searched for the least squared error: each group's
//! first by itself, then among the few that its block can express.

use half::f16;

/// Weights of a block.
const LEN: usize = 256;

/// The nearest integer, ties to even, for magnitudes below 2^22.
fn round(value: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    (value + MAGIC) - MAGIC
}

/// Appends a block of Q4_K: weights are `d · scale · q - dmin · min`, with 6-bit scales and minima of groups of 32.
pub fn q4_k(block: &[f32; LEN], out: &mut Vec<u8>) {
    let groups = block.as_chunks::<32>().0;
    let fits: Vec<(f32, f32)> = groups.iter().map(fit_scale_and_min).collect();
    let largest = fits.iter().fold((0f32, 0f32), |max, fit| (max.0.max(fit.0), max.1.max(fit.1)));
    let (d, d_min) = (f16::from_f32(largest.0 / 63.0), f16::from_f32(largest.1 / 63.0));
    let (factor, min_factor) = (d.to_f32(), d_min.to_f32());
    let (mut scales, mut mins) = ([0u8; 8], [0u8; 8]);
    for (index, (group, &(scale, min))) in groups.iter().zip(&fits).enumerate() {
        let mut best = f32::INFINITY;
        for scale in around(scale, factor, 0.0, 63.0) {
            for min in around(min, min_factor, 0.0, 63.0) {
                let error = min_error(group, factor * scale, min_factor * min);
                if error < best {
                    best = error;
                    (scales[index], mins[index]) = (scale as u8, min as u8);
                }
            }
        }
    }
    out.extend(d.to_le_bytes());
    out.extend(d_min.to_le_bytes());
    out.extend((0..4).map(|group| scales[group] | scales[group + 4] >> 4 << 6));
    out.extend((0..4).map(|group| mins[group] | mins[group + 4] >> 4 << 6));
    out.extend((4..8).map(|group| scales[group] & 15 | mins[group] << 4));
    let quantized = |group: usize, at: usize| {
        let (scale, min) = (factor * f32::from(scales[group]), min_factor * f32::from(mins[group]));
        ((groups[group][at] + min) * inverse(scale)).clamp(0.0, 15.0).round_ties_even() as u8
    };
    for pair in 0..4 {
        out.extend((0..32).map(|at| quantized(2 * pair, at) | quantized(2 * pair + 1, at) << 4));
    }
}

/// Appends a block of Q6_K: weights are `d · scale · q` with 8-bit scales of groups of 16, and `q` from -32 to 31.
pub fn q6_k(block: &[f32; LEN], out: &mut Vec<u8>) {
    let groups = block.as_chunks::<16>().0;
    let fits: Vec<f32> = groups.iter().map(fit_scale).collect();
    let largest = fits.iter().fold(0f32, |max, &scale| if scale.abs() > max.abs() { scale } else { max });
    // There is one more negative scale than there are positive ones.
    let d = f16::from_f32(largest / -128.0);
    let factor = d.to_f32();
    let mut scales = [0i8; 16];
    for (index, (group, &scale)) in groups.iter().zip(&fits).enumerate() {
        let mut best = f32::INFINITY;
        for scale in around(scale, factor, -128.0, 127.0) {
            let error = error(group, factor * scale);
            if error < best {
                best = error;
                scales[index] = scale as i8;
            }
        }
    }
    let mut quantized = [0u8; LEN];
    for (at, (quantized, &value)) in quantized.iter_mut().zip(block).enumerate() {
        let scale = factor * f32::from(scales[at / 16]);
        *quantized = ((value * inverse(scale)).clamp(-32.0, 31.0).round_ties_even() + 32.0) as u8;
    }
    let halves = quantized.as_chunks::<128>().0;
    for half in halves {
        out.extend((0..64).map(|at| half[at] & 15 | half[at + 64] << 4));
    }
    for half in halves {
        out.extend(
            (0..32)
                .map(|at| half[at] >> 4 | half[at + 32] >> 4 << 2 | half[at + 64] >> 4 << 4 | half[at + 96] >> 4 << 6),
        );
    }
    out.extend(scales.map(|scale| scale as u8));
    out.extend(d.to_le_bytes());
}

/// `1 / value`, or zero where that has no use.
fn inverse(value: f32) -> f32 {
    let inverse = 1.0 / value;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The integers around `value / factor` within limits.
fn around(value: f32, factor: f32, low: f32, high: f32) -> [f32; 3] {
    let nearest = (value * inverse(factor)).clamp(low, high).round_ties_even();
    [nearest, (nearest - 1.0).max(low), (nearest + 1.0).min(high)]
}

/// Sums over the elements of an array in eight partial sums, which the compiler can hold in vectors.
fn sums<const N: usize, const S: usize>(group: &[f32; N], term: impl Fn(f32) -> [f32; S]) -> [f32; S] {
    let mut partial = [[0f32; 8]; S];
    for values in group.as_chunks::<8>().0 {
        for (lane, &value) in values.iter().enumerate() {
            for (partial, term) in partial.iter_mut().zip(term(value)) {
                partial[lane] += term;
            }
        }
    }
    partial.map(|partial| partial.iter().sum())
}

/// Squared error of a group with a scale and a minimum.
fn min_error(group: &[f32; 32], scale: f32, min: f32) -> f32 {
    let inverse = inverse(scale);
    let [error] = sums(group, |value| {
        let error = scale * round(((value + min) * inverse).clamp(0.0, 15.0)) - min - value;
        [error * error]
    });
    error
}

/// Squared error of a group with a scale.
fn error(group: &[f32; 16], scale: f32) -> f32 {
    let inverse = inverse(scale);
    let [error] = sums(group, |value| {
        let error = scale * round((value * inverse).clamp(-32.0, 31.0)) - value;
        [error * error]
    });
    error
}

/// The scale and the minimum, neither negative, with which 0 to 15 are nearest to a group.
fn fit_scale_and_min(group: &[f32; 32]) -> (f32, f32) {
    let low = group.iter().fold(0f32, |min, &value| min.min(value));
    let high = group.iter().fold(low, |max, &value| max.max(value));
    if high <= low {
        // All are equal and not positive: the minimum alone is enough.
        return (0.0, -low);
    }
    let mut best = (min_error(group, (high - low) / 15.0, -low), ((high - low) / 15.0, -low));
    for step in 0..21 {
        // Some more or fewer steps than fit between the two: the outermost are cut off, or moved inwards.
        let inverse = (14.0 + 0.1 * step as f32) / (high - low);
        let [q, qq, qx, x] = sums(group, |value| {
            let q = round(((value - low) * inverse).clamp(0.0, 15.0));
            [q, q * q, q * value, value]
        });
        // Least squares of x = scale · q - min for these q.
        let n = group.len() as f32;
        let determinant = n * qq - q * q;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (n * qx - x * q) / determinant;
        let mut min = (q * qx - qq * x) / determinant;
        if min < 0.0 {
            (scale, min) = (qx / qq, 0.0);
        }
        let error = min_error(group, scale, min);
        if scale > 0.0 && error < best.0 {
            best = (error, (scale, min));
        }
    }
    best.1
}

/// The scale, of either sign, with which -32 to 31 are nearest to a group.
fn fit_scale(group: &[f32; 16]) -> f32 {
    let largest = group.iter().fold(0f32, |max, &value| if value.abs() > max.abs() { value } else { max });
    let mut best = (f32::INFINITY, 0.0);
    for step in 0..19 {
        let inverse = inverse(largest) * -(31.1 + 0.1 * step as f32);
        let [qx, qq] = sums(group, |value| {
            let q = round((value * inverse).clamp(-32.0, 31.0));
            [q * value, q * q]
        });
        if qq > 0.0 {
            let error = error(group, qx / qq);
            if error < best.0 {
                best = (error, qx / qq);
            }
        }
    }
    best.1
}
