//! The `fornax` command: its subcommands, and how it ends. What it does is done by the `fornax` library; this crate
//! reads arguments, writes results and draws progress, and knows nothing about models or schedulers.

mod args;
mod batch_output;
mod commands;
mod engine;
mod input;
mod interrupt;
mod lines;
mod notices;
mod offline;
mod output;
mod panics;
mod progress;
mod quickstart;
mod report;
mod requests;
mod sampling;
mod sequences;
mod table;
mod texts;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use fornax::{backend, cpu};

use crate::args::CommonArgs;
use crate::commands::{bench, cache, chat, download, embed, generate, inspect, score, simulate};

/// Language models in Rust: train, load, generate, chat and embed, on any device.
#[derive(Debug, Parser)]
#[command(name = "fornax", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: CommonArgs,
}

const EXAMPLES: &str = "\
MODEL is a folder with config.json and weights, a .gguf file, or the id of a model on the Hugging Face hub, which is \
fetched once and kept: org/name, org/name@revision, org/name:file.gguf.

Results go to standard output; progress and errors go to standard error. The exit code is 0 if all went well, 1 after \
an error (also one of a single input of many), 2 when the arguments cannot be understood.

Examples:
  fornax quickstart
  fornax generate Qwen/Qwen2.5-0.5B-Instruct --prompt \"Once upon a time\"
  fornax generate Qwen/Qwen2.5-0.5B-Instruct --prompts prompts.jsonl > answers.jsonl
  fornax chat Qwen/Qwen2.5-0.5B-Instruct --system \"Answer in one sentence.\"
  fornax inspect model.gguf
  fornax help generate";

#[derive(Debug, Subcommand)]
enum Command {
    Quickstart(quickstart::QuickstartArgs),
    Generate(generate::GenerateArgs),
    Chat(chat::ChatArgs),
    Score(score::ScoreArgs),
    Embed(embed::EmbedArgs),
    Bench(bench::BenchArgs),
    Simulate(simulate::SimulateArgs),
    Inspect(inspect::InspectArgs),
    Download(download::DownloadArgs),
    Cache(cache::CacheArgs),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // A value that cannot be is a bad input like any other; exit code 2 is for arguments that are not understood.
        Err(error) if matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) => {
            let _ = error.print();
            return ExitCode::FAILURE;
        }
        Err(error) => error.exit(),
    };
    match panics::guarded(|| run(&cli)) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of standard output has left, as `head` does.
        Err(error) if error.is::<output::Closed>() => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let common = &cli.common;
    // Set before anything else, as the first tensor starts the threads.
    if let Some(count) = common.threads {
        backend::set_threads(count)?;
    }
    if let Some(level) = &common.isa {
        level.parse::<cpu::Isa>()?.force()?;
    }
    match &cli.command {
        Command::Quickstart(args) => quickstart::run(args, common),
        Command::Generate(args) => generate::run(args, common),
        Command::Chat(args) => chat::run(args, common),
        Command::Score(args) => score::run(args, common),
        Command::Embed(args) => embed::run(args, common),
        Command::Bench(args) => bench::run(args, common),
        Command::Simulate(args) => simulate::run(args, common),
        Command::Inspect(args) => inspect::run(args, common),
        Command::Download(args) => download::run(args, common),
        Command::Cache(args) => cache::run(args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_examples() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("fornax "), "{} has no example", command.get_name());
            assert!(command.get_about().is_some(), "{} says nothing about itself", command.get_name());
        }
    }
}
