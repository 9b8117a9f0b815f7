//! Linear maps over all threads: who computes which panels, and what happens to a result while it is in the cache
//! (bias, residual, activation). It knows no kernel; those are chosen by the weight.

use std::cell::RefCell;
use std::ops::Range;

use crate::dense;
use crate::linear::{ActivationKind, Activations, OutRows, multiply, prepare};
use crate::packed::{PANEL, PackedWeight};
use crate::rows::add_in_place;
use crate::{Isa, Pool};

/// The matrix of a linear map.
#[derive(Debug, Clone, Copy)]
pub enum Matrix<'a> {
    /// Packed, of any type.
    Packed(&'a PackedWeight),
    /// `f32` in rows, used where they lie.
    Dense {
        /// `[out_features, in_features]`
        values: &'a [f32],
        /// Rows.
        out_features: usize,
        /// Columns.
        in_features: usize,
    },
}

impl Matrix<'_> {
    /// Columns of the result.
    pub fn out_features(&self) -> usize {
        match self {
            Self::Packed(weight) => weight.out_features(),
            Self::Dense { out_features, .. } => *out_features,
        }
    }

    /// Columns of the input.
    pub fn in_features(&self) -> usize {
        match self {
            Self::Packed(weight) => weight.in_features(),
            Self::Dense { in_features, .. } => *in_features,
        }
    }

    fn panels(&self) -> usize {
        self.out_features().div_ceil(PANEL)
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Packed(weight) => weight.bytes().len(),
            Self::Dense { values, .. } => size_of_val(*values),
        }
    }
}

/// One of the linear maps that share an input.
#[derive(Debug, Clone, Copy)]
pub struct LinearMap<'a> {
    /// `[out_features, in_features]`
    pub weight: Matrix<'a>,
    /// `[out_features]`
    pub bias: Option<&'a [f32]>,
}

