//! How long a step takes: by a roofline, or fitted to steps that were measured.

use crate::SchedulerError;
use crate::error::positive;

/// What a step computes, as far as its time depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepLoad {
    /// Tokens that go through the model.
    pub tokens: f64,
    /// Tokens whose keys and values are read: the contexts of all items.
    pub context: f64,
    /// Pairs of a token and a token that it attends to.
    pub pairs: f64,
}

/// A step's time from what the hardware can do: the longer of computing and reading, and a constant.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "simulate", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct Roofline {
    /// Weights that a token meets.
    pub parameters: f64,
    /// Bytes of the weights, which every step reads once.
    pub weight_bytes: f64,
    /// Bytes of a token's keys and values in all layers.
    pub kv_bytes_per_token: f64,
    /// Floating-point operations of attention for a pair of tokens, in all layers.
    pub flops_per_pair: f64,
    /// Floating-point operations a second that are reached.
    pub flops_per_second: f64,
    /// Bytes a second that are reached.
    pub bytes_per_second: f64,
    /// Seconds that a step takes whatever it computes.
    pub overhead: f64,
}

impl Roofline {
    /// A model of 8 billion parameters in 16 bits (32 layers, 8 KV heads of 128) on a data-centre GPU that reaches
    /// 400 TFLOP/s and 2.6 TB/s.
    pub const GPU_8B: Self = Self {
        parameters: 8e9,
        weight_bytes: 16e9,
        kv_bytes_per_token: 131_072.0,
        flops_per_pair: 524_288.0,
        flops_per_second: 400e12,
        bytes_per_second: 2.6e12,
        overhead: 1e-3,
    };

    /// A model of 1.1 billion parameters in 4 bits on two CPU cores that reach 1 TFLOP/s and 20 GB/s.
    pub const CPU_1B: Self = Self {
        parameters: 1.1e9,
        weight_bytes: 0.6e9,
        kv_bytes_per_token: 22_528.0,
        flops_per_pair: 180_224.0,
        flops_per_second: 1e12,
        bytes_per_second: 20e9,
        overhead: 2e-4,
    };
}

/// A step's time as a sum of what it computes, each part by a factor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "simulate", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct Fitted {
    /// Seconds of every step.
    pub base: f64,
    /// Seconds a token.
    pub per_token: f64,
    /// Seconds a token of context.
    pub per_context: f64,
}

/// A step that was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "simulate", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct StepSample {
    /// Tokens that went through the model.
    pub tokens: f64,
    /// Tokens whose keys and values were read.
    pub context: f64,
    /// How long it took.
    pub seconds: f64,
}

impl Fitted {
    /// The factors that fit `samples` best, by least squares of the relative errors; none is negative.
    ///
    /// # Errors
    /// [`SchedulerError::InvalidNumber`] for a sample that is no step, or fewer than three of them.
    pub fn fit(samples: &[StepSample]) -> Result<Self, SchedulerError> {
        if samples.len() < 3 {
            return Err(SchedulerError::InvalidNumber {
                what: "the number of measured steps",
                found: samples.len().to_string(),
                expected: "three or more, of different sizes",
            });
        }
        for sample in samples {
            positive("the tokens of a measured step", sample.tokens)?;
            positive("the seconds of a measured step", sample.seconds)?;
            positive("the context of a measured step, and one", sample.context + 1.0)?;
        }
        // With three factors, all choices of which are zero are tried; the best that has no negative one is taken.
        let mut best = (f64::INFINITY, Self::default());
        for mask in 1..8u32 {
            let used: Vec<usize> = (0..3).filter(|factor| mask >> factor & 1 == 1).collect();
            let Some(solution) = solve(samples, &used) else { continue };
            if solution.iter().any(|factor| *factor < 0.0) {
                continue;
            }
            let mut factors = [0.0; 3];
            used.iter().zip(solution).for_each(|(&factor, value)| factors[factor] = value);
            let fitted = Self { base: factors[0], per_token: factors[1], per_context: factors[2] };
            let error: f64 = samples.iter().map(|sample| (fitted.of(sample) / sample.seconds - 1.0).powi(2)).sum();
            // A factor more must make a difference, so that noise alone brings none.
            if error < best.0 * (1.0 - 1e-9) {
                best = (error, fitted);
            }
        }
        Ok(best.1)
    }

