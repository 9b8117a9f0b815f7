//! The units and sizes of a trace, which its lines do not give, and names that may be numbers.

use std::fmt;

use serde::Deserialize;

use crate::TenantId;

/// The unit of a trace's times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum TimeUnit {
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Microseconds.
    #[serde(rename = "us")]
    Microseconds,
}

impl TimeUnit {
    /// The unit in seconds.
    pub(super) fn seconds(self) -> f64 {
        match self {
            Self::Seconds => 1.0,
            Self::Milliseconds => 1e-3,
            Self::Microseconds => 1e-6,
        }
    }
}

impl std::str::FromStr for TimeUnit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "s" => Ok(Self::Seconds),
            "ms" => Ok(Self::Milliseconds),
            "us" => Ok(Self::Microseconds),
            _ => Err(format!("found {text:?}, expected s, ms or us")),
        }
    }
}

/// The units and sizes of a trace, which its lines do not give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TraceFormat {
    /// The unit of `arrival`, `timestamp`, `deadline` and `cancel`. Without it, an `arrival` is in seconds and a
    /// `timestamp` in milliseconds, as in Mooncake's traces.
    pub time_unit: Option<TimeUnit>,
    /// How many tokens each of `hash_ids` stands for. Without it 512, as in Mooncake's traces.
    pub block_size: Option<u32>,
}

/// A number, or a name that is given a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// A number.
    Number(u32),
    /// A name.
    Words(String),
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number below 2^20 or a name")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Name, E> {
                let small = u32::try_from(number).ok().filter(|&number| number <= TenantId::MOST);
                let wrong = || E::invalid_value(serde::de::Unexpected::Unsigned(number), &self);
                small.map(Name::Number).ok_or_else(wrong)
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Name, E> {
                let wrong = || E::invalid_value(serde::de::Unexpected::Signed(number), &self);
                u64::try_from(number).map_err(|_| wrong()).and_then(|number| self.visit_u64(number))
            }

            fn visit_str<E: serde::de::Error>(self, words: &str) -> Result<Name, E> {
                if words.is_empty() {
                    return Err(E::invalid_value(serde::de::Unexpected::Str(words), &self));
                }
                Ok(Name::Words(words.to_owned()))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
