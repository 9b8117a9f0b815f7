//! What cannot be answered is refused with words that name it.

use fornax_engine::{EmbedOptions, ModelExt, Prompt, SamplingParams, score};

use crate::common::{fixture, load};

#[test]
fn prompts() {
    let model = load(&fixture("gpt2"));
    let context = model.network().context_length();
    let params = SamplingParams::default();
    for (prompt, part) in [
        (Prompt::Tokens(vec![1; context]), format!("context holds {context}")),
        (Prompt::Tokens(vec![1, 64]), "token id 64 at position 1".into()),
        (Prompt::from("text"), "no tokenizer".into()),
    ] {
        let error = model.generator().generate(prompt, &params).expect_err("refused").to_string();
        assert!(error.contains(&part), "{error}");
    }
    assert!(score(&model, vec![1, 99]).expect_err("refused").to_string().contains("99"));
    assert!(score(&model, Vec::new()).is_err());
}

#[test]
fn parameters() {
    let model = load(&fixture("llama"));
    let params = SamplingParams::default();
    for (params, part) in [
        (params.clone().temperature(f32::NAN), "temperature"),
        (params.clone().top_p(1.5), "top_p"),
        (params.clone().num_return_sequences(0), "num_return_sequences"),
        (params.clone().max_new_tokens(0), "max_new_tokens"),
        (params.clone().num_beams(2).num_return_sequences(3), "num_beams"),
        (params.clone().stop([""]), "stop"),
        (params.clone().num_beams(2).logprobs(1), "logprobs"),
        (params.stop(["x"]), "tokenizer"),
    ] {
        let error = model.generator().generate(vec![1], &params).expect_err("refused").to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_model_of_another_kind() {
    let bert = load(&fixture("bert"));
    let error = bert.generator().generate(vec![1], &SamplingParams::default()).expect_err("refused").to_string();
    assert!(error.contains("encoder") && error.contains("causal"), "{error}");
    let error = bert.embedder().embed(&["x"], &EmbedOptions::default()).expect_err("refused").to_string();
    assert!(error.contains("tokenizer"), "{error}");
}

/// Ids of a configuration are ids from outside too.
#[test]
fn senseless_token_ids_of_a_configuration() {
    let copy = tempfile::tempdir().expect("a folder");
    let text = std::fs::read_to_string(fixture("llama").join("config.json")).expect("a fixture");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    config["bos_token_id"] = 999.into();
    config["pad_token_id"] = 99_999.into();
    std::fs::write(copy.path().join("config.json"), config.to_string()).expect("written");
    std::fs::copy(fixture("llama").join("model.safetensors"), copy.path().join("model.safetensors")).expect("copied");
    let model = load(copy.path());
    let error = model.generator().generate(Vec::new(), &SamplingParams::default()).expect_err("refused").to_string();
    assert!(error.contains("999"), "{error}");
}
