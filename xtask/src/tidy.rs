//! House rules that neither the compiler nor clippy holds, checked on the text of the files.
//!
//! Every rule is a plain search, so that a breach is explained by its line. It is no parser: a rule that would need
//! one belongs in a clippy lint.

use std::collections::BTreeSet;
use std::fmt;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;

/// The most lines a Rust file has; about 500 is the aim.
const MOST_LINES: usize = 600;

/// Rust files that may be longer because they are one table, each with what it is a table of.
const TABLES: &[(&str, &str)] = &[];

/// The largest file that may be added, in bytes: a checkout stays small, and larger fixtures are made by a script.
const MOST_BYTES: u64 = 1 << 20;

/// What no Rust file says, and what to do instead. Each is written in two halves, so that this file does not say it.
const FORBIDDEN: &[([&str; 2], &str)] = &[
    (["todo", "!("], "finish it, or leave the item out until it is"),
    (["unimplemented", "!("], "finish it, or return an error that says what is not supported"),
    (["dbg", "!("], "remove it"),
    (["#[ig", "nore"], "a test that is not run holds nothing: make it run, or remove it"),
    (["pub fn ", "get_"], "name the thing itself, without `get_`"),
];

/// Folders of the machines that build this project, again in two halves: no file names them.
const BUILD_FOLDERS: &[[&str; 2]] = &[["/wo", "rk/"], ["/ro", "ot/"]];

/// Folders that are not there on every machine. Scripts, manifests and prose do not name them; Rust code may, since
/// its tests take made-up paths as data.
const USER_FOLDERS: &[[&str; 2]] = &[["/ho", "me/"], ["/t", "mp/"], ["/Us", "ers/"]];

/// A line that holds this may name such a folder.
const PATH_MEANT: &str = "tidy: path meant";

/// One breach of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, from the workspace's root.
    pub path: String,
    /// The line, counted from one; none where the whole file is meant.
    pub line: Option<usize>,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path, self.message),
            None => write!(f, "{}: {}", self.path, self.message),
        }
    }
}

/// Checks every file that git tracks or would track; returns the breaches and the number of files read.
///
/// # Errors
/// When git cannot list the files, or one cannot be read.
pub fn check(workspace: &Workspace) -> Result<(Vec<Finding>, usize)> {
    let files = listed(workspace)?;
    let mut findings = Vec::new();
    for path in &files {
        let full = workspace.root.join(path);
        // A file that was removed but not yet committed is still listed.
        let Ok(about) = full.symlink_metadata() else { continue };
        if about.is_dir() {
            continue;
        }
        findings.extend(check_size(path, about.len()));
        if is_read(path) {
            let text = std::fs::read_to_string(&full).with_context(|| format!("{path} cannot be read as text"))?;
            findings.extend(check_text(path, &text));
        }
    }
    let crates: Vec<&str> = workspace
        .packages()
        .iter()
        .filter(|package| workspace.is_layered(package))
        .map(|package| package.name.as_str())
        .collect();
    let index = "crates/README.md";
    let text = std::fs::read_to_string(workspace.root.join(index)).unwrap_or_default();
    findings.extend(check_index(index, &text, &crates));
    Ok((findings, files.len()))
}

/// The files of the checkout, without those that `.gitignore` names.
///
/// # Errors
/// When git does not list them.
pub fn listed(workspace: &Workspace) -> Result<BTreeSet<String>> {
    let output = Command::new("git")
        // A checkout that another user made is refused otherwise, and CI often has one.
        .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(&workspace.root)
        .output()
        .context("git did not start; tidy asks it which files belong to the project")?;
    if !output.status.success() {
        bail!("git does not list the project's files: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let names = String::from_utf8(output.stdout).context("a file's name is not UTF-8")?;
    Ok(names.split_terminator('\0').map(str::to_owned).collect())
}

/// Whether the text rules look at `path`: code, scripts, manifests and prose, but no test data.
fn is_read(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let kind = name.rsplit_once('.').map_or("", |(_, kind)| kind);
    let ours = matches!(kind, "rs" | "toml" | "md" | "py" | "sh" | "yml" | "yaml") || path.starts_with(".ci/");
    ours && !path.contains("/corpus/")
}

/// The rule on a file's size.
fn check_size(path: &str, bytes: u64) -> Option<Finding> {
    (bytes > MOST_BYTES && path != "Cargo.lock").then(|| Finding {
        path: path.into(),
        line: None,
        message: format!("has {bytes} bytes, more than {MOST_BYTES}: let a script make it, or make it smaller"),
    })
}

/// The rules on one file's text.
fn check_text(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut report = |line, message: String| findings.push(Finding { path: path.into(), line, message });
    if path.ends_with(".rs") {
        // `#!` covers an inner attribute such as a fuzz target's `#![no_main]`.
        let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!"));
        if !first.is_some_and(|line| line.starts_with("//!")) {
            report(Some(1), "begin the file with `//!`: what it is, and what it deliberately is not".into());
        }
        let lines = text.lines().count();
        if lines > MOST_LINES && !TABLES.iter().any(|(table, _)| *table == path) {
            report(None, format!("has {lines} lines, more than {MOST_LINES}: split it by idea"));
        }
    }
    for (index, line) in text.lines().enumerate() {
        let number = Some(index + 1);
        if path.ends_with(".rs") {
            for (halves, instead) in FORBIDDEN {
                let word = halves.concat();
                if line.contains(&word) {
                    report(number, format!("`{word}`: {instead}"));
                }
            }
        }
        if !line.contains(PATH_MEANT) {
            let users: &[[&str; 2]] = if path.ends_with(".rs") { &[] } else { USER_FOLDERS };
            for halves in BUILD_FOLDERS.iter().chain(users) {
                let folder = halves.concat();
                if names_folder(line, &folder) {
                    report(number, format!("`{folder}` is not there on every machine: use a relative path"));
                }
            }
        }
    }
    if path.starts_with("crates/") && path.matches('/').count() == 2 && path.ends_with("/Cargo.toml") {
        let lints = text.split("[lints]").nth(1).is_some_and(|rest| rest.trim_start().starts_with("workspace = true"));
        if !lints {
            report(None, "take the workspace's lints: `[lints]` with `workspace = true`".into());
        }
    }
    findings
}

/// Whether `line` names the absolute `folder`, rather than a path or an address with such a part in its middle.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|char| char.is_alphanumeric() || "._-~})*".contains(char))
    })
}

