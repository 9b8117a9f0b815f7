//! The steps of CI, cheapest first: one entry each.
//!
//! A step is a cargo command or one of our own checks. How steps are chosen and reported is not here.

use anyhow::{Context as _, Result, bail, ensure};

use super::needs::{self, Need};
use crate::workspace::Workspace;
use crate::{examples, layers, outside, tidy};

/// One thing that CI holds.
#[derive(Debug)]
pub struct Step {
    /// What `--only` and `--skip` call it.
    pub name: &'static str,
    /// What it holds, in a few words.
    pub purpose: &'static str,
    /// What it asks of the machine; none runs anywhere.
    pub needs: Option<fn(&Workspace) -> Result<Need>>,
    /// Environment variables of its command.
    pub environment: &'static [(&'static str, &'static str)],
    /// What it does.
    pub action: Action,
}

/// What a step does.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// Runs cargo in the workspace's root with these arguments.
    Cargo(&'static [&'static str]),
    /// Runs a check of our own.
    Check(fn(&Workspace) -> Result<()>),
}

/// Every step. To add one, add an entry where its cost belongs.
pub const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        purpose: "the code is formatted",
        needs: None,
        environment: &[],
        action: Action::Cargo(&["fmt", "--all", "--check"]),
    },
    Step {
        name: "layers",
        purpose: "crates depend on lower layers only",
        needs: None,
        environment: &[],
        action: Action::Check(check_layers),
    },
    Step {
        name: "tidy",
        purpose: "the house rules that no compiler holds",
        needs: None,
        environment: &[],
        action: Action::Check(check_tidy),
    },
    Step {
        name: "deny",
        purpose: "licences, sources and advisories of dependencies",
        needs: Some(needs::cargo_deny),
        environment: &[],
        action: Action::Cargo(&["deny", "check"]),
    },
    Step {
        name: "clippy",
        purpose: "no lint warns, tests and examples included",
        needs: None,
        environment: &[],
        action: Action::Cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    },
    Step {
        name: "docs",
        purpose: "the documentation builds, and its links lead somewhere",
        needs: None,
        environment: &[("RUSTDOCFLAGS", "-D warnings")],
        action: Action::Cargo(&["doc", "--workspace", "--no-deps"]),
    },
    Step {
        name: "test",
        purpose: "the tests, as the README runs them",
        needs: None,
        environment: &[],
        action: Action::Cargo(&["test"]),
    },
    Step {
        name: "chores",
        purpose: "the tests of these chores, in the profile that they are built in",
        needs: None,
        environment: &[],
        action: Action::Cargo(&["test", "--profile", "xtask", "-p", "xtask"]),
    },
    Step {
        name: "quickstart",
        purpose: "the README's first command",
        needs: None,
        environment: &[],
        action: Action::Cargo(&["run", "--", "quickstart"]),
    },
    Step {
        name: "examples",
        purpose: "the facade's examples build, and run where they need no download",
        needs: None,
        environment: &[],
        action: Action::Check(examples::check),
    },
    Step {
        name: "outside",
        purpose: "a crate outside the workspace needs `fornax` alone",
        needs: None,
        environment: &[],
        action: Action::Check(outside::check),
    },
    Step {
        name: "vulkan",
        purpose: "the `vulkan` backend compiles",
        needs: None,
        environment: &[],
        action: Action::Cargo(&["check", "-p", "fornax", "--no-default-features", "--features", "vulkan"]),
    },
    Step {
        name: "cuda",
        purpose: "the `cuda` backend compiles",
        needs: Some(needs::llvm_for_cuda),
        environment: &[],
        action: Action::Cargo(&["check", "-p", "fornax", "--no-default-features", "--features", "cuda"]),
    },
    Step {
        name: "wgpu",
        purpose: "another backend gives the same numbers (on Vulkan in software)",
        needs: Some(needs::software_vulkan),
        environment: &[("FORNAX_TEST_DEVICE", "wgpu")],
        // Without the `cpu` feature, so that the CPU's backend is not built once more.
        action: Action::Cargo(&[
            "test",
            "-p",
            "fornax-models",
            "--no-default-features",
            "--features",
            "fornax-backend/wgpu",
            "--test",
            "it",
        ]),
    },
];

