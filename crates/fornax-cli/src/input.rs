//! Texts that come from files or standard input.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use fornax::prelude::*;

/// The text of an argument, or standard input where it is `-`.
pub fn text_or_stdin(argument: &str) -> Result<String> {
    if argument == "-" { stdin() } else { Ok(argument.to_owned()) }
}

/// The prompt of a command's arguments, of which one is given: token ids, the path of a file, or a text.
pub fn prompt(token_ids: Option<&[u32]>, file_path: Option<&Path>, text: Option<&str>) -> Result<Option<Prompt>> {
    Ok(match (token_ids, file_path, text) {
        (Some(ids), ..) => Some(ids.into()),
        (None, Some(path), _) => Some(file(path)?.into()),
        (None, None, Some(text)) => Some(text_or_stdin(text)?.into()),
        (None, None, None) => None,
    })
}

/// The text of a file without the line break at its end, or standard input where the path is `-`.
pub fn file(path: &Path) -> Result<String> {
    if path.as_os_str() == "-" {
        return stdin();
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path:?} as UTF-8 text"))?;
    Ok(without_last_break(text))
}

fn stdin() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read standard input as UTF-8 text")?;
    Ok(without_last_break(text))
}

/// Editors and `echo` end a text with a line break that nobody means to be part of it.
fn without_last_break(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_is_taken_off() {
        for (text, expected) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("", ""), ("a\r", "a\r")] {
            assert_eq!(without_last_break(text.into()), expected);
        }
    }
}
