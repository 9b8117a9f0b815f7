//! `fornax score --texts` and `fornax embed --texts`: many texts from a file.

use serde_json::{Value, json};

use crate::support::{arg, bare, bert, file, json_lines, llama, ok, partly, run, run_with_input};

/// The object with its place taken out.
fn without_place(line: &Value) -> Value {
    let mut object = line.as_object().expect("an object").clone();
    object.retain(|key, _| key != "index" && key != "id");
    object.into()
}

#[test]
fn texts_are_scored_as_each_is_alone() {
    let texts: Vec<String> =
        (0..100).map(|count| ["the cat", "a tale of the sea", "dog"][count % 3].repeat(1 + count / 8)).collect();
    let file = file(".txt", &format!("{}\n\n", texts.join("\n")));
    let lines = json_lines(&["score", &llama(), "--texts", arg(file.path())]);
    assert_eq!(lines.len(), 100);
    assert_eq!(
        lines[0].as_object().expect("an object").keys().collect::<Vec<_>>(),
        ["index", "token_ids", "logprobs", "perplexity"]
    );
    // Some texts are longer than the context.
    for index in [0, 1, 2, 50, 98, 99] {
        assert_eq!(lines[index]["index"], index);
        let alone = json_lines(&["score", &llama(), "--text", &texts[index], "--json"]);
        assert_eq!(without_place(&lines[index]), alone[0], "text {index}");
    }
    let piped = run_with_input(&["score", &llama(), "--texts", "-"], "the cat\n");
    assert_eq!(partly(&piped, 0, 1)[0], lines[0]);
}

#[test]
fn objects_have_texts_or_tokens_and_ids() {
    let input = [
        json!({"id": "a", "text": "the cat"}),
        json!({"id": 2, "token_ids": [3, 14, 15]}),
        json!({"token_ids": [268]}),
        json!({"id": "both", "text": "x", "token_ids": [1]}),
        json!({"id": "neither"}),
        json!({"id": "key", "text": "x", "lang": "en"}),
        json!({"id": "none", "token_ids": []}),
        json!({"text": "the cat"}),
    ];
    let mut input: String = input.iter().map(|line| format!("{line}\n")).collect();
    input.push_str("the cat\n");
    let file = file(".jsonl", &input);
    let errors: [(Value, &[&str]); 6] = [
        (Value::Null, &["268", "vocabulary"]),
        (json!("both"), &["text and token_ids", "both"]),
        (json!("neither"), &["neither"]),
        (json!("key"), &["lang"]),
        (json!("none"), &["empty"]),
        (Value::Null, &["JSON"]),
    ];
    for (args, model, key) in
        [("score", llama(), "logprobs"), ("embed", llama(), "embedding"), ("embed", bert(), "embedding")]
    {
        let output = run(&[args, &model, "--texts", arg(file.path())]);
        let has_begin_token = args == "embed" && model == llama();
        let failed = if has_begin_token { 5 } else { 6 };
        let found = if args == "embed" { embedded(&output, 9) } else { partly(&output, failed, 9) };
        assert_eq!(
            found.iter().map(|line| line["index"].as_u64()).collect::<Vec<_>>(),
            (0..9).map(Some).collect::<Vec<_>>()
        );
        for index in [0, 1, 7] {
            assert!(found[index][key].is_array(), "{}", found[index]);
        }
        assert_eq!((&found[0]["id"], &found[1]["id"]), (&json!("a"), &json!(2)));
        assert_eq!(without_place(&found[0]), without_place(&found[7]));
        for (line, (id, names)) in found[2..7].iter().chain(&found[8..]).zip(&errors) {
            if line.get("embedding").is_some() {
                continue;
            }
            assert_eq!(&line["id"], id, "{line}");
            let error = line["error"].as_str().expect("an error");
            assert!(names.iter().all(|name| error.contains(name)), "{error}");
        }
    }
    // Token ids need no tokenizer. --jsonl tells the format of a pipe, which has no file name.
    let piped =
        run_with_input(&["score", &bare(), "--texts", "-", "--jsonl"], "{\"token_ids\": [3, 14]}\n{\"text\": \"x\"}\n");
    let found = partly(&piped, 1, 2);
    assert!(
        found[0]["perplexity"].is_number()
            && found[1]["error"].as_str().is_some_and(|error| error.contains("tokenizer"))
    );
}

/// Whether the empty text fails depends on the model, which may have a token for it. So five or six inputs fail.
fn embedded(output: &std::process::Output, inputs: usize) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    let failed = text.lines().filter(|line| line.contains("\"error\"")).count();
    assert!(failed == 5 || failed == 6, "{text}");
    partly(output, failed, inputs)
}

#[test]
fn texts_are_embedded_as_each_is_alone() {
    let texts: Vec<String> =
        (0..50).map(|count| ["the cat", "a tale of the sea", "dog"][count % 3].repeat(1 + count / 9)).collect();
    let file = file(".txt", &texts.join("\n"));
    for model in [bert(), llama()] {
        let lines = json_lines(&["embed", &model, "--texts", arg(file.path()), "--batch-size", "4"]);
        let whole = json_lines(&["embed", &model, "--file", arg(file.path()), "--json"]);
        let found: Vec<&Value> = lines.iter().map(|line| &line["embedding"]).collect();
        assert_eq!(found, whole[0]["embeddings"].as_array().expect("a list").iter().collect::<Vec<_>>());
        assert_eq!(lines[49]["index"], 49);
    }
}

#[test]
fn the_help_shows_both_kinds_of_file() {
    for command in ["score", "embed"] {
        let help = ok(&[command, "--help"]);
        for part in ["--texts", ".jsonl", "\"token_ids\"", "\"id\"", "\"error\""] {
            assert!(help.contains(part), "no {part} in {help}");
        }
    }
}
