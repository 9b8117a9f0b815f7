//! Reading `config.json`: the checks and the conversions that families share. What keys a family has is its own matter.

use std::ops::RangeInclusive;

use fornax_nn::{Activation, RopeConfig, RopeScaling};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ModelError;

/// Sizes beyond these are not models but damaged files; they bound what a configuration alone can make us allocate.
pub(crate) mod limits {
    use std::ops::RangeInclusive;

    pub const LAYERS: RangeInclusive<usize> = 1..=4096;
    pub const HEADS: RangeInclusive<usize> = 1..=65_536;
    pub const SIZE: RangeInclusive<usize> = 1..=(1 << 24);
    pub const VOCABULARY: RangeInclusive<usize> = 1..=(1 << 28);
    pub const POSITIONS: RangeInclusive<usize> = 1..=(1 << 31);
}

/// Parses the configuration of a family, naming the key that is wrong.
pub(crate) fn parse<T: DeserializeOwned>(value: &Value) -> Result<T, ModelError> {
    if let Some(factor) = value["partial_rotary_factor"].as_f64().filter(|&factor| factor != 1.0) {
        return Err(ModelError::config("partial_rotary_factor", "1; heads are turned whole", factor));
    }
    serde_path_to_error::deserialize(in_one_spelling(value)).map_err(|error| {
        let key = error.path().to_string();
        ModelError::config(key, "a value of the right type", error.inner())
    })
}

/// The configuration with `rope_parameters` and `rope_type`, where older versions of transformers wrote `rope_scaling`
/// and `type`. Some wrote both, and then the older key of the two objects, and the newer of the two types, counts.
fn in_one_spelling(value: &Value) -> Value {
    let mut value = value.clone();
    let Some(config) = value.as_object_mut() else { return value };
    if let Some(scaling) = config.remove("rope_scaling").filter(|scaling| !scaling.is_null()) {
        let theta = config.get("rope_parameters").and_then(|rope| rope.get("rope_theta")).cloned();
        config.insert("rope_parameters".into(), scaling);
        if let (Some(theta), Some(rope)) = (theta, config["rope_parameters"].as_object_mut()) {
            rope.entry("rope_theta").or_insert(theta);
        }
    }
    if let Some(rope) = config.get_mut("rope_parameters").and_then(Value::as_object_mut)
        && let Some(kind) = rope.remove("type")
    {
        rope.entry("rope_type").or_insert(kind);
    }
    value
}

/// Checks that a size is in the range for models.
pub(crate) fn check(key: &str, value: usize, range: RangeInclusive<usize>) -> Result<usize, ModelError> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(ModelError::config(key, format!("{} to {}", range.start(), range.end()), value))
}

/// Checks an ε: positive and finite.
pub(crate) fn check_epsilon(key: &str, value: f64) -> Result<f64, ModelError> {
    if value.is_finite() && value > 0.0 && value < 1.0 {
        return Ok(value);
    }
    Err(ModelError::config(key, "a small positive number", value))
}

/// Checks the standard deviation of initial weights, which may be 0.
pub(crate) fn check_initializer_range(value: f64) -> Result<f64, ModelError> {
    if value.is_finite() && (0.0..=1000.0).contains(&value) {
        return Ok(value);
    }
    Err(ModelError::config("initializer_range", "0 to 1000", value))
}

/// Checks that `value` is a multiple of the value of another key.
pub(crate) fn check_multiple(key: &str, value: usize, other: &str, divisor: usize) -> Result<(), ModelError> {
    if divisor > 0 && value.is_multiple_of(divisor) {
        return Ok(());
    }
    Err(ModelError::config(key, format!("a multiple of {other} ({divisor})"), value))
}

/// Reads the name of an activation.
pub(crate) fn activation(key: &str, name: &str) -> Result<Activation, ModelError> {
    name.parse().map_err(|_| {
        let known: Vec<_> = Activation::ALL.iter().map(ToString::to_string).collect();
        ModelError::config(key, format!("one of {}", known.join(", ")), name)
    })
}

