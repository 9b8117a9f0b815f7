//! Points in time as the caller gives them. There is no clock here: the caller of `step` says what time it is.

use std::fmt;
use std::time::Duration;

/// A point in time: microseconds since an origin of the caller's choice, such as the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The origin.
    pub const ZERO: Self = Self(0);
    /// Later than every other time: it stands for no deadline.
    pub const NEVER: Self = Self(u64::MAX);

    /// `micros` microseconds after the origin.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// `seconds` after the origin, to the microsecond. Negative numbers and NaN give the origin; numbers that are too
    /// large give [`Time::NEVER`].
    pub fn from_secs_f64(seconds: f64) -> Self {
        // `as` saturates, and takes NaN for zero.
        Self((seconds * 1e6).round() as u64)
    }

    /// Microseconds since the origin.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Seconds since the origin.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 * 1e-6
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// Seconds since `earlier`; zero if it lies ahead.
    pub fn secs_since(self, earlier: Self) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 * 1e-6
    }

    /// Moves on to `now`, and never back. [`Time::NEVER`] is ignored: after it, every deadline would have passed.
    pub(crate) fn advance(&mut self, now: Self) {
        if now != Self::NEVER {
            *self = now.max(*self);
        }
    }

    /// The time `span` later, at most [`Time::NEVER`].
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NEVER { f.write_str("never") } else { write!(f, "{:.6} s", self.as_secs_f64()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_saturate() {
        let one = Time::from_secs_f64(1.0);
        assert_eq!(one.as_micros(), 1_000_000);
        assert_eq!(one.since(Time::from_micros(400_000)), Duration::from_millis(600));
        assert_eq!(Time::ZERO.since(one), Duration::ZERO);
        assert_eq!(Time::ZERO.secs_since(one), 0.0);
        assert_eq!(one.secs_since(Time::from_micros(500_000)), 0.5);
        assert_eq!(one.after(Duration::from_secs(1)), Time::from_micros(2_000_000));
        assert_eq!(one.after(Duration::MAX), Time::NEVER);
    }

    #[test]
    fn seconds_that_are_no_time_saturate() {
        assert_eq!(Time::from_secs_f64(f64::NAN), Time::ZERO);
        assert_eq!(Time::from_secs_f64(-1.0), Time::ZERO);
        assert_eq!(Time::from_secs_f64(f64::INFINITY), Time::NEVER);
        assert_eq!(Time::from_micros(1_500_000).as_secs_f64(), 1.5);
        assert_eq!(Time::NEVER.to_string(), "never");
        assert_eq!(Time::from_micros(5).to_string(), "0.000005 s");
    }
}
