//! Rotary position embedding (Su et al., 2021, <https://arxiv.org/abs/2104.09864>), in the convention of Hugging Face
//! checkpoints: the two halves of a head are rotated against each other, not neighbouring pairs.
//! The angles come from outside; how they are scaled for long contexts is a layer's matter.

pub mod cases;

use burn::tensor::Tensor;

/// Rotates each head by the angles of its position.
///
/// - `x`: `[batch, heads, seq, head_dim]`
/// - `cos`, `sin`: `[seq, rotary_dim / 2]` with `rotary_dim ≤ head_dim`; dimensions past it are left as they are
/// - returns the shape of `x`
///
/// # Panics
/// When the tables differ in shape, do not have `seq` rows, or are wider than half a head.
pub fn rope(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let [_, _, seq, head_dim] = x.dims();
    let [rows, half] = cos.dims();
    assert_eq!(cos.dims(), sin.dims(), "rope: the tables of cosines and sines");
    assert!(rows == seq && 2 * half <= head_dim, "rope: tables [{rows}, {half}] for x {:?}", x.dims());
    if half == 0 || x.dims().contains(&0) {
        // Nothing turns, and not every backend broadcasts tables without elements.
        return x;
    }

    let (cos, sin) = (cos.unsqueeze::<4>(), sin.unsqueeze::<4>());
    let first = x.clone().narrow(3, 0, half);
    let second = x.clone().narrow(3, half, half);
    let mut parts = vec![first.clone() * cos.clone() - second.clone() * sin.clone(), second * cos + first * sin];
    if 2 * half < head_dim {
        parts.push(x.narrow(3, 2 * half, head_dim - 2 * half));
    }
    Tensor::cat(parts, 3)
}
