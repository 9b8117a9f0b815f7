//! Builds the program of a pack. Nothing is packed here.

use std::io::BufReader;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::Message;

use crate::workspace::Workspace;

/// The package that has the program.
pub const PACKAGE: &str = "fornax-benches";

/// Its test target that is the program.
const TARGET: &str = "device";

/// Builds the program for `backend` and says where it lies. What the compiler says goes to the terminal.
///
/// # Errors
/// When it does not build.
pub fn program(workspace: &Workspace, backend: &str, profile: &str) -> Result<PathBuf> {
    let arguments = arguments(backend, profile);
    eprintln!("$ cargo {}", arguments.join(" "));
    let mut cargo = workspace
        .cargo()
        .args(&arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo did not start")?;
    let messages = cargo.stdout.take().context("its output is a pipe")?;
    let mut program = None;
    for message in Message::parse_stream(BufReader::new(messages)) {
        if let Message::CompilerArtifact(artifact) = message.context("cargo's messages cannot be read")?
            && artifact.target.name == TARGET
            && artifact.executable.is_some()
        {
            program = artifact.executable;
        }
    }
    let status = cargo.wait()?;
    ensure!(status.success(), "the program for `{backend}` does not build: cargo ended with {status}");
    Ok(program.with_context(|| format!("cargo built no program `{TARGET}` of {PACKAGE}"))?.into())
}

/// What cargo is asked for. Symbols are left out by the linker, so no other tool is needed, and of this program alone,
/// so nothing else is built again for it.
fn arguments(backend: &str, profile: &str) -> Vec<String> {
    let words = format!(
        "rustc -p {PACKAGE} --no-default-features --features {backend} --profile {profile} --test {TARGET} \
         --message-format json-render-diagnostics -- -C strip=symbols"
    );
    words.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_built_for_one_backend_and_stripped() {
        let arguments = arguments("cuda", "release").join(" ");
        for expected in ["--no-default-features --features cuda ", "--profile release ", "-- -C strip=symbols"] {
            assert!(arguments.contains(expected), "{arguments}");
        }
    }

    #[test]
    fn the_target_is_there() {
        let workspace = Workspace::read().expect("cargo metadata reads this workspace");
        let targets = &workspace.package(PACKAGE).expect("the benches").targets;
        assert!(targets.iter().any(|target| target.name == TARGET && target.is_test()));
    }
}
