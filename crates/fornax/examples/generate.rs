//! Continues a prompt: `cargo run --example generate -- MODEL [PROMPT]`.

#![allow(clippy::print_stdout, reason = "an example shows what it has")]

use fornax::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let model = args.next().ok_or("usage: generate MODEL [PROMPT]")?;
    let prompt = args.next().map_or(Prompt::Tokens(vec![1, 2, 3]), Prompt::Text);

    let model = AutoModel::load(&model, &Device::best()?)?;
    for generation in model.generator().generate(prompt, &SamplingParams::default().max_new_tokens(16))? {
        println!("{}{:?} ({})", generation.text, generation.token_ids, generation.finish_reason);
    }
    Ok(())
}
