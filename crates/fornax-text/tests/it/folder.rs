//! Folders as they are found: side files, broken files, and what `save` writes.

use crate::{NAMES, crossing, fixture, json, spm, texts};
use fornax_text::{BpeTrainerConfig, ChatTemplate, Message, TemplateOptions, TextError, Tokenizer, train_bpe};
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

/// A copy of a fixture with more files in it.
fn folder(name: &str, files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

fn config(name: &str, change: Value) -> String {
    let mut config = json(&format!("{name}/tokenizer_config.json"));
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    config.to_string()
}

#[test]
fn a_missing_or_broken_file_is_named() {
    let empty = TempDir::new().unwrap();
    assert!(matches!(Tokenizer::from_folder(empty.path()), Err(TextError::NoTokenizer { .. })));
    assert!(matches!(
        Tokenizer::from_file(empty.path().join("tokenizer.json")),
        Err(TextError::Io { action: "read", .. })
    ));
    for file in [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "added_tokens.json",
    ] {
        for content in ["", "{", "[1]", "nonsense"] {
            let folder = folder("bytelevel", &[(file, content)]);
            let error = Tokenizer::from_folder(folder.path()).unwrap_err();
            assert!(
                matches!(&error, TextError::Invalid { what, .. } if what == file),
                "{file} with {content:?}: {error}"
            );
        }
    }
}

#[test]
fn end_tokens_of_the_generation_config_count() {
    let list = folder("bytelevel", &[("generation_config.json", r#"{"eos_token_id": [0, 2, 99999]}"#)]);
    assert_eq!(Tokenizer::from_folder(list.path()).unwrap().eos_ids(), [2, 0]);
    let single = folder("bytelevel", &[("generation_config.json", r#"{"eos_token_id": 1}"#)]);
    assert_eq!(Tokenizer::from_folder(single.path()).unwrap().eos_ids(), [2, 1]);
}

#[test]
fn bos_and_eos_are_added_where_the_configuration_asks_for_them() {
    let plain = Tokenizer::from_folder(fixture("bytelevel")).unwrap().encode("a fox", true).unwrap();
    let asked = config("bytelevel", json!({"add_bos_token": true, "add_eos_token": true}));
    let folder = folder("bytelevel", &[("tokenizer_config.json", &asked)]);
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let encoding = tokenizer.encode("a fox", true).unwrap();
    assert_eq!(encoding.ids[0], tokenizer.bos_id().unwrap());
    assert_eq!(encoding.ids.last(), tokenizer.eos_ids().first());
    assert_eq!(encoding.ids[1..encoding.len() - 1], plain.ids);
    assert_eq!(encoding.offsets[1..encoding.len() - 1], plain.offsets, "the inner post-processor still ran, once");
    assert_eq!(tokenizer.encode("a fox", false).unwrap().ids, plain.ids);
    // A tokenizer.json that adds BOS itself is left alone.
    let twice = config("sentencepiece", json!({"add_bos_token": true}));
    let folder = self::folder("sentencepiece", &[("tokenizer_config.json", &twice)]);
    let encoding = Tokenizer::from_folder(folder.path()).unwrap().encode("a", true).unwrap();
    assert_eq!(encoding.ids.iter().filter(|&&id| id == 1).count(), 1);
}

#[test]
fn tokens_that_only_side_files_name_are_added() {
    let next = Tokenizer::from_folder(fixture("bytelevel")).unwrap().max_id() + 1;
    let more = config(
        "bytelevel",
        json!({
            "added_tokens_decoder": {next.to_string(): {"content": "<tool>", "special": true, "lstrip": false, "rstrip": false, "single_word": false, "normalized": false}},
            "additional_special_tokens": ["<extra>"],
        }),
    );
    let found = folder(
        "bytelevel",
        &[("tokenizer_config.json", &more), ("added_tokens.json", &json!({"<last>": next + 1}).to_string())],
    );
    let tokenizer = Tokenizer::from_folder(found.path()).unwrap();
    assert_eq!(tokenizer.encode("<tool><last>", false).unwrap().ids, [next, next + 1]);
    assert!(tokenizer.is_special(next) && !tokenizer.is_special(next + 1));
    assert!(tokenizer.is_special(tokenizer.token_to_id("<extra>").unwrap()));
    let wrong = folder("bytelevel", &[("added_tokens.json", &json!({"<last>": next + 5}).to_string())]);
    assert!(Tokenizer::from_folder(wrong.path()).unwrap_err().to_string().contains("<last>"));
}

#[test]
fn chat_templates_are_found_in_every_place() {
    let ask = |folder: &TempDir, name: Option<&str>| {
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        let options = TemplateOptions { template: name.map(String::from), ..Default::default() };
        tokenizer.chat_template().unwrap().render(&[Message::user("x")], &options).unwrap()
    };
    let text = folder(
        "bytelevel",
        &[("tokenizer_config.json", &config("bytelevel", json!({"chat_template": "A{{ bos_token }}{{ eos_token }}"})))],
    );
    assert_eq!(ask(&text, None), "A<|endoftext|><|im_end|>");
    let list = json!([{"name": "default", "template": "B"}, {"name": "rag", "template": "C{{ messages[0].content }}"}]);
    let list = config("bytelevel", json!({"chat_template": list}));
    let named = folder(
        "bytelevel",
        &[
            ("tokenizer_config.json", &list),
            ("chat_template.jinja", "D\n"),
            ("additional_chat_templates/deep.jinja", "E"),
        ],
    );
    assert_eq!(
        (ask(&named, None), ask(&named, Some("rag")), ask(&named, Some("deep"))),
        ("D".into(), "Cx".into(), "E".into())
    );
    assert!(Tokenizer::from_folder(fixture("bytelevel")).unwrap().chat_template().is_none());
    let bad = folder("bytelevel", &[("tokenizer_config.json", &config("bytelevel", json!({"chat_template": [1]})))]);
    assert!(matches!(Tokenizer::from_folder(bad.path()), Err(TextError::Invalid { .. })));
}

#[test]
fn a_saved_tokenizer_is_the_same_when_it_is_read_again() {
    let mut all: Vec<(String, Tokenizer)> =
        NAMES.map(|name| (name.to_owned(), Tokenizer::from_folder(fixture(name)).unwrap())).into();
    all.push(("gguf gpt2".into(), Tokenizer::from_gguf(&crossing("llama-bpe")).unwrap()));
    // Its scores are all different and its characters are tokens, so the saved form is exact.
    all.push(("gguf llama".into(), spm()));
    let config = BpeTrainerConfig {
        chat_template: Some("T{{ messages[0].content }}".into()),
        pad_token: Some("<pad>".into()),
        ..Default::default()
    };
    all.push(("trained".into(), train_bpe(["a few words of a story".to_owned()], &config).unwrap()));
    for (name, tokenizer) in all {
        let folder = TempDir::new().unwrap();
        tokenizer.save(folder.path()).unwrap();
        let again = Tokenizer::from_folder(folder.path()).unwrap();
        for text in texts(&json("expected.json")["texts"]) {
            let (a, b) = (tokenizer.encode(&text, true).unwrap(), again.encode(&text, true).unwrap());
            assert_eq!(a.ids, b.ids, "{name}: {text:?}");
            assert_eq!(
                tokenizer.decode(&a.ids, true).unwrap(),
                again.decode(&a.ids, true).unwrap(),
                "{name}: {text:?}"
            );
        }
        assert_eq!(
            (again.bos_id(), again.pad_id(), again.unk_id()),
            (tokenizer.bos_id(), tokenizer.pad_id(), tokenizer.unk_id()),
            "{name}"
        );
        assert_eq!(again.eos_ids().first(), tokenizer.eos_ids().first(), "{name}");
        let source = |t: &Tokenizer| t.chat_template().and_then(|t| t.source("default")).map(String::from);
        assert_eq!(source(&again), source(&tokenizer), "{name}");
        // Saving over it again leaves no temporary file behind.
        again.save(folder.path()).unwrap();
        let count = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(count, if name == "trained" { 3 } else { 2 }, "{name}");
    }
}

#[test]
fn a_template_name_cannot_lead_out_of_the_folder() {
    let list = json!([{"name": "../../evil", "template": "B"}]);
    let folder =
        folder("bytelevel", &[("tokenizer_config.json", &config("bytelevel", json!({"chat_template": list})))]);
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let out = TempDir::new().unwrap();
    assert!(matches!(tokenizer.save(out.path().join("a/b")), Err(TextError::Invalid { .. })));
    assert!(!out.path().join("evil.jinja").exists());
    assert!(ChatTemplate::new("x").names().eq(["default"]));
}
