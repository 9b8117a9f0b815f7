//! The options of a policy: named numbers with defaults, written `name=value,name=value`.

use crate::SchedulerError;

/// Options with their values.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyOptions(Vec<(&'static str, f64)>);

impl PolicyOptions {
    /// The values that `text` gives, and the defaults of all other options.
    ///
    /// # Errors
    /// [`SchedulerError::UnknownOption`], with the known names, for a name that is not among the defaults;
    /// [`SchedulerError::InvalidConfig`] for a value that is no number, a part that is not `name=value`, or an option that
    /// is named twice.
    pub fn parse(defaults: &'static [(&'static str, f64)], text: &str) -> Result<Self, SchedulerError> {
        let mut values = defaults.to_vec();
        let mut given: Vec<&str> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let refuse = |reason| SchedulerError::config("a policy's option", part, reason);
            let (name, value) = part.split_once('=').ok_or_else(|| refuse("write it as name=value"))?;
            let unknown = || SchedulerError::UnknownOption {
                name: name.trim().to_owned(),
                known: defaults.iter().map(|(known, _)| *known).collect(),
            };
            let slot = values.iter_mut().find(|(known, _)| *known == name.trim()).ok_or_else(unknown)?;
            if given.contains(&slot.0) {
                return Err(refuse("it is named twice; give it once"));
            }
            given.push(slot.0);
            slot.1 = value.trim().parse().map_err(|_| refuse("its value is no number"))?;
        }
        Ok(Self(values))
    }

    /// The value of an option.
    ///
    /// # Panics
    /// If the policy's entry does not list the option.
    pub fn number(&self, name: &str) -> f64 {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("the policy's entry does not list its option {name:?}")).1
    }

    /// The value of an option that must be zero or more.
    ///
    /// # Errors
    /// [`SchedulerError::InvalidNumber`].
    pub fn not_negative(&self, name: &'static str) -> Result<f64, SchedulerError> {
        let value = self.number(name);
        if value.is_finite() && value >= 0.0 {
            Ok(value)
        } else {
            let expected = "a finite number that is not negative";
            Err(SchedulerError::InvalidNumber { what: name, found: value.to_string(), expected })
        }
    }

    /// The value of an option that must be above zero.
    ///
    /// # Errors
    /// [`SchedulerError::InvalidNumber`].
    pub fn positive(&self, name: &'static str) -> Result<f64, SchedulerError> {
        crate::error::positive(name, self.number(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: &[(&str, f64)] = &[("ageing", 2.0), ("slack", 5.0)];

    #[test]
    fn values_are_taken_by_name() {
        let options = PolicyOptions::parse(DEFAULTS, " slack = 7.5 ,").expect("one option");
        assert_eq!((options.number("ageing"), options.number("slack")), (2.0, 7.5));
    }

    #[test]
    fn what_is_no_option_is_refused() {
        for bad in ["ageing", "age=1", "ageing=x", "=1"] {
            assert!(PolicyOptions::parse(DEFAULTS, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_option_is_given_once() {
        let error = PolicyOptions::parse(DEFAULTS, "ageing=1,slack=2, ageing = 1").expect_err("it is there twice");
        assert_eq!(error.to_string(), "a policy's option is ageing = 1: it is named twice; give it once");
    }

    #[test]
    fn ranges_are_checked() {
        let options = PolicyOptions::parse(DEFAULTS, "ageing=0,slack=-1").expect("numbers");
        assert_eq!(options.not_negative("ageing"), Ok(0.0));
        assert!(options.positive("ageing").is_err());
        assert!(options.not_negative("slack").is_err());
        let options = PolicyOptions::parse(DEFAULTS, "ageing=nan,slack=inf").expect("numbers");
        assert!(options.not_negative("ageing").is_err() && options.positive("slack").is_err());
    }
}