/// Heads and their size, checked against each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Heads {
    /// From the values of `num_attention_heads`, `num_key_value_heads` and `head_dim`, the latter two where given.
    pub(crate) fn check(
        hidden_size: usize,
        heads: usize,
        kv_heads: Option<usize>,
        head_dim: Option<usize>,
    ) -> Result<Self, ModelError> {
        let heads = check("num_attention_heads", heads, limits::HEADS)?;
        let kv_heads = check("num_key_value_heads", kv_heads.unwrap_or(heads), limits::HEADS)?;
        check_multiple("num_attention_heads", heads, "num_key_value_heads", kv_heads)?;
        let head_dim = match head_dim {
            Some(head_dim) => check("head_dim", head_dim, limits::SIZE)?,
            None => {
                check_multiple("hidden_size", hidden_size, "num_attention_heads", heads)?;
                hidden_size / heads
            }
        };
        Ok(Self { heads, kv_heads, head_dim })
    }
}

/// The window of each layer: `layer_types` where given, otherwise the window on every layer that `slides` says.
pub(crate) fn windows(
    layers: usize,
    sliding_window: Option<usize>,
    layer_types: Option<&[String]>,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>, ModelError> {
    if let Some(window) = sliding_window {
        check("sliding_window", window, limits::POSITIONS)?;
    }
    let Some(types) = layer_types else {
        return Ok((0..layers).map(|layer| sliding_window.filter(|_| slides(layer))).collect());
    };
    if types.len() != layers {
        return Err(ModelError::config("layer_types", format!("{layers} entries, one a layer"), types.len()));
    }
    types
        .iter()
        .map(|kind| match kind.as_str() {
            "full_attention" => Ok(None),
            "sliding_attention" if sliding_window.is_none() => {
                Err(ModelError::config("sliding_window", "a number, since layer_types has sliding_attention", "null"))
            }
            "sliding_attention" => Ok(sliding_window),
            other => Err(ModelError::config("layer_types", "full_attention or sliding_attention", other)),
        })
        .collect()
}

/// `rope_parameters`, or `rope_scaling` in older configurations.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the keys of transformers' configurations, which document them")]
pub struct RopeParameters {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_max_position_embeddings: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_factor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta_fast: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta_slow: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mscale: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mscale_all_dim: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short_factor: Option<Vec<f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub long_factor: Option<Vec<f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low_freq_factor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high_freq_factor: Option<f64>,
}

impl RopeParameters {
    /// The angles they stand for.
    ///
    /// `theta` is the base where the parameters do not hold one, `original` the top-level
    /// `original_max_position_embeddings` that some configurations have.
    pub(crate) fn rope(
        &self,
        theta: f64,
        rotary_dim: usize,
        max_positions: usize,
        original: Option<usize>,
    ) -> Result<RopeConfig, ModelError> {
        let theta = self.rope_theta.unwrap_or(theta);
        if !(theta.is_finite() && theta > 1.0) {
            return Err(ModelError::config("rope_theta", "a number above 1", theta));
        }
        check_multiple("head_dim", rotary_dim, "2, since pairs of dimensions are turned", 2)?;
        // transformers lets the top-level key win.
        let original = original.or(self.original_max_position_embeddings);
        let scaling = match self.rope_type.as_deref().unwrap_or("default") {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: self.factor()? },
            "dynamic" => {
                if rotary_dim == 2 {
                    return Err(ModelError::config(
                        "rope_parameters.rope_type",
                        "not dynamic for a head of 2",
                        "dynamic",
                    ));
                }
                RopeScaling::Dynamic { factor: self.factor()? }
            }
            "yarn" => RopeScaling::Yarn {
                factor: self.factor()?,
                original_max_positions: positions(original.unwrap_or(max_positions))?,
                beta_fast: positive("beta_fast", self.beta_fast.unwrap_or(32.0))?,
                beta_slow: positive("beta_slow", self.beta_slow.unwrap_or(1.0))?,
                attention_factor: self
                    .attention_factor
                    .map(|factor| positive("attention_factor", factor))
                    .transpose()?,
                mscale: self.mscale.zip(self.mscale_all_dim).filter(|&(one, all)| one != 0.0 && all != 0.0),
                truncate: self.truncate.unwrap_or(true),
            },
            "llama3" => {
                let low_freq_factor = positive("low_freq_factor", required("low_freq_factor", self.low_freq_factor)?)?;
                let high_freq_factor =
                    positive("high_freq_factor", required("high_freq_factor", self.high_freq_factor)?)?;
                if high_freq_factor <= low_freq_factor {
                    let expected = format!("more than low_freq_factor ({low_freq_factor})");
                    return Err(ModelError::config("rope_parameters.high_freq_factor", expected, high_freq_factor));
                }
                let original = original.unwrap_or(max_positions);
                RopeScaling::Llama3 {
                    factor: self.factor()?,
                    low_freq_factor,
                    high_freq_factor,
                    original_max_positions: positions(original)?,
                }
            }
            "longrope" | "su" => self.long_rope(rotary_dim, max_positions, original)?,
            other => {
                let known = "default, linear, dynamic, yarn, llama3 or longrope";
                return Err(ModelError::config("rope_parameters.rope_type", known, other));
            }
        };
        Ok(RopeConfig { theta, rotary_dim, max_positions, scaling })
    }

    fn long_rope(
        &self,
        rotary_dim: usize,
        max_positions: usize,
        original: Option<usize>,
    ) -> Result<RopeScaling, ModelError> {
        let factors = |key: &str, list: &Option<Vec<f32>>| {
            let list = required(key, list.clone())?;
            if list.len() != rotary_dim / 2 || !list.iter().all(|factor| factor.is_finite() && *factor > 0.0) {
                let expected = format!("{} positive numbers", rotary_dim / 2);
                let found = format!("{} numbers, or some that are not positive", list.len());
                return Err(ModelError::config(format!("rope_parameters.{key}"), expected, found));
            }
            Ok(list)
        };
        let original_max_positions = positions(original.unwrap_or(max_positions))?;
        let factor = self.factor.unwrap_or(max_positions as f64 / original_max_positions as f64);
        let default =
            if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original_max_positions as f64).ln()).sqrt() };
        Ok(RopeScaling::LongRope {
            short_factor: factors("short_factor", &self.short_factor)?,
            long_factor: factors("long_factor", &self.long_factor)?,
            original_max_positions,
            attention_factor: positive("attention_factor", self.attention_factor.unwrap_or(default))?,
        })
    }

    fn factor(&self) -> Result<f64, ModelError> {
        positive("factor", required("factor", self.factor)?)
    }
}

