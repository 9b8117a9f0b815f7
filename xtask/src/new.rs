//! Lays out the files of a new thing where they belong.
//!
//! It writes the part that is the same every time, and says what is left. It never overwrites a file, and where one
//! of the places it writes to is not as expected, it writes nothing at all.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

/// What a new family's file begins as: a family that works as it stands, to be changed where the new one differs.
const MODEL: &str = include_str!("../templates/model.rs");

/// The folder of the families, from the workspace's root.
const FAMILIES: &str = "crates/fornax-models/src/families";

/// The file with the list of families, one line each.
const REGISTRY: &str = "crates/fornax-models/src/registry.rs";

/// The comment below the last line of that list.
const MARKER: &str = "// cargo xtask new model: one line above";

/// The file that makes modules of the families.
const MODULES: &str = "crates/fornax-models/src/families/mod.rs";

/// How the registry brings the modules into scope, where it names them one by one.
const IMPORT: &str = "use crate::families::{";

/// What a new policy's file begins as: a policy that works as it stands.
const POLICY: &str = include_str!("../templates/policy.rs");

/// The folder of the scheduling policies.
const POLICIES: &str = "crates/fornax-scheduler/src/policy";

/// The file with the list of policies, which makes modules of them too.
const POLICY_LIST: &str = "crates/fornax-scheduler/src/policy/mod.rs";

/// The comment below the last line of that list.
const POLICY_MARKER: &str = "// cargo xtask new policy: one line above";

/// Lays out the scheduling policy `name` in the workspace at `root`; gives what to do next.
///
/// # Errors
/// When the name is not one, the policy is there already, or a file is not as expected.
pub fn policy(root: &Path, name: &str) -> Result<String> {
    check_name(name)?;
    ensure!(
        !["options", "new_policy"].contains(&name),
        "`{name}` means something to the scheduler: choose another name"
    );
    let is_policy = |word: &str| word != "mod" && root.join(POLICIES).join(format!("{word}.rs")).exists();
    let list = fs::read_to_string(root.join(POLICY_LIST)).with_context(|| format!("{POLICY_LIST} cannot be read"))?;
    let list = add_below(&list, POLICY_MARKER, name, is_policy)
        .and_then(|list| add_module(&list, name))
        .with_context(|| POLICY_LIST.to_owned())?;
    let text = POLICY
        .replace("new-policy", &name.replace('_', "-"))
        .replace("new_policy", name)
        .replace("NewPolicy", &camel(name));
    let file = format!("{POLICIES}/{name}.rs");
    let mut created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(root.join(&file))
        .with_context(|| format!("{file} cannot be created; remove it first if the policy is to begin anew"))?;
    created.write_all(text.as_bytes()).with_context(|| format!("{file} cannot be written"))?;
    fs::write(root.join(POLICY_LIST), list).with_context(|| format!("{POLICY_LIST} cannot be written"))?;
    Ok(format!(
        "{file}: made\n{POLICY_LIST}: the policy added\nNext:\n  \
         1. Say in the file what the rank is, and how long it lets a task be overtaken.\n  \
         2. cargo test -p fornax-scheduler: every policy of the list goes through the same worlds.\n  \
         3. Add a variant with `policy = \"{}\"` to a scenario in crates/fornax-scheduler/scenarios and see what it does.\n",
        name.replace('_', "-")
    ))
}

/// Lays out the family `name` in the workspace at `root`; gives what to do next.
///
/// # Errors
/// When the name is not one, the family is there already, or a file is not as expected.
pub fn model(root: &Path, name: &str) -> Result<String> {
    check_name(name)?;
    let is_family = |word: &str| word != "mod" && root.join(FAMILIES).join(format!("{word}.rs")).exists();
    let read = |path: &str| fs::read_to_string(root.join(path)).with_context(|| format!("{path} cannot be read"));
    let registry = add_below(&read(REGISTRY)?, MARKER, name, is_family).with_context(|| REGISTRY.to_owned())?;
    let registry = registry.replacen(IMPORT, &format!("{IMPORT}{name}, "), 1);
    let modules = add_module(&read(MODULES)?, name).with_context(|| MODULES.to_owned())?;

    let file = format!("{FAMILIES}/{name}.rs");
    let mut created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(root.join(&file))
        .with_context(|| format!("{file} cannot be created; remove it first if the family is to begin anew"))?;
    created.write_all(fill(MODEL, name).as_bytes()).with_context(|| format!("{file} cannot be written"))?;
    for (path, text) in [(REGISTRY, registry), (MODULES, modules)] {
        fs::write(root.join(path), text).with_context(|| format!("{path} cannot be written"))?;
    }
    Ok(format!(
        "{file}: made\n{REGISTRY}: the family added\n{MODULES}: its module added\nNext:\n  \
         1. Describe the architecture in the file: its paper, its configuration, the names of its weights.\n  \
         2. Add it to crates/fornax-models/tests/fixtures/make.py and run that with transformers installed: it makes\n     \
         tiny checkpoints and the logits to agree with.\n  3. cargo test -p fornax-models\n"
    ))
}

