//! The angles of rotary position embeddings, with the ways in use of stretching them to longer contexts.
//! Rotating the heads by them is an operation of the backend.
//!
//! Angles are computed in `f32`, step by step as transformers does it, since they are part of what a model was
//! trained with: at position 100,000 a more precise angle is a different one.

use fornax_backend::ops::RopeTables;

use crate::Batch;

/// How positions become angles.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the wavelengths.
    pub theta: f64,
    /// How many of a head's dimensions are rotated; even.
    pub rotary_dim: usize,
    /// Longest sequence that the model was configured for.
    pub max_positions: usize,
    /// The stretching, if any.
    pub scaling: RopeScaling,
}

/// Ways of stretching the wavelengths beyond the context that a model was trained with.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// All positions divided by the factor (<https://arxiv.org/abs/2306.15595>).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The base grows with the sequence once it is longer than the model was configured for (dynamic NTK).
    Dynamic {
        /// The growth.
        factor: f64,
    },
    /// Short wavelengths are kept, long ones divided, a ramp between (<https://arxiv.org/abs/2309.00071>).
    Yarn {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Context of the training.
        original_max_positions: usize,
        /// Rotations in the original context above which a wavelength is kept.
        beta_fast: f64,
        /// Rotations below which it is divided by the whole factor.
        beta_slow: f64,
        /// Factor of cosines and sines; computed from the factor where it is not given.
        attention_factor: Option<f64>,
        /// The two scales that replace it in DeepSeek's configurations.
        mscale: Option<(f64, f64)>,
        /// Whether the ramp's ends are rounded outwards to whole dimensions.
        truncate: bool,
    },
    /// Llama 3.1: wavelengths above a bound divided, below another kept, a ramp between.
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Original context over the longest wavelength that is not wholly divided.
        low_freq_factor: f64,
        /// Original context over the shortest wavelength that is not wholly kept.
        high_freq_factor: f64,
        /// Context of the training.
        original_max_positions: usize,
    },
    /// A divisor for each wavelength, one list for short sequences and one for long (<https://arxiv.org/abs/2402.13753>).
    LongRope {
        /// Divisors up to the original context.
        short_factor: Vec<f32>,
        /// Divisors beyond it.
        long_factor: Vec<f32>,
        /// Context of the training.
        original_max_positions: usize,
        /// Factor of cosines and sines.
        attention_factor: f64,
    },
}

impl RopeConfig {
    /// The angles of a batch's rows, by their positions and, for some scalings, by the lengths of their texts.
    pub fn tables(&self, batch: &Batch) -> RopeTables {
        let pairs = self.rotary_dim / 2;
        let (mut cos, mut sin) = (Vec::with_capacity(batch.rows() * pairs), Vec::with_capacity(batch.rows() * pairs));
        let mut known: Option<(usize, Vec<f32>, f32)> = None;
        for sequence in 0..batch.sequences().len() {
            let len = batch.len_of(sequence);
            if known.as_ref().is_none_or(|(known, ..)| *known != len && self.depends_on_length()) {
                let (frequencies, scale) = self.frequencies(len);
                known = Some((len, frequencies, scale));
            }
            let Some((_, frequencies, scale)) = &known else { continue };
            for &position in &batch.positions()[batch.sequences().rows_of(sequence)] {
                for frequency in frequencies {
                    let angle = position as f32 * frequency;
                    cos.push(angle.cos() * scale);
                    sin.push(angle.sin() * scale);
                }
            }
        }
        RopeTables::new(cos, sin, [batch.rows(), pairs])
    }

    /// Whether a text's length changes its angles.
    fn depends_on_length(&self) -> bool {
        matches!(self.scaling, RopeScaling::Dynamic { .. } | RopeScaling::LongRope { .. })
    }

    /// Radians per position of each pair of dimensions, and the factor of cosines and sines, for a sequence of `len`.
    pub fn frequencies(&self, len: usize) -> (Vec<f32>, f32) {
        match &self.scaling {
            RopeScaling::None => (self.plain(self.theta), 1.0),
            RopeScaling::Linear { factor } => {
                (self.plain(self.theta).iter().map(|frequency| frequency / *factor as f32).collect(), 1.0)
            }
            RopeScaling::Dynamic { factor } => {
                let len = len.max(self.max_positions) as f64;
                let stretch = factor * len / self.max_positions as f64 - (factor - 1.0);
                let dim = self.rotary_dim as f64;
                (self.plain(self.theta * stretch.powf(dim / (dim - 2.0))), 1.0)
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                let original = *original_max_positions as f64;
                let stretched = |frequency: f32| {
                    let frequency = f64::from(frequency);
                    let rotations = original * frequency / std::f64::consts::TAU;
                    let smooth = (rotations - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    let kept = smooth.clamp(0.0, 1.0);
                    ((1.0 - kept) * frequency / factor + kept * frequency) as f32
                };
                (self.plain(self.theta).into_iter().map(stretched).collect(), 1.0)
            }
            RopeScaling::LongRope { short_factor, long_factor, original_max_positions, attention_factor } => {
                let factors = if len > *original_max_positions { long_factor } else { short_factor };
                (self.divided(factors), *attention_factor as f32)
            }
            RopeScaling::Yarn { .. } => self.yarn(),
        }
    }

    /// `base^(−2i/dim)`.
    fn plain(&self, base: f64) -> Vec<f32> {
        let dim = self.rotary_dim as f32;
        (0..self.rotary_dim / 2).map(|i| 1.0 / (base as f32).powf((2 * i) as f32 / dim)).collect()
    }

    fn divided(&self, factors: &[f32]) -> Vec<f32> {
        self.plain(self.theta).iter().zip(factors).map(|(frequency, factor)| frequency / factor).collect()
    }

    fn yarn(&self) -> (Vec<f32>, f32) {
        let RopeScaling::Yarn {
            factor,
            original_max_positions,
            beta_fast,
            beta_slow,
            attention_factor,
            mscale,
            truncate,
        } = &self.scaling
        else {
            return (self.plain(self.theta), 1.0);
        };
        let dim = self.rotary_dim as f64;
        // The dimension whose wavelength turns this often in the original context.
        let dimension_of = |rotations: f64| {
            dim * (*original_max_positions as f64 / (rotations * std::f64::consts::TAU)).ln() / (2.0 * self.theta.ln())
        };
        let (mut low, mut high) = (dimension_of(*beta_fast), dimension_of(*beta_slow));
        if *truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let low = low.max(0.0);
        let mut high = high.min(dim - 1.0);
        if low == high {
            high += 0.001;
        }
        let frequencies = self.plain(self.theta);
        let stretched = frequencies.iter().enumerate().map(|(i, &frequency)| {
            let divided = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0) as f32;
            frequency / *factor as f32 * divided + frequency * (1.0 - divided)
        });
        let magnitude = |scale: f64| if *factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let scale = attention_factor.unwrap_or_else(|| match mscale {
            Some((one, all)) => magnitude(*one) / magnitude(*all),
            None => magnitude(1.0),
        });
        (stretched.collect(), scale as f32)
    }
}
