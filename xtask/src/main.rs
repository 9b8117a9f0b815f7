//! `cargo xtask`: the project's own chores, so that nobody needs to remember how they are done.
//!
//! It holds no part of Fornax and depends on none, so that it builds in seconds.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to its terminal")]

mod bench;
mod ci;
mod device;
mod examples;
mod layers;
mod new;
mod outside;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// The project's own chores.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    after_help = "Before you send a change:\n  cargo xtask ci\n\nWhile you work on it:\n  \
                  cargo xtask ci --only fmt --only layers --only tidy --only clippy"
)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Run what CI runs, cheapest first, and stop at the first step that fails
    #[command(after_help = after_ci())]
    Ci {
        /// Run this step alone; may be given several times
        #[arg(long, value_name = "STEP", value_parser = step_names(), hide_possible_values = true)]
        only: Vec<String>,
        /// Leave this step out; may be given several times
        #[arg(long, value_name = "STEP", value_parser = step_names(), hide_possible_values = true)]
        skip: Vec<String>,
        /// Go on after a step that failed
        #[arg(long)]
        keep_going: bool,
        /// List the steps and what they are for
        #[arg(long)]
        list: bool,
    },
    /// Measure Fornax on this machine: against its limits, an earlier run, and other libraries
    // Boxed, as it has many options and the others few.
    Bench(Box<bench::Options>),
    /// Pack tests and benches for a machine with a GPU, with a script that runs them there in 8 minutes
    Device(device::Options),
    /// Print the crates by layer, and check that each depends on lower layers only
    Layers,
    /// Check the house rules that no compiler holds
    Tidy,
    /// Lay out the files of a new thing where they belong
    New {
        #[command(subcommand)]
        thing: Thing,
    },
}

#[derive(Debug, Subcommand)]
enum Thing {
    /// A model family: one file in fornax-models, and its line in the registry
    #[command(after_help = "Example:\n  cargo xtask new model granite")]
    Model {
        /// The family's name as in `model_type` of its config.json: lower case, digits, underscores
        name: String,
    },
    /// A scheduling policy: one file in fornax-scheduler, and its line in the list
    #[command(after_help = "Example:\n  cargo xtask new policy least_slack")]
    Policy {
        /// The policy's name: lower case, digits, underscores
        name: String,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        // Not `main`'s own way of showing an error, which adds a backtrace of this program.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does one chore.
fn run(chore: Chore) -> Result<()> {
    let workspace = Workspace::read()?;
    match chore {
        Chore::Ci { list: true, .. } => {
            print!("{}", ci::list());
            Ok(())
        }
        Chore::Ci { only, skip, keep_going, list: false } => {
            ci::run(&workspace, &ci::Options { only, skip, keep_going })
        }
        Chore::Bench(options) => bench::run(&workspace, &options),
        Chore::Device(options) => device::run(&workspace, &options),
        Chore::Layers => {
            let crates = layers::read(&workspace);
            print!("{}", layers::table(&crates));
            ci::fail_with(layers::violations(&crates))
        }
        Chore::Tidy => ci::fail_with(tidy::check(&workspace)?.0),
        Chore::New { thing } => {
            let (made, package) = match thing {
                Thing::Model { name } => (new::model(&workspace.root, &name)?, "fornax-models"),
                Thing::Policy { name } => (new::policy(&workspace.root, &name)?, "fornax-scheduler"),
            };
            // Imports have an order, which rustfmt knows best.
            let formatted = workspace.cargo().args(["fmt", "-p", package]).status()?;
            print!("{made}");
            anyhow::ensure!(formatted.success(), "the files are made, but `cargo fmt -p {package}` failed");
            Ok(())
        }
    }
}

/// The steps' names, as what `--only` and `--skip` take.
fn step_names() -> PossibleValuesParser {
    PossibleValuesParser::new(ci::STEPS.iter().map(|step| step.name))
}

/// The steps, as the help of `ci` shows them.
fn after_ci() -> String {
    let steps: String = ci::list().lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "Steps, in order:\n{steps}\nExamples:\n  cargo xtask ci --only fmt --only clippy\n  cargo xtask ci --skip test --keep-going"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_step_that_is_not_there_is_refused() {
        let parse = |step| Arguments::try_parse_from(["xtask", "ci", "--only", step]);
        assert!(parse(ci::STEPS[0].name).is_ok());
        assert!(parse("no-such-step").is_err());
    }
}