/// A name is that of a Rust module, and what a configuration's `model_type` may be.
fn check_name(name: &str) -> Result<()> {
    let good = name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('_')
        && !name.contains("__")
        && name.chars().all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_');
    ensure!(
        good,
        "`{name}` is no name for a module: use lower-case letters, digits and underscores, as in `qwen2_moe`"
    );
    let taken = ["mod", "new_model", "self", "super", "crate", "type", "match", "move", "loop", "use", "pub", "fn"];
    ensure!(!taken.contains(&name), "`{name}` means something to Rust or to this program: choose another name");
    Ok(())
}

/// The template with the family's name in place of its own.
fn fill(template: &str, name: &str) -> String {
    template.replace("new_model", name).replace("NewModel", &camel(name))
}

/// `qwen2_moe` as a type's name, `Qwen2Moe`.
fn camel(name: &str) -> String {
    name.split('_')
        .map(|word| {
            let (first, rest) = word.split_at(1.min(word.len()));
            first.to_ascii_uppercase() + rest
        })
        .collect()
}

/// `text` with one line more above the marker: the line that stands there, for `name` instead of its own.
fn add_below(text: &str, marker: &str, name: &str, is_family: impl Fn(&str) -> bool) -> Result<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut markers = lines.iter().enumerate().filter(|(_, line)| line.trim() == marker);
    let (at, _) = markers.next().with_context(|| format!("has no comment `{marker}` below its list"))?;
    ensure!(markers.next().is_none(), "has the comment `{marker}` twice");
    let above = at.checked_sub(1).map_or("", |above| lines[above]);
    let Some(family) = words(above).find(|word| is_family(word)) else {
        bail!("the line above `{marker}` names none to follow")
    };
    let line = rename(above, family, name);
    ensure!(!lines.contains(&line.as_str()), "has the line `{}` already", line.trim());
    let mut longer = lines;
    longer.insert(at, &line);
    Ok(longer.join("\n") + "\n")
}

/// `text` with `pub mod NAME;` among the others, in the order of the alphabet.
fn add_module(text: &str, name: &str) -> Result<String> {
    let line = format!("pub mod {name};");
    let mut lines: Vec<&str> = text.lines().collect();
    ensure!(!lines.contains(&line.as_str()), "has the line `{line}` already");
    let last = lines.iter().rposition(|other| other.starts_with("pub mod ")).context("has no line `pub mod …;`")?;
    let later = lines.iter().position(|other| other.starts_with("pub mod ") && **other > *line);
    lines.insert(later.unwrap_or(last + 1), &line);
    Ok(lines.join("\n") + "\n")
}

/// The words of a line that could name a module.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|char: char| !is_part_of_word(char)).filter(|word| !word.is_empty())
}

/// `line` with the module `from` called `to`, and the types named after it likewise.
fn rename(line: &str, from: &str, to: &str) -> String {
    let mut renamed = String::new();
    for piece in line.split_inclusive(|char: char| !is_part_of_word(char)) {
        let word = piece.trim_end_matches(|char: char| !is_part_of_word(char));
        let rest = &piece[word.len()..];
        if word == from {
            renamed.push_str(to);
        } else if let Some(suffix) = word.strip_prefix(&camel(from)) {
            renamed.push_str(&camel(to));
            renamed.push_str(suffix);
        } else {
            renamed.push_str(word);
        }
        renamed.push_str(rest);
    }
    renamed
}

