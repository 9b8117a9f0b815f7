//! How an error is shown: what went wrong, then what it came from, each said once.

use crate::notices::say;

/// Writes an error and its causes on standard error.
pub fn error(error: &anyhow::Error) {
    say(format_args!("error: {}", text(error)));
}

/// The error, and below it the causes that it does not name itself.
fn text(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Many errors of libraries tell their cause in their own text.
        if !text.contains(&cause) {
            text.push_str("\n  caused by: ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn causes_are_named_once() {
        let error = anyhow!("no such file").context("cannot open x: no such file").context("cannot load the model");
        assert_eq!(text(&error), "cannot load the model\n  caused by: cannot open x: no such file");
    }
}
