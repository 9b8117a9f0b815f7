//! Whatever a user may get wrong: exit code 1, nothing on standard output, and a message that names the thing and says
//! what to do.

use std::fs;
use std::path::Path;

use crate::support::{CONTEXT, arg, bare, bert, error_of, fails, llama, models, run, run_with_input};

/// A folder with the bare model's weights and this configuration.
fn folder_with(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::copy(Path::new(&bare()).join("model.safetensors"), folder.path().join("model.safetensors")).expect("copied");
    fs::write(folder.path().join("config.json"), config).expect("written");
    folder
}

fn generate(model: &str, more: &[&str], names: &[&str]) {
    let args = [&["generate", model, "--prompt", "the"], more].concat();
    fails(&args, names);
}

#[test]
fn models_that_are_not_there() {
    generate("nowhere/at/all.gguf", &[], &["nowhere/at/all.gguf"]);
    generate("./nowhere", &[], &["./nowhere", "hub id"]);
    fails(&["inspect", "nowhere.safetensors"], &["nowhere.safetensors"]);
    fails(&["score", "./nowhere", "--token-ids", "1"], &["./nowhere"]);
    fails(&["embed", "./nowhere", "--text", "x"], &["./nowhere"]);
    fails(&["chat", "./nowhere"], &["./nowhere"]);
    let empty = tempfile::tempdir().expect("a folder");
    generate(arg(empty.path()), &[], &["config.json"]);
    fs::copy(Path::new(&bare()).join("model.safetensors"), empty.path().join("model.safetensors")).expect("copied");
    generate(arg(empty.path()), &[], &["config.json", "model.safetensors"]);
}

