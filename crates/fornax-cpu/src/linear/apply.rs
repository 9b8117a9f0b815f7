//! Linear maps over all threads: who computes which panels, and what happens to a result while it is in the cache
//! (bias, residual, activation). It knows no kernel; those are chosen by the weight.

use std::cell::RefCell;
use std::ops::Range;

use crate::dense;
use crate::linear::float::{self, FloatRows, Sums};
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

/// `out = finish(x W₀ᵀ + b₀ | x W₁ᵀ + b₁ | …)`: linear maps of one input, their results side by side.
///
/// - `x`: `[rows, in_features]`
/// - `out`: `[rows, out_features of all maps together]`
/// - `finish(i, row, columns, values)`: changes some of a row's finished values of map `i`; called once for each, on any
///   thread
///
/// # Panics
/// When the lengths of the slices do not fit the maps.
pub fn linear(
    pool: &Pool,
    isa: Isa,
    x: &[f32],
    rows: usize,
    maps: &[LinearMap<'_>],
    out: &mut [f32],
    finish: impl Fn(usize, usize, Range<usize>, &mut [f32]) + Sync,
) {
    check(x, rows, maps);
    let stride: usize = maps.iter().map(|map| map.weight.out_features()).sum();
    assert_eq!(out.len(), rows * stride, "values of the result");
    if out.is_empty() {
        return;
    }
    let prepared = Prepared::new(pool, isa, x, rows, maps);
    let mut first = 0;
    let targets: Vec<OutRows> = maps
        .iter()
        .map(|map| {
            let columns = map.weight.out_features();
            first += columns;
            // SAFETY: `out` is borrowed for the whole call, the columns of the maps do not overlap, and each task writes
            // its own columns of one of them.
            unsafe { OutRows::new(out.as_mut_ptr().add(first - columns), stride, columns) }
        })
        .collect();
    let tasks = split(pool, rows, maps, |map| prepared.for_sums(isa, [map]).map(|_| 1));
    pool.run(tasks.len(), |task| {
        let Task { map: index, panels, rows: some } = tasks[task].clone();
        let (map, out) = (&maps[index], targets[index]);
        if let Some((x, [weight])) = prepared.for_sums(isa, [map]) {
            with_sums(|sums| {
                float::multiply_to(x, &[weight], panels.clone(), some.clone(), sums);
                for row in some.clone() {
                    let columns = columns(map, &panels);
                    let values = &mut sums.row(row - some.start)[..columns.len()];
                    add_bias(isa, map, columns.clone(), values);
                    finish(index, row, columns.clone(), values);
                    // SAFETY: the tasks of a map are disjoint.
                    let out = unsafe { out.columns(row, columns) };
                    float::put(values, out, rows * stride * size_of::<f32>());
                }
            });
            return;
        }
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
    let together = prepared.for_sums(isa, [&gate, &up]);
    let tasks = split(pool, rows, &[gate], |_| together.map(|_| 2));
    pool.run(tasks.len(), |task| {
        let Task { panels, rows: some, .. } = tasks[task].clone();
        if let Some((x, weights)) = together {
            // Against the same rows while they are near.
            with_sums(|sums| {
                float::multiply_to(x, &weights, panels.clone(), some.clone(), sums);
                for row in some.clone() {
                    let columns = columns(&gate, &panels);
                    let (values, others) = sums.row(row - some.start).split_at_mut(panels.len() * PANEL);
                    let (values, others) = (&mut values[..columns.len()], &mut others[..columns.len()]);
                    add_bias(isa, &gate, columns.clone(), values);
                    add_bias(isa, &up, columns.clone(), others);
                    combine(values, others);
                    // SAFETY: each task has other columns.
                    let out = unsafe { target.columns(row, columns) };
                    float::put(values, out, rows * features * size_of::<f32>());
                }
            });
            return;
        }
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

    /// The input and the weights of some maps, if they are of one float type and best multiplied into [`Sums`].
    fn for_sums<'b, const N: usize>(
        &self,
        isa: Isa,
        maps: [&LinearMap<'b>; N],
    ) -> Option<(&FloatRows, [&'b PackedWeight; N])> {
        let Some(Activations::Float(x)) = &self.forms[ActivationKind::Float as usize] else { return None };
        let mut weights = [None; N];
        for (weight, map) in weights.iter_mut().zip(maps) {
            *weight = float_weight(map).filter(|_| float::wants_sums(isa, self.rows));
        }
        let weight_type = weights[0]?.weight_type();
        let all = weights.iter().all(|weight| weight.is_some_and(|weight| weight.weight_type() == weight_type));
        all.then(|| (x, weights.map(|weight| weight.expect("all are there"))))
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

/// A packed weight of floats.
fn float_weight<'a>(map: &LinearMap<'a>) -> Option<&'a PackedWeight> {
    match map.weight {
        Matrix::Packed(weight) if weight.weight_type().is_float() => Some(weight),
        Matrix::Packed(_) | Matrix::Dense { .. } => None,
    }
}

/// Room for sums, kept from task to task.
fn with_sums(task: impl FnOnce(&mut Sums)) {
    thread_local! {
        static SUMS: RefCell<Sums> = const { RefCell::new(Sums::new()) };
    }
    SUMS.with_borrow_mut(task);
}

/// Some panels of one of the maps, for some rows.
#[derive(Debug, Clone, PartialEq)]
struct Task {
    map: usize,
    panels: Range<usize>,
    rows: Range<usize>,
}

/// Panels that a kernel reads side by side; a task should have no fewer.
const STREAMS: usize = 4;
/// Panels of a task of many rows at most: their part of the result stays in the second-level cache. Kernels for many rows
/// take panels in pairs.
const MANY_ROWS_PANELS: usize = 8;
/// The same for float weights, whose kernels pass over the input once for all of a task's panels, of all maps together.
const MANY_ROWS_FLOAT_PANELS: usize = float::MAX_PANELS;
/// Waking a thread pays from about this much of a weight on.
const TASK_BYTES: usize = 64 << 10;

/// Cuts the maps into tasks, several for each thread so that a slower one takes fewer. A map that is multiplied into
/// [`Sums`], `in_sums` says together with how many like it, counting itself, is cut into pieces of rows too.
fn split(
    pool: &Pool,
    rows: usize,
    maps: &[LinearMap<'_>],
    in_sums: impl Fn(&LinearMap<'_>) -> Option<usize>,
) -> Vec<Task> {
    // What is not cut yet.
    let mut bytes: usize = maps.iter().map(|map| map.weight.bytes()).sum();
    let mut tasks = Vec::new();
    for (map, LinearMap { weight, .. }) in maps.iter().enumerate() {
        let panels = weight.panels();
        let panel_bytes = (weight.bytes() / panels.max(1)).max(1);
        let in_sums = in_sums(&maps[map]);
        // Pieces of rows are as large as one another, and of whole pairs of tile rows.
        let piece =
            if in_sums.is_some() { rows.div_ceil(rows.div_ceil(float::MAX_ROWS)).next_multiple_of(32) } else { rows };
        let of_many_rows = (rows > PANEL).then(|| panels_of_many_rows(pool, maps, weight, in_sums));
        let mut start = 0;
        while start < panels {
            let count = of_many_rows.unwrap_or_else(|| {
                // Each task is a part of what is left: the first are long, the last so short that no thread waits long for
                // another (guided self-scheduling, Polychronopoulos and Kuck 1987).
                let task_bytes = (bytes / (2 * pool.threads())).max(TASK_BYTES);
                (task_bytes / panel_bytes).next_multiple_of(STREAMS)
            });
            let end = (start + count.max(1)).min(panels);
            bytes = bytes.saturating_sub((end - start) * panel_bytes);
            let pieces = (0..rows).step_by(piece).map(|first| first..(first + piece).min(rows));
            tasks.extend(pieces.map(|rows| Task { map, panels: start..end, rows }));
            start = end;
        }
    }
    tasks
}

/// Panels of a task of many rows.
fn panels_of_many_rows(pool: &Pool, maps: &[LinearMap<'_>], weight: &Matrix<'_>, in_sums: Option<usize>) -> usize {
    let all: usize = maps.iter().map(|map| map.weight.panels()).sum();
    // How many tasks for a thread, and how many panels at most. A task that multiplies into sums reads the whole input, so there
    // are fewer of those.
    let (pieces, most) = match (weight, in_sums) {
        (_, Some(together)) => (2, MANY_ROWS_FLOAT_PANELS / together),
        (Matrix::Packed(weight), _) if !weight.weight_type().is_float() => (4, MANY_ROWS_PANELS),
        (Matrix::Packed(_) | Matrix::Dense { .. }, _) => (4, MANY_ROWS_FLOAT_PANELS),
    };
    (all / (pieces * pool.threads())).next_multiple_of(2).min(most)
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
    let columns = columns(map, &panels);
    for row in 0..rows {
        // SAFETY: the caller's promise.
        let values = unsafe { out.columns(row, columns.clone()) };
        add_bias(isa, map, columns.clone(), values);
        finish(row, columns.clone(), values);
    }
}

/// The columns of some panels.
fn columns(map: &LinearMap<'_>, panels: &Range<usize>) -> Range<usize> {
    panels.start * PANEL..(panels.end * PANEL).min(map.weight.out_features())
}

fn add_bias(isa: Isa, map: &LinearMap<'_>, columns: Range<usize>, values: &mut [f32]) {
    if let Some(bias) = map.bias {
        add_in_place(isa, values, &bias[columns]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_cover_all_panels_and_the_last_are_short() {
        let (columns, pool) = (4096, Pool::new(2));
        let values = vec![0.0; 353 * PANEL * columns];
        let map = |panels: usize| {
            let (values, out_features) = (&values[..panels * PANEL * columns], panels * PANEL);
            LinearMap { weight: Matrix::Dense { values, out_features, in_features: columns }, bias: None }
        };
        for rows in [1, 8, 100] {
            let maps = [map(353), map(1), map(40)];
            let tasks = split(&pool, rows, &maps, |_| None);
            for (index, panels) in [353, 1, 40].into_iter().enumerate() {
                let mut next = 0;
                for task in tasks.iter().filter(|task| task.map == index) {
                    assert_eq!((task.panels.start, &task.rows), (next, &(0..rows)));
                    next = task.panels.end;
                }
                assert_eq!(next, panels);
            }
        }
        let tasks = split(&pool, 1, &[map(352)], |_| None);
        let counts: Vec<usize> = tasks.iter().map(|task| task.panels.len()).collect();
        // A quarter of what is left, in steps of four panels.
        assert_eq!(counts[..4], [88, 68, 52, 36]);
        assert_eq!(counts.last(), Some(&4));
    }
}
