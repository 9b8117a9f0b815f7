//! Compares sentences by their embeddings: `cargo run --example embed -- MODEL`.

#![allow(clippy::print_stdout, reason = "an example shows what it has")]

use fornax::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1).ok_or("usage: embed MODEL")?;
    let model = AutoModel::load(&model, &Device::best()?)?;
    let sentences = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Shares fell sharply today."];
    let vectors = model.embedder().embed(&sentences, &EmbedOptions::default())?;
    for (sentence, vector) in sentences.iter().zip(&vectors) {
        println!("{:.3}  {sentence}", cosine_similarity(&vectors[0], vector));
    }
    Ok(())
}
