//! Memory that a thread keeps from one call to the next, so that computing a token allocates nothing.

use std::cell::Cell;
use std::thread::LocalKey;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Where a thread keeps some memory while nobody uses it.
pub(super) type Place = Cell<Kept>;

/// Memory that is kept.
#[derive(Default)]
pub(super) struct Kept(Vec<Line>);

thread_local! {
    /// For the queries and sums of a block.
    pub(super) static BLOCK: Place = Place::default();
    /// For what a whole sequence or call needs while its blocks are computed.
    pub(super) static CALL: Place = Place::default();
}

/// Numbers of any value, aligned to 64 bytes, that go back to their place when dropped.
pub(super) struct Scratch {
    place: &'static LocalKey<Place>,
    lines: Vec<Line>,
}

impl Scratch {
    /// At least `len` numbers. Should the place's memory be in use already, it is new memory.
    pub(super) fn take(place: &'static LocalKey<Place>, len: usize) -> Self {
        let Kept(mut lines) = place.take();
        let wanted = len.div_ceil(16);
        if lines.len() < wanted {
            lines.resize(wanted, Line([0.0; 16]));
        }
        Self { place, lines }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.lines.as_mut_ptr().cast()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.place.set(Kept(std::mem::take(&mut self.lines)));
    }
}