/// The rule on the list of crates: one line a crate, and no line for a crate that is not there.
fn check_index(path: &str, text: &str, crates: &[&str]) -> Vec<Finding> {
    let named: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("- `").or_else(|| line.strip_prefix("| `")))
        .filter_map(|line| line.split_once('`').map(|(name, _)| name))
        .collect();
    let finding = |message| Finding { path: path.into(), line: None, message };
    let mut findings = Vec::new();
    for name in crates {
        if named.iter().filter(|named| named == &name).count() != 1 {
            findings.push(finding(format!("say in one line what `{name}` is for")));
        }
    }
    for name in named {
        if !crates.contains(&name) {
            findings.push(finding(format!("names `{name}`, which is no crate here")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<String> {
        check_text(path, text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_tidy_file_is_left_alone() {
        assert_eq!(messages("src/lib.rs", "#![no_main]\n//! A thing.\n\nfn f() {}\n"), Vec::<String>::new());
        let manifest = "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n";
        assert_eq!(messages("crates/a/Cargo.toml", manifest), Vec::<String>::new());
    }

    #[test]
    fn a_file_says_what_it_is() {
        assert!(messages("src/lib.rs", "fn f() {}\n//! Too late.\n")[0].starts_with("src/lib.rs:1: begin the file"));
        assert!(messages("src/lib.rs", "")[0].contains("begin the file"));
        assert_eq!(messages("README.md", "# Title\n"), Vec::<String>::new());
    }

    #[test]
    fn a_long_file_is_split() {
        let text = |lines: usize| format!("//! Long.\n{}", "\n".repeat(lines - 1));
        assert_eq!(messages("a.rs", &text(MOST_LINES)), Vec::<String>::new());
        assert!(messages("a.rs", &text(MOST_LINES + 1))[0].contains("601 lines"));
        assert_eq!(messages("a.md", &text(MOST_LINES + 1)), Vec::<String>::new());
    }

    #[test]
    fn every_forbidden_word_is_found_where_it_stands() {
        for (halves, _) in FORBIDDEN {
            let text = format!("//! A.\n\n    {}x\n", halves.concat());
            let found = check_text("a.rs", &text);
            assert_eq!(found.len(), 1, "{halves:?}");
            assert_eq!(found[0].line, Some(3));
        }
    }

    #[test]
    fn folders_of_one_machine_are_found_and_other_paths_are_not() {
        for halves in BUILD_FOLDERS.iter().chain(USER_FOLDERS) {
            let folder = halves.concat();
            for bad in [format!("cd {folder}x"), format!("\"{folder}x\""), format!("{folder}x")] {
                assert_eq!(check_text("a.sh", &bad).len(), 1, "{bad}");
            }
            for good in [
                format!("https://example.org{folder}x"),
                format!("target{folder}x"),
                format!("$HOME/..{folder}x"),
                format!("cd {folder}x # {PATH_MEANT}"),
            ] {
                assert_eq!(check_text("a.sh", &good), [], "{good}");
            }
        }
        let [user, build] = [USER_FOLDERS[0].concat(), BUILD_FOLDERS[0].concat()];
        assert_eq!(messages("a.rs", &format!("//! A.\n// {user}ada\n")), Vec::<String>::new());
        assert_eq!(messages("a.rs", &format!("//! A.\n// {build}x\n")).len(), 1);
    }

    #[test]
    fn a_crate_takes_the_workspace_lints() {
        assert!(messages("crates/a/Cargo.toml", "[package]\n[lints]\n[dependencies]\n")[0].contains("lints"));
        assert_eq!(messages("crates/a/fuzz/Cargo.toml", "[package]\n"), Vec::<String>::new());
    }

    #[test]
    fn the_list_of_crates_names_each_once() {
        let list = "- `a`: one.\n- `b`: two.\n";
        assert_eq!(check_index("R", list, &["a", "b"]), []);
        assert!(check_index("R", list, &["a", "b", "c"])[0].message.contains("`c`"));
        assert!(check_index("R", list, &["a"])[0].message.contains("`b`"));
        assert_eq!(check_index("R", &list.repeat(2), &["a", "b"]).len(), 2);
    }

    #[test]
    fn large_files_are_refused_but_for_the_lock() {
        assert_eq!(check_size("a.bin", MOST_BYTES), None);
        assert!(check_size("a.bin", MOST_BYTES + 1).is_some());
        assert_eq!(check_size("Cargo.lock", MOST_BYTES + 1), None);
    }

    #[test]
    fn test_data_is_not_read() {
        assert!(is_read("crates/a/src/lib.rs") && is_read(".ci/run") && is_read("Cargo.toml"));
        assert!(!is_read("tests/fixtures/a/tokenizer.json") && !is_read("fuzz/corpus/a/b.toml"));
    }
}
