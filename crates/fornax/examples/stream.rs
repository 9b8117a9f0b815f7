//! Prints a story as it is made: `cargo run --example stream -- MODEL`.

#![allow(clippy::print_stdout, reason = "an example shows what it has")]

use std::io::Write;

use fornax::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1).ok_or("usage: stream MODEL")?;
    let model = AutoModel::load(&model, &Device::best()?)?;
    let params = SamplingParams::default().temperature(0.8).top_p(0.95).max_new_tokens(200);
    for piece in model.generator().stream("Once upon a time", &params)? {
        print!("{}", piece?);
        std::io::stdout().flush()?;
    }
    Ok(())
}
