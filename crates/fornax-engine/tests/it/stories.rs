//! A real model: stories260K continues five prompts exactly as llama.cpp does.

use fornax_engine::{ModelExt, SamplingParams};
use serde_json::Value;

use crate::common::{fixture, load, test_data};

#[test]
fn greedy_tokens_are_those_of_llama_cpp() {
    let Some(path) = test_data("data/stories260K.gguf") else { return };
    let model = load(&path);
    let tokenizer = model.tokenizer().expect("the file holds one");
    let text = std::fs::read_to_string(fixture("stories260K_greedy.json")).expect("a fixture");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let ids = |value: &Value| -> Vec<u32> {
        value.as_array().expect("a list").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
    };
    let cases = json["cases"].as_array().expect("a list of prompts");
    assert_eq!(cases.len(), 5);
    for case in cases {
        let prompt = case["prompt"].as_str().expect("a text");
        let wanted = ids(&case["generated_ids"]);
        assert_eq!(wanted.len(), 200);
        assert_eq!(tokenizer.encode(prompt, true).expect("it encodes").ids, ids(&case["prompt_ids"]), "{prompt}");
        let params = SamplingParams::default().max_new_tokens(200).ignore_eos(true);
        let found = model.generator().generate(prompt, &params).expect("it generates").remove(0);
        assert_eq!(found.token_ids, wanted, "{prompt}");
    }
}
