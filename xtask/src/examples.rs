//! Builds the facade's examples and runs those that can run anywhere.
//!
//! Which can, and with what arguments, is said beside them, in the manifest of `fornax`:
//!
//! ```toml
//! [package.metadata.fornax.examples]
//! define_model = []
//! generate = ["crates/fornax-models/tests/fixtures/llama", "Once upon a time"]
//! ```
//!
//! Arguments are seen from the workspace's root. An example that is not named there is built, not run.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::workspace::Workspace;

/// The crate whose examples these are.
const FACADE: &str = "fornax";

/// Builds all examples and runs the ones the manifest names.
///
/// # Errors
/// When one does not build or fails, when the manifest names one that is not there, or when it names none at all.
pub fn check(workspace: &Workspace) -> Result<()> {
    let examples = workspace.examples(FACADE)?;
    let runnable = runnable(workspace)?;
    if let Some(name) = unknown(&examples, &runnable) {
        anyhow::bail!("`[package.metadata.fornax.examples]` of {FACADE} names `{name}`, which is no example of it");
    }
    ensure!(
        !runnable.is_empty(),
        "no example of {FACADE} is run: name those that can be in `[package.metadata.fornax.examples]`"
    );
    // Of all default members, as `cargo test` builds them: another choice of packages would enable other features of
    // shared dependencies, and build burn once more.
    let built = workspace.cargo().args(["build", "--examples"]).status()?;
    ensure!(built.success(), "the examples of {FACADE} do not build");
    for name in examples {
        let Some(arguments) = runnable.get(&name) else {
            eprintln!("example {name}: built, not run");
            continue;
        };
        eprintln!("example {name} {}", arguments.join(" "));
        let program = workspace.target.join("debug/examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
        let status = Command::new(&program)
            .args(arguments)
            .current_dir(&workspace.root)
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("{} did not start", program.display()))?;
        ensure!(status.success(), "the example `{name}` ended with {status}");
    }
    Ok(())
}

/// The examples that can run anywhere, with their arguments.
///
/// # Errors
/// When the table in the manifest is not one of lists of strings.
pub fn runnable(workspace: &Workspace) -> Result<BTreeMap<String, Vec<String>>> {
    parse(&workspace.package(FACADE)?.metadata["fornax"]["examples"])
}

/// Reads the manifest's table; none is an empty one.
fn parse(table: &Value) -> Result<BTreeMap<String, Vec<String>>> {
    if table.is_null() {
        return Ok(BTreeMap::new());
    }
    table
        .as_object()
        .context("`[package.metadata.fornax.examples]` is not a table")?
        .iter()
        .map(|(name, arguments)| {
            let arguments: Option<Vec<String>> = arguments
                .as_array()
                .and_then(|list| list.iter().map(|argument| argument.as_str().map(str::to_owned)).collect());
            let arguments =
                arguments.with_context(|| format!("the arguments of `{name}` are not a list of strings"))?;
            Ok((name.clone(), arguments))
        })
        .collect()
}

/// The first name in `runnable` that is not among `examples`.
fn unknown<'a>(examples: &[String], runnable: &'a BTreeMap<String, Vec<String>>) -> Option<&'a str> {
    runnable.keys().find(|name| !examples.contains(name)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_gives_arguments_by_name() {
        let table = parse(&json!({"generate": ["a", "b"], "define_model": []})).expect("a good table");
        assert_eq!(table["generate"], ["a", "b"]);
        assert!(table["define_model"].is_empty());
        assert!(parse(&Value::Null).expect("no table").is_empty());
    }

    #[test]
    fn a_bad_table_is_an_error() {
        assert!(parse(&json!(["generate"])).is_err());
        let error = parse(&json!({"generate": "a"})).expect_err("a string is no list");
        assert!(error.to_string().contains("`generate`"));
    }

    #[test]
    fn an_example_that_is_not_there_is_named() {
        let table = parse(&json!({"chat": []})).expect("a good table");
        assert_eq!(unknown(&["generate".into()], &table), Some("chat"));
        assert_eq!(unknown(&["chat".into()], &table), None);
    }
}
