//! Runs a scenario, prints its table, and writes its plots and its report if a folder is given.
//!
//! ```sh
//! cargo run --release -p fornax-scheduler --features simulate --example simulate -- mixed plots/
//! cargo run --release -p fornax-scheduler --features simulate --example simulate -- my-scenario.toml plots/ my-trace.jsonl
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to its terminal")]

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

use fornax_scheduler::simulate::{BUILT_IN, simulate};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let Some(scenario) = arguments.first() else {
        let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: simulate SCENARIO [FOLDER] [TRACE]; SCENARIO is a TOML file or one of {}", names.join(", "));
        return ExitCode::FAILURE;
    };
    match run(scenario, arguments.get(1).map(Path::new), arguments.get(2)) {
        Ok(table) => {
            print!("{table}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(scenario: &str, folder: Option<&Path>, trace: Option<&String>) -> Result<String, Box<dyn std::error::Error>> {
    let built_in = BUILT_IN.iter().any(|(name, _)| *name == scenario);
    let text = if built_in { scenario.to_owned() } else { fs::read_to_string(scenario)? };
    let trace = trace.map(fs::read).transpose()?;
    let outcome = simulate(&text, trace.as_deref())?;
    if let Some(folder) = folder {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("report.json"), outcome.json().to_string())?;
        for (name, svg) in outcome.plots() {
            fs::write(folder.join(name), svg)?;
        }
    }
    Ok(outcome.markdown())
}
