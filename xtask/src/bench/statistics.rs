//! From many times to one, and how far to trust it.
//!
//! Times are skewed: what disturbs only adds. So medians and quartiles are used, no means and no deviations, and the
//! rounds of a run, between which the others were measured, tell how much the machine changes by itself.

use serde::{Deserialize, Serialize};

/// What is known of one case on one contestant, in seconds of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The median of the rounds' medians.
    pub median: f64,
    /// The median of each round, in the order they were run.
    pub rounds: Vec<f64>,
    /// The shortest sample.
    pub shortest: f64,
    /// Samples of all rounds together.
    pub samples: usize,
}

impl Summary {
    /// Summarizes the samples of each round; `None` where no round has any, or one is no time at all.
    pub fn of(rounds: &[Vec<f64>]) -> Option<Self> {
        let all = rounds.iter().flatten().copied();
        if all.clone().any(|sample| !sample.is_finite() || sample <= 0.0) {
            return None;
        }
        let medians: Vec<f64> = rounds.iter().filter_map(|samples| median(samples)).collect();
        Some(Self {
            median: median(&medians)?,
            shortest: all.clone().fold(f64::INFINITY, f64::min),
            samples: all.count(),
            rounds: medians,
        })
    }

    /// The fastest and the slowest round.
    pub fn range(&self) -> (f64, f64) {
        let fold = |start, f: fn(f64, f64) -> f64| self.rounds.iter().copied().fold(start, f);
        (fold(f64::INFINITY, f64::min), fold(0.0, f64::max))
    }

    /// Half of what lies between the fastest and the slowest round, as a share of the median: the ± of the tables. A single
    /// round says nothing of it.
    pub fn spread(&self) -> Option<f64> {
        let (fastest, slowest) = self.range();
        (self.rounds.len() > 1).then(|| (slowest - fastest) / 2.0 / self.median)
    }
}

/// The middle one, or the mean of the two in the middle; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// The mean for ratios; `None` of nothing.
pub fn geometric_mean(ratios: &[f64]) -> Option<f64> {
    let logarithms: f64 = ratios.iter().map(|ratio| ratio.ln()).sum();
    (!ratios.is_empty()).then(|| (logarithms / ratios.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_nothing() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_summary_is_of_the_rounds() {
        let summary = Summary::of(&[vec![1.0, 9.0, 2.0], vec![4.0], vec![3.0, 3.0]]).expect("samples");
        assert_eq!(summary.rounds, [2.0, 4.0, 3.0]);
        assert_eq!(summary.median, 3.0);
        assert_eq!(summary.shortest, 1.0);
        assert_eq!(summary.samples, 6);
        assert_eq!(summary.range(), (2.0, 4.0));
        assert!((summary.spread().expect("three rounds") - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(Summary::of(&[vec![1.0, 2.0]]).expect("samples").spread(), None);
    }

    #[test]
    fn one_outlier_in_each_round_moves_nothing() {
        let calm = Summary::of(&[vec![1.0; 9], vec![1.0; 9]]).expect("samples");
        let disturbed = [vec![1.0; 9], vec![1.0; 9]].map(|mut round| {
            round[4] = 100.0;
            round
        });
        assert_eq!(Summary::of(&disturbed).expect("samples").median, calm.median);
    }

    #[test]
    fn what_is_no_time_is_no_summary() {
        for bad in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
            assert_eq!(Summary::of(&[vec![1.0, bad]]), None, "{bad}");
        }
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[vec![]]), None);
    }

    #[test]
    fn twice_as_fast_and_half_as_fast_are_even() {
        let mean = geometric_mean(&[2.0, 0.5]).expect("ratios");
        assert!((mean - 1.0).abs() < 1e-12);
        assert_eq!(geometric_mean(&[]), None);
    }
}
