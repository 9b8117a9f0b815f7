//! The ratio of a task's demand to its cost plus its waiting time, `P = R / (C + W)`, the largest first.
//!
//! It starves: the longer a task waits, the smaller its ratio, so that newcomers go first for ever. It is here because
//! it is asked for, and to compare with; use [`aged_ratio`](super::aged_ratio) instead.

use super::{Bound, Candidate, Policy, PolicyEntry};
use crate::Time;

/// The list's line.
pub const ENTRY: PolicyEntry = PolicyEntry {
    name: "ratio",
    summary: "the largest R / (C + W) first: demand over cost and waiting; starves waiting tasks",
    options: &[],
    make: |_| Ok(Box::new(Ratio)),
};

/// The largest `R / (C + W)` first: resource demand, as a part of the machine, over computing cost plus waiting time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ratio;

impl Ratio {
    /// `P = R / (C + W)`.
    ///
    /// ```
    /// use fornax_scheduler::policy::ratio::Ratio;
    /// assert_eq!(Ratio::of(10.0, 5.0, 0.0), 2.0);
    /// assert_eq!(Ratio::of(15.0, 6.0, 2.0), 1.875);
    /// ```
    pub fn of(demand: f64, cost: f64, waited: f64) -> f64 {
        demand / (cost + waited)
    }
}

impl Policy for Ratio {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn rank(&self, task: &Candidate, now: Time) -> f64 {
        -Self::of(task.demand, task.cost, task.waited(now))
    }

    fn bound(&self) -> Bound {
        Bound::Unbounded
    }

    fn changes(&self) -> bool {
        true
    }

    fn crossing(&self, ahead: &Candidate, behind: &Candidate, now: Time) -> Option<Time> {
        crossing(ahead, behind, now, 0.0)
    }
}

/// When `R / (C + W) + W · ageing` of two tasks become equal: the first positive root, from `now`, of a polynomial of
/// the second degree.
pub(super) fn crossing(ahead: &Candidate, behind: &Candidate, now: Time, ageing: f64) -> Option<Time> {
    let (first, second) = (ahead.cost + ahead.waited(now), behind.cost + behind.waited(now));
    let gap = ageing * (ahead.waited(now) - behind.waited(now));
    // R₁ / (q₁ + y) - R₂ / (q₂ + y) + gap = 0, times both denominators, which are positive.
    let square = gap;
    let linear = ahead.demand - behind.demand + gap * (first + second);
    let constant = ahead.demand * second - behind.demand * first + gap * first * second;
    let root = smallest_positive_root(square, linear, constant)?;
    // Rounded down, and at least one tick ahead: too early is harmless, too late is not.
    let ticks = ((root * 1e6) as u64).max(1);
    Some(Time::from_micros(now.as_micros().saturating_add(ticks)))
}

/// The smallest root above zero of `square · y² + linear · y + constant`.
fn smallest_positive_root(square: f64, linear: f64, constant: f64) -> Option<f64> {
    if square == 0.0 {
        let root = -constant / linear;
        return (root.is_finite() && root > 0.0).then_some(root);
    }
    let discriminant = linear * linear - 4.0 * square * constant;
    if discriminant < 0.0 {
        return None;
    }
    // The form that does not subtract numbers of like size.
    let half = -0.5 * (linear + discriminant.sqrt().copysign(linear));
    let roots = [half / square, constant / half];
    roots.into_iter().filter(|root| root.is_finite() && *root > 0.0).min_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(demand: f64, cost: f64, arrival: f64) -> Candidate {
        Candidate {
            number: 0,
            tenant: crate::TenantId::DEFAULT,
            arrival: Time::from_secs_f64(arrival),
            priority: 0,
            demand,
            cost,
            deadline: Time::NEVER,
        }
    }

    #[test]
    fn the_second_of_three_goes_first() {
        let now = Time::from_secs_f64(2.0);
        let ranks =
            [task(10.0, 5.0, 2.0), task(20.0, 8.0, 1.0), task(15.0, 6.0, 0.0)].map(|task| Ratio.rank(&task, now));
        assert_eq!(ranks[0], -2.0);
        assert!((ranks[1] + 20.0 / 9.0).abs() < 1e-12);
        assert_eq!(ranks[2], -1.875);
    }

    #[test]
    fn roots_are_found() {
        assert_eq!(smallest_positive_root(1.0, -3.0, 2.0), Some(1.0));
        assert_eq!(smallest_positive_root(1.0, 3.0, 2.0), None);
        assert_eq!(smallest_positive_root(1.0, 0.0, 1.0), None);
        assert_eq!(smallest_positive_root(0.0, 2.0, -4.0), Some(2.0));
        assert_eq!(smallest_positive_root(0.0, 0.0, 1.0), None);
        assert_eq!(smallest_positive_root(-1.0, 0.0, 4.0), Some(2.0));
        assert_eq!(smallest_positive_root(2.0, -10.0, 12.0), Some(2.0));
        assert_eq!(smallest_positive_root(-2.0, 2.0, 4.0), Some(2.0));
        assert_eq!(smallest_positive_root(4.0, 4.0, -3.0), Some(0.5));
        // Where the curve only touches zero, and where it is zero at zero.
        assert_eq!(smallest_positive_root(1.0, -2.0, 1.0), Some(1.0));
        assert_eq!(smallest_positive_root(1.0, -1.0, 0.0), Some(1.0));
        assert_eq!(smallest_positive_root(1.0, 1.0, 0.0), None);
        assert_eq!(smallest_positive_root(0.0, 2.0, 0.0), None);
        assert_eq!(smallest_positive_root(0.0, 2.0, 4.0), None);
    }

    #[test]
    fn two_change_places_when_they_are_said_to() {
        // 12 / (2 + W) and 8 / (1 + W): the second is ahead until W = 1.
        let (one, two) = (task(12.0, 2.0, 0.0), task(8.0, 1.0, 0.0));
        assert!(Ratio.rank(&two, Time::ZERO) < Ratio.rank(&one, Time::ZERO));
        let when = Ratio.crossing(&two, &one, Time::ZERO).expect("they cross");
        assert_eq!(when, Time::from_secs_f64(1.0));
        let later = Time::from_secs_f64(1.1);
        assert!(Ratio.rank(&one, later) < Ratio.rank(&two, later));
        assert_eq!(Ratio.crossing(&one, &two, later), None);
    }

    #[test]
    fn a_crossing_lies_ahead_however_near_it_is() {
        // One tenth of a microsecond from now is said to be the next microsecond.
        let (one, two) = (task(12.0, 2.0, 0.0), task(8.0, 1.0 - 1e-7, 0.0));
        let now = Time::from_secs_f64(1.0);
        assert!(Ratio.rank(&two, now) < Ratio.rank(&one, now));
        assert_eq!(Ratio.crossing(&two, &one, now), Some(Time::from_micros(1_000_001)));
    }
}
