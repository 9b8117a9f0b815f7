//! `fornax generate --prompts`: many prompts from a file.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use fornax::prelude::*;
use serde_json::{Value, json};

use crate::support::{
    arg, bare, bert, data, fails, file, fornax, json_lines, llama, load, ok, partly, run, run_with_input,
};

/// JSON objects as lines.
fn lines(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("{object}\n")).collect()
}

/// Runs the command on these lines; all of them must be answered.
fn answers(model: &str, input: &str, more: &[&str]) -> Vec<Value> {
    let file = file(".jsonl", input);
    json_lines(&[&["generate", model, "--prompts", arg(file.path())], more].concat())
}

/// The library's result for one prompt alone, in the form that the command writes.
fn alone(model: &AutoModel, place: &Value, prompt: impl Into<Prompt>, params: &SamplingParams) -> Vec<Value> {
    let generations = model.generator().generate(prompt, params).expect("generated");
    let object = |(sequence, generation): (usize, &Generation)| {
        let mut object = place.clone();
        if generations.len() > 1 {
            object["sequence"] = json!(sequence);
        }
        object["text"] = json!(generation.text);
        object["token_ids"] = json!(generation.token_ids);
        object["finish_reason"] = json!(generation.finish_reason.as_str());
        object
    };
    generations.iter().enumerate().map(object).collect()
}

#[test]
fn each_prompt_gets_the_same_answer_as_alone_in_the_order_of_the_file() {
    let model = load(&llama());
    let params = SamplingParams::default().max_new_tokens(12).temperature(0.9).seed(5);
    let words = ["the cat ", "a tale of ", "the sea ", "dog "];
    let (mut input, mut expected) = (Vec::new(), Vec::new());
    for index in 0..40 {
        let prompt = words[index % 4].repeat(1 + index % 5);
        // The first requests are the longest, so that the others are done before them.
        let max_new_tokens = if index < 4 { 40 } else { 1 + index % 12 };
        input.push(json!({"prompt": prompt, "id": format!("n{index}"), "max_new_tokens": max_new_tokens}));
        let place = json!({"index": index, "id": format!("n{index}")});
        expected.extend(alone(&model, &place, prompt, &params.clone().max_new_tokens(max_new_tokens)));
    }
    let sampling = ["--temperature", "0.9", "--seed", "5"];
    for more in [
        &[][..],
        &["--max-running", "1"],
        &["--max-running", "3", "--no-prefix-cache"],
        // The memory has room for two or three sequences: the others wait, or are preempted and computed again.
        &["--kv-memory", "60K"],
    ] {
        assert_eq!(answers(&llama(), &lines(&input), &[&sampling[..], more].concat()), expected, "{more:?}");
    }
}

#[test]
fn a_file_and_standard_input_are_the_same() {
    let input = lines(&[json!({"prompt": "the cat"}), json!({"prompt": "the sea", "id": 2})]);
    let llama = llama();
    let args = ["generate", &llama, "--prompts", "-", "--max-new-tokens", "6"];
    let piped = partly(&run_with_input(&args, &input), 0, 2);
    assert_eq!(piped, answers(&llama, &input, &["--max-new-tokens", "6"]));
    assert_eq!(piped.iter().map(|line| &line["id"]).collect::<Vec<_>>(), [&Value::Null, &json!(2)]);
    assert!(piped[0].get("id").is_none() && piped[0].get("sequence").is_none(), "{}", piped[0]);
    // The last line may lack its break, and lines may end as Windows ends them.
    assert_eq!(piped, answers(&llama, input.trim_end(), &["--max-new-tokens", "6"]));
    assert_eq!(piped, answers(&llama, &input.replace('\n', "\r\n"), &["--max-new-tokens", "6", "--json"]));
    assert_eq!(partly(&run_with_input(&args, ""), 0, 0), Vec::<Value>::new());
}

