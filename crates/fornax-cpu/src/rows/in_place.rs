//! What is done to a result while it is still in the cache, on the calling thread: sums and products with other numbers.

use crate::Isa;
use crate::simd::{Kernel, Simd, dispatch};

/// `x += y`
///
/// # Panics
/// When they differ in length.
pub fn add_in_place(isa: Isa, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "add: values");
    dispatch(isa, Combine::<false> { x: x.as_mut_ptr(), y: y.as_ptr(), len: x.len() });
}

/// `x *= y`
///
/// # Panics
/// When they differ in length.
pub fn multiply_in_place(isa: Isa, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "multiply: values");
    dispatch(isa, Combine::<true> { x: x.as_mut_ptr(), y: y.as_ptr(), len: x.len() });
}

struct Combine<const PRODUCT: bool> {
    x: *mut f32,
    y: *const f32,
    len: usize,
}

impl<const PRODUCT: bool> Kernel for Combine<PRODUCT> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let combine = |x: S::V, y: S::V| if PRODUCT { s.mul(x, y) } else { s.add(x, y) };
        let whole = self.len / S::LANES * S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            // SAFETY: both have `len` numbers, and nobody else has those of `x`.
            unsafe {
                let x = self.x.add(at);
                s.store(x, combine(s.load(x), s.load(self.y.add(at))));
            }
        }
        let rest = self.len - whole;
        if rest > 0 {
            // SAFETY: as above, for the last of them.
            unsafe {
                let x = self.x.add(whole);
                s.store_first(x, combine(s.load_first(x, rest), s.load_first(self.y.add(whole), rest)), rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_reached_once() {
        for isa in Isa::available() {
            for len in [0, 1, 15, 16, 17, 100] {
                let y: Vec<f32> = (0..len).map(|i| i as f32).collect();
                let mut x = vec![3.0; len];
                add_in_place(isa, &mut x, &y);
                assert!(x.iter().zip(&y).all(|(x, y)| *x == 3.0 + y), "{isa} {len}");
                multiply_in_place(isa, &mut x, &y);
                assert!(x.iter().zip(&y).all(|(x, y)| *x == (3.0 + y) * y), "{isa} {len}");
            }
        }
    }
}
