//! `fornax embed`.

use fornax::prelude::*;
use serde_json::Value;

use crate::support::{arg, bert, json_lines, llama, load, models, ok};

fn vectors(lines: &[Value]) -> Vec<Vec<f32>> {
    let [line] = lines else { panic!("one object, found {}", lines.len()) };
    assert_eq!(line.as_object().expect("an object").keys().collect::<Vec<_>>(), ["embeddings"]);
    let vectors = line["embeddings"].as_array().expect("a list").iter();
    let numbers = |vector: &Value| {
        vector.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number") as f32).collect()
    };
    vectors.map(numbers).collect()
}

fn close(a: &[Vec<f32>], b: &[Vec<f32>]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5))
}

#[test]
fn vectors_are_those_of_the_library() {
    let model = load(&bert());
    let texts = ["the cat sat", "a tale of the sea", "日本"];
    for (args, options) in [
        (vec![], EmbedOptions::default()),
        (vec!["--pooling", "cls"], EmbedOptions { pooling: Pooling::Cls, ..EmbedOptions::default() }),
        (
            vec!["--pooling", "last", "--no-normalize", "--max-length", "4", "--batch-size", "1"],
            EmbedOptions { pooling: Pooling::Last, normalize: false, batch_size: 1, max_length: Some(4) },
        ),
    ] {
        let expected = model.embedder().embed(&texts, &options).expect("embedded");
        let bert = bert();
        let args = [&["embed", &bert, "--json", "--text"], &texts[..], &args].concat();
        let found = vectors(&json_lines(&args));
        assert!(close(&found, &expected), "{args:?}");
        if options.normalize {
            let length = found[0].iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!((length - 1.0).abs() < 1e-5, "{length}");
        }
    }
}

#[test]
fn texts_come_from_arguments_and_files() {
    let file = models().join("sentences.txt");
    std::fs::write(&file, "the cat\nthe sea\n").expect("written");
    let bert = bert();
    let by_file = vectors(&json_lines(&["embed", &bert, "--json", "--file", arg(&file)]));
    let by_text = vectors(&json_lines(&["embed", &bert, "--json", "--text", "the cat", "--text", "the sea"]));
    assert_eq!(by_file.len(), 2);
    assert!(close(&by_file, &by_text));
}

#[test]
fn for_people_texts_are_compared() {
    let table = ok(&["embed", &bert(), "--text", "the cat", "the cat", "a tale"]);
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[1].starts_with("[1]  1.000  1.000  ") && lines[1].ends_with("the cat"), "{table}");
    assert!(ok(&["embed", &bert(), "--text", "the cat"]).starts_with("24 numbers: "));
}

#[test]
fn decoders_embed_too() {
    let found = vectors(&json_lines(&["embed", &llama(), "--json", "--pooling", "last", "--text", "the cat"]));
    assert_eq!((found.len(), found[0].len()), (1, 32));
}
