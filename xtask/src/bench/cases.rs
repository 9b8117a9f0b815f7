//! Which cases a run has: those that the runner lists, and of them those that fit the filter.

use anyhow::{Context as _, Result, bail};
use regex_lite::{Regex, RegexBuilder};
use serde_json::Value;

use super::results::Case;

/// The cases in a runner's answer to `list`.
///
/// # Errors
/// When it is another answer.
pub fn parse(answer: &Value) -> Result<Vec<Case>> {
    let cases = answer["cases"].as_array().context("the runner lists no cases")?;
    let read = |case: &Value| serde_json::from_value(case.clone()).with_context(|| format!("this is no case: {case}"));
    cases.iter().map(read).collect()
}

/// A filter as `--filter` takes it: a regular expression, which a plain part of a name is too.
///
/// # Errors
/// When it is no regular expression.
pub fn filter(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(&plain_sizes(text)).case_insensitive(true).build().map_err(|error| {
        format!(
            "{error}; give a part of a case's name (`--filter linear`) or a regular expression (`--filter 'rope|norm'`)"
        )
    })
}

/// Names have `×` between their sizes, which few keyboards have; an `x` between digits stands for it.
fn plain_sizes(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let digit = |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(char::is_ascii_digit);
    let plain = |(at, char): (usize, &char)| {
        if *char == 'x' && digit(at.checked_sub(1)) && digit(Some(at + 1)) { '×' } else { *char }
    };
    chars.iter().enumerate().map(plain).collect()
}

/// The cases whose label (`linear 1×2048×2048`) the filter finds something in.
///
/// # Errors
/// When there are none; the message names the operations.
pub fn select(cases: Vec<Case>, filter: Option<&Regex>) -> Result<Vec<Case>> {
    let Some(filter) = filter else { return Ok(cases) };
    let mut operations: Vec<String> = cases.iter().map(|case| case.op.clone()).collect();
    operations.dedup();
    let chosen: Vec<Case> = cases.into_iter().filter(|case| filter.is_match(&case.label())).collect();
    if chosen.is_empty() {
        bail!(
            "no case fits the filter `{}`; the operations are {}, and `--list` prints every case",
            filter.as_str(),
            operations.join(", ")
        );
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::case;
    use super::*;
    use serde_json::json;

    fn names(filter_text: &str) -> Result<Vec<String>> {
        let cases =
            vec![case("linear", "1×2048×2048", 1, 1), case("linear", "8×64×64", 1, 1), case("rope", "1×8", 1, 1)];
        let filter = filter(filter_text).map_err(anyhow::Error::msg)?;
        Ok(select(cases, Some(&filter))?.iter().map(Case::label).collect())
    }

    #[test]
    fn parts_of_names_and_expressions_choose() {
        assert_eq!(names("linear").expect("some").len(), 2);
        assert_eq!(names("LINEAR 8").expect("some"), ["linear 8×64×64"]);
        assert_eq!(names("1x2048x2048").expect("some"), ["linear 1×2048×2048"]);
        assert_eq!(names("^rope|8×64").expect("some"), ["linear 8×64×64", "rope 1×8"]);
        assert_eq!(plain_sizes("maxpool 3x4 x5"), "maxpool 3×4 x5");
    }

    #[test]
    fn a_filter_that_fits_nothing_names_the_operations() {
        let error = names("convolution").expect_err("none").to_string();
        assert!(
            error.contains("`convolution`") && error.contains("linear, rope") && error.contains("--list"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for bad in ["(", "[", "*", "a{2,1}"] {
            let error = filter(bad).expect_err(bad);
            assert!(error.contains("--filter linear"), "{error}");
        }
    }

    #[test]
    fn a_runners_list_is_read() {
        let list = json!({"cases": [{"op": "load", "name": "a", "bytes": 5, "flops": 0, "arithmetic": "f32", "only": null,
            "copies": 3, "shape": {"rows": 1}, "yields": {"unit": "tokens", "count": 8}}]});
        let cases = parse(&list).expect("cases");
        assert_eq!((cases[0].label().as_str(), cases[0].copies), ("load a", 3));
        assert_eq!(cases[0].yields.as_ref().map(|yields| yields.count), Some(8));
        assert!(parse(&json!({"error": "x"})).is_err());
        let error = parse(&json!({"cases": [{"op": "load"}]})).expect_err("no name").to_string();
        assert!(error.contains("no case"), "{error}");
    }
}
