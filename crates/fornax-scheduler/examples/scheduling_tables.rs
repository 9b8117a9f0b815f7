//! Rewrites the tables and figures of docs/src/scheduling.md, from the scenarios and numbers of seeds that the page
//! names.
//!
//! ```sh
//! cargo run --release -p fornax-scheduler --features simulate --example scheduling_tables
//! cargo run --release -p fornax-scheduler --features simulate --example scheduling_tables -- policies mixed
//! ```
//!
//! A table stands between `<!-- simulate policies, 5 seeds: By class -->` and `<!-- end -->`. If scenarios are named,
//! only their tables and figures are written.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to its terminal")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::{env, fs};

use fornax_scheduler::simulate::{BUILT_IN, Outcome, Scenario};

/// The figures of the chapter: the scenario, its plot, and the file.
const FIGURES: [(&str, &str, &str); 5] = [
    ("mixed", "first-token-short.svg", "mixed-short.svg"),
    ("policies", "first-token-short.svg", "policies-short.svg"),
    ("balance", "balance.svg", "balance.svg"),
    ("learning", "regret.svg", "regret.svg"),
    ("learning-alike", "regret.svg", "regret-alike.svg"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let names: Vec<String> = env::args().skip(1).collect();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src");
    let chapter = docs.join("scheduling.md");
    let mut outcomes: BTreeMap<(String, u64), Outcome> = BTreeMap::new();
    let mut written = String::new();
    let text = fs::read_to_string(&chapter)?;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        written.push_str(line);
        written.push('\n');
        let Some((scenario, seeds, title)) = marker(line)? else { continue };
        let old: Vec<&str> = lines.by_ref().take_while(|line| *line != "<!-- end -->").collect();
        if names.is_empty() || names.iter().any(|name| name == scenario) {
            let key = (scenario.to_owned(), seeds);
            if !outcomes.contains_key(&key) {
                outcomes.insert(key.clone(), run(scenario, seeds)?);
            }
            let table = outcomes[&key].tables().into_iter().find(|table| table.title.starts_with(title));
            written.push_str(&table.ok_or_else(|| format!("{scenario} has no table {title:?}"))?.markdown());
        } else {
            old.iter().for_each(|line| written.extend([line, "\n"]));
        }
        written.push_str("<!-- end -->\n");
    }
    fs::write(&chapter, written)?;
    for (scenario, plot, file) in FIGURES {
        let outcome = outcomes.iter().find(|((name, _), _)| name == scenario).map(|(_, outcome)| outcome);
        let plots = outcome.map(Outcome::plots).unwrap_or_default();
        if let Some((_, svg)) = plots.iter().find(|(name, _)| name == plot) {
            fs::write(docs.join("figures/scheduling").join(file), svg)?;
        }
    }
    Ok(())
}

/// The scenario, the number of seeds, and the title of the table.
type Marker<'a> = (&'a str, u64, &'a str);

/// The table that a line marks, if it is a marker.
fn marker(line: &str) -> Result<Option<Marker<'_>>, Box<dyn Error>> {
    let Some(rest) = line.strip_prefix("<!-- simulate ").and_then(|rest| rest.strip_suffix(" -->")) else {
        return Ok(None);
    };
    let wrong = || format!("{line}: expected <!-- simulate NAME, N seeds: TABLE -->");
    let (name, rest) = rest.split_once(", ").ok_or_else(wrong)?;
    let (seeds, title) = rest.split_once(": ").ok_or_else(wrong)?;
    let seeds = seeds.trim_end_matches(" seeds").trim_end_matches(" seed").parse().map_err(|_| wrong())?;
    Ok(Some((name, seeds, title)))
}

fn run(name: &str, seeds: u64) -> Result<Outcome, Box<dyn Error>> {
    let (_, text) = BUILT_IN.iter().find(|(other, _)| *other == name).ok_or_else(|| format!("no scenario {name}"))?;
    let scenario = Scenario { seeds, ..Scenario::parse(text)? };
    let outcome = scenario.run(None, &mut |progress| {
        if progress.requests == 0 {
            eprintln!("{name}: {} of {}, {}", progress.run + 1, progress.runs, progress.variant);
        }
    })?;
    Ok(outcome)
}
