//! Jobs of three kinds side by side on one model, in a memory that does not hold all of them at once:
//! `cargo run --example tasks -- [MODEL]`.

#![allow(clippy::print_stdout, reason = "an example shows what it has")]

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use fornax::engine::EngineError;
use fornax::engine::tasks::{TaskContext, TaskRequest, TaskRunner};
use fornax::models::{Network, families::llama::LlamaConfig};
use fornax::nn::KvPoolConfig;
use fornax::prelude::*;
use fornax::scheduler::{Demand, ResourceManager, policy};
use fornax::text::{BpeTrainerConfig, train_bpe};
use fornax::train::stories;

/// What a job does; the answer is a line to print.
type Job = fn(&AutoModel, &TaskContext) -> Result<String, EngineError>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::best()?;
    // Loaded once. The jobs share its weights. Each has keys and values of its own, and the jobs compete for their
    // memory.
    let model = Arc::new(match std::env::args().nth(1) {
        Some(model) => AutoModel::load(&model, &device)?,
        None => untrained(&device)?,
    });
    let decoder = model.decoder()?;
    let kv = decoder.kv_config();
    let blocks = |tokens: usize| tokens.div_ceil(KvPoolConfig::BLOCK_TOKENS);
    let kilobytes = |tokens: usize| (blocks(tokens) * kv.block_bytes()).div_ceil(1000) as u64;

    let jobs: [(&str, usize, Job); 7] = [
        ("a story of a dragon", 200, |model, context| write(model, context, 1, "Once there was a dragon")),
        ("a story of a mouse", 200, |model, context| write(model, context, 2, "Once there was a mouse")),
        ("a story for nobody", 200, |model, context| write(model, context, 3, "Once there was nobody")),
        ("is it English?", 64, |model, _| judge(model, "The mouse found a friend in the garden.")),
        ("is it nonsense?", 64, |model, _| judge(model, "Garden the a in friend found mouse the.")),
        ("are they alike?", 32, |model, _| compare(model, ["A cat sleeps.", "A kitten naps."])),
        ("do they differ?", 32, |model, _| compare(model, ["A cat sleeps.", "Shares fell today."])),
    ];
    let (budget, all) = (kilobytes(450), jobs.iter().map(|&(_, tokens, _)| kilobytes(tokens)).sum::<u64>());
    println!("{} jobs would take {all} kB of keys and values together; there are {budget}", jobs.len());

    let runner = TaskRunner::new(ResourceManager::new([("kB of memory", budget)])?, policy("shortest:ageing=0.1")?);
    let clock = Instant::now();
    let tell = move |name: &str, what: &str| println!("{:6.3} s  {name}: {what}", clock.elapsed().as_secs_f64());
    let mut handles = Vec::new();
    for (name, tokens, job) in jobs {
        let request = TaskRequest::new(name, Demand::of("kB of memory", kilobytes(tokens))).cost(tokens as f64 / 100.0);
        let model = Arc::clone(&model);
        let handle = runner.submit_blocking(request, move |context| {
            tell(context.name(), "starts");
            let answer = job(&model, &context);
            tell(context.name(), "is done");
            answer
        });
        if let Some(reason) = handle.reason() {
            tell(name, &format!("waits, {reason}"));
        }
        handles.push(handle);
    }
    handles[2].cancel();

    println!("{}", runner.snapshot());
    let mut answers = Vec::new();
    for mut handle in handles {
        let answer = match (&mut handle).await {
            Ok(answer) => answer?,
            Err(error) => error.to_string(),
        };
        answers.push(format!("{}: {answer}", handle.name()));
    }
    println!("\n{}\n", answers.join("\n"));
    let most = runner.snapshot().resources[0].most;
    println!("all in {:.3} s, with {most} of {budget} kB at most", clock.elapsed().as_secs_f64());
    Ok(())
}

/// Continues a prompt until it is long enough or not wanted any more.
fn write(model: &AutoModel, context: &TaskContext, seed: u64, prompt: &str) -> Result<String, EngineError> {
    let params = SamplingParams::default().temperature(0.8).seed(seed).max_new_tokens(150);
    let mut text = String::new();
    for piece in model.generator().stream(prompt, &params)? {
        if context.is_cancelled() {
            break;
        }
        text.push_str(&piece?.text);
    }
    let words: Vec<&str> = text.split_whitespace().take(12).collect();
    // Escaped, as an untrained model may write any characters.
    Ok(format!("{prompt} … {:?} …", words.join(" ")))
}

/// How likely a text is.
fn judge(model: &AutoModel, text: &str) -> Result<String, EngineError> {
    let perplexity = model.score(text)?.perplexity().unwrap_or(f64::NAN);
    Ok(format!("perplexity {perplexity:.1}"))
}

/// How near two texts are to each other.
fn compare(model: &AutoModel, texts: [&str; 2]) -> Result<String, EngineError> {
    let vectors = model.embedder().embed(&texts, &EmbedOptions::default())?;
    Ok(format!("{:.3}", cosine_similarity(&vectors[0], &vectors[1])))
}

/// A small model that has learned nothing, for where there is no other at hand.
fn untrained(device: &Device) -> Result<AutoModel, Box<dyn Error>> {
    let config = LlamaConfig::tiny();
    let tokens = BpeTrainerConfig { vocab_size: config.vocab_size, ..BpeTrainerConfig::default() };
    let tokenizer = train_bpe(stories(500, 0), &tokens)?;
    let network = Network::Decoder(config.decoder()?.init(device));
    Ok(AutoModel::from_parts(config.to_json(), network, Some(tokenizer), device)?)
}