#[test]
fn an_answer_is_written_before_the_next_line_is_there() {
    let model = llama();
    let mut child = fornax()
        .args(["generate", &model, "--prompts", "-", "--max-new-tokens", "4"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut input = child.stdin.take().expect("it is piped");
    let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
    for index in 0..3 {
        writeln!(input, "{{\"prompt\": \"the cat\"}}").expect("written");
        let mut line = String::new();
        output.read_line(&mut line).expect("an answer comes");
        let answer: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(answer["index"], index);
    }
    drop(input);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn a_line_overrides_the_arguments() {
    let model = load(&llama());
    let input = [
        json!({"prompt": "the"}),
        json!({"prompt": "the", "temperature": 0, "max_new_tokens": 9}),
        json!({"prompt": "the", "seed": 8, "num_return_sequences": 2, "top_k": 20, "repetition_penalty": 1.3}),
        json!({"prompt": "the", "logit_bias": {"70": 100}, "temperature": 0}),
        json!({"prompt": "the", "temperature": 0, "num_beams": 3, "num_return_sequences": 2}),
        json!({"prompt": "the", "logprobs": 2}),
    ];
    let found = answers(&llama(), &lines(&input), &["--temperature", "1.5", "--seed", "7", "--max-new-tokens", "5"]);
    let params = SamplingParams::default().temperature(1.5).seed(7).max_new_tokens(5);
    let greedy = params.clone().temperature(0.0);
    let expect = |index: usize, params: &SamplingParams| alone(&model, &json!({"index": index}), "the", params);
    assert_eq!(found[0..1], expect(0, &params));
    assert_eq!(found[1..2], expect(1, &greedy.clone().max_new_tokens(9)));
    let several = params.clone().seed(8).num_return_sequences(2).top_k(20).repetition_penalty(1.3);
    assert_eq!(found[2..4], expect(2, &several));
    assert_eq!(found[4]["token_ids"], json!([70, 70, 70, 70, 70]));
    let beams = model.generator().generate("the", &greedy.num_beams(3).num_return_sequences(2)).expect("generated");
    for (sequence, beam) in beams.iter().enumerate() {
        let line = &found[5 + sequence];
        assert_eq!((&line["index"], &line["sequence"]), (&json!(4), &json!(sequence)));
        assert_eq!(line["token_ids"], json!(beam.token_ids));
        assert!(line["score"].is_number(), "{line}");
    }
    assert_eq!(found[7]["logprobs"].as_array().map(Vec::len), Some(5));
    assert_eq!(found[7]["logprobs"][0]["top_logprobs"].as_array().map(Vec::len), Some(2));
    assert_eq!(found.len(), 8);

    // And an argument holds for all lines.
    let found = answers(&llama(), &lines(&input[..1]), &["--logprobs", "0", "--num-beams", "1"]);
    assert!(found[0]["logprobs"][0]["logprob"].is_number(), "{}", found[0]);
}

#[test]
fn conversations_go_through_the_template() {
    let messages = json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": "the cat?"}]);
    let found = answers(&llama(), &lines(&[json!({"messages": messages})]), &["--max-new-tokens", "10"]);
    let model = load(&llama());
    let params = SamplingParams::default().max_new_tokens(10);
    let mut chat = Chat::new(&model).system("be brief");
    let answer: String =
        chat.ask("the cat?", &params).expect("asked").map(|chunk| chunk.expect("a piece").text).collect();
    assert_eq!(found[0]["text"], answer);
}

#[test]
fn bad_lines_have_their_error_in_their_place() {
    let input = [
        r#"{"prompt": "the cat", "id": "first"}"#,
        r#"{"prompt": "#,
        r#"["the cat"]"#,
        "",
        r#"{"id": "none"}"#,
        r#"{"id": "two", "prompt": "a", "token_ids": [1]}"#,
        r#"{"id": "key", "prompt": "a", "temprature": 1}"#,
        r#"{"id": "type", "prompt": "a", "top_k": "many"}"#,
        r#"{"id": "range", "prompt": "a", "top_p": 2}"#,
        r#"{"id": "token", "token_ids": [1, 268]}"#,
        r#"{"id": "beams", "prompt": "a", "num_beams": 99}"#,
        r#"{"id": "last", "prompt": "the cat"}"#,
    ];
    let long = json!({"id": "long", "prompt": "zebra ".repeat(60)});
    let file = file(".jsonl", &format!("{}\n{long}\n", input.join("\n")));
    let output = run(&["generate", &llama(), "--prompts", arg(file.path()), "--max-new-tokens", "3"]);
    let found = partly(&output, 10, 12);
    let expected: [(Value, Value, &[&str]); 12] = [
        (json!(0), json!("first"), &[]),
        (json!(1), Value::Null, &["JSON", "column 11"]),
        (json!(2), Value::Null, &["object", "an array"]),
        (json!(4), json!("none"), &["prompt, token_ids and messages", "none"]),
        (json!(5), json!("two"), &["prompt and token_ids"]),
        (json!(6), json!("key"), &["temprature", "temperature"]),
        (json!(7), json!("type"), &["top_k", "many"]),
        (json!(8), json!("range"), &["top_p", "2", "from 0 to 1"]),
        (json!(9), json!("token"), &["268", "vocabulary"]),
        (json!(10), json!("beams"), &["num_beams", "99", "--max-running"]),
        (json!(11), json!("last"), &[]),
        (json!(12), json!("long"), &["context"]),
    ];
    assert_eq!(found.len(), expected.len());
    for (found, (index, id, names)) in found.iter().zip(&expected) {
        assert_eq!((&found["index"], &found["id"]), (index, id), "{found}");
        let error = found["error"].as_str().unwrap_or_default();
        assert_eq!(error.is_empty(), names.is_empty(), "{found}");
        for name in *names {
            assert!(error.contains(name), "no {name:?} in {error}");
        }
    }
    assert_eq!(found[0]["token_ids"], found[10]["token_ids"]);
    assert!(found[1].get("id").is_none());
}

#[test]
fn bytes_that_are_no_text_are_a_bad_line() {
    let file = file(".jsonl", "");
    std::fs::write(file.path(), b"{\"prompt\": \"caf\xe9\"}\n{\"prompt\": \"the\"}\n").expect("written");
    let output = run(&["generate", &llama(), "--prompts", arg(file.path()), "--max-new-tokens", "2"]);
    let found = partly(&output, 1, 2);
    assert!(found[0]["error"].as_str().is_some_and(|error| error.contains("UTF-8")), "{}", found[0]);
    assert_eq!(found[1]["index"], 1);
}

#[test]
fn a_prompt_larger_than_the_pool_is_an_error_of_its_line() {
    let input = lines(&[json!({"token_ids": vec![5; 90]}), json!({"token_ids": [5]})]);
    let file = file(".jsonl", &input);
    // A block holds 16 tokens.
    let output = run(&[
        "generate",
        &bare(),
        "--prompts",
        arg(file.path()),
        "--kv-memory",
        "17K",
        "--max-new-tokens",
        "4",
        "--kv-type",
        "f32",
    ]);
    let found = partly(&output, 1, 2);
    assert!(found[0]["error"].as_str().is_some_and(|error| error.contains("blocks")), "{}", found[0]);
    assert!(found[1]["token_ids"].is_array(), "{}", found[1]);
}

#[test]
fn types_of_keys_and_values_can_be_chosen() {
    let model = llama();
    let base = ["generate", &model, "--prompt", "the cat", "--max-new-tokens", "24"];
    let with = |kv_type: &str| ok(&[&base[..], &["--kv-type", kv_type]].concat());
    let exact = with("f32");
    assert_eq!(with("f16"), exact);
    // With coarser types the tokens may differ after a while; the first ones are the same.
    for kv_type in ["bf16", "i8"] {
        assert_eq!(with(kv_type).chars().next(), exact.chars().next(), "{kv_type}");
    }
    let many = ok(&["generate", &model, "--prompt", "the", "--num-return-sequences", "70", "--max-new-tokens", "1"]);
    assert!(many.contains("=== 70 of 70"), "more sequences than run side by side otherwise");
}

#[test]
fn models_that_cannot_generate_say_so_once() {
    let file = file(".jsonl", &lines(&[json!({"prompt": "the"})]));
    fails(&["generate", &bert(), "--prompts", arg(file.path())], &["an encoder"]);
    let output = run(&["generate", &bare(), "--prompts", arg(file.path())]);
    assert!(partly(&output, 1, 1)[0]["error"].as_str().is_some_and(|error| error.contains("tokenizer")));
}

#[test]
fn progress_and_speed_are_told_where_they_are_wanted() {
    let file = file(".jsonl", &lines(&[json!({"prompt": "the"}), json!({"prompt": "a"})]));
    let args =
        ["generate", &llama(), "--prompts", arg(file.path()), "--max-new-tokens", "3", "--ignore-eos", "--verbose"];
    let notices = String::from_utf8(run(&args).stderr).expect("UTF-8");
    assert!(notices.contains("2 inputs, 6 tokens in ") && notices.contains(" tokens/s"), "{notices}");
}

#[test]
fn the_help_shows_the_format() {
    let help = ok(&["generate", "--help"]);
    for part in
        ["--prompts", "\"prompt\"", "\"token_ids\"", "\"messages\"", "\"id\"", "index", "error", "--kv-memory", "2G"]
    {
        assert!(help.contains(part), "no {part} in {help}");
    }
    // Every parameter that a line may set is named.
    let params = serde_json::to_value(SamplingParams::default()).expect("JSON");
    for name in params.as_object().expect("an object").keys() {
        assert!(help.contains(name.as_str()), "no {name} in {help}");
    }
}

#[test]
fn stories_are_the_same_together_and_alone() {
    let Some(path) = data("stories260K.gguf") else { return };
    let model = load(arg(&path));
    let beginnings =
        ["Once upon a time", "The dog", "Lily and Ben went to the park. They saw a big tree", "", "One day"];
    let params = SamplingParams::default().max_new_tokens(30).temperature(0.8);
    let (mut input, mut expected) = (Vec::new(), Vec::new());
    for index in 0..60_u64 {
        let prompt = beginnings[index as usize % 5].repeat(1 + index as usize % 3);
        input.push(json!({"prompt": prompt, "id": index, "seed": index}));
        let place = json!({"index": index, "id": index});
        expected.extend(alone(&model, &place, prompt, &params.clone().seed(index)));
    }
    let sampling = ["--max-new-tokens", "30", "--temperature", "0.8"];
    for more in [&["--max-running", "8"][..], &["--kv-memory", "512K", "--max-running", "16"]] {
        let found = answers(arg(&path), &lines(&input), &[&sampling[..], more].concat());
        assert_eq!(found, expected, "{more:?}");
    }
}
