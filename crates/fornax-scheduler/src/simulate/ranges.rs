//! The valid ranges of all numbers of a workload, so that every accepted simulation ends and fits into memory.

use super::trace::{MOST_REQUESTS, MOST_TOKENS};
use super::{Arrivals, Class, Length, Workload};
use crate::SchedulerError;

impl Workload {
    /// Checks that all numbers are in their ranges.
    ///
    /// # Errors
    /// [`SchedulerError::InvalidConfig`] naming the field.
    pub fn check(&self) -> Result<(), SchedulerError> {
        let refuse = |field, found: String, reason| Err(SchedulerError::config(field, found, reason));
        if !(1..=MOST_REQUESTS).contains(&self.requests) {
            return refuse("requests", self.requests.to_string(), "give 1 to 100 million");
        }
        if !self.arrivals.check() {
            let found = format!("{:?}", self.arrivals);
            return refuse(
                "arrivals",
                found,
                "give a rate of 1e-9 to 1e9 requests a second; bursts, pauses and days of 1e-3 to 1e9 seconds, at most a \
                 million of them to a request; a factor of 1 to 1e6; a depth of 0 to 1",
            );
        }
        if self.classes.is_empty() || self.classes.len() > 1000 {
            return refuse("class", self.classes.len().to_string(), "give 1 to 1000 kinds of requests");
        }
        for (at, class) in self.classes.iter().enumerate() {
            if class.name.is_empty() || self.classes[..at].iter().any(|other| other.name == class.name) {
                return refuse(
                    "class.name",
                    format!("{:?}", class.name),
                    "give each kind of requests a name of its own",
                );
            }
            class.check()?;
        }
        Ok(())
    }
}

impl Length {
    fn check(&self) -> bool {
        let tokens = |most: u32| (1..=MOST_TOKENS).contains(&most);
        let typical = |value: f64| value.is_finite() && value > 0.0;
        match *self {
            Self::Fixed(length) => tokens(length),
            Self::Uniform(least, most) => tokens(least) && tokens(most) && least <= most,
            Self::LogNormal(median, sigma, most) => {
                typical(median) && sigma.is_finite() && sigma >= 0.0 && tokens(most)
            }
            Self::Pareto(least, alpha, most) => typical(least) && typical(alpha) && tokens(most),
        }
    }
}

impl Arrivals {
    fn check(&self) -> bool {
        let rate = |rate: f64| (1e-9..=1e9).contains(&rate);
        let span = |seconds: f64| (1e-3..=1e9).contains(&seconds);
        match *self {
            Self::Poisson(mean) => rate(mean),
            Self::Bursty { rate: mean, factor, on, off } => {
                // The iterator goes from burst to burst; the number of bursts between two requests must be bounded.
                rate(mean) && (1.0..=1e6).contains(&factor) && span(on) && span(off) && mean * (on + off) >= 1e-6
            }
            Self::Diurnal { rate: mean, depth, period } => rate(mean) && (0.0..=1.0).contains(&depth) && span(period),
        }
    }
}

impl Class {
    /// Checks that all numbers are in their ranges.
    pub(super) fn check(&self) -> Result<(), SchedulerError> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let chance = |value: f64| (0.0..=1.0).contains(&value);
        let tenants = self.tenants > 0 && self.tenant.saturating_add(self.tenants) <= crate::TenantId::MOST;
        let prefix = self.prefix.is_none_or(|prefix| {
            prefix.groups > 0 && prefix.tokens <= MOST_TOKENS && prefix.skew.is_finite() && prefix.skew >= 0.0
        });
        let turns = self.turns.is_none_or(|turns| turns.mean.is_finite() && turns.mean >= 1.0 && positive(turns.think));
        let length = "give 1 to 2^24 tokens, the least not above the most, medians and exponents above zero";
        let above = "give a finite number above zero";
        let checks = [
            ("class.share", positive(self.share) && self.share <= 1e9, "give a number above zero, at most 1e9"),
            ("class.tenants", tenants, "give at least one tenant, and numbers below 2^20"),
            ("class.prompt", self.prompt.check(), length),
            ("class.output", self.output.check(), length),
            (
                "class.max_tokens",
                self.max_tokens.is_none_or(|most| (1..=MOST_TOKENS).contains(&most)),
                "give 1 to 2^24",
            ),
            ("class.prefix", prefix, "give at least one group, at most 2^24 tokens, and a skew of zero or more"),
            ("class.turns", turns, "give a mean of at least 1, and seconds to think above zero"),
            ("class.deadline", self.deadline.is_none_or(positive), above),
            ("class.first_token_target", positive(self.first_token_target), above),
            ("class.next_token_target", positive(self.next_token_target), above),
            ("class.acceptance", chance(self.acceptance), "give a chance between 0 and 1"),
        ];
        match checks.into_iter().find(|(_, good, _)| !good) {
            Some((field, _, reason)) => {
                let found = match field {
                    "class.prompt" => format!("{:?}", self.prompt),
                    "class.output" => format!("{:?}", self.output),
                    "class.max_tokens" => format!("{:?}", self.max_tokens),
                    "class.prefix" => format!("{:?}", self.prefix),
                    "class.turns" => format!("{:?}", self.turns),
                    "class.tenants" => format!("{} from {} on", self.tenants, self.tenant),
                    "class.share" => self.share.to_string(),
                    "class.deadline" => format!("{:?}", self.deadline),
                    "class.first_token_target" => self.first_token_target.to_string(),
                    "class.next_token_target" => self.next_token_target.to_string(),
                    _ => self.acceptance.to_string(),
                };
                let found = format!("{found}, in the class {:?}", self.name);
                Err(SchedulerError::config(field, found, reason))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::{Prefix, Turns};

    fn workload(arrivals: Arrivals) -> Workload {
        Workload { requests: 20, arrivals, classes: vec![Class::default()], seed: 5 }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for arrivals in [
            Arrivals::Poisson(0.0),
            Arrivals::Poisson(f64::NAN),
            Arrivals::Bursty { rate: 1.0, factor: 0.5, on: 1.0, off: 1.0 },
            Arrivals::Diurnal { rate: 1.0, depth: 1.5, period: 1.0 },
        ] {
            assert!(workload(arrivals).check().is_err(), "{arrivals:?}");
        }
        let bad = [
            Class { share: 0.0, ..Class::default() },
            Class { tenants: 0, ..Class::default() },
            Class { prompt: Length::Uniform(5, 4), ..Class::default() },
            Class { output: Length::Fixed(0), ..Class::default() },
            Class { acceptance: 1.5, ..Class::default() },
            Class { deadline: Some(-1.0), ..Class::default() },
            Class { turns: Some(Turns { mean: 0.5, think: 1.0 }), ..Class::default() },
            Class { prefix: Some(Prefix { groups: 0, tokens: 1, skew: 1.0 }), ..Class::default() },
        ];
        for class in bad {
            let workload = Workload { classes: vec![class], ..workload(Arrivals::Poisson(1.0)) };
            assert!(workload.check().is_err(), "{workload:?}");
        }
        assert!(Workload { classes: Vec::new(), ..workload(Arrivals::Poisson(1.0)) }.check().is_err());
    }
}
