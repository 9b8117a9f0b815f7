//! The functions that softmax and activations need, on vectors. Within 2 units in the last place unless said otherwise;
//! results below the smallest normal number are zero, since numbers smaller than that slow down what uses them.
//! The polynomials are minimax fits of the relative error on the intervals named beside them.

use super::Simd;

/// `c[0] + c[1] x + …`
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::V, coefficients: [f32; N]) -> S::V {
    let mut sum = s.splat(coefficients[N - 1]);
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        sum = s.fma(sum, x, s.splat(coefficients[i]));
    }
    sum
}

/// `2^x` for `x ≤ 127`, which is all that softmax asks for.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(s: S, x: S::V) -> S::V {
    // On -1/2 to 1/2, within 2e-9.
    const P: [f32; 7] = [1.0, 6.931_472e-1, 2.402_264_8e-1, 5.550_332_5e-2, 9.618_437e-3, 1.339_887_5e-3, 1.535_336e-4];
    let n = s.round(x);
    let power = s.scale(polynomial(s, s.sub(x, n), P), n);
    s.if_less(x, s.splat(-126.0), s.splat(0.0), power)
}

/// `e^x`
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // On -ln 2 / 2 to ln 2 / 2, within 4e-9.
    const P: [f32; 7] = [1.0, 1.0, 4.999_999_3e-1, 1.666_652e-1, 4.166_838_7e-2, 8.368_71e-3, 1.381_461e-3];
    // The logarithm of 2 in two pieces; the first has few enough bits that its multiples are exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Not a number comes through as the second argument. 89 is beyond the largest finite result.
    let x = s.min(s.splat(89.0), x);
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let rest = s.neg_fma(n, s.splat(LN2_LOW), s.neg_fma(n, s.splat(LN2_HIGH), x));
    let power = s.scale(polynomial(s, rest, P), n);
    s.if_less(x, s.splat(-87.336_54), s.splat(0.0), power)
}

/// `1 / (1 + e^-x)`
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// The hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    // tanh(x) / x in x², for x to 0.625, within 2e-7.
    const P: [f32; 5] = [1.0, -3.333_234e-1, 1.330_817_5e-1, -5.194_788_6e-2, 1.519_534_9e-2];
    let size = s.abs(x);
    let small = s.mul(x, polynomial(s, s.mul(x, x), P));
    let one = s.splat(1.0);
    let e = exp(s, s.mul(size, s.splat(-2.0)));
    let large = s.div(s.sub(one, e), s.add(one, e));
    let large = s.if_less(x, s.splat(0.0), s.sub(s.splat(0.0), large), large);
    s.if_less(size, s.splat(0.625), small, large)
}

/// The complementary error function of `x / √2` for `x ≥ 0`, within 4e-7 of itself up to 4 and within 1e-5 beyond.
#[inline(always)]
pub(crate) fn erfc_positive<S: Simd>(s: S, x: S::V) -> S::V {
    // e^(z²) erfc(z) / t in t = 1 / (1 + 0.35 z), for z = x / √2 to 10, within 8e-9. Beyond, the result is zero.
    const P: [f32; 10] = [
        1.974_837_8e-1,
        1.971_383_7e-1,
        1.879_022_3e-1,
        1.511_869_7e-1,
        1.460_399_2e-1,
        8.702_299e-2,
        -2.771_074_6e-2,
        1.814_650_5e-1,
        -1.589_299_2e-1,
        3.840_135_3e-2,
    ];
    let one = s.splat(1.0);
    let t = s.div(one, s.fma(x, s.splat(0.35 * std::f32::consts::FRAC_1_SQRT_2), one));
    let tail = exp(s, s.mul(s.mul(x, x), s.splat(-0.5)));
    s.mul(s.mul(tail, t), polynomial(s, t, P))
}

#[cfg(test)]
mod tests {
    use super::super::{Kernel, dispatch};
    use super::*;
    use crate::Isa;

