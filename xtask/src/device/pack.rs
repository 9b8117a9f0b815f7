//! Writes the archive of a pack: the program and the fixtures, compressed as much as they can be.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The tiny models of the families' tests, seen from the workspace's root.
pub const FIXTURES: &str = "crates/fornax-models/tests/fixtures";

/// How `xz` compresses: with a dictionary as large as the program is likely to be, and jumps in x86 programs written as
/// where they lead, which makes these a tenth smaller.
const XZ: &str = if cfg!(target_arch = "x86_64") { "--x86 --lzma2=preset=9" } else { "-9" };

/// Packs `program`, which becomes `program`, and the folder `fixtures`, which becomes `fixtures`.
///
/// # Errors
/// When a file cannot be copied, or `tar` or `xz` is missing or fails.
pub fn write(program: &Path, fixtures: &Path, archive: &Path) -> Result<()> {
    let folder = tempfile::tempdir_in(archive.parent().unwrap_or(Path::new("."))).context("a folder for the pack")?;
    std::fs::copy(program, folder.path().join("program"))
        .with_context(|| format!("{} cannot be copied", program.display()))?;
    copy(fixtures, &folder.path().join("fixtures"))?;
    let status = Command::new("tar")
        .arg("-cJf")
        .arg(std::path::absolute(archive)?)
        .args(["program", "fixtures"])
        .env("XZ_OPT", XZ)
        .current_dir(folder.path())
        .status()
        .context("tar did not start; install tar and xz (Debian: xz-utils)")?;
    ensure!(status.success(), "tar ended with {status}; it needs xz (Debian: xz-utils)");
    Ok(())
}

/// Copies a folder with what is in it, but for the scripts that made it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("{} cannot be made", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("{} cannot be read", from.display()))? {
        let entry = entry?;
        let (from, name) = (entry.path(), entry.file_name());
        let to = to.join(&name);
        if from.is_dir() {
            if name != "__pycache__" {
                copy(&from, &to)?;
            }
        } else if from.extension().is_none_or(|kind| kind != "py") {
            std::fs::copy(&from, &to).with_context(|| format!("{} cannot be copied", from.display()))?;
        }
    }
    Ok(())
}
