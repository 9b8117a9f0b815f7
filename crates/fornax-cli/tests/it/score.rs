//! `fornax score`.

use fornax::prelude::*;
use serde_json::Value;

use crate::support::{bare, json_lines, llama, load, ok, run_with_input, stdout};

fn logprobs(line: &Value) -> Vec<Option<f64>> {
    line["logprobs"].as_array().expect("a list").iter().map(Value::as_f64).collect()
}

#[test]
fn ids_alone_are_scored_without_a_tokenizer() {
    let model = bare();
    let lines = json_lines(&["score", &model, "--token-ids", "3,14,15,92,65", "--json"]);
    let [line] = lines.as_slice() else { panic!("one object, found {}", lines.len()) };
    assert_eq!(
        line.as_object().expect("an object").keys().collect::<Vec<_>>(),
        ["token_ids", "logprobs", "perplexity"]
    );
    assert_eq!(line["token_ids"], serde_json::json!([3, 14, 15, 92, 65]));
    let logprobs = logprobs(line);
    assert_eq!(logprobs[0], None);
    let known: Vec<f64> = logprobs.iter().flatten().copied().collect();
    assert_eq!(known.len(), 4);
    let perplexity = (-known.iter().sum::<f64>() / 4.0).exp();
    let found = line["perplexity"].as_f64().expect("a number");
    assert!((perplexity / found - 1.0).abs() < 1e-6, "expected {perplexity}, found {found}");

    let expected = score(&load(&model), vec![3, 14, 15, 92, 65]).expect("scored");
    for (found, expected) in logprobs.iter().zip(&expected.logprobs) {
        match (found, expected) {
            (Some(found), Some(expected)) => assert!((found - f64::from(*expected)).abs() < 1e-5),
            (found, expected) => assert!(found.is_none() && expected.is_none()),
        }
    }
}

#[test]
fn a_text_is_scored_as_its_tokens_are() {
    let model = llama();
    let by_text = json_lines(&["score", &model, "--text", "the cat sat", "--json"]);
    let ids: Vec<String> =
        by_text[0]["token_ids"].as_array().expect("a list").iter().map(ToString::to_string).collect();
    let by_ids = json_lines(&["score", &model, "--token-ids", &ids.join(","), "--json"]);
    assert_eq!(by_text, by_ids);
    let by_pipe = stdout(&run_with_input(&["score", &model, "--file", "-", "--json"], "the cat sat\n"));
    assert_eq!(serde_json::from_str::<Value>(&by_pipe).expect("JSON"), by_text[0]);
}

#[test]
fn for_people_there_is_a_table() {
    let table = ok(&["score", &llama(), "--text", "the cat"]);
    assert!(table.lines().next().expect("a header").contains("logprob"), "{table}");
    assert!(table.contains("perplexity "), "{table}");
    let one = ok(&["score", &bare(), "--token-ids", "7"]);
    assert!(one.contains("no perplexity"), "{one}");
    let one = json_lines(&["score", &bare(), "--token-ids", "7", "--json"]);
    assert_eq!((logprobs(&one[0]), &one[0]["perplexity"]), (vec![None], &Value::Null));
}