impl Step {
    /// Runs the step; gives the reason where this machine cannot.
    ///
    /// # Errors
    /// When what the step holds does not hold.
    pub fn run(&self, workspace: &Workspace) -> Result<Option<String>> {
        let mut environment = Vec::new();
        if let Some(needs) = self.needs {
            match needs(workspace)? {
                Need::Missing(why) => return Ok(Some(why)),
                Need::Met(more) => environment = more,
            }
        }
        match self.action {
            Action::Check(check) => check(workspace)?,
            Action::Cargo(arguments) => {
                let shown: Vec<String> = self
                    .environment
                    .iter()
                    .map(|(name, value)| format!("{name}='{value}'"))
                    .chain(environment.iter().map(|(name, value)| format!("{name}='{}'", value.display())))
                    .chain(std::iter::once("cargo".to_owned()))
                    .chain(arguments.iter().map(|argument| (*argument).to_owned()))
                    .collect();
                eprintln!("$ {}", shown.join(" "));
                let mut command = workspace.cargo();
                let status = command
                    .args(arguments)
                    .envs(self.environment.iter().copied())
                    .envs(environment)
                    .status()
                    .context("cargo did not start")?;
                ensure!(status.success(), "cargo {} ended with {status}", arguments.join(" "));
            }
        }
        Ok(None)
    }
}

/// Fails with every breach of the layers.
fn check_layers(workspace: &Workspace) -> Result<()> {
    let crates = layers::read(workspace);
    eprint!("{}", layers::table(&crates));
    fail_with(layers::violations(&crates))
}

/// Fails with every breach of the house rules.
fn check_tidy(workspace: &Workspace) -> Result<()> {
    let (findings, files) = tidy::check(workspace)?;
    eprintln!("{files} files");
    fail_with(findings)
}

/// An error with one line a finding; none without findings.
pub fn fail_with<T: ToString>(findings: Vec<T>) -> Result<()> {
    if findings.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    bail!("{} found\n{}", lines.len(), lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(needs: fn(&Workspace) -> Result<Need>, action: Action) -> Step {
        Step { name: "planted", purpose: "a test", needs: Some(needs), environment: &[], action }
    }

    fn missing(_: &Workspace) -> Result<Need> {
        Ok(Need::Missing("no such device".into()))
    }

    fn met(_: &Workspace) -> Result<Need> {
        Ok(Need::Met(Vec::new()))
    }

    fn breaks(_: &Workspace) -> Result<()> {
        bail!("planted")
    }

    #[test]
    fn a_step_without_what_it_needs_does_nothing() {
        let workspace = Workspace::read().expect("cargo metadata reads this workspace");
        let outcome = step(missing, Action::Check(breaks)).run(&workspace).expect("the check is not run");
        assert_eq!(outcome.as_deref(), Some("no such device"));
        assert!(step(met, Action::Check(breaks)).run(&workspace).is_err());
    }

    #[test]
    fn a_command_that_fails_is_named() {
        let workspace = Workspace::read().expect("cargo metadata reads this workspace");
        let error = step(met, Action::Cargo(&["no-such-command"])).run(&workspace).expect_err("cargo has none");
        assert!(error.to_string().starts_with("cargo no-such-command ended with"), "{error}");
        assert_eq!(step(met, Action::Cargo(&["--version"])).run(&workspace).expect("cargo has one"), None);
    }

    #[test]
    fn findings_become_one_error() {
        assert!(fail_with(Vec::<String>::new()).is_ok());
        let error = fail_with(vec!["a", "b"]).expect_err("two findings");
        assert_eq!(error.to_string(), "2 found\na\nb");
    }
}
