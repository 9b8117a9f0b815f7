//! What decides the CPU's speed: packed weights, threads, instructions, the cache; and `fornax bench`, which measures it.

use fornax::cpu::Isa;
use serde_json::Value;

use crate::support::{arg, bert, error_of, fails, fornax, json_lines, llama, ok, run};

/// The ids of greedy sequences.
fn greedy(more: &[&str]) -> Vec<Value> {
    let model = llama();
    let base = ["generate", &model, "--prompt", "the cat", "--max-new-tokens", "24", "--json"];
    json_lines(&[&base, more].concat())
}

#[test]
fn tokens_do_not_depend_on_threads_or_company() {
    for weights in ["q8_0", "q4_0", "bf16", "f16"] {
        let alone = greedy(&["--weights", weights, "--threads", "1"]);
        assert_eq!(alone.len(), 1);
        for count in ["1", "3", "8"] {
            let together = greedy(&["--weights", weights, "--threads", "2", "--num-return-sequences", count]);
            assert_eq!(together.len(), count.parse::<usize>().expect("a number"));
            for sequence in together {
                assert_eq!(sequence["token_ids"], alone[0]["token_ids"], "{weights}, {count} at once");
            }
        }
    }
}

#[test]
fn every_level_of_instructions_can_be_asked_for() {
    let best = greedy(&["--weights", "q8_0"]);
    for isa in Isa::available() {
        let found = greedy(&["--weights", "q8_0", "--isa", &isa.to_string()]);
        // Attention and norms are near, but not equal: the tokens of a model with opinions stay.
        assert_eq!(found[0]["token_ids"], best[0]["token_ids"], "{isa}");
    }
    let model = llama();
    fails(&["generate", &model, "--prompt", "a", "--isa", "sse9"], &["sse9", "portable, avx2, avx512, amx"]);
    if Isa::best() < Isa::Amx {
        fails(&["generate", &model, "--prompt", "a", "--isa", "amx"], &["amx", &Isa::best().to_string()]);
    }
}

#[test]
fn weights_that_cannot_be_are_named() {
    let model = llama();
    let generate = |weights| ["generate", &model, "--prompt", "a", "--weights", weights].map(str::to_owned);
    let error = error_of(&run(&generate("q4_k")));
    assert!(error.contains("model.embed_tokens.weight") && error.contains("256"), "{error}");
    let error = error_of(&run(&generate("q9_9")));
    assert!(error.contains("q9_9") && error.contains("q8_0"), "{error}");
    let error = error_of(&run(&generate("q5_0")));
    assert!(error.contains("cannot be quantized to q5_0"), "{error}");
}

#[test]
fn bench_measures_a_model() {
    let model = llama();
    let quick = ["bench", &model, "--prompt-tokens", "8", "--new-tokens", "2", "--repeat", "2", "--batch", "3"];
    let lines = json_lines(&[&quick[..], &["--json", "--weights", "q8_0"]].concat());
    let figures = lines[0].as_object().expect("an object");
    let keys =
        ["prefill_tokens_per_s", "decode_tokens_per_s", "load_s", "first_token_s", "peak_rss_bytes", "bytes_per_token"];
    let batch_keys = [
        "unequal_prefill_tokens_per_s",
        "unequal_decode_tokens_per_s",
        "one_decode_tokens_per_s",
        "decode_ratio",
        "unequal_decode_ratio",
    ];
    assert_eq!(figures.keys().collect::<Vec<_>>(), [&keys[..], &batch_keys].concat());
    for (key, value) in figures {
        assert!(value.as_f64().is_some_and(|value| value > 0.0) || key == "peak_rss_bytes", "{key}: {figures:?}");
    }
    let table = ok(&quick);
    for part in [
        "prefill of 3 × 8 ",
        "decode of 3 × 2 ",
        "prefill of 3 × 3 to 8 ",
        "decode of 3 × 2 after 3 to 8 ",
        "decode of 1 × 2 ",
        "times one sequence",
        "tokens/s",
        "first token",
        "load",
        "read for each new token",
    ] {
        assert!(table.contains(part), "no {part:?} in {table}");
    }

    let alone = ["bench", &model, "--prompt-tokens", "8", "--new-tokens", "2", "--repeat", "1"];
    let lines = json_lines(&[&alone[..], &["--json"]].concat());
    assert_eq!(lines[0].as_object().expect("an object").keys().collect::<Vec<_>>(), keys);
    let table = ok(&alone);
    assert!(table.contains("decode of 1 × 2 ") && !table.contains("times"), "{table}");
}

#[test]
fn bench_measures_an_encoder() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("texts.txt");
    std::fs::write(&file, "the cat\n\nthe sea and the dog\n").expect("written");
    let model = bert();
    let bench = ["bench", &model, "--texts", arg(&file), "--repeat", "1"];
    let figures = &json_lines(&[&bench[..], &["--json", "--weights", "bf16"]].concat())[0];
    assert!(figures["texts_per_s"].as_f64().is_some_and(|speed| speed > 0.0), "{figures}");
    assert!(ok(&bench).contains("2 texts, 1 at a time"));
    std::fs::write(&file, "\n").expect("written");
    fails(&bench, &["texts.txt", "no text"]);
}

#[test]
fn bench_refuses_what_it_cannot_measure() {
    let model = llama();
    fails(&["bench", &model, "--repeat", "0"], &["--repeat", "at least 1"]);
    fails(&["bench", &model, "--new-tokens", "0"], &["new_tokens", "at least 1"]);
    fails(&["bench", &model], &["576", "96"]);
    let huge = ["bench", &model, "--prompt-tokens", "8", "--new-tokens", "1", "--batch", "9000000000000000"];
    fails(&huge, &["batch", "9000000000000000", "4096"]);
    fails(&["bench", &bert()], &["causal language model"]);
    fails(&["bench", &model, "--threads", "0"], &["threads", "found 0"]);
    fails(&["bench", &model, "--threads", "100000"], &["threads", "100000"]);
}

#[test]
fn the_cache_is_listed_and_cleared() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = |args: &[&str]| {
        let output = fornax().args(args).env("FORNAX_CACHE", folder.path()).output().expect("the command starts");
        crate::support::stdout(&output)
    };
    assert!(cache(&["cache", "list"]).starts_with("0 file(s)"));
    let listing: Value = serde_json::from_str(&cache(&["cache", "list", "--json"])).expect("JSON");
    assert_eq!(listing["files"].as_array().map(Vec::len), Some(0));
    assert!(cache(&["cache", "clear"]).starts_with("0 file(s) removed"));
    assert!(cache(&["cache", "trim"]).contains("the limit is"));
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("written");
    let output = fornax().args(["cache", "list"]).env("FORNAX_CACHE", &file).output();
    let error = error_of(&output.expect("the command starts"));
    assert!(error.contains("expected a folder"), "{error}");
    let output = fornax().args(["cache", "list"]).env("FORNAX_CACHE_LIMIT", "plenty").output();
    let error = error_of(&output.expect("the command starts"));
    assert!(error.contains("FORNAX_CACHE_LIMIT") && error.contains("plenty"), "{error}");
}
