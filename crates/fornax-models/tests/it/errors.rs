//! Errors of bad models name what is wrong.

use std::path::Path;

use fornax_checkpoint::{Checkpoint, SaveOptions, TensorInfo, save_safetensors};
use fornax_models::{AutoModel, NetworkConfig};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Expected, assert_close, device, folder, load, logits, tolerance};

/// A copy of a case whose configuration was changed.
fn changed(case: &str, change: impl FnOnce(&mut Value)) -> TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    let text = std::fs::read(folder(case).join("config.json")).expect("a configuration");
    let mut config: Value = serde_json::from_slice(&text).expect("JSON");
    change(&mut config);
    std::fs::write(copy.path().join("config.json"), config.to_string()).expect("written");
    std::fs::copy(folder(case).join("model.safetensors"), copy.path().join("model.safetensors")).expect("copied");
    copy
}

fn error_of(path: &Path) -> String {
    match AutoModel::load(path.to_str().expect("UTF-8"), &device()) {
        Ok(_) => panic!("{} loads", path.display()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn senseless_configurations_name_the_key() {
    for (key, value, part) in [
        ("num_attention_heads", json!(0), "num_attention_heads"),
        ("num_attention_heads", json!(3), "num_key_value_heads"),
        ("num_key_value_heads", json!(3), "num_key_value_heads"),
        ("hidden_size", json!(0), "hidden_size"),
        ("hidden_size", json!("wide"), "hidden_size"),
        ("num_hidden_layers", json!(1_000_000_000_000u64), "num_hidden_layers"),
        ("num_hidden_layers", json!(-1), "num_hidden_layers"),
        ("vocab_size", json!(u64::MAX), "vocab_size"),
        ("rms_norm_eps", json!(-1.0), "rms_norm_eps"),
        ("hidden_act", json!("wobble"), "wobble"),
        ("rope_parameters", json!({"rope_type": "spiral"}), "spiral"),
        ("head_dim", json!(7), "head_dim"),
        ("max_position_embeddings", json!(0), "max_position_embeddings"),
        ("partial_rotary_factor", json!(0.5), "partial_rotary_factor"),
        ("quantization_config", json!({"quant_method": "gptq"}), "gptq"),
    ] {
        let error = error_of(changed("llama", |config| config[key] = value.clone()).path());
        assert!(error.contains(part), "{key} = {value}: {error}");
    }
}

#[test]
fn an_unknown_architecture_lists_the_known() {
    let error = error_of(changed("llama", |config| config["architectures"] = json!(["RwkvForCausalLM"])).path());
    assert!(error.contains("RwkvForCausalLM") && error.contains("Qwen3ForCausalLM"), "{error}");
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let missing = error_of(changed("llama", |config| config["num_hidden_layers"] = json!(3)).path());
    assert!(missing.contains("missing") && missing.contains("model.layers.2."), "{missing}");
    let extra = error_of(changed("llama", |config| config["num_hidden_layers"] = json!(1)).path());
    assert!(extra.contains("unexpected") && extra.contains("model.layers.1."), "{extra}");
    let shape = error_of(changed("llama", |config| config["intermediate_size"] = json!(48)).path());
    assert!(shape.contains("misshapen") && shape.contains("expected [48, 32], found [32, 32]"), "{shape}");
}

#[test]
fn folders_and_files_that_are_no_models() {
    let empty = tempfile::tempdir().expect("a folder");
    let error = error_of(empty.path());
    assert!(error.contains("config.json"), "{error}");
    std::fs::write(empty.path().join("config.json"), "{ not json").expect("written");
    std::fs::copy(folder("llama").join("model.safetensors"), empty.path().join("model.safetensors")).expect("copied");
    assert!(error_of(empty.path()).contains("not valid JSON"));

    let without = tempfile::tempdir().expect("a folder");
    std::fs::copy(folder("llama").join("config.json"), without.path().join("config.json")).expect("copied");
    let error = error_of(without.path());
    assert!(error.contains("weights"), "{error}");
}

/// A small GGUF file cut off at many places, and a configuration at every byte: words, never a panic.
#[test]
fn truncated_files() {
    if device().is_gpu() {
        // Files know no device either.
        return;
    }
    let bytes = std::fs::read(folder("llama").join("gguf/model.gguf")).expect("a fixture");
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("cut.gguf");
    for len in (0..bytes.len()).step_by(211).chain(bytes.len() - 3..bytes.len()) {
        std::fs::write(&path, &bytes[..len]).expect("written");
        assert!(!error_of(&path).is_empty());
    }
    let config = std::fs::read(folder("llama").join("config.json")).expect("a fixture");
    let copy = changed("llama", |_| ());
    let end = config.iter().rposition(|&byte| byte == b'}').expect("an object");
    for len in 0..end {
        std::fs::write(copy.path().join("config.json"), &config[..len]).expect("written");
        assert!(error_of(copy.path()).contains("config.json"));
    }
}

#[test]
fn a_tokenizer_of_another_model() {
    let copy = changed("llama", |_| ());
    let texts = ["some text".to_owned()];
    let config = fornax_text::BpeTrainerConfig { vocab_size: 300, ..fornax_text::BpeTrainerConfig::default() };
    fornax_text::train_bpe(texts, &config).expect("trained").save(copy.path()).expect("saved");
    let error = error_of(copy.path());
    assert!(error.contains("tokenizer") && error.contains("64"), "{error}");
}

/// Every value of every configuration is replaced by hostile values: each gives an error or a model, never a panic, and
/// no memory is allocated for absurd sizes.
#[test]
fn hostile_values_in_configurations() {
    if device().is_gpu() {
        // Configurations know no device, and a software GPU would compile kernels for minutes.
        return;
    }
    let hostile = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1),
        json!(3),
        json!(u64::MAX),
        json!(1u64 << 40),
        json!(1e308),
        json!(0.5),
        json!(""),
        json!("x"),
        json!([]),
        json!([0, -1, "x"]),
        json!({}),
        json!({"rope_type": "yarn", "factor": 1e300, "original_max_position_embeddings": 1}),
        json!({"rope_type": "longrope", "short_factor": [], "long_factor": []}),
    ];
    let mut made = 0;
    for case in ["gpt2", "llama3_rope", "llama_longrope", "mistral", "qwen2_window", "qwen3", "bert_classifier"] {
        let text = std::fs::read(folder(case).join("config.json")).expect("a configuration");
        let original: Value = serde_json::from_slice(&text).expect("JSON");
        for key in original.as_object().expect("an object").keys() {
            for value in &hostile {
                let mut config = original.clone();
                config[key] = value.clone();
                match NetworkConfig::from_json(&config) {
                    // An accepted configuration can be made into a network, as weights exist only once they are used.
                    Ok(network) => {
                        network.init(device().as_burn());
                        made += 1;
                    }
                    Err(error) => assert!(!error.to_string().is_empty()),
                }
            }
        }
    }
    assert!(made > 100, "{made} configurations accepted");
}

/// An output layer that differs from the embedding is used, whatever the configuration says of tying. If only one of
/// the two is in the file, it is used for both.
#[test]
fn tying_is_what_the_weights_say() {
    let of = |path: &Path| logits(load(path, &device()).decoder().expect("a decoder"), &Expected::of("llama").batch());
    let tied = changed("llama", |config| config["tie_word_embeddings"] = json!(true));
    assert_eq!(of(tied.path()), of(&folder("llama")));

    let whole = Checkpoint::open(folder("qwen2").join("model.safetensors")).expect("opens");
    let renamed = |name: &str| name.replace("model.embed_tokens.weight", "lm_head.weight");
    let infos: Vec<TensorInfo> =
        whole.tensors().map(|info| TensorInfo::new(renamed(&info.name), info.dtype, info.shape.clone())).collect();
    let alone = changed("qwen2", |_| ());
    save_safetensors(alone.path().join("model.safetensors"), infos, &SaveOptions::default(), |info| {
        let original = info.name.replace("lm_head.weight", "model.embed_tokens.weight");
        whole.tensor(&original).map(|view| view.bytes)
    })
    .expect("written");
    let model = load(alone.path(), &device());
    let expected = Expected::of("qwen2");
    let found = logits(model.decoder().expect("a decoder"), &expected.batch());
    assert_close("qwen2, the head alone", &found, &expected.floats("logits"), tolerance(&device()));
}

#[test]
fn parts_that_do_not_belong_together() {
    let model = load(&folder("llama"), &device());
    let mut config = model.config().clone();
    config["num_hidden_layers"] = json!(7);
    let error = AutoModel::from_parts(config, model.into_network(), None, &device()).expect_err("refused");
    assert!(error.to_string().contains("config"), "{error}");
}
