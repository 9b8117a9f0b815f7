//! `rope`: whole and partial rotation by the definition, and what makes it a position embedding.

use burn::tensor::Tensor;
use fornax_backend::ops::cases::rope::{Case, TESTS};
use fornax_backend::ops::rope;

use super::common::*;

/// Dimension `i` of the first half of what turns is rotated against dimension `i` of the second half.
fn naive(x: &Array<4>, cos: &Array<2>, sin: &Array<2>) -> Array<4> {
    let half = cos.dims[1];
    Array::from_fn(x.dims, |[batch, head, seq, dim]| {
        let here = x.at([batch, head, seq, dim]);
        if dim < half {
            here * cos.at([seq, dim]) - x.at([batch, head, seq, dim + half]) * sin.at([seq, dim])
        } else if dim < 2 * half {
            here * cos.at([seq, dim - half]) + x.at([batch, head, seq, dim - half]) * sin.at([seq, dim - half])
        } else {
            here
        }
    })
}

/// The tables of the paper, for positions from `first` on.
fn tables(first: usize, seq: usize, rotary_dim: usize) -> (Array<2>, Array<2>) {
    let angle =
        |[position, i]: [usize; 2]| (first + position) as f64 * 10_000f64.powf(-((2 * i) as f64) / rotary_dim as f64);
    let dims = [seq, rotary_dim / 2];
    (Array::from_fn(dims, |index| angle(index).cos()), Array::from_fn(dims, |index| angle(index).sin()))
}

#[test]
fn cases_follow_the_definition() {
    for (seed, &Case { shape, rotary_dim }) in TESTS.iter().enumerate() {
        let mut random = Random::new(seed as u64);
        let x = Array::random(shape, &mut random);
        let half = [shape[2], rotary_dim / 2];
        // Tables that are no cosines and sines, so that neither could be taken for the other.
        for (cos, sin) in [
            tables(0, shape[2], rotary_dim),
            tables(37, shape[2], rotary_dim),
            (Array::random(half, &mut random), Array::random(half, &mut random)),
        ] {
            let y = rope(x.tensor(device()), cos.tensor(device()), sin.tensor(device()));
            assert_close(TESTS[seed], y, &naive(&x, &cos, &sin), unit(1));
        }
    }
}

#[test]
fn random_shapes_follow_the_definition() {
    for mut random in random_shapes() {
        let rotary_dim = 2 * random.size(8);
        let head_dim = rotary_dim + random.size(5) - 1;
        let shape = [random.size(3), random.size(3), random.size(6), head_dim];
        let x = Array::random(shape, &mut random);
        let (cos, sin) = tables(random.size(100), shape[2], rotary_dim);
        let y = rope(x.tensor(device()), cos.tensor(device()), sin.tensor(device()));
        assert_close((shape, rotary_dim), y, &naive(&x, &cos, &sin), unit(1));
    }
}

#[test]
fn without_positions_or_angles_nothing_turns() {
    let Some(device) = cpu() else { return };
    let table = |rows: usize, half: usize| Tensor::<2>::zeros([rows, half], device.as_burn());
    let x = Tensor::<4>::zeros([1, 2, 0, 4], device.as_burn());
    assert_eq!(rope(x, table(0, 2), table(0, 2)).dims(), [1, 2, 0, 4]);
    let x = Array::random([1, 2, 3, 4], &mut Random::new(0));
    assert_close("no angles", rope(x.tensor(device), table(3, 0), table(3, 0)), &x, 0.0);
}

#[test]
fn position_zero_is_left_as_it_is() {
    let x = Array::random([1, 2, 1, 8], &mut Random::new(1));
    let (cos, sin) = tables(0, 1, 8);
    let y = rope(x.tensor(device()), cos.tensor(device()), sin.tensor(device()));
    assert_close("position 0", y, &x, unit(1));
}

