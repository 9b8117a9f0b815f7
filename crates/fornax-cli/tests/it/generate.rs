//! `fornax generate`.

use fornax::prelude::*;
use serde_json::Value;

use crate::support::{arg, bare, data, json_lines, llama, load, models, ok, run, run_with_input, stdout};

fn ids(sequence: &Value) -> Vec<u32> {
    let ids = sequence["token_ids"].as_array().expect("a list");
    ids.iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn text(sequence: &Value) -> &str {
    sequence["text"].as_str().expect("a text")
}

#[test]
fn json_is_what_the_library_generates() {
    let model = load(&llama());
    let params = SamplingParams::default().max_new_tokens(24);
    for prompt in ["the cat", "a tale", "日本 🙂", ""] {
        let expected = &model.generator().generate(prompt, &params).expect("generated")[0];
        let lines = json_lines(&["generate", &llama(), "--prompt", prompt, "--max-new-tokens", "24", "--json"]);
        let [sequence] = lines.as_slice() else { panic!("one sequence, found {}", lines.len()) };
        let keys: Vec<_> = sequence.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["text", "token_ids", "finish_reason"]);
        assert_eq!(ids(sequence), expected.token_ids, "{prompt:?}");
        assert_eq!(text(sequence), expected.text);
        assert_eq!(sequence["finish_reason"], expected.finish_reason.as_str());
    }
}

