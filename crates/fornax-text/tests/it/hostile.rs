//! Broken and crafted input: an error or a tokenizer, never a panic.
//!
//! The bodies are those of the fuzz targets in `fuzz/`, run here over seeded mutations of the fixtures.

#[path = "../../fuzz/bodies.rs"]
mod bodies;

use crate::{NAMES, crossing, fixture, json};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// Words that mean something to one of the formats.
const WORDS: [&[u8]; 24] = [
    b"null",
    b"-1",
    b"0",
    b"4294967295",
    b"1e999",
    b"\"\"",
    b"[]",
    b"{}",
    b"true",
    b"\"Sequence\"",
    b"\"Fuse\"",
    b"\"Strip\"",
    b"\"BPE\"",
    b"\"Unigram\"",
    b"\"WordLevel\"",
    b"{%",
    b"%}",
    b"{{",
    b"}}",
    b"{% for i in range(9) %}",
    b"{% endfor %}",
    b"\xF0\x9F\x99\x82",
    b"\\uD800",
    b"\xFF",
];

fn mutate(bytes: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..rng.random_range(1..6) {
        if out.is_empty() {
            break;
        }
        let at = rng.random_range(0..out.len());
        let to = (at + rng.random_range(0..30)).min(out.len());
        match rng.random_range(0..6) {
            0 => out[at] = rng.random(),
            1 => out[at] ^= 1 << rng.random_range(0..8),
            2 => drop(out.drain(at..to)),
            3 => {
                let copy = out[at..to].to_vec();
                let target = rng.random_range(0..out.len());
                out.splice(target..target, copy);
            }
            4 => {
                let word = WORDS[rng.random_range(0..WORDS.len())];
                out.splice(at..to, word.iter().copied());
            }
            _ if rng.random_bool(0.1) => out.truncate(at),
            _ => {}
        }
    }
    out
}

/// Changes one value somewhere in a JSON document, so that it stays a document and reaches the inner checks.
fn mutate_value(value: &mut Value, rng: &mut ChaCha8Rng, depth: u32) {
    let deeper = depth < 2 || rng.random_bool(0.7);
    match value {
        Value::Object(map) if deeper && !map.is_empty() => {
            let at = rng.random_range(0..map.len());
            let key = map.keys().nth(at).unwrap().clone();
            if rng.random_bool(0.1) {
                map.shift_remove(&key);
            } else {
                mutate_value(&mut map[&key], rng, depth + 1);
            }
        }
        Value::Array(list) if deeper && !list.is_empty() => {
            let at = rng.random_range(0..list.len());
            match rng.random_range(0..10) {
                0 => drop(list.remove(at)),
                1 => list.push(list[at].clone()),
                _ => mutate_value(&mut list[at], rng, depth + 1),
            }
        }
        other => {
            let word = WORDS[rng.random_range(0..WORDS.len())];
            *other = match rng.random_range(0..3) {
                0 => serde_json::from_slice(word).unwrap_or(Value::Null),
                1 => Value::String(String::from_utf8_lossy(word).into_owned()),
                _ => Value::from(rng.random_range(-2i64..70_000_000_000)),
            };
        }
    }
}

#[test]
fn mutated_tokenizer_json() {
    let mut rng = ChaCha8Rng::seed_from_u64(21);
    let mut loaded = 0;
    let mut documents: Vec<Vec<u8>> =
        NAMES.map(|name| std::fs::read(fixture(name).join("tokenizer.json")).unwrap()).into();
    documents.push(bodies::UNIGRAM.as_bytes().to_vec());
    for document in &documents {
        let value: Value = serde_json::from_slice(document).unwrap();
        for _ in 0..300 {
            loaded += u32::from(bodies::tokenizer_json(&mutate(document, &mut rng)));
            let mut value = value.clone();
            mutate_value(&mut value, &mut rng, 0);
            loaded += u32::from(bodies::tokenizer_json(value.to_string().as_bytes()));
        }
    }
    assert!(loaded > 50, "only {loaded} mutations loaded: they no longer reach the encoder");
}

#[test]
fn a_tokenizer_json_that_ends_anywhere() {
    let document = bodies::UNIGRAM.as_bytes();
    for end in 0..document.len() {
        assert!(!bodies::tokenizer_json(&document[..end]), "{end} bytes are no document");
    }
    assert!(bodies::tokenizer_json(document));
}

#[test]
fn mutated_gguf_vocabularies() {
    let mut rng = ChaCha8Rng::seed_from_u64(22);
    let mut loaded = 0;
    let gpt2 = serde_json::to_value(crossing("qwen2")).unwrap();
    for value in [json("spm.json")["vocab"].clone(), json("stories260K.json"), gpt2] {
        for _ in 0..500 {
            let mut value = value.clone();
            (0..rng.random_range(1..4)).for_each(|_| mutate_value(&mut value, &mut rng, 1));
            loaded += u32::from(bodies::gguf_vocab(value.to_string().as_bytes()));
        }
    }
    assert!(loaded > 50, "only {loaded} mutations loaded");
}

#[test]
fn mutated_chat_templates() {
    let mut rng = ChaCha8Rng::seed_from_u64(23);
    let mut rendered = 0;
    for source in json("chat.json")["templates"].as_object().unwrap().values() {
        for _ in 0..300 {
            rendered += u32::from(bodies::chat_template(&mutate(source.as_str().unwrap().as_bytes(), &mut rng)));
        }
    }
    assert!(rendered > 50, "only {rendered} mutations rendered");
}

#[test]
fn crafted_tokenizer_files() {
    let bpe = |vocab: &str, rest: &str| {
        format!(r#"{{"model": {{"type": "BPE", "vocab": {vocab}, {rest}}}, "decoder": {{"type": "ByteLevel"}}}}"#)
    };
    let deep = format!("{}{}", r#"{"type": "Sequence", "normalizers": ["#.repeat(50), "]}".repeat(50));
    for document in [
        String::new(),
        "null".into(),
        "{}".into(),
        r#"{"model": null}"#.into(),
        // The prefix is longer than the token it should begin.
        bpe(r#"{"a": 0, "b": 1}"#, r#""merges": ["a b"], "continuing_subword_prefix": "@@@@""#),
        // Cutting the prefix would end within a character.
        bpe(r#"{"é": 0, "x": 1}"#, r#""merges": ["x é"], "continuing_subword_prefix": "x""#),
        bpe(r#"{"a": 0}"#, r#""merges": ["a a"]"#),
        bpe(r#"{"a": 99999999999}"#, r#""merges": []"#),
        format!(r#"{{"model": {{"type": "WordPiece", "vocab": {{"a": 0}}, "unk_token": "a", "continuing_subword_prefix": "", "max_input_chars_per_word": 9}}, "normalizer": {deep}}}"#),
        r#"{"model": {"type": "Unigram", "vocab": [["a", null]], "unk_id": 0}}"#.into(),
        r#"{"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 7}}"#.into(),
        r#"{"model": {"vocab": {"a": 0}, "merges": []}, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(((((a{9999}){9999}){9999}){9999}"}, "behavior": "Isolated", "invert": false}}"#.into(),
    ] {
        assert!(!bodies::tokenizer_json(document.as_bytes()), "{document}");
    }
}