#[test]
fn models_that_are_not_known_or_damaged() {
    let unknown = folder_with(r#"{"architectures": ["MambaForCausalLM"]}"#);
    generate(arg(unknown.path()), &[], &["MambaForCausalLM", "LlamaForCausalLM", "BertModel"]);
    let broken = folder_with("{");
    generate(arg(broken.path()), &[], &["config.json", "JSON"]);
    fails(&["inspect", arg(broken.path())], &["config.json", "JSON"]);
    let config = fs::read_to_string(Path::new(&bare()).join("config.json")).expect("read");
    let headless = folder_with(&config.replace("\"num_attention_heads\": 4", "\"num_attention_heads\": 0"));
    generate(arg(headless.path()), &[], &["num_attention_heads"]);
    let misshapen = folder_with(&config.replace("\"vocab_size\": 268", "\"vocab_size\": 267"));
    generate(arg(misshapen.path()), &[], &["model.embed_tokens.weight", "267", "268"]);
    let cut = folder_with(&config);
    let weights = cut.path().join("model.safetensors");
    let bytes = fs::read(&weights).expect("read");
    fs::write(&weights, &bytes[..bytes.len() - 5]).expect("written");
    generate(arg(cut.path()), &[], &["model.safetensors"]);
    fails(&["inspect", arg(cut.path())], &["model.safetensors"]);
}

#[test]
fn devices_and_dtypes() {
    generate(&llama(), &["--device", "toaster"], &["toaster", "compiled in: cpu", "usable on this machine: cpu"]);
    for backend in fornax::backend::Backend::ALL.into_iter().filter(|backend| !backend.is_compiled_in()) {
        let feature = format!("feature `{}`", backend.name());
        generate(&llama(), &["--device", backend.name()], &[&feature, "usable on this machine: cpu"]);
    }
    generate(&llama(), &["--device", "cpu:7"], &["cpu:7"]);
    generate(&llama(), &["--dtype", "int3"], &["int3", "bf16"]);
    generate(&llama(), &["--threads", "0"], &["threads"]);
    generate(&llama(), &["--threads", "1000000"], &["threads"]);
}

#[test]
fn sampling_out_of_range() {
    for (option, value) in [
        ("--temperature", "-1"),
        ("--temperature", "NaN"),
        ("--top-p", "1.5"),
        ("--min-p", "-0.5"),
        ("--repetition-penalty", "0"),
        ("--frequency-penalty", "-3"),
        ("--presence-penalty", "3"),
        ("--max-new-tokens", "0"),
        ("--min-new-tokens", "1000"),
        ("--num-return-sequences", "0"),
        ("--num-beams", "0"),
        ("--length-penalty", "-11"),
    ] {
        let name = option.trim_start_matches('-').replace('-', "_");
        generate(&llama(), &[option, value], &[&name]);
    }
    generate(&llama(), &["--stop", ""], &["stop string"]);
    generate(&llama(), &["--stop-token-id", "268"], &["268", "vocabulary"]);
    generate(&llama(), &["--json", "--logprobs", "257"], &["logprobs"]);
    generate(&llama(), &["--json", "--logprobs", "1", "--num-beams", "2"], &["beam search"]);
    generate(&llama(), &["--num-beams", "2", "--temperature", "1"], &["num_beams", "temperature"]);
    generate(&llama(), &["--num-beams", "2", "--max-running", "1"], &["num_beams", "found 2", "--max-running"]);
    generate(&llama(), &["--kv-memory", "100"], &["kv_memory", "found 100 bytes", "at least"]);
    let error = error_of(&run_with_input(&["chat", &llama(), "--kv-memory", "1"], "hello\n"));
    assert!(error.contains("kv_memory"), "{error}");
    for command in ["score", "embed"] {
        fails(&[command, &llama(), "--text", "x", "--jsonl"], &["--jsonl", "--texts"]);
    }
    fails(&["chat", &llama(), "--top-p", "2"], &["top_p"]);
    fails(&["embed", &bert(), "--text", "x", "--batch-size", "0"], &["batch_size"]);
    fails(&["embed", &bert(), "--text", "x", "--max-length", "100000"], &["max_length"]);
}

#[test]
fn prompts_that_do_not_fit() {
    let context = CONTEXT.to_string();
    fails(&["generate", &llama(), "--prompt", &"zebra ".repeat(60)], &["context", &context]);
    fails(&["generate", &llama(), "--token-ids", "1,268"], &["268", "vocabulary"]);
    fails(&["score", &bare(), "--token-ids", "1,268"], &["268", "vocabulary"]);
    generate(&bare(), &[], &["tokenizer", "token ids"]);
    generate(&bert(), &[], &["an encoder"]);
    fails(&["score", &bare(), "--text", "the"], &["tokenizer"]);
    fails(&["score", &bert(), "--text", "the"], &["an encoder"]);
    fails(&["embed", &bare(), "--text", "the"], &["tokenizer"]);
    fails(&["generate", &llama(), "--prompt-file", "nowhere.txt"], &["nowhere.txt"]);
    fails(&["embed", &bert(), "--file", "nowhere.txt"], &["nowhere.txt"]);
    // Known before a model is loaded.
    fails(&["generate", "./nowhere", "--prompts", "nowhere.jsonl"], &["nowhere.jsonl"]);
    fails(&["score", "./nowhere", "--texts", "nowhere.jsonl"], &["nowhere.jsonl"]);
    fails(&["embed", "./nowhere", "--texts", "nowhere.txt"], &["nowhere.txt"]);
    let bytes = models().join("latin1.txt");
    fs::write(&bytes, b"caf\xe9").expect("written");
    fails(&["generate", &llama(), "--prompt-file", arg(&bytes)], &["latin1.txt", "UTF-8"]);
}

#[test]
fn an_empty_prompt_starts_from_the_begin_token_where_there_is_one() {
    let output = run_with_input(&["generate", &llama(), "--prompt", "-", "--max-new-tokens", "2"], "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn values_that_cannot_be_are_errors_like_any_other() {
    let llama = llama();
    for (flag, value) in [
        ("--top-k", "-1"),
        ("--token-ids", "1,x"),
        ("--early-stopping", "maybe"),
        ("--seed", "x"),
        ("--max-running", "0"),
        ("--max-running", "-1"),
        ("--kv-memory", "plenty"),
        ("--kv-memory", "-5"),
        ("--kv-type", "q8"),
    ] {
        let output = run(&["generate", &llama, "--prompt", "x", flag, value]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{flag} {value}: {error}");
        assert!(output.stdout.is_empty() && error.contains(flag), "{flag} {value}: {error}");
    }
}

#[test]
fn a_quickstart_that_cannot_be_saved_does_not_train() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let output = run(&["quickstart", "--out", file.path().to_str().expect("UTF-8")]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("is a file") && !error.contains("training"), "{error}");
}

#[test]
fn arguments_that_cannot_be_understood_are_another_exit_code() {
    let llama = llama();
    for args in [
        &["generate", &llama][..],
        &["generate", &llama, "--prompt", "x", "--token-ids", "1"],
        &["generate", &llama, "--prompt", "x", "--logprobs", "1"],
        &["generate", &llama, "--prompts", "x", "--prompt", "x"],
        &["score", &llama, "--texts", "x", "--text", "x"],
        &["embed", &llama, "--texts", "x", "--text", "x"],
        &["score", &llama],
        &["embed", &llama],
        &["fly"],
        &[],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn errors_say_their_cause_once() {
    let broken = folder_with("{");
    let error = error_of(&run(&["generate", arg(broken.path()), "--prompt", "the"]));
    assert_eq!(error.matches("EOF while parsing").count(), 1, "{error}");
}
