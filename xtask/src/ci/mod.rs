//! Runs what CI runs: a list of steps, cheapest first, each timed.
//!
//! The steps are data (`steps.rs`) and what a step asks of the machine stands apart (`needs.rs`). What is here only
//! chooses among them, runs them in order and says how it went; it knows no step by name.

mod needs;
mod steps;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::workspace::Workspace;

pub use steps::{STEPS, Step, fail_with};

/// Which steps to run, and when to stop.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Run these alone; empty means all.
    pub only: Vec<String>,
    /// Leave these out.
    pub skip: Vec<String>,
    /// Go on after a step that failed.
    pub keep_going: bool,
}

/// How a step ended.
#[derive(Debug)]
pub enum Outcome {
    /// It ran and held.
    Passed,
    /// It could not run here, and why.
    Skipped(String),
    /// It ran and did not hold, and why.
    Failed(String),
    /// An earlier step failed.
    NotRun,
}

/// A step's name, how it ended and how long it took.
#[derive(Debug)]
pub struct Record {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

/// Runs the steps that `options` choose and prints a summary.
///
/// # Errors
/// When a step failed, naming it.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let chosen = choose(STEPS, options);
    let mut at = 0;
    let records = run_all(&chosen, options.keep_going, |step| {
        at += 1;
        eprintln!("\n== [{at}/{}] {}: {}", chosen.len(), step.name, step.purpose);
        step.run(workspace)
    });
    eprintln!("\n{}", summary(&records));
    let failed: Vec<&str> = records
        .iter()
        .filter(|record| matches!(record.outcome, Outcome::Failed(_)))
        .map(|record| record.name)
        .collect();
    if !failed.is_empty() {
        bail!("{} failed; run one alone with `cargo xtask ci --only {}`", failed.join(", "), failed[0]);
    }
    Ok(())
}

/// The steps with what they are for, one a line.
pub fn list() -> String {
    let width = STEPS.iter().map(|step| step.name.len()).max().unwrap_or(0);
    STEPS.iter().map(|step| format!("{:width$}  {}\n", step.name, step.purpose)).collect()
}

/// The steps that `options` choose, in their own order.
fn choose<'a>(steps: &'a [Step], options: &Options) -> Vec<&'a Step> {
    let named = |names: &[String], step: &Step| names.iter().any(|name| name == step.name);
    steps
        .iter()
        .filter(|step| options.only.is_empty() || named(&options.only, step))
        .filter(|step| !named(&options.skip, step))
        .collect()
}

/// Gives each step to `execute` until one fails, or to the end; the clock is read here and nowhere else.
fn run_all(steps: &[&Step], keep_going: bool, mut execute: impl FnMut(&Step) -> Result<Option<String>>) -> Vec<Record> {
    let mut stopped = false;
    let mut records = Vec::new();
    for step in steps {
        let start = Instant::now();
        let outcome = if stopped {
            Outcome::NotRun
        } else {
            match execute(step) {
                Ok(None) => Outcome::Passed,
                Ok(Some(why)) => {
                    eprintln!("skipped: {why}");
                    Outcome::Skipped(why)
                }
                Err(error) => {
                    eprintln!("failed: {error:#}");
                    stopped = !keep_going;
                    Outcome::Failed(format!("{error:#}"))
                }
            }
        };
        records.push(Record { name: step.name, outcome, took: start.elapsed() });
    }
    records
}

/// One line a step: its name, its time, how it ended.
fn summary(records: &[Record]) -> String {
    let width = records.iter().map(|record| record.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Record { name, outcome, took } in records {
        let ended = match outcome {
            Outcome::Passed => "passed".to_owned(),
            Outcome::Skipped(why) => format!("skipped: {why}"),
            // What a check found may be long, and stands above already.
            Outcome::Failed(why) => format!("FAILED: {}", why.lines().next().unwrap_or_default()),
            Outcome::NotRun => "not run".to_owned(),
        };
        text.push_str(&format!("{name:width$}  {:>7.1} s  {ended}\n", took.as_secs_f64()));
    }
    let total: Duration = records.iter().map(|record| record.took).sum();
    text.push_str(&format!("{:width$}  {:>7.1} s", "all", total.as_secs_f64()));
    text
}

#[cfg(test)]
mod tests {
    use super::steps::Action;
    use super::*;

    const NAMES: [&str; 3] = ["one", "two", "three"];

    fn steps() -> Vec<Step> {
        NAMES
            .into_iter()
            .map(|name| Step { name, purpose: "a test", needs: None, environment: &[], action: Action::Cargo(&[]) })
            .collect()
    }

    fn names(options: &Options) -> Vec<&'static str> {
        choose(&steps(), options).iter().map(|step| step.name).collect()
    }

    #[test]
    fn steps_are_chosen_in_their_own_order() {
        assert_eq!(names(&Options::default()), NAMES);
        let only = Options { only: vec!["three".into(), "one".into()], ..Options::default() };
        assert_eq!(names(&only), ["one", "three"]);
        let skip = Options { skip: vec!["one".into()], ..only };
        assert_eq!(names(&skip), ["three"]);
    }

    #[test]
    fn the_first_failure_stops_the_rest() {
        let steps = steps();
        let steps: Vec<&Step> = steps.iter().collect();
        let mut seen = Vec::new();
        let records = run_all(&steps, false, |step| {
            seen.push(step.name);
            if step.name == "two" { bail!("it broke\nhere") } else { Ok(None) }
        });
        assert_eq!(seen, ["one", "two"]);
        assert!(matches!(records[0].outcome, Outcome::Passed));
        assert!(matches!(&records[1].outcome, Outcome::Failed(why) if why.starts_with("it broke")));
        assert!(matches!(records[2].outcome, Outcome::NotRun));
        let summary = summary(&records);
        let lines: Vec<&str> = summary.lines().collect();
        assert_eq!(lines.len(), 4, "{summary}");
        assert!(lines[1].ends_with("FAILED: it broke") && lines[2].ends_with("not run"), "{summary}");
    }

    #[test]
    fn keep_going_runs_every_step() {
        let steps = steps();
        let steps: Vec<&Step> = steps.iter().collect();
        let records = run_all(&steps, true, |step| match step.name {
            "one" => bail!("it broke"),
            "two" => Ok(Some("no device".into())),
            _ => Ok(None),
        });
        assert!(matches!(records[0].outcome, Outcome::Failed(_)));
        assert!(matches!(&records[1].outcome, Outcome::Skipped(why) if why == "no device"));
        assert!(matches!(records[2].outcome, Outcome::Passed));
        assert!(summary(&records).contains("skipped: no device"));
    }

    #[test]
    fn the_real_steps_have_names_of_their_own() {
        let mut names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STEPS.len());
        assert_eq!(list().lines().count(), STEPS.len());
    }
}
