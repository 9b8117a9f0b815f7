//! How evenly work is spread over replicas: in total, and window by window, since what is even over a day need not be so
//! over any minute of it.

/// How even amounts of work are. All is 1 and 0 where every replica has the same, or nothing is done at all.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "simulate", derive(serde::Serialize))]
pub struct Balance {
    /// The most that a replica did, over the mean.
    pub most: f64,
    /// The coefficient of variation: the standard deviation over the mean.
    pub variation: f64,
    /// The same as `most` in windows of ten seconds, in the mean of the windows.
    pub window_most: f64,
    /// The same as `variation` in windows of ten seconds, in the mean of the windows.
    pub window_variation: f64,
}

impl Default for Balance {
    fn default() -> Self {
        Self { most: 1.0, variation: 0.0, window_most: 1.0, window_variation: 0.0 }
    }
}

/// Work by replica.
#[derive(Clone, Debug)]
pub(super) struct Spread {
    total: Vec<f64>,
    /// In the present window.
    window: Vec<f64>,
    /// The sums of both measures over the windows that are over, and their number.
    windows: (f64, f64, f64),
}

impl Spread {
    pub(super) fn new(replicas: usize) -> Self {
        Self { total: vec![0.0; replicas], window: vec![0.0; replicas], windows: (0.0, 0.0, 0.0) }
    }

    pub(super) fn add(&mut self, replica: usize, amount: f64) {
        self.total[replica] += amount;
        self.window[replica] += amount;
    }

    /// Ends a window, of which account is taken only if it `counts`.
    pub(super) fn end_window(&mut self, counts: bool) {
        if let Some((most, variation)) = uneven(&self.window).filter(|_| counts) {
            self.windows.0 += most;
            self.windows.1 += variation;
            self.windows.2 += 1.0;
        }
        self.window.fill(0.0);
    }

    pub(super) fn sum(&self) -> f64 {
        self.total.iter().sum()
    }

    pub(super) fn most(&self) -> f64 {
        self.total.iter().copied().fold(0.0, f64::max)
    }

    pub(super) fn balance(&self) -> Balance {
        let (most, variation) = uneven(&self.total).unwrap_or((1.0, 0.0));
        let (sum_most, sum_variation, windows) = self.windows;
        if windows == 0.0 {
            return Balance { most, variation, window_most: most, window_variation: variation };
        }
        Balance { most, variation, window_most: sum_most / windows, window_variation: sum_variation / windows }
    }
}

/// The most over the mean, and the coefficient of variation; none where there is nothing.
fn uneven(amounts: &[f64]) -> Option<(f64, f64)> {
    let count = amounts.len() as f64;
    let mean = amounts.iter().sum::<f64>() / count;
    if mean.is_nan() || mean <= 0.0 {
        return None;
    }
    let variance = amounts.iter().map(|amount| (amount - mean).powi(2)).sum::<f64>() / count;
    Some((amounts.iter().copied().fold(0.0, f64::max) / mean, variance.sqrt() / mean))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_may_be_even_where_windows_are_not() {
        let mut spread = Spread::new(2);
        spread.add(0, 4.0);
        spread.end_window(true);
        spread.add(1, 4.0);
        spread.end_window(true);
        // Empty windows and windows that do not count are ignored.
        spread.end_window(true);
        spread.add(0, 1.0);
        spread.add(1, 1.0);
        spread.end_window(false);
        let balance = Balance { most: 1.0, variation: 0.0, window_most: 2.0, window_variation: 1.0 };
        assert_eq!(spread.balance(), balance);
        assert_eq!((spread.sum(), spread.most()), (10.0, 5.0));
    }

    #[test]
    fn without_windows_the_total_counts_and_nothing_is_even() {
        let mut spread = Spread::new(4);
        assert_eq!(spread.balance(), Balance::default());
        (0..4).for_each(|replica| spread.add(replica, if replica == 0 { 5.0 } else { 1.0 }));
        let balance = spread.balance();
        assert_eq!((balance.most, balance.window_most), (2.5, 2.5));
        assert!((balance.variation - 3f64.sqrt() / 2.0).abs() < 1e-12, "{balance:?}");
    }
}
