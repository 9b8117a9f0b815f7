//! Tokens that transformers generated, from the command: the fixtures of the models' crate.

use std::path::Path;

use fornax::checkpoint::Checkpoint;

use crate::support::{arg, json_lines};

/// A row of a tensor of whole numbers.
fn rows(expected: &Checkpoint, name: &str) -> Vec<Vec<i64>> {
    let tensor = expected.tensor(name).expect("the fixture has it");
    let columns = *tensor.info.shape.last().expect("a matrix");
    let values: Vec<i64> = tensor.to_f32().expect("numbers").into_iter().map(|value| value as i64).collect();
    values.chunks_exact(columns).map(<[i64]>::to_vec).collect()
}

fn generated(folder: &Path, prompt: &[i64], more: &[&str]) -> Vec<Vec<i64>> {
    let prompt: Vec<String> = prompt.iter().map(i64::to_string).collect();
    let prompt = prompt.join(",");
    // The expectations were computed in it, whatever the weights are stored in.
    let args = [&["generate", arg(folder), "--token-ids", &prompt, "--json", "--dtype", "f32"], more].concat();
    let ids = |line: &serde_json::Value| {
        line["token_ids"].as_array().expect("a list").iter().map(|id| id.as_i64().expect("an id")).collect()
    };
    json_lines(&args).iter().map(ids).collect()
}

#[test]
fn transformers_tokens_come_out_of_the_command() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fornax-models/tests/fixtures");
    for family in ["gpt2", "llama", "mistral", "qwen2", "qwen3"] {
        let folder = fixtures.join(family);
        let expected = Checkpoint::open(folder.join("expected.safetensors")).expect("it is part of the repository");
        let prompt = &rows(&expected, "prompt")[0];
        let greedy = generated(&folder, prompt, &["--max-new-tokens", "16"]);
        assert_eq!(greedy, rows(&expected, "greedy_ids"), "{family}");

        let beams =
            generated(&folder, prompt, &["--max-new-tokens", "12", "--num-beams", "3", "--num-return-sequences", "3"]);
        // Rows that end early are filled up with -1.
        let wanted: Vec<Vec<i64>> = rows(&expected, "beam_ids")
            .into_iter()
            .map(|row| row.into_iter().take_while(|&id| id >= 0).collect())
            .collect();
        assert_eq!(beams, wanted, "{family}");
    }
}
