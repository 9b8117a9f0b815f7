//! Percentiles of many durations in little memory: buckets whose width grows with their value, about 1.5% each.

/// A distribution of durations in seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: f64,
    most: f64,
}

/// Buckets for each doubling.
const PER_DOUBLING: f64 = 48.0;
/// The smallest value told apart, in seconds.
const LEAST: f64 = 1e-6;

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Vec::new(), count: 0, sum: 0.0, most: 0.0 }
    }
}

impl Histogram {
    /// Adds one duration; what is below a microsecond counts as one.
    pub fn add(&mut self, seconds: f64) {
        let bucket = ((seconds.max(LEAST) / LEAST).log2() * PER_DOUBLING) as usize;
        if bucket >= self.buckets.len() {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.count += 1;
        self.sum += seconds;
        self.most = self.most.max(seconds);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their mean; zero without any.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }

    /// The value that `part` (0 to 1) of them do not exceed, to 1.5%; zero without any.
    pub fn quantile(&self, part: f64) -> f64 {
        let rank = (part * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return (LEAST * ((bucket as f64 + 0.5) / PER_DOUBLING).exp2()).min(self.most);
            }
        }
        self.most
    }

    /// The distribution function, as points of a value and the part that does not exceed it.
    pub fn curve(&self) -> Vec<(f64, f64)> {
        let mut seen = 0;
        let mut points = Vec::new();
        for (bucket, &count) in self.buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
            seen += count;
            points.push((LEAST * ((bucket as f64 + 1.0) / PER_DOUBLING).exp2(), seen as f64 / self.count as f64));
        }
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_close() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.quantile(0.5), histogram.mean(), histogram.count()), (0.0, 0.0, 0));
        for value in 1..=1000 {
            histogram.add(f64::from(value) * 1e-3);
        }
        for (part, value) in [(0.5, 0.5), (0.99, 0.99), (1.0, 1.0), (0.0, 0.001)] {
            let found = histogram.quantile(part);
            assert!((found / value - 1.0).abs() < 0.016, "{part}: {found}");
        }
        assert!((histogram.mean() - 0.5005).abs() < 1e-9);
        let curve = histogram.curve();
        assert!(curve.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1));
        assert_eq!(curve.last().map(|point| point.1), Some(1.0));
    }
}