    fn of(&self, sample: &StepSample) -> f64 {
        self.base + self.per_token * sample.tokens + self.per_context * sample.context
    }
}

/// The least squares solution over the factors `used`, by elimination; none if they cannot be told apart.
fn solve(samples: &[StepSample], used: &[usize]) -> Option<Vec<f64>> {
    let size = used.len();
    let mut matrix = vec![vec![0.0; size + 1]; size];
    for sample in samples {
        let all = [1.0, sample.tokens, sample.context].map(|value| value / sample.seconds);
        for (row, &one) in used.iter().enumerate() {
            for (column, &two) in used.iter().enumerate() {
                matrix[row][column] += all[one] * all[two];
            }
            matrix[row][size] += all[one];
        }
    }
    let scales: Vec<f64> = (0..size).map(|column| matrix[column][column]).collect();
    for (column, scale) in scales.into_iter().enumerate() {
        let pivot = (column..size).max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs()))?;
        matrix.swap(column, pivot);
        // Next to nothing is left of it once what the others explain is gone.
        if matrix[column][column].abs() <= 1e-12 * scale {
            return None;
        }
        let row = matrix[column].clone();
        for (other, line) in matrix.iter_mut().enumerate().filter(|(other, _)| *other != column) {
            let _ = other;
            let factor = line[column] / row[column];
            line.iter_mut().zip(&row).for_each(|(value, pivot)| *value -= factor * pivot);
        }
    }
    Some((0..size).map(|row| matrix[row][size] / matrix[row][row]).collect())
}

/// How long a step takes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "simulate",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
pub enum CostModel {
    /// From what the hardware can do.
    Roofline(Roofline),
    /// From steps that were measured.
    Fitted(Fitted),
}

impl CostModel {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// [`SchedulerError::InvalidConfig`] for numbers that are negative or not finite, and for steps that take no time, or
    /// more than a million seconds for a token.
    pub fn check(&self) -> Result<(), SchedulerError> {
        let (numbers, divisors) = match self {
            Self::Roofline(roof) => (
                vec![roof.parameters, roof.weight_bytes, roof.kv_bytes_per_token, roof.flops_per_pair, roof.overhead],
                vec![roof.flops_per_second, roof.bytes_per_second],
            ),
            Self::Fitted(fitted) => (vec![fitted.base, fitted.per_token, fitted.per_context], Vec::new()),
        };
        let sound = numbers.iter().all(|number| number.is_finite() && *number >= 0.0)
            && divisors.iter().all(|number| number.is_finite() && *number > 0.0);
        let one = self.seconds(&StepLoad { tokens: 1.0, context: 1.0, pairs: 1.0 });
        if sound && one > 0.0 && one <= 1e6 {
            return Ok(());
        }
        let reason = "give finite numbers that are not negative, rates above zero, and at most 1e6 seconds for a token";
        Err(SchedulerError::config("cost", format!("{self:?}"), reason))
    }

    /// The seconds of a step.
    pub fn seconds(&self, load: &StepLoad) -> f64 {
        match self {
            Self::Roofline(roof) => {
                let flops = 2.0 * roof.parameters * load.tokens + roof.flops_per_pair * load.pairs;
                let bytes = roof.weight_bytes + roof.kv_bytes_per_token * load.context;
                roof.overhead + (flops / roof.flops_per_second).max(bytes / roof.bytes_per_second)
            }
            Self::Fitted(fitted) => fitted.base + fitted.per_token * load.tokens + fitted.per_context * load.context,
        }
    }

