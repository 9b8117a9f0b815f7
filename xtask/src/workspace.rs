//! What the chores know of this workspace, read once from `cargo metadata`.
//!
//! Only the workspace's own packages are read (`--no-deps`), so that a chore answers at once and needs no network.
//! The graph of outside dependencies is `cargo deny`'s subject, not ours.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use cargo_metadata::{Metadata, MetadataCommand, Package, TargetKind};

/// The workspace that holds this program.
#[derive(Debug)]
pub struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub root: PathBuf,
    /// Where cargo puts what it builds.
    pub target: PathBuf,
    metadata: Metadata,
}

impl Workspace {
    /// Asks cargo about the workspace that this program was built from.
    ///
    /// # Errors
    /// When cargo cannot read one of the manifests; its own words say which.
    pub fn read() -> Result<Self> {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec()?;
        Ok(Self {
            root: metadata.workspace_root.clone().into(),
            target: metadata.target_directory.clone().into(),
            metadata,
        })
    }

    /// Every package of the workspace.
    pub fn packages(&self) -> &[Package] {
        &self.metadata.packages
    }

    /// The package called `name`.
    ///
    /// # Errors
    /// When the workspace has none.
    pub fn package(&self, name: &str) -> Result<&Package> {
        self.packages()
            .iter()
            .find(|package| package.name.as_str() == name)
            .with_context(|| format!("the workspace has no crate named `{name}`"))
    }

    /// Whether `package` is one of the layered crates, those under `crates/`.
    ///
    /// What stands elsewhere (this program, benches) is a tool: it may depend on any crate, and none on it.
    pub fn is_layered(&self, package: &Package) -> bool {
        package.manifest_path.as_std_path().starts_with(self.root.join("crates"))
    }

    /// The names of the examples of the package called `name`, sorted.
    ///
    /// # Errors
    /// When the workspace has no such package.
    pub fn examples(&self, name: &str) -> Result<Vec<String>> {
        let mut examples: Vec<String> = self
            .package(name)?
            .targets
            .iter()
            .filter(|target| target.is_kind(TargetKind::Example))
            .map(|target| target.name.clone())
            .collect();
        examples.sort();
        Ok(examples)
    }

    /// A cargo command that runs in the workspace's root.
    pub fn cargo(&self) -> Command {
        let mut command = cargo();
        command.current_dir(&self.root);
        command
    }
}

/// The cargo that runs us, without the variables by which it told us about our own package: build scripts of
/// other packages watch some of them, and would run again for no reason.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let told = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| told.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    command
}
