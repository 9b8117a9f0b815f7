//! The product that attention consists of: a few rows times a block of keys or values, with the sums in registers. Every
//! sum is one chain of multiply-adds in the order of `k`, so that it is the same whatever is computed beside it.

use crate::simd::{Element, Kernel, Simd};

/// Values of a row of `a` that lie together; see [`multiply`].
pub(super) const CHUNK: usize = 32;

/// `c[row][column] = Σ a[row][k] · b[k][column]`, or `+=` when `ADD`.
///
/// `a` is in chunks of [`CHUNK`] values of `k`: `[chunk, S::TILE_ROWS, CHUNK]`; `b: [k, columns]` and `c: [rows, columns]`
/// have the strides given; what lies `ahead` bytes from `b` will be read next. `columns` is a multiple of the vector, and `rows` at most `S::TILE_ROWS`. The work may be done
/// for more rows than asked for, up to `S::TILE_ROWS`. With one row, `k` may begin anywhere in a chunk if it ends there.
///
/// # Safety
/// All that is readable, and `c` writable, for `S::TILE_ROWS` rows.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, T: Element, const ADD: bool>(
    s: S,
    rows: usize,
    k: usize,
    a: *const f32,
    (b, b_stride, ahead): (*const T, usize, isize),
    columns: usize,
    (c, c_stride): (*mut f32, usize),
) {
    let mut column = 0;
    while column < columns {
        let (b, c) = ((b.wrapping_add(column), b_stride, ahead), (c.wrapping_add(column), c_stride));
        if column + 2 * S::LANES <= columns {
            match rows {
                1 => s.call(Tile::<T, 1, 2, ADD> { k, a, b, c }),
                2 => s.call(Tile::<T, 2, 2, ADD> { k, a, b, c }),
                3..=4 => s.call(Tile::<T, 4, 2, ADD> { k, a, b, c }),
                5..=6 if S::TILE_ROWS == 6 => s.call(Tile::<T, 6, 2, ADD> { k, a, b, c }),
                5..=8 => s.call(Tile::<T, 8, 2, ADD> { k, a, b, c }),
                _ => s.call(Tile::<T, 12, 2, ADD> { k, a, b, c }),
            }
            column += 2 * S::LANES;
        } else {
            // Only vectors of 16 come here, when there is an odd number of them.
            match rows {
                1 => s.call(Tile::<T, 1, 1, ADD> { k, a, b, c }),
                2..=4 => s.call(Tile::<T, 4, 1, ADD> { k, a, b, c }),
                _ => s.call(Tile::<T, 12, 1, ADD> { k, a, b, c }),
            }
            column += S::LANES;
        }
    }
}

/// `ROWS` rows of `VECTORS` vectors of [`multiply`], whose caller promises that all of it is there.
struct Tile<T, const ROWS: usize, const VECTORS: usize, const ADD: bool> {
    k: usize,
    a: *const f32,
    b: (*const T, usize, isize),
    c: (*mut f32, usize),
}

impl<T: Element, const ROWS: usize, const VECTORS: usize, const ADD: bool> Kernel for Tile<T, ROWS, VECTORS, ADD> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // A level with few registers has no tiles of so many rows.
        if ROWS > S::TILE_ROWS {
            return;
        }
        let Self { k, mut a, b: (mut b, b_stride, ahead), c: (c, c_stride) } = self;
        let mut sums = [[s.splat(0.0); VECTORS]; ROWS];
        if ADD {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (vector, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: promised by the caller of `multiply`.
                    *sum = unsafe { s.load(c.add(row * c_stride + vector * S::LANES)) };
                }
            }
        }
        let mut left = k;
        while left > 0 {
            let here = left.min(CHUNK);
            for i in 0..here {
                let mut line = [s.splat(0.0); VECTORS];
                for (vector, line) in line.iter_mut().enumerate() {
                    // SAFETY: as above.
                    *line = unsafe { T::load(s, b.add(vector * S::LANES)) };
                    // Few rows are computed faster than memory brings keys and values. Half a line is asked for once.
                    if ROWS <= 8 && (vector == 0 || size_of::<T>() == 4) {
                        s.prefetch(b.wrapping_add(vector * S::LANES).cast::<u8>().wrapping_offset(ahead));
                    }
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: as above.
                    let factor = s.splat(unsafe { *a.add(row * CHUNK + i) });
                    for (sum, &line) in sums.iter_mut().zip(&line) {
                        *sum = s.fma(factor, line, *sum);
                    }
                }
                b = b.wrapping_add(b_stride);
            }
            a = a.wrapping_add(S::TILE_ROWS * CHUNK);
            left -= here;
        }
        for (row, sums) in sums.iter().enumerate() {
            for (vector, &sum) in sums.iter().enumerate() {
                // SAFETY: as above.
                unsafe { s.store(c.add(row * c_stride + vector * S::LANES), sum) };
            }
        }
    }
}
