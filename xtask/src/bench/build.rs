//! Building what is measured: Fornax's runner with the backends asked for, and runners of other libraries that are
//! Rust programs. What the compiler says goes to a log, of which the terminal shows the line at hand.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::progress::Progress;
use crate::workspace::Workspace;

/// The program that times Fornax.
const RUNNER: &str = "fornax-bench-runner";

/// Fornax's runner.
#[derive(Debug)]
pub struct Runner {
    /// The program.
    pub program: PathBuf,
    /// The backends that it has, of those asked for.
    pub backends: Vec<String>,
    /// The others, each with what became of it.
    pub failed: Vec<String>,
}

/// Builds the runner with the features `backends`. Where one does not build, it is left out.
///
/// # Errors
/// When it builds with none of them.
pub fn runner(workspace: &Workspace, backends: &[String], profile: &str, logs: &Path) -> Result<Runner> {
    let build = |features: &[String]| {
        let log = logs.join(format!("build-{}.log", features.join("-")));
        let mut command = workspace.cargo();
        command.args(["build", "--profile", profile, "-p", "fornax-benches", "--bin", RUNNER]);
        command.args(["--no-default-features", "--features", "runner", "--features", &features.join(",")]);
        cargo(command, RUNNER, &format!("building Fornax for {}", features.join(", ")), &log)
    };
    let error = match build(backends) {
        Ok(program) => return Ok(Runner { program, backends: backends.to_vec(), failed: Vec::new() }),
        Err(error) => error,
    };
    if backends.len() == 1 {
        return Err(error);
    }
    // Which of them it was is known when each was added to those that build.
    let (mut built, mut failed, mut program) = (Vec::new(), Vec::new(), None);
    for backend in backends {
        let mut tried = built.clone();
        tried.push(backend.clone());
        match build(&tried) {
            Ok(found) => (built, program) = (tried, Some(found)),
            Err(error) => failed.push(format!("{backend}: {error:#}")),
        }
    }
    match program {
        Some(program) => Ok(Runner { program, backends: built, failed }),
        None => bail!("Fornax builds with none of the backends:\n  {}", failed.join("\n  ")),
    }
}

/// Builds the Rust program of the folder `source`, outside of the workspace, with all that this processor has.
///
/// # Errors
/// When it does not build.
pub fn outside(source: &Path, target: &Path, name: &str, logs: &Path) -> Result<PathBuf> {
    let mut command = crate::workspace::cargo();
    command.args(["build", "--release", "--manifest-path"]).arg(source.join("Cargo.toml"));
    command.arg("--target-dir").arg(target).env("RUSTFLAGS", "-C target-cpu=native");
    cargo(command, name, &format!("building {name}"), &logs.join(format!("build-{name}.log")))
}

/// Runs a build and returns the program `name` that it made.
fn cargo(mut command: Command, name: &str, words: &str, log: &Path) -> Result<PathBuf> {
    let progress = Progress::new(0);
    progress.say(words);
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("no folder {}", folder.display()))?;
    }
    let mut file = File::create(log).with_context(|| format!("{} cannot be written", log.display()))?;
    let mut child = command
        .args(["--message-format", "json-render-diagnostics"])
        .env("CARGO_TERM_COLOR", "never") // its lines are read and kept, not shown
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cargo does not start")?;
    let mut messages = child.stdout.take().context("its output is a pipe")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        messages.read_to_string(&mut text).map(|_| text)
    });
    let errors = child.stderr.take().context("its errors are a pipe")?;
    let mut last_error = None;
    for line in BufReader::new(errors).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        writeln!(file, "{line}").with_context(|| format!("{} cannot be written", log.display()))?;
        if line.starts_with("error") && last_error.is_none() {
            last_error = Some(line.clone());
        }
        progress.say(&format!("{words}: {}", line.trim()));
    }
    let status = child.wait()?;
    let messages = reader.join().ok().context("the reader of cargo's messages failed")??;
    progress.clear();
    if !status.success() {
        let error = last_error.unwrap_or_else(|| format!("cargo ended with {status}"));
        bail!("{error} (all of it: {})", log.display());
    }
    executable(&messages, name).with_context(|| format!("cargo built no program {name} (see {})", log.display()))
}

/// The program `name` among cargo's messages.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact" && message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_the_messages() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"name":"other"},"executable":"/a/other"}
            not JSON
            {"reason":"compiler-artifact","target":{"name":"fornax-bench-runner"},"executable":null}
            {"reason":"compiler-artifact","target":{"name":"fornax-bench-runner"},"executable":"/a/runner"}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, RUNNER), Some(PathBuf::from("/a/runner")));
        assert_eq!(executable(messages, "none"), None);
    }

    #[test]
    fn a_build_that_fails_says_why_and_names_its_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("logs/build.log");
        std::fs::write(folder.path().join("Cargo.toml"), "[package]\nname = \"broken\"\nversion = \"no\"\n")
            .expect("written");
        let mut command = crate::workspace::cargo();
        command.args(["build", "--offline", "--manifest-path"]).arg(folder.path().join("Cargo.toml"));
        let error = cargo(command, "broken", "building", &log).expect_err("it is broken").to_string();
        assert!(error.starts_with("error") && error.contains("build.log"), "{error}");
        assert!(std::fs::read_to_string(log).expect("a log").contains("version"));
    }
}
