//! What some steps ask of the machine, beyond Rust.
//!
//! Nothing is installed here: `.ci/run` does that. The one exception is the LLVM that burn-cuda compiles its kernels
//! with, which a script beside the test data lays in the user's own data folder.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::workspace::Workspace;

/// Whether the machine has what a step needs.
#[derive(Debug)]
pub enum Need {
    /// It has; the step's command wants these environment variables.
    Met(Vec<(&'static str, OsString)>),
    /// It has not, and what would change that.
    Missing(String),
}

/// Where Vulkan's drivers describe themselves, by the loader's own convention.
const VULKAN_DRIVERS: [&str; 3] = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];

/// The LLVM that burn 0.22.1 asks for; its build looks for this file before it downloads.
const LLVM: &str = "tracel/tracel-llvm-23.1.0-4/.tracel-llvm-installed";

/// Mesa's Vulkan in software, with the settings under which burn runs on it.
pub fn software_vulkan(workspace: &Workspace) -> Result<Need> {
    if !VULKAN_DRIVERS.iter().any(|folder| has_software_driver(Path::new(folder))) {
        return Ok(Need::Missing(
            "no software Vulkan driver here; Debian and Ubuntu have one: apt-get install mesa-vulkan-drivers".into(),
        ));
    }
    let mut environment =
        vec![("CUBECL_WGPU_DEFAULT_DEVICE", "Cpu".into()), ("CUBECL_AUTOTUNE_LEVEL", OsString::from("0"))];
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        let folder = workspace.target.join("xdg-runtime");
        std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        environment.push(("XDG_RUNTIME_DIR", folder.into()));
    }
    Ok(Need::Met(environment))
}

/// Whether `folder` describes Mesa's `lavapipe`.
fn has_software_driver(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("lvp_icd") && name.ends_with(".json")
    })
}

/// The LLVM bundle of burn-cuda: there already, or laid out by the script beside the test data.
pub fn llvm_for_cuda(_: &Workspace) -> Result<Need> {
    let Some(data) = data_home() else {
        return Ok(Need::Missing("neither XDG_DATA_HOME nor HOME is set, so LLVM has no place".into()));
    };
    let sentinel = data.join(LLVM);
    if sentinel.exists() {
        return Ok(Need::Met(Vec::new()));
    }
    let script = std::env::var_os("FORNAX_TEST_DATA").map(|data| Path::new(&data).join("tools/llvm-for-cuda.sh"));
    let Some(script) = script.filter(|script| script.exists()) else {
        return Ok(Need::Missing(format!(
            "no LLVM for burn-cuda at {}, and no FORNAX_TEST_DATA with tools/llvm-for-cuda.sh",
            sentinel.display()
        )));
    };
    eprintln!("$ {}", script.display());
    let status = Command::new("bash").arg(&script).stdin(Stdio::null()).status().context("bash did not start")?;
    if status.success() && sentinel.exists() {
        Ok(Need::Met(Vec::new()))
    } else {
        Ok(Need::Missing(format!("{} ended with {status}", script.display())))
    }
}

/// Where a user's programs keep their data.
fn data_home() -> Option<PathBuf> {
    std::env::var_os("XDG_DATA_HOME")
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")))
}

/// The `cargo deny` command.
pub fn cargo_deny(workspace: &Workspace) -> Result<Need> {
    let there = workspace
        .cargo()
        .args(["deny", "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cargo did not start")?;
    if there.success() {
        Ok(Need::Met(Vec::new()))
    } else {
        Ok(Need::Missing("cargo-deny is not here: cargo install cargo-deny --locked".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_software_driver_counts() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(!has_software_driver(&folder.path().join("absent")));
        std::fs::write(folder.path().join("nvidia_icd.json"), "{}").expect("a file");
        assert!(!has_software_driver(folder.path()));
        std::fs::write(folder.path().join("lvp_icd.x86_64.json"), "{}").expect("a file");
        assert!(has_software_driver(folder.path()));
    }
}
