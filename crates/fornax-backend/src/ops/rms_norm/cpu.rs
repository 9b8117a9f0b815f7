//! One pass over each row to sum the squares and one to scale, without intermediate tensors.

use burn::tensor::TensorData;
use burn_flex::FlexTensor;

/// `x: [rows, features]`, `weight: [features]` → `[rows, features]`.
pub fn rms_norm_rows(x: FlexTensor, weight: FlexTensor, epsilon: f64) -> FlexTensor {
    let shape = [x.layout().shape()[0], x.layout().shape()[1]];
    let features = shape[1];
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let (xs, weights) = (
        x.as_slice::<f32>().expect("contiguous f32, the operation checked the dtype"),
        weight.as_slice::<f32>().expect("contiguous f32, the operation checked the dtype"),
    );
    let mut y = Vec::with_capacity(xs.len());
    for row in xs.chunks_exact(features.max(1)) {
        let mean_square = sum_of_squares(row) / features as f32;
        let scale = 1.0 / (mean_square + epsilon as f32).sqrt();
        y.extend(row.iter().zip(weights).map(|(x, weight)| x * scale * weight));
    }
    FlexTensor::from_data(TensorData::new(y, shape))
}

/// In sixteen lanes, which the compiler can keep in registers and which round less than a single sum.
fn sum_of_squares(row: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let chunks = row.chunks_exact(lanes.len());
    let rest: f32 = chunks.remainder().iter().map(|x| x * x).sum();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * x;
        }
    }
    lanes.iter().sum::<f32>() + rest
}
