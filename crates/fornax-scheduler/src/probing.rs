//! What hash tables with linear probing share: to take an entry out without leaving a gap at which a search would stop.
//!
//! The tables themselves, with how they search and what they hold, belong to those who need them.

/// Puts `vacant` in place of entry `hole`; whoever was put further along for want of a place there moves up. `home` gives
/// where the search for an entry begins, and nothing for a vacant one. There is a power of two of entries, not all taken.
pub(crate) fn vacate<E: Copy>(entries: &mut [E], mut hole: usize, vacant: E, home: impl Fn(&E) -> Option<usize>) {
    let last = entries.len() - 1;
    let mut place = hole;
    loop {
        place = (place + 1) & last;
        let entry = entries[place];
        let Some(home) = home(&entry) else { break };
        if place.wrapping_sub(home) & last >= place.wrapping_sub(hole) & last {
            entries[hole] = entry;
            hole = place;
        }
    }
    entries[hole] = vacant;
}