    /// Seconds a token of a prompt in a large chunk, and a token of an output in a batch of eight: what policies are told.
    pub fn token_seconds(&self) -> (f64, f64) {
        let prompt = StepLoad { tokens: 1024.0, context: 1024.0, pairs: 1024.0 * 512.0 };
        let output = StepLoad { tokens: 8.0, context: 8.0 * 512.0, pairs: 8.0 * 512.0 };
        ((self.seconds(&prompt) / 1024.0).max(1e-9), (self.seconds(&output) / 8.0).max(1e-9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Random;

    #[test]
    fn the_longer_of_computing_and_reading_counts() {
        let cost = CostModel::Roofline(Roofline::GPU_8B);
        let one = cost.seconds(&StepLoad { tokens: 1.0, context: 0.0, pairs: 0.0 });
        assert!((one - (1e-3 + 16e9 / 2.6e12)).abs() < 1e-9);
        let prompt = cost.seconds(&StepLoad { tokens: 4000.0, context: 0.0, pairs: 0.0 });
        assert!((prompt - (1e-3 + 2.0 * 8e9 * 4000.0 / 400e12)).abs() < 1e-9);
        let (per_prompt, per_output) = cost.token_seconds();
        assert!(per_prompt < per_output / 10.0);
    }

    #[test]
    fn measured_steps_are_fitted() {
        let truth = Fitted { base: 5e-3, per_token: 4e-5, per_context: 5e-8 };
        let mut random = Random::new(1);
        let samples: Vec<StepSample> = (0..200)
            .map(|_| {
                let (tokens, context) = (random.between(1, 2000) as f64, random.between(0, 200_000) as f64);
                let sample = StepSample { tokens, context, seconds: 1.0 };
                StepSample { seconds: truth.of(&sample) * (1.0 + 0.02 * random.normal()), ..sample }
            })
            .collect();
        let found = Fitted::fit(&samples).expect("many samples");
        for (found, truth) in
            [(found.base, truth.base), (found.per_token, truth.per_token), (found.per_context, truth.per_context)]
        {
            assert!((found / truth - 1.0).abs() < 0.05, "{found} for {truth}");
        }
    }

    #[test]
    fn steps_that_are_all_alike_have_a_time_and_no_more() {
        for seconds in [[0.5, 0.5, 0.5], [0.4, 0.5, 0.6], [1.0, 2.0, 4.0]] {
            let samples = seconds.map(|seconds| StepSample { tokens: 8.0, context: 16.0, seconds });
            let found = Fitted::fit(&samples).expect("three samples");
            assert_eq!((found.per_token, found.per_context), (0.0, 0.0), "{seconds:?}");
            assert!(found.base >= seconds[0] && found.base <= seconds[2], "{found:?}");
        }
    }

    #[test]
    fn steps_are_fitted_whatever_the_unit_of_time() {
        let sizes = [(1.0, 100.0), (8.0, 4000.0), (256.0, 256.0), (512.0, 9000.0), (64.0, 1e5), (2000.0, 2000.0)];
        for unit in [1e-9, 1.0, 1e9] {
            let truth = Fitted { base: 5e-3 * unit, per_token: 4e-5 * unit, per_context: 5e-8 * unit };
            let samples = sizes.map(|(tokens, context)| {
                let sample = StepSample { tokens, context, seconds: 1.0 };
                StepSample { seconds: truth.of(&sample), ..sample }
            });
            let found = Fitted::fit(&samples).expect("six samples");
            for (found, truth) in
                [(found.base, truth.base), (found.per_token, truth.per_token), (found.per_context, truth.per_context)]
            {
                assert!((found / truth - 1.0).abs() < 1e-6, "{found} for {truth}");
            }
        }
    }

    #[test]
    fn factors_are_not_negative_and_samples_are_checked() {
        // Longer contexts that take less time give no negative factor.
        let sample = |tokens, context, seconds| StepSample { tokens, context, seconds };
        let odd = [sample(1.0, 0.0, 2.0), sample(1.0, 100.0, 1.0), sample(2.0, 100.0, 1.5), sample(3.0, 50.0, 2.0)];
        let found = Fitted::fit(&odd).expect("four samples");
        assert!(found.base >= 0.0 && found.per_token >= 0.0 && found.per_context >= 0.0, "{found:?}");
        assert!(Fitted::fit(&odd[..2]).is_err());
        for bad in [sample(0.0, 1.0, 1.0), sample(1.0, -2.0, 1.0), sample(1.0, 1.0, f64::NAN)] {
            assert!(Fitted::fit(&[odd[0], odd[1], odd[2], bad]).is_err());
        }
    }
}