#[test]
fn the_stream_is_the_text_wherever_the_prompt_comes_from() {
    let model = llama();
    let base = ["generate", &model, "--max-new-tokens", "40"];
    let with = |more: &[&'static str]| -> Vec<&str> { [&base[..], more].concat() };
    let lines = json_lines(&with(&["--prompt", "the sea", "--json"]));
    let expected = format!("{}\n", text(&lines[0]));
    assert!(expected.len() > 20, "{expected:?}");
    assert_eq!(ok(&with(&["--prompt", "the sea"])), expected);
    assert_eq!(stdout(&run_with_input(&with(&["--prompt", "-"]), "the sea\n")), expected);
    let file = models().join("prompt.txt");
    std::fs::write(&file, "the sea\n").expect("written");
    assert_eq!(ok(&[&base[..], &["--prompt-file", arg(&file)]].concat()), expected);
}

#[test]
fn seeds_make_sequences_repeatable() {
    let model = llama();
    let sample = |seed: &str| {
        let args = [
            "generate",
            &model,
            "--prompt",
            "the",
            "--temperature",
            "1.5",
            "--num-return-sequences",
            "3",
            "--max-new-tokens",
            "16",
            "--seed",
            seed,
            "--json",
        ];
        json_lines(&args).iter().map(ids).collect::<Vec<_>>()
    };
    let (first, again, other) = (sample("3"), sample("3"), sample("4"));
    assert_eq!(first.len(), 3);
    assert_eq!(first, again);
    assert_ne!(first, other);
    assert!(first[0] != first[1] || first[1] != first[2], "{first:?}");
}

#[test]
fn several_sequences_stand_under_headers() {
    let model = llama();
    let args = [
        "generate",
        &model,
        "--prompt",
        "the",
        "--num-beams",
        "3",
        "--num-return-sequences",
        "2",
        "--max-new-tokens",
        "8",
    ];
    let lines = json_lines(&[&args[..], &["--json"]].concat());
    assert_eq!(lines.len(), 2);
    let expected: String = lines
        .iter()
        .enumerate()
        .map(|(index, sequence)| {
            let reason = sequence["finish_reason"].as_str().expect("a word");
            format!("=== {} of 2 ({reason}) ===\n{}\n", index + 1, text(sequence))
        })
        .collect();
    assert_eq!(ok(&args), expected);

    let scores: Vec<f64> = lines.iter().map(|line| line["score"].as_f64().expect("a beam's score")).collect();
    assert!(scores[0] >= scores[1], "{scores:?}");
    let params = SamplingParams::default().num_beams(3).num_return_sequences(2).max_new_tokens(8);
    let beams = load(&llama()).generator().generate("the", &params).expect("generated");
    for (line, beam) in lines.iter().zip(&beams) {
        assert_eq!(ids(line), beam.token_ids);
    }
}

#[test]
fn a_stop_text_ends_and_is_cut() {
    let model = llama();
    let base = ["generate", &model, "--prompt", "the dog", "--max-new-tokens", "32", "--ignore-eos", "--json"];
    let whole = json_lines(&base);
    let whole = text(&whole[0]);
    // From the middle, so that something must come before it; arguments hold no NUL.
    let chars: Vec<char> = whole.chars().collect();
    let mut pairs = chars[chars.len() / 2..].windows(2);
    let pair = pairs.find(|pair| pair.iter().all(char::is_ascii_graphic)).expect("the model writes letters too");
    let stop: String = pair.iter().collect();
    let args = [&base[..], &["--stop", &stop]].concat();
    let stopped = json_lines(&args);
    let at = whole.find(&stop).expect("it is part of the text");
    assert_eq!(text(&stopped[0]), &whole[..at]);
    assert_eq!(stopped[0]["finish_reason"], "stop");
}

#[test]
fn stop_tokens_and_lengths_end() {
    let model = llama();
    let base = ["generate", &model, "--prompt", "the dog", "--max-new-tokens", "12", "--ignore-eos", "--json"];
    let whole = json_lines(&base);
    let all = ids(&whole[0]);
    assert_eq!((all.len(), &whole[0]["finish_reason"]), (12, &Value::from("length")));
    let at = all.iter().position(|id| *id == all[6]).expect("it is there");
    let stop = all[6].to_string();
    let stopped = json_lines(&[&base[..], &["--stop-token-id", &stop]].concat());
    assert_eq!(ids(&stopped[0]), all[..=at]);
    assert_eq!(stopped[0]["finish_reason"], "stop");
}

#[test]
fn logprobs_are_reported() {
    let model = llama();
    let args = ["generate", &model, "--prompt", "the", "--max-new-tokens", "5", "--logprobs", "2", "--json"];
    let lines = json_lines(&args);
    let logprobs = lines[0]["logprobs"].as_array().expect("a list");
    assert_eq!(logprobs.len(), ids(&lines[0]).len());
    for (token, id) in logprobs.iter().zip(ids(&lines[0])) {
        assert_eq!(token["token_id"], id);
        let top = token["top_logprobs"].as_array().expect("a list");
        assert_eq!(top.len(), 2);
        // Greedy takes the likeliest.
        assert_eq!((&top[0][0], &top[0][1]), (&token["token_id"], &token["logprob"]));
        assert!(token["logprob"].as_f64().expect("a number") <= 0.0);
    }
}

#[test]
fn token_ids_need_no_tokenizer() {
    let model = bare();
    let base = ["generate", &model, "--token-ids", "5,6,7", "--max-new-tokens", "10", "--ignore-eos"];
    let lines = json_lines(&[&base[..], &["--json"]].concat());
    assert_eq!(text(&lines[0]), "");
    let written: Vec<String> = ids(&lines[0]).iter().map(u32::to_string).collect();
    assert_eq!(ok(&base), format!("{}\n", written.join(",")));
    let expected = load(&model)
        .generator()
        .generate(vec![5, 6, 7], &SamplingParams::default().max_new_tokens(10).ignore_eos(true))
        .expect("generated");
    assert_eq!(ids(&lines[0]), expected[0].token_ids);
}

#[test]
fn common_arguments_stand_before_or_after_the_command() {
    let model = llama();
    let after = ok(&["generate", &model, "--prompt", "the", "--device", "cpu", "--threads", "1", "--dtype", "f32"]);
    let before = ok(&["--device", "cpu", "--threads", "2", "generate", &model, "--prompt", "the"]);
    assert_eq!(after, before);
}

#[test]
fn notices_go_to_standard_error_where_they_are_wanted() {
    let model = llama();
    let args = ["generate", &model, "--prompt", "the", "--max-new-tokens", "4"];
    let verbose = run(&[&args[..], &["--verbose"]].concat());
    let notices = String::from_utf8_lossy(&verbose.stderr);
    assert!(
        notices.contains("llama") && notices.contains("parameters") && notices.contains("4 tokens, the first after "),
        "{notices}"
    );
    assert_eq!(String::from_utf8_lossy(&verbose.stdout), ok(&args));
    assert_eq!(ok(&[&args[..], &["--quiet"]].concat()), ok(&args));
}

#[test]
fn a_gguf_file_generates_a_story() {
    let Some(path) = data("stories260K.gguf") else { return };
    let path = path.to_str().expect("UTF-8");
    let args = ["generate", path, "--prompt", "Once upon a time", "--max-new-tokens", "20"];
    let text = ok(&args);
    assert!(text.starts_with(", there was a little girl named Lily."), "{text}");
    let lines = json_lines(&[&args[..], &["--json"]].concat());
    assert_eq!(ids(&lines[0]).len(), 20);
    assert_eq!(format!("{}\n", self::text(&lines[0])), text);
}
