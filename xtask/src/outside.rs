//! Proves that a user needs one crate: builds and runs a program outside the workspace that depends on `fornax` alone.
//!
//! Its source is the facade's `generate` example, word for word, so that the example stays one a reader can copy.
//! It is no test of what is generated: any text will do. It is built as a new user builds, without
//! optimization. Its features differ from the workspace's, so burn is compiled again in any case; without optimization that
//! takes half the time.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::examples;
use crate::workspace::{self, Workspace};

/// The example whose source the program takes.
const EXAMPLE: &str = "generate";

/// The program's name, of its package and of its binary.
const NAME: &str = "fornax-outside";

/// Lays the program out in a temporary folder, builds it with the `cpu` backend and runs it.
///
/// # Errors
/// When it does not build, resolves a version that the workspace's lock file does not have, fails, or writes nothing.
pub fn check(workspace: &Workspace) -> Result<()> {
    let arguments = examples::runnable(workspace)?.remove(EXAMPLE).with_context(|| {
        format!("`[package.metadata.fornax.examples]` of crates/fornax has no arguments for `{EXAMPLE}`")
    })?;
    let source = workspace.root.join(format!("crates/fornax/examples/{EXAMPLE}.rs"));
    let source = fs::read_to_string(&source).with_context(|| format!("{} cannot be read", source.display()))?;
    let lock = fs::read_to_string(workspace.root.join("Cargo.lock")).context("the workspace's Cargo.lock")?;

    let folder = tempfile::tempdir().context("a folder for a program outside the workspace")?;
    fs::create_dir(folder.path().join("src"))?;
    fs::write(folder.path().join("Cargo.toml"), manifest(&workspace.root))?;
    fs::write(folder.path().join("Cargo.lock"), &lock)?;
    fs::write(folder.path().join("src/main.rs"), source)?;

    let target = workspace.target.join("outside");
    let mut build = workspace::cargo();
    build.arg("build").current_dir(folder.path()).env("CARGO_TARGET_DIR", &target);
    ensure!(build.status()?.success(), "a crate that depends on `fornax` alone does not build");

    let resolved = fs::read_to_string(folder.path().join("Cargo.lock"))?;
    let known = outside_packages(&lock);
    if let Some((name, version)) = outside_packages(&resolved).difference(&known).next() {
        bail!("the outside crate resolved {name} {version}, which the workspace's Cargo.lock does not have");
    }

    let binary = target.join("debug").join(format!("{NAME}{}", std::env::consts::EXE_SUFFIX));
    let output = Command::new(&binary)
        .args(&arguments)
        .current_dir(&workspace.root)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{} did not start", binary.display()))?;
    ensure!(output.status.success(), "the outside crate built, but `{EXAMPLE}` ended with {}", output.status);
    ensure!(!output.stdout.trim_ascii().is_empty(), "the outside crate ran, but wrote no text");
    Ok(())
}

/// The program's manifest. It needs no debug information, which would only cost time.
fn manifest(workspace: &Path) -> String {
    // A TOML literal string, in which a backslash of a Windows path stands for itself.
    let fornax = workspace.join("crates/fornax");
    format!(
        "[package]\nname = \"{NAME}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n\
         fornax = {{ path = '{}', default-features = false, features = [\"cpu\"] }}\n\n[profile.dev]\ndebug = false\n",
        fornax.display(),
    )
}

/// Name and version of every package in a lock file that comes from a registry.
fn outside_packages(lock: &str) -> BTreeSet<(String, String)> {
    let field = |package: &str, name: &str| {
        package
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"'))
            .map(str::to_owned)
    };
    lock.split("[[package]]")
        .skip(1)
        .filter(|package| field(package, "source").is_some())
        .filter_map(|package| Some((field(package, "name")?, field(package, "version")?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_takes_one_dependency() {
        let manifest = manifest(Path::new("house"));
        let dependencies = manifest.split("[dependencies]\n").nth(1).and_then(|rest| rest.split("\n\n").next());
        let only = dependencies.expect("the manifest has a table of dependencies");
        assert_eq!(only.lines().count(), 1);
        assert!(only.starts_with("fornax = { path = '"), "{only}");
    }

    #[test]
    fn a_lock_file_gives_what_comes_from_a_registry() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.2.3\"\nsource = \"registry+x\"\n\
                    checksum = \"00\"\n\n[[package]]\nname = \"ours\"\nversion = \"0.1.0\"\ndependencies = [\n \"a\",\n]\n";
        assert_eq!(outside_packages(lock), BTreeSet::from([("a".to_owned(), "1.2.3".to_owned())]));
    }
}
