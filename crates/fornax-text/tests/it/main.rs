//! Tests of the crate from outside, against what other implementations gave for the same input.
//!
//! The fixtures are made by `tests/fixtures/make.py` (Hugging Face, sentencepiece) and
//! `tests/fixtures/llama_cpp_tokens.py` (llama.cpp); no test here computes its own expectation.

mod chat;
mod folder;
mod gguf;
mod hostile;
mod huggingface;
mod stream;
mod train;

use fornax_text::{GgufVocab, Tokenizer};
use serde_json::Value;
use std::path::PathBuf;

/// A file or folder of the fixtures.
fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", name].iter().collect()
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The tokenizers of the Hugging Face fixtures.
const NAMES: [&str; 4] = ["bytelevel", "sentencepiece", "metaspace", "wordpiece"];

/// The SentencePiece vocabulary of the fixtures.
fn spm() -> Tokenizer {
    let vocab: GgufVocab = serde_json::from_value(json("spm.json")["vocab"].clone()).unwrap();
    Tokenizer::from_gguf(&vocab).unwrap()
}

/// The byte-level vocabulary of the fixtures whose tokens cross word boundaries.
fn crossing(pre: &str) -> GgufVocab {
    let json = json("crossing.json");
    let mut tokens = texts(&json["tokens"]);
    let plain = tokens.len();
    tokens.extend(["<s>", "</s>", "<extra>"].map(String::from));
    let mut token_types = vec![1; plain];
    token_types.extend([3, 3, 4]);
    let bos = u32::try_from(plain).unwrap();
    GgufVocab {
        model: "gpt2".into(),
        pre: Some(pre.into()),
        tokens,
        token_types,
        merges: texts(&json["merges"]),
        bos: Some(bos),
        eos: Some(bos + 1),
        ..Default::default()
    }
}