    struct Map<'a>(&'a str, &'a [f32], &'a mut [f32]);

    impl Kernel for Map<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for (x, y) in self.1.chunks_exact(S::LANES).zip(self.2.chunks_exact_mut(S::LANES)) {
                // SAFETY: the chunks are vectors long.
                let v = unsafe { s.load(x.as_ptr()) };
                let v = match self.0 {
                    "exp" => exp(s, v),
                    "exp2" => exp2(s, v),
                    "sigmoid" => sigmoid(s, v),
                    "tanh" => tanh(s, v),
                    _ => erfc_positive(s, v),
                };
                // SAFETY: as above.
                unsafe { s.store(y.as_mut_ptr(), v) };
            }
        }
    }

    fn map(isa: Isa, name: &str, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        dispatch(isa, Map(name, x, &mut y));
        y
    }

    /// The largest error relative to the true value, where that is a normal number; elsewhere 0 is expected nearby.
    fn worst(name: &str, from: f32, to: f32, truth: impl Fn(f64) -> f64) -> f64 {
        let x: Vec<f32> = (0..32_000).map(|i| from + (to - from) * i as f32 / 31_999.0).collect();
        let mut worst = 0.0f64;
        for isa in Isa::available() {
            for (&x, y) in x.iter().zip(map(isa, name, &x)) {
                let truth = truth(f64::from(x));
                if truth.abs() < 2.0 * f64::from(f32::MIN_POSITIVE) {
                    assert!(y.abs() <= 2.0 * f32::MIN_POSITIVE, "{name}({x}) at {isa}: {y}");
                } else {
                    worst = worst.max((f64::from(y) / truth - 1.0).abs());
                }
            }
        }
        worst
    }

    #[test]
    fn functions_are_accurate() {
        let ulp = f64::from(f32::EPSILON);
        assert!(worst("exp", -110.0, 88.7, f64::exp) < 2.0 * ulp);
        assert!(worst("exp2", -160.0, 100.0, f64::exp2) < 2.0 * ulp);
        assert!(worst("sigmoid", -87.0, 100.0, |x| 1.0 / (1.0 + (-x).exp())) < 3.0 * ulp);
        assert!(worst("tanh", -12.0, 12.0, f64::tanh) < 4.0 * ulp);
        // erfc(1 / √2) and erfc(3 / √2), the chances to be beyond one and three standard deviations.
        for isa in Isa::available() {
            let y = map(isa, "erfc", &[1.0, 3.0, 0.0, 20.0].repeat(4));
            for (y, truth) in y.iter().zip([0.317_310_507_86, 0.002_699_796_063_3, 1.0, 0.0]) {
                assert!((f64::from(*y) - truth).abs() <= 4.0 * ulp * truth, "{y} for {truth} at {isa}");
            }
        }
    }

    #[test]
    fn limits_are_right() {
        let x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 88.8, -200.0, 1e-40].repeat(2);
        for isa in Isa::available() {
            let y = map(isa, "exp", &x);
            assert!(y[0].is_nan() && y[1] == f32::INFINITY && y[2] == 0.0 && y[5] == f32::INFINITY, "{isa}: {y:?}");
            assert_eq!(y[3..5], [1.0, 1.0]);
            assert_eq!(y[6..8], [0.0, 1.0]);
            let y = map(isa, "tanh", &x);
            assert!(y[0].is_nan() && y[1] == 1.0 && y[2] == -1.0 && y[3] == 0.0, "{isa}: {y:?}");
            let y = map(isa, "sigmoid", &x);
            assert!(y[0].is_nan() && y[1] == 1.0 && y[2] == 0.0 && y[3] == 0.5, "{isa}: {y:?}");
            let y = map(isa, "exp2", &[f32::NAN, f32::NEG_INFINITY, 0.0, -1000.0].repeat(4));
            assert!(y[0].is_nan() && y[1..4] == [0.0, 1.0, 0.0], "{isa}: {y:?}");
        }
    }
}