fn is_part_of_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "use crate::families::{gpt2, qwen3};\n\nconst FAMILIES: &[&Family] = &[\n    &gpt2::FAMILY,\n    \
                        &qwen3::FAMILY,\n    // cargo xtask new model: one line above\n];\n";

    /// A workspace with as much of fornax-models as is read and written.
    fn tree(registry: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(root.path().join(FAMILIES)).expect("the folder of the families");
        fs::write(root.path().join(FAMILIES).join("qwen3.rs"), "//! Qwen 3.\n").expect("a family");
        fs::write(root.path().join(MODULES), "//! All.\n\npub mod gpt2;\npub mod qwen3;\n").expect("the modules");
        fs::write(root.path().join(REGISTRY), registry).expect("the registry");
        root
    }

    fn read(root: &Path, path: &str) -> String {
        fs::read_to_string(root.join(path)).expect("a file of the tree")
    }

    #[test]
    fn a_family_gets_a_file_and_a_line() {
        let root = tree(LIST);
        let told = model(root.path(), "qwen2_moe").expect("a new family");
        let file = read(root.path(), "crates/fornax-models/src/families/qwen2_moe.rs");
        assert!(file.starts_with("//! Qwen2Moe"), "{file}");
        assert!(file.contains("pub struct Qwen2MoeConfig") && file.contains("name: \"qwen2_moe\""), "{file}");
        assert!(!file.contains("NewModel") && !file.contains("new_model"), "{file}");
        let registry = read(root.path(), REGISTRY);
        assert!(registry.contains(&format!("    &qwen3::FAMILY,\n    &qwen2_moe::FAMILY,\n    {MARKER}\n];\n")));
        assert!(registry.starts_with("use crate::families::{qwen2_moe, gpt2, qwen3};"), "{registry}");
        let modules = read(root.path(), MODULES);
        assert_eq!(modules, "//! All.\n\npub mod gpt2;\npub mod qwen2_moe;\npub mod qwen3;\n");
        assert!(told.contains("families/qwen2_moe.rs") && told.contains(REGISTRY), "{told}");
    }

    #[test]
    fn a_policy_gets_a_file_and_a_line() {
        let root = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(root.path().join(POLICIES)).expect("the folder of the policies");
        fs::write(root.path().join(POLICIES).join("drf.rs"), "//! Shares.\n").expect("a policy");
        let list = format!("pub mod drf;\n\nconst LIST: &[&Entry] = &[\n    &drf::ENTRY,\n    {POLICY_MARKER}\n];\n");
        fs::write(root.path().join(POLICY_LIST), &list).expect("the list");
        let told = policy(root.path(), "least_slack").expect("a new policy");
        assert!(told.contains("policy = \"least-slack\""), "{told}");
        let file = read(root.path(), "crates/fornax-scheduler/src/policy/least_slack.rs");
        assert!(file.contains("pub struct LeastSlack") && file.contains("name: \"least-slack\""), "{file}");
        assert!(!file.contains("NewPolicy") && !file.contains("new-policy"), "{file}");
        let list = read(root.path(), POLICY_LIST);
        assert!(list.contains(&format!("    &drf::ENTRY,\n    &least_slack::ENTRY,\n    {POLICY_MARKER}\n")), "{list}");
        assert!(list.starts_with("pub mod drf;\npub mod least_slack;\n"), "{list}");
        assert!(policy(root.path(), "least_slack").is_err() && policy(root.path(), "options").is_err());
        assert_eq!(read(root.path(), POLICY_LIST), list);
    }

    #[test]
    fn a_family_that_is_there_is_left_alone() {
        let root = tree(LIST);
        model(root.path(), "granite").expect("a new family");
        let file = root.path().join(FAMILIES).join("granite.rs");
        fs::write(&file, "mine").expect("a changed file");
        assert!(model(root.path(), "granite").is_err());
        // The file alone is enough to stop, and nothing is added to the registry then.
        fs::write(root.path().join(REGISTRY), LIST).expect("the registry as it was");
        assert!(model(root.path(), "granite").is_err());
        assert_eq!(fs::read_to_string(&file).expect("the file"), "mine");
        assert_eq!(read(root.path(), REGISTRY), LIST);
    }

    #[test]
    fn without_a_place_for_the_line_nothing_is_written() {
        let twice = format!("{LIST}    &qwen3::FAMILY,\n    {MARKER}\n");
        let strange = format!("    unheard_of,\n{MARKER}\n");
        for registry in ["families! {}\n", &twice, &strange, MARKER] {
            let root = tree(registry);
            let error = model(root.path(), "granite").expect_err("no place for the line");
            assert!(format!("{error:#}").contains(MARKER), "{error:#}");
            assert!(!root.path().join(FAMILIES).join("granite.rs").exists());
            assert_eq!(read(root.path(), REGISTRY), registry);
        }
    }

    #[test]
    fn a_module_stands_in_the_order_of_the_alphabet() {
        assert_eq!(add_module("pub mod b;\n\nfn f() {}\n", "c").expect("c"), "pub mod b;\npub mod c;\n\nfn f() {}\n");
        assert_eq!(add_module("pub mod b;\n", "a").expect("a"), "pub mod a;\npub mod b;\n");
        assert!(add_module("pub mod b;\n", "b").is_err());
        assert!(add_module("//! None.\n", "b").is_err());
    }

    #[test]
    fn a_line_is_renamed_word_by_word() {
        assert_eq!(rename("    gpt2::FAMILY,", "gpt2", "granite"), "    granite::FAMILY,");
        assert_eq!(rename("(\"gpt2\", gpt2x, Gpt2Config)", "gpt2", "my_one"), "(\"my_one\", gpt2x, MyOneConfig)");
    }

    #[test]
    fn names_are_those_of_modules() {
        for good in ["llama", "qwen2_moe", "gpt2"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "Llama", "2bert", "a-b", "a__b", "a_", "_a", "../a", "type", "mod", "new_model"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn types_are_named_in_camel_case() {
        assert_eq!(camel("qwen2_moe"), "Qwen2Moe");
        assert_eq!(camel("gpt2"), "Gpt2");
    }
}
