//! A conversation of two questions: `cargo run --example chat -- MODEL`.

#![allow(clippy::print_stdout, reason = "an example shows what it has")]

use fornax::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1).ok_or("usage: chat MODEL")?;
    let model = AutoModel::load(&model, &Device::best()?)?;
    let mut chat = Chat::new(&model).system("Answer in one sentence.");
    for question in ["What is a fornax?", "And who used one?"] {
        let mut answer = String::new();
        for piece in chat.ask(question, &SamplingParams::default().max_new_tokens(64))? {
            answer.push_str(&piece?.text);
        }
        println!("> {question}\n{answer}");
        chat.answered(answer);
    }
    Ok(())
}