/// The product of a rotated query and a rotated key depends on their distance alone.
#[test]
fn products_depend_on_the_distance() {
    let mut random = Random::new(2);
    let (query, key) = (Array::random([1, 1, 1, 16], &mut random), Array::random([1, 1, 1, 16], &mut random));
    let rotated = |x: &Array<4>, position| {
        let (cos, sin) = tables(position, 1, 16);
        Array::read(rope(x.tensor(device()), cos.tensor(device()), sin.tensor(device())))
    };
    let product = |query_at, key_at| loss(&rotated(&query, query_at), &rotated(&key, key_at));
    let (near, far, other) = (product(5, 2), product(45, 42), product(5, 3));
    assert!((near - far).abs() <= unit(16) * (1.0 + near.abs()), "found {far}, expected {near}");
    assert!((near - other).abs() > 1e-2, "another distance gave {other}, the first one {near}");
}

#[test]
fn views_are_read_where_they_lie() {
    let x = Array::random([2, 5, 3, 10], &mut Random::new(3));
    let (cos, sin) = tables(0, 9, 8);
    // Heads of a projection, `[batch, seq, heads, dim]`, and a part of longer tables.
    let y = rope(
        x.tensor(device()).swap_dims(1, 2),
        cos.tensor(device()).narrow(0, 4, 5),
        sin.tensor(device()).narrow(0, 4, 5),
    );
    let swapped = Array::from_fn([2, 3, 5, 10], |[b, h, s, d]| x.at([b, s, h, d]));
    assert_close("views", y, &naive(&swapped, &cos.narrow(0, 4, 5), &sin.narrow(0, 4, 5)), unit(1));
}

/// Shader compilers may take it that there are neither, so only the CPU promises this.
#[test]
fn nan_and_infinity_travel() {
    if cpu().is_none() {
        return;
    }
    let mut x = Array::random([1, 2, 3, 6], &mut Random::new(4));
    x.set([0, 0, 1, 1], f64::NAN);
    x.set([0, 1, 2, 4], f64::INFINITY);
    x.set([0, 1, 0, 5], f64::NEG_INFINITY);
    let (cos, sin) = tables(3, 3, 4);
    let expected = naive(&x, &cos, &sin);
    assert!(expected.at([0, 0, 1, 3]).is_nan() && expected.at([0, 0, 1, 0]).is_finite(), "only its partner");
    let y = rope(x.tensor(device()), cos.tensor(device()), sin.tensor(device()));
    assert_close("specials", y, &expected, unit(1));
}

#[test]
fn half_precision_is_close() {
    for dtype in half_dtypes() {
        let x = Array::random([2, 3, 5, 12], &mut Random::new(5));
        let (cos, sin) = tables(2, 5, 8);
        let (x, x_values) = x.rounded(device(), dtype);
        let (cos, cos_values) = cos.rounded(device(), dtype);
        let (sin, sin_values) = sin.rounded(device(), dtype);
        let y = rope(x, cos, sin);
        assert_eq!(y.dtype(), dtype.into());
        assert_close(dtype, y, &naive(&x_values, &cos_values, &sin_values), HALF_UNIT);
    }
}

#[test]
fn gradients_follow_differences() {
    let Some(device) = cpu() else { return };
    for (shape, rotary_dim) in [([1, 2, 3, 4], 4), ([2, 1, 2, 5], 2)] {
        let mut random = Random::new(6);
        let (x, coefficients) = (Array::random(shape, &mut random), Array::random(shape, &mut random));
        let (cos, sin) = tables(3, shape[2], rotary_dim);
        let xt = x.tracked(device);
        let y = rope(xt.clone(), cos.tensor(device), sin.tensor(device));
        assert_close("forward", y.clone().inner(), &naive(&x, &cos, &sin), unit(1));
        let gradients = backward(y, &coefficients);
        assert_gradient("x", &gradients, &xt, &x, |x| loss(&naive(x, &cos, &sin), &coefficients));
    }
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let x = || Tensor::<4>::zeros([1, 2, 3, 8], device().as_burn());
    let table = |rows: usize, half: usize| Tensor::<2>::zeros([rows, half], device().as_burn());
    assert_panics(&["rope:", "tables"], || rope(x(), table(3, 4), table(3, 3)));
    assert_panics(&["rope:", "[2, 4]", "[1, 2, 3, 8]"], || rope(x(), table(2, 4), table(2, 4)));
    assert_panics(&["rope:", "[3, 5]", "[1, 2, 3, 8]"], || rope(x(), table(3, 5), table(3, 5)));
}