/// `outs[i] = finish(x Wᵢᵀ + bᵢ)`.
///
/// - `x`: `[rows, in_features]`
/// - `outs[i]`: `[rows, out_features of maps[i]]`
/// - `finish(i, row, columns, values)`: changes some of a row's finished values; called once for each, on any thread
///
/// # Panics
/// When the lengths of the slices do not fit the maps.
pub fn linear(
    pool: &Pool,
    isa: Isa,
    x: &[f32],
    rows: usize,
    maps: &[LinearMap<'_>],
    outs: &mut [&mut [f32]],
    finish: impl Fn(usize, usize, Range<usize>, &mut [f32]) + Sync,
) {
    check(x, rows, maps);
    assert_eq!(maps.len(), outs.len(), "results and maps");
    for (map, out) in maps.iter().zip(outs.iter()) {
        assert_eq!(out.len(), rows * map.weight.out_features(), "values of a result");
    }
    if rows == 0 {
        return;
    }
    let prepared = Prepared::new(pool, isa, x, rows, maps);
    // SAFETY: `outs` is borrowed for the whole call, and each task writes its own columns of one of them.
    let targets: Vec<OutRows> = outs
        .iter_mut()
        .zip(maps)
        .map(|(out, map)| {
            let columns = map.weight.out_features();
            // SAFETY: as above.
            unsafe { OutRows::new(out.as_mut_ptr(), columns, columns) }
        })
        .collect();
    let tasks = split(pool, rows, maps);
    pool.run(tasks.len(), |task| {
        let Task { map: index, panels } = tasks[task].clone();
        let (map, out) = (&maps[index], targets[index]);
        // SAFETY: the tasks of a map are disjoint, and `finish_rows` runs after the product, on this thread.
        unsafe {
            prepared.multiply(isa, map, panels.clone(), out);
            finish_rows(isa, rows, map, panels, out, |row, columns, values| finish(index, row, columns, values));
        }
    });
}

/// `out = combine(x Gᵀ + g, x Uᵀ + u)`, without holding the two in memory: the input half of a gated MLP.
///
/// - `x`: `[rows, in_features]`
/// - `out`: `[rows, out_features]`, of which both maps have as many
/// - `combine(gate, up)`: turns some of a row's gate values into results, in place
///
/// # Panics
/// When the lengths of the slices do not fit the maps, or the maps one another.
pub fn gated_linear(
    pool: &Pool,
    isa: Isa,
    x: &[f32],
    rows: usize,
    [gate, up]: [LinearMap<'_>; 2],
    out: &mut [f32],
    combine: impl Fn(&mut [f32], &[f32]) + Sync,
) {
    thread_local! {
        static UP: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }

    check(x, rows, &[gate, up]);
    let features = gate.weight.out_features();
    assert_eq!(up.weight.out_features(), features, "output features of gate and up");
    assert_eq!(out.len(), rows * features, "values of the result");
    if rows == 0 {
        return;
    }
    let prepared = Prepared::new(pool, isa, x, rows, &[gate, up]);
    // SAFETY: `out` is borrowed for the whole call, and each task writes its own columns.
    let target = unsafe { OutRows::new(out.as_mut_ptr(), features, features) };
    // Both maps of a task's columns: the pieces are cut for the gate, so they hold twice the bytes.
    let tasks = split(pool, rows, &[gate]);
    pool.run(tasks.len(), |task| {
        let panels = tasks[task].panels.clone();
        let columns = panels.start * PANEL..(panels.end * PANEL).min(features);
        UP.with_borrow_mut(|scratch| {
            scratch.resize(rows * columns.len(), 0.0);
            // The kernels count columns from the weight's first, which lies before the scratch.
            let first = scratch.as_mut_ptr().wrapping_sub(columns.start);
            // SAFETY: the columns of these panels lie inside of the scratch, with its stride; those of `out` are this
            // task's alone.
            unsafe {
                let scratch_rows = OutRows::new(first, columns.len(), columns.end);
                prepared.multiply(isa, &gate, panels.clone(), target);
                prepared.multiply(isa, &up, panels.clone(), scratch_rows);
                finish_rows(isa, rows, &up, panels.clone(), scratch_rows, |_, _, _| {});
                finish_rows(isa, rows, &gate, panels, target, |row, columns, values| {
                    let at = row * columns.len();
                    combine(values, &scratch[at..at + columns.len()]);
                });
            }
        });
    });
}

fn check(x: &[f32], rows: usize, maps: &[LinearMap<'_>]) {
    for LinearMap { weight, bias } in maps {
        if let Matrix::Dense { values, out_features, in_features } = weight {
            assert_eq!(values.len(), out_features * in_features, "values of a weight");
        }
        assert_eq!(x.len(), rows * weight.in_features(), "values of {rows} rows");
        if let Some(bias) = bias {
            assert_eq!(bias.len(), weight.out_features(), "values of a bias");
        }
    }
}

/// The input in the forms that the maps need, which may be of several kinds.
struct Prepared<'a> {
    x: &'a [f32],
    rows: usize,
    /// By [`ActivationKind`].
    forms: [Option<Activations>; ActivationKind::ALL.len()],
}

impl<'a> Prepared<'a> {
    fn new(pool: &Pool, isa: Isa, x: &'a [f32], rows: usize, maps: &[LinearMap<'_>]) -> Self {
        let form = |kind: ActivationKind| {
            let weight = maps.iter().find_map(|map| match map.weight {
                Matrix::Packed(weight) if ActivationKind::of(weight.weight_type()) == kind => Some(weight),
                _ => None,
            });
            weight.map(|weight| prepare(pool, isa, weight, x, rows))
        };
        Self { x, rows, forms: ActivationKind::ALL.map(form) }
    }

    /// # Safety
    /// As for [`multiply`].
    unsafe fn multiply(&self, isa: Isa, map: &LinearMap<'_>, panels: Range<usize>, out: OutRows) {
        match map.weight {
            Matrix::Packed(weight) => {
                let form = &self.forms[ActivationKind::of(weight.weight_type()) as usize];
                let form = form.as_ref().expect("prepared for every map");
                // SAFETY: the caller's promise.
                unsafe { multiply(isa, form, weight, panels, out) }
            }
            Matrix::Dense { values, in_features, .. } => {
                // SAFETY: the caller's promise.
                unsafe { dense::multiply(isa, self.x, self.rows, values, in_features, panels, out) }
            }
        }
    }
}

/// Some panels of one of the maps.
#[derive(Debug, Clone, PartialEq)]
struct Task {
    map: usize,
    panels: Range<usize>,
}

/// Panels that a kernel reads side by side; a task should have no fewer.
const STREAMS: usize = 4;
/// Panels of a task of many rows at most: their part of the result stays in the second-level cache. Kernels for many rows
/// take panels in pairs.
const MANY_ROWS_PANELS: usize = 8;
/// The same for float weights, whose kernels pass over the input once for all of a task's panels.
const MANY_ROWS_FLOAT_PANELS: usize = 32;
/// Waking a thread pays from about this much of a weight on.
const TASK_BYTES: usize = 64 << 10;

/// Cuts the maps into tasks, several for each thread so that a slower one takes fewer.
fn split(pool: &Pool, rows: usize, maps: &[LinearMap<'_>]) -> Vec<Task> {
    let bytes: usize = maps.iter().map(|map| map.weight.bytes()).sum();
    let mut tasks = Vec::new();
    for (map, LinearMap { weight, .. }) in maps.iter().enumerate() {
        let panels = weight.panels();
        let per_task = if rows > PANEL {
            let all: usize = maps.iter().map(|map| map.weight.panels()).sum();
            let most = match weight {
                Matrix::Packed(weight) if !weight.weight_type().is_float() => MANY_ROWS_PANELS,
                Matrix::Packed(_) | Matrix::Dense { .. } => MANY_ROWS_FLOAT_PANELS,
            };
            (all / (4 * pool.threads())).next_multiple_of(2).min(most)
        } else {
            let panel_bytes = (weight.bytes() / panels.max(1)).max(1);
            let piece = (bytes / (4 * pool.threads())).max(TASK_BYTES);
            (piece / panel_bytes).next_multiple_of(STREAMS)
        };
        let per_task = per_task.clamp(1, panels.max(1));
        tasks.extend((0..panels).step_by(per_task).map(|start| {
            let panels = start..(start + per_task).min(panels);
            Task { map, panels }
        }));
    }
    tasks
}

/// Adds the bias and calls `finish` for the columns of some panels, row by row.
///
/// # Safety
/// As [`multiply`], which has written these columns of `out`.
unsafe fn finish_rows(
    isa: Isa,
    rows: usize,
    map: &LinearMap<'_>,
    panels: Range<usize>,
    out: OutRows,
    finish: impl Fn(usize, Range<usize>, &mut [f32]),
) {
    let columns = panels.start * PANEL..(panels.end * PANEL).min(map.weight.out_features());
    for row in 0..rows {
        // SAFETY: the caller's promise.
        let values = unsafe { out.columns(row, columns.clone()) };
        if let Some(bias) = map.bias {
            add_in_place(isa, values, &bias[columns.clone()]);
        }
        finish(row, columns.clone(), values);
    }
}
