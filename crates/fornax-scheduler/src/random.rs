//! A random generator whose numbers never change, so that a seed printed today replays in a year.
//!
//! It is xoshiro256++ (Blackman and Vigna, 2018, <https://arxiv.org/abs/1805.01407>), seeded by splitmix64. It is not
//! for cryptography. Written here, since a generator from outside may change its stream with a release.

/// A stream of random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random {
    state: [u64; 4],
}

/// One round of splitmix64's mixing: a bijection in which every bit of the input reaches every bit of the output.
pub(crate) const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The step of splitmix64, which is also a good odd multiplier.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut state = [0; 4];
        for (index, word) in state.iter_mut().enumerate() {
            *word = mix(seed.wrapping_add(GOLDEN.wrapping_mul(index as u64 + 1)));
        }
        Self { state }
    }

    /// A stream of its own for `purpose`, so that what one part draws does not shift what another does.
    pub fn fork(&self, purpose: u64) -> Self {
        Self::new(self.state[0] ^ mix(purpose.wrapping_mul(GOLDEN) ^ self.state[3]))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A whole number below `bound`; zero where `bound` is zero. The bias is below 2⁻⁶⁴ times the bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A whole number from `low` to `high`, both included; `low` if the range is empty.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        if high <= low { low } else { low + self.below((high - low).saturating_add(1)) }
    }

    /// A number in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// True with the probability `chance`.
    pub fn chance(&mut self, chance: f64) -> bool {
        self.unit() < chance
    }

    /// The exponential distribution with the given mean: the gaps of a Poisson process.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// The standard normal distribution (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// The log-normal distribution with this median and this standard deviation of the logarithm.
    pub fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        median * (sigma * self.normal()).exp()
    }

    /// The Pareto distribution: at least `least`, with the tail `x^-alpha`.
    pub fn pareto(&mut self, least: f64, alpha: f64) -> f64 {
        least * (1.0 - self.unit()).powf(-1.0 / alpha)
    }

    /// An index below `count` by Zipf's law with exponent `skew`: 0 is the most frequent. Zero if `count` is zero.
    pub fn zipf(&mut self, count: usize, skew: f64) -> usize {
        // Inversion of the continuous law, close enough for traffic: its share of index k falls like (k + 1)^-skew.
        let target = self.unit();
        let count = count.max(1) as f64;
        let at = if (skew - 1.0).abs() < 1e-9 {
            (count + 1.0).powf(target)
        } else {
            let power = 1.0 - skew;
            (1.0 + target * ((count + 1.0).powf(power) - 1.0)).powf(1.0 / power)
        };
        (at as usize).saturating_sub(1).min(count as usize - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_seed_is_pinned() {
        // The first numbers of the published generator from this state.
        let mut random = Random { state: [1, 2, 3, 4] };
        let first: Vec<u64> = (0..10).map(|_| random.bits()).collect();
        let published = [
            41_943_041,
            58_720_359,
            3_588_806_011_781_223,
            3_591_011_842_654_386,
            9_228_616_714_210_784_205,
            9_973_669_472_204_895_162,
            14_011_001_112_246_962_877,
            12_406_186_145_184_390_807,
            15_849_039_046_786_891_736,
            10_450_023_813_501_588_000,
        ];
        assert_eq!(first, published);
        assert_eq!(Random::new(1).bits(), 14_971_601_782_005_023_387);
        let forks = [(1, 7), (2, 7), (1, 8)].map(|(seed, purpose)| Random::new(seed).fork(purpose).bits());
        assert_eq!(forks, [12_906_409_487_304_483_547, 1_460_212_237_824_012_771, 12_673_026_902_511_356_801]);
        assert_ne!(Random::new(1).bits(), Random::new(2).bits());
        assert_ne!(Random::new(1).fork(1).bits(), Random::new(1).fork(2).bits());
    }

    #[test]
    fn what_is_drawn_from_a_seed_is_pinned() {
        let mut random = Random::new(1);
        let drawn = [
            random.unit(),
            random.exponential(2.0),
            random.normal(),
            random.log_normal(3.0, 0.5),
            random.pareto(2.0, 1.5),
            random.between(10, 1000) as f64,
            random.zipf(1000, 1.0) as f64,
            random.zipf(1000, 0.8) as f64,
        ];
        let pinned = [
            0.8116121588818848,
            2.7495595475851,
            -0.01091916499162517,
            2.2918462339320085,
            35.94265302159712,
            528.0,
            0.0,
            4.0,
        ];
        for (found, expected) in drawn.iter().zip(pinned) {
            // Logarithms and cosines may differ by a last bit from machine to machine.
            assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{drawn:?}");
        }
        // A log-normal number is e to the power of the normal number from the same bits.
        let mut same = random.clone();
        for _ in 0..100 {
            let (normal, log_normal) = (random.normal(), same.log_normal(1.0, 1.0));
            assert!((log_normal.ln() - normal).abs() < 1e-9, "{log_normal} for {normal}");
        }
    }

    #[test]
    fn ranges_hold() {
        let mut random = Random::new(7);
        let mut seen = [0u32; 5];
        for _ in 0..5000 {
            seen[random.below(5) as usize] += 1;
            assert!((3..=4).contains(&random.between(3, 4)));
            let unit = random.unit();
            assert!((0.0..1.0).contains(&unit));
            assert!(random.pareto(2.0, 1.5) >= 2.0);
            assert!(random.zipf(10, 1.1) < 10);
        }
        assert!(seen.iter().all(|&count| (900..1100).contains(&count)), "{seen:?}");
        assert_eq!(random.below(0), 0);
        assert_eq!(random.between(9, 3), 9);
    }

    #[test]
    fn distributions_have_their_means() {
        let mut random = Random::new(3);
        let draws = 200_000;
        let mean = |draw: &mut dyn FnMut() -> f64| (0..draws).map(|_| draw()).sum::<f64>() / f64::from(draws);
        let exponential = mean(&mut || random.exponential(2.0));
        assert!((exponential - 2.0).abs() < 0.03, "{exponential}");
        let normal = mean(&mut || random.normal());
        assert!(normal.abs() < 0.01, "{normal}");
        let variance = mean(&mut || random.normal().powi(2));
        assert!((variance - 1.0).abs() < 0.02, "{variance}");
        let log_normal = mean(&mut || random.log_normal(3.0, 0.5));
        assert!((log_normal / 3.0 - 0.125f64.exp()).abs() < 0.02, "{log_normal}");
        let pareto = mean(&mut || random.pareto(1.0, 3.0));
        assert!((pareto - 1.5).abs() < 0.03, "{pareto}");
        assert!((mean(&mut || f64::from(u8::from(random.chance(0.25)))) - 0.25).abs() < 0.01);
    }

    #[test]
    fn zipf_favours_the_first() {
        let mut random = Random::new(4);
        for skew in [0.5, 1.0, 1.3] {
            let mut seen = [0u32; 8];
            for _ in 0..20_000 {
                seen[random.zipf(8, skew)] += 1;
            }
            assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "{skew}: {seen:?}");
            // The shares are those of the continuous law, whose index k lies between k + 1 and k + 2.
            let law: Vec<f64> = (0..8).map(|index| (f64::from(index) + 1.5).powf(-skew)).collect();
            for (&count, part) in seen.iter().zip(&law) {
                let expected = 20_000.0 * part / law.iter().sum::<f64>();
                assert!((f64::from(count) / expected - 1.0).abs() < 0.12, "{skew}: {count} for {expected}");
            }
        }
    }

    #[test]
    fn the_ends_of_the_unit_interval_are_in_range() {
        // From these states the next bits are all zero, and all one.
        let (lowest, highest) = (Random { state: [0, 1, 1, 0] }, Random { state: [u64::MAX, 3, 5, 1] });
        assert_eq!((lowest.clone().unit(), highest.clone().unit()), (0.0, 1.0 - f64::EPSILON / 2.0));
        assert!(!lowest.clone().chance(0.0) && highest.clone().chance(1.0));
        for count in 1..2000 {
            for skew in [0.0, 0.3, 0.5, 0.9, 1.0, 1.1, 1.5, 2.0, 3.0] {
                assert_eq!(lowest.clone().zipf(count, skew), 0);
                assert!(highest.clone().zipf(count, skew) < count, "{count} and {skew}");
            }
        }
        assert!(highest.clone().exponential(1.0).is_finite() && highest.clone().pareto(1.0, 2.0).is_finite());
        assert_eq!(lowest.clone().below(9), 0);
        assert_eq!(highest.clone().below(9), 8);
    }
}
