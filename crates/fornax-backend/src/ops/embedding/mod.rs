//! Rows of a table by number: the vectors of tokens or positions, and the rows of a batch whose logits are wanted.
//! Callers check ids from outside before they come here.

use burn::tensor::{Device, Int, Tensor};

use super::linear::WeightRef;
use crate::values::cpu_tensor;
use crate::{buffers, from_values, values};

/// The rows `ids` of a table `[entries, dim]`, on `device`: `[ids, dim]`.
///
/// # Panics
/// When an id is not in the table.
pub fn embedding(ids: &[u32], table: &WeightRef<'_>, device: &Device) -> Tensor<2> {
    let [entries, dim] = table.dims();
    if let Some(id) = ids.iter().find(|&&id| id as usize >= entries) {
        panic!("embedding: row {id} of a table of {entries}");
    }
    match table {
        WeightRef::Dense(table) => rows(table.clone(), ids),
        WeightRef::Packed(table) => {
            let mut y = buffers::take(ids.len() * dim);
            for (row, &id) in y.chunks_exact_mut(dim.max(1)).zip(ids) {
                table.read_row(id as usize, row);
            }
            from_values(y, [ids.len(), dim], device)
        }
    }
}

/// The rows of `x: [rows, columns]` with these numbers, in their order; a row may be asked for several times.
///
/// # Panics
/// When there is no such row.
pub fn rows(x: Tensor<2>, numbers: &[u32]) -> Tensor<2> {
    let ([rows, columns], device) = (x.dims(), x.device());
    if let Some(row) = numbers.iter().find(|&&row| row as usize >= rows) {
        panic!("rows: row {row} of {rows}");
    }
    if let Some(values) = values(&x) {
        let mut y = buffers::take(numbers.len() * columns);
        for (to, &row) in y.chunks_exact_mut(columns.max(1)).zip(numbers) {
            to.copy_from_slice(&values[row as usize * columns..][..columns]);
        }
        return cpu_tensor(y, [numbers.len(), columns]);
    }
    let numbers: Vec<i32> = numbers.iter().map(|&row| row as i32).collect();
    x.select(0, Tensor::<1, Int>::from_data(numbers.as_slice(), &device))
}
