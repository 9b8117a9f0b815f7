//! What a family is, and the list of them all. A family's own facts stand in its file.

use serde::Serialize;
use serde_json::Value;

use crate::families::{bert, gemma2, gpt2, llama, mistral, qwen2, qwen3};
use crate::gguf::GgufModel;
use crate::weights::WeightMap;
use crate::{ModelError, NetworkConfig};

/// Every family, one line each. `cargo xtask new model NAME` adds one.
const FAMILIES: &[&Family] = &[
    &bert::FAMILY,
    &gemma2::FAMILY,
    &gpt2::FAMILY,
    &llama::FAMILY,
    &mistral::FAMILY,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    // cargo xtask new model: one line above
];

/// Reads a `config.json`, given a way to ask whether the checkpoint has a tensor of a name.
pub type ReadConfig = fn(&Value, &dyn Fn(&str) -> bool) -> Result<NetworkConfig, ModelError>;

/// What makes a published model loadable: how it is recognised, what network it is, where its weights are.
#[derive(Debug)]
pub struct Family {
    /// Its name here.
    pub name: &'static str,
    /// Values of `model_type` in `config.json`, the usual one first.
    pub model_types: &'static [&'static str],
    /// Values of `architectures`, the usual one first.
    pub architectures: &'static [&'static str],
    /// Reads `config.json`.
    pub network: ReadConfig,
    /// Names in safetensors and PyTorch files.
    pub weights: WeightMap,
    /// The same for GGUF files, where llama.cpp knows the family.
    pub gguf: Option<GgufFamily>,
}

/// A family in llama.cpp's files.
#[derive(Debug)]
pub struct GgufFamily {
    /// Values of `general.architecture`.
    pub architectures: &'static [&'static str],
    /// Its metadata as a `config.json`.
    pub config: fn(&GgufModel) -> Result<Value, ModelError>,
    /// Names in GGUF files.
    pub weights: WeightMap,
}

/// The names that `architectures` may have, of every family.
pub fn known_architectures() -> Vec<&'static str> {
    FAMILIES.iter().flat_map(|family| family.architectures).copied().collect()
}

/// The family of a `config.json`: by `architectures`, otherwise by `model_type`.
pub(crate) fn find(config: &Value) -> Result<&'static Family, ModelError> {
    let architectures: Vec<&str> =
        config["architectures"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let model_type = config["model_type"].as_str();
    let by_architecture =
        || FAMILIES.iter().find(|family| architectures.iter().any(|name| family.architectures.contains(name)));
    let by_type = || FAMILIES.iter().find(|family| model_type.is_some_and(|name| family.model_types.contains(&name)));
    // An architecture that is named and unknown is another head on a known body, which must not be taken for the usual one.
    let found = if architectures.is_empty() { by_type() } else { by_architecture() };
    found.copied().ok_or_else(|| ModelError::UnknownArchitecture {
        found: match (architectures.is_empty(), model_type) {
            (false, _) => architectures.join(", "),
            (true, Some(model_type)) => format!("of model_type {model_type:?}"),
            (true, None) => "of a config.json without `architectures` and `model_type`".to_owned(),
        },
        known: known_architectures().join(", "),
    })
}

/// The family of a GGUF file.
pub(crate) fn find_gguf(architecture: &str) -> Result<(&'static Family, &'static GgufFamily), ModelError> {
    let with_gguf = || FAMILIES.iter().filter_map(|family| Some((*family, family.gguf.as_ref()?)));
    with_gguf().find(|(_, gguf)| gguf.architectures.contains(&architecture)).ok_or_else(|| {
        let known: Vec<_> = with_gguf().flat_map(|(_, gguf)| gguf.architectures).copied().collect();
        ModelError::UnknownArchitecture { found: format!("{architecture:?} (GGUF)"), known: known.join(", ") }
    })
}

/// A family's configuration as a `config.json`, with the names that others recognise it by.
pub(crate) fn config_json<T: Serialize>(family: &Family, config: &T) -> Value {
    let mut json = serde_json::json!({
        "architectures": [family.architectures[0]],
        "model_type": family.model_types[0],
    });
    // A struct of numbers, strings and lists always serializes to an object.
    if let (Some(json), Ok(Value::Object(own))) = (json.as_object_mut(), serde_json::to_value(config)) {
        json.extend(own);
    }
    json
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn families_are_found_by_either_name() {
        assert_eq!(find(&json!({"architectures": ["Qwen2ForCausalLM"]})).expect("known").name, "qwen2");
        assert_eq!(find(&json!({"model_type": "gpt2"})).expect("known").name, "gpt2");
        assert_eq!(find_gguf("llama").expect("known").0.name, "llama");
    }

    #[test]
    fn an_unknown_one_lists_the_known() {
        for config in [
            json!({"architectures": ["MambaForCausalLM"]}),
            json!({"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"}),
            json!({"model_type": "t5"}),
            json!({}),
        ] {
            let error = find(&config).expect_err("unknown").to_string();
            assert!(error.contains("LlamaForCausalLM") && error.contains("BertModel"), "{error}");
        }
        assert!(find_gguf("mamba").expect_err("unknown").to_string().contains("qwen3"));
    }

    #[test]
    fn no_name_belongs_to_two_families() {
        let mut seen = std::collections::HashSet::new();
        for name in FAMILIES.iter().flat_map(|family| family.architectures.iter().chain(family.model_types)) {
            assert!(seen.insert(name), "{name}");
        }
    }
}
