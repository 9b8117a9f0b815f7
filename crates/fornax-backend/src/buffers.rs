//! Reuses the memory of results on the CPU for later results, so that a pass through a model does not ask the system
//! for new pages each time. Each thread keeps its own buffers.

use std::cell::RefCell;

use crate::Values;

/// The least size of a result that is kept; the allocator is fast for smaller ones.
const SMALL: usize = 16 << 10;
/// The most buffers that a thread keeps.
const KEPT: usize = 12;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of `len` numbers of any value, to be overwritten.
pub(crate) fn take(len: usize) -> Vec<f32> {
    if len < SMALL {
        return vec![0.0; len];
    }
    let kept = BUFFERS.with_borrow_mut(|buffers| {
        let fitting = buffers.iter().enumerate().filter(|(_, buffer)| (len..=4 * len).contains(&buffer.capacity()));
        let (index, _) = fitting.min_by_key(|(_, buffer)| buffer.capacity())?;
        Some(buffers.swap_remove(index))
    });
    let mut buffer = kept.unwrap_or_default();
    buffer.resize(len, 0.0);
    buffer
}

/// Keeps the memory of a tensor that is no longer needed, unless others hold it too.
pub(crate) fn recycle(values: Values) {
    if values.len() < SMALL {
        return;
    }
    let Some(buffer) = values.into_vec() else { return };
    BUFFERS.with_borrow_mut(|buffers| {
        if buffers.len() == KEPT {
            // The smallest buffer costs least to allocate again.
            let smallest = (0..KEPT).min_by_key(|&index| buffers[index].capacity());
            smallest.map(|index| buffers.swap_remove(index));
        }
        buffers.push(buffer);
    });
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::values::{cpu_tensor, into_values};

    #[test]
    fn memory_goes_round_and_shared_tensors_stay_whole() {
        let mut buffer = take(SMALL);
        buffer.fill(3.0);
        let start = buffer.as_ptr();
        let tensor = cpu_tensor(buffer, [SMALL]);
        let copy = tensor.clone();
        recycle(into_values(tensor).expect("of the CPU"));
        let other = take(SMALL);
        assert_ne!(other.as_ptr(), start, "held by another");
        recycle(into_values(copy).expect("of the CPU"));
        assert_eq!(take(SMALL - 1).len(), SMALL - 1, "a size of its own");
        let again = take(SMALL);
        assert_eq!((again.as_ptr(), again.len()), (start, SMALL));
    }
}