fn required<T>(key: &str, value: Option<T>) -> Result<T, ModelError> {
    value.ok_or_else(|| ModelError::config(format!("rope_parameters.{key}"), "a value for this rope_type", "none"))
}

fn positive(key: &str, value: f64) -> Result<f64, ModelError> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(ModelError::config(format!("rope_parameters.{key}"), "a positive number", value))
}

fn positions(value: usize) -> Result<usize, ModelError> {
    check("rope_parameters.original_max_position_embeddings", value, limits::POSITIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(json: serde_json::Value) -> Result<RopeConfig, ModelError> {
        parse::<RopeParameters>(&json)?.rope(10_000.0, 8, 64, None)
    }

    #[test]
    fn rope_errors_name_the_key() {
        for (json, part) in [
            (serde_json::json!({"rope_type": "linear"}), "rope_parameters.factor"),
            (serde_json::json!({"rope_type": "linear", "factor": -1.0}), "found -1"),
            (serde_json::json!({"rope_type": "spiral"}), "spiral"),
            (serde_json::json!({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}), "short_factor"),
            (serde_json::json!({"rope_theta": 0.0}), "rope_theta"),
            (serde_json::json!({"rope_type": "linear", "factor": "two"}), "factor"),
        ] {
            let error = rope(json).expect_err("a bad configuration").to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn both_spellings_at_once_are_one() {
        let both = serde_json::json!({
            "rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0},
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        });
        let one = serde_json::json!({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 500.0}});
        assert_eq!(in_one_spelling(&both), one);
        let null = serde_json::json!({"rope_scaling": null, "rope_parameters": {"rope_type": "default"}});
        assert_eq!(in_one_spelling(&null), serde_json::json!({"rope_parameters": {"rope_type": "default"}}));
    }

    #[test]
    fn windows_follow_the_layer_types() {
        let types = ["full_attention".to_owned(), "sliding_attention".to_owned()];
        assert_eq!(windows(2, Some(4), Some(&types), |_| true).expect("valid"), [None, Some(4)]);
        assert!(windows(2, None, Some(&types), |_| true).is_err());
        assert!(windows(3, Some(4), Some(&types), |_| true).is_err());
        assert_eq!(windows(2, Some(4), None, |layer| layer == 0).expect("valid"), [Some(4), None]);
    }
}
