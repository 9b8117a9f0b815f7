//! `embedding` and `rows`: vectors by number, in the asked order, from dense tables and packed ones.

use burn::tensor::Tensor;
use fornax_backend::ops::{WeightRef, embedding, rows};
use fornax_cpu::{PackedWeight, WeightType};

use crate::common::*;

/// Rows of a table, one below the other.
fn naive(table: &Array<2>, ids: &[u32]) -> Array<2> {
    Array::from_fn([ids.len(), table.dims[1]], |[row, i]| table.at([ids[row] as usize, i]))
}

const IDS: [u32; 7] = [3, 0, 8, 3, 3, 7, 1];

#[test]
fn rows_come_in_the_asked_order() {
    // Results that are large enough for reused buffers, and smaller ones.
    for dim in [1, 5, 4096] {
        let table = Array::random([9, dim], &mut Random::new(dim as u64));
        let expected = naive(&table, &IDS);
        let found = embedding(&IDS, &WeightRef::Dense(table.tensor(device())), device());
        assert_close(dim, found, &expected, 0.0);
        assert_close(dim, rows(table.tensor(device()), &IDS), &expected, 0.0);
    }
}

#[test]
fn views_are_read_where_they_lie() {
    let table = Array::random([9, 12], &mut Random::new(1));
    let part = table.tensor(device()).narrow(1, 3, 5);
    assert_close("columns", rows(part, &IDS), &naive(&table.narrow(1, 3, 5), &IDS), 0.0);
    let part = table.tensor(device()).transpose();
    let transposed = Array::from_fn([12, 9], |[i, j]| table.at([j, i]));
    assert_close("transposed", rows(part, &[11, 2]), &naive(&transposed, &[11, 2]), 0.0);
}

#[test]
fn packed_tables_give_what_they_unpack_to() {
    let mut compared = 0;
    let table = Array::random([9, 256], &mut Random::new(2));
    let values: Vec<f32> = table.values.iter().map(|&value| value as f32).collect();
    for weight_type in WeightType::ALL {
        let Ok(packed) = PackedWeight::quantize(weight_type, 9, 256, &values) else { continue };
        let unpacked = Array { dims: [9, 256], values: packed.to_f32().into_iter().map(f64::from).collect() };
        let found = embedding(&IDS, &WeightRef::Packed(&packed), device());
        assert_close(weight_type, found, &naive(&unpacked, &IDS), 0.0);
        compared += 1;
    }
    assert!(compared > 3);
}

#[test]
fn half_precision_stays_as_it_is() {
    for dtype in half_dtypes() {
        let (table, values) = Array::random([9, 6], &mut Random::new(3)).rounded(device(), dtype);
        for found in [embedding(&IDS, &WeightRef::Dense(table.clone()), device()), rows(table, &IDS)] {
            assert_eq!(found.dtype(), dtype.into());
            assert_close(dtype, found, &naive(&values, &IDS), 0.0);
        }
    }
}

/// A row that is asked for several times gets the sum of the gradients.
#[test]
fn gradients_follow_differences() {
    let Some(device) = cpu() else { return };
    let mut random = Random::new(4);
    let (table, coefficients) = (Array::random([9, 3], &mut random), Array::random([7, 3], &mut random));
    let tracked = table.tracked(device);
    let y = embedding(&IDS, &WeightRef::Dense(tracked.clone()), &device.autodiff());
    let gradients = backward(y, &coefficients);
    assert_gradient("table", &gradients, &tracked, &table, |table| loss(&naive(table, &IDS), &coefficients));
}

#[test]
fn without_ids_there_are_no_rows() {
    let Some(device) = cpu() else { return };
    for device in [device, &device.autodiff()] {
        let table = Tensor::<2>::zeros([4, 3], device.as_burn());
        assert_eq!(embedding(&[], &WeightRef::Dense(table.clone()), device).dims(), [0, 3]);
        assert_eq!(rows(table, &[]).dims(), [0, 3]);
    }
}

#[test]
fn rows_that_are_not_there_are_named() {
    let table = || Tensor::<2>::zeros([4, 3], device().as_burn());
    let packed = PackedWeight::quantize(WeightType::BF16, 4, 3, &[0.0; 12]).expect("bf16 has no blocks");
    assert_panics(&["embedding:", "row 4 of a table of 4"], || {
        embedding(&[1, 4], &WeightRef::Dense(table()), device())
    });
    assert_panics(&["embedding:", "row 9 of a table of 4"], || embedding(&[9], &WeightRef::Packed(&packed), device()));
    assert_panics(&["rows:", "row 4 of 4"], || rows(table(), &[0, 4]));
}
