//! The results as text: a table for the terminal, and the same in Markdown. The page with pictures is `report`'s.

use super::baseline::{Change, Comparison};
use super::results::{By, CaseResult, Contestant, Outcome, Results, Row};
use super::statistics::geometric_mean;
use super::units;

/// The columns; the first two are words, the others numbers.
const COLUMNS: [&str; 8] = ["case", "on", "time", "±", "memory", "compute", "of limit", "time ÷ first"];

/// The table's rows: a line for each contestant of a case, in the order of the contestants.
fn lines(results: &Results) -> Vec<[String; COLUMNS.len()]> {
    let mut lines = Vec::new();
    for result in &results.cases {
        for (index, contestant) in results.contestants.iter().enumerate() {
            let case = if index == 0 { result.case.label() } else { String::new() };
            lines.push(line(results, result, contestant, case, index > 0));
        }
    }
    lines
}

fn line(
    results: &Results,
    result: &CaseResult,
    contestant: &Contestant,
    case: String,
    compared: bool,
) -> [String; COLUMNS.len()] {
    let on = contestant.label.clone();
    let dash = || "–".to_owned();
    let Some(row) = results.row(result, contestant) else {
        let reason = match result.outcomes.get(&contestant.label) {
            Some(Outcome::Failed(_)) => "failed",
            _ => "has none",
        };
        return [case, on, reason.into(), dash(), dash(), dash(), dash(), dash()];
    };
    [
        case,
        on,
        units::time(row.summary.median),
        row.summary.spread().map_or_else(dash, units::percent),
        units::bandwidth(row.bytes_per_second),
        if result.case.flops == 0 { dash() } else { units::compute(row.flops_per_second) },
        share(&row).unwrap_or_else(dash),
        row.to_first.filter(|_| compared).map_or_else(dash, units::times),
    ]
}

/// The share of the limit, and which limit it is: `78% mem`. Of the three words, `cache` is the limit of memory too, for a
/// case that need not keep to it.
pub fn share(row: &Row) -> Option<String> {
    let by = match row.bound?.by {
        By::Memory => "mem",
        By::Cache => "cache",
        By::Arithmetic => "comp",
    };
    Some(format!("{} {by}", units::percent(row.share?)))
}

/// The table with its columns aligned.
pub fn terminal(results: &Results) -> String {
    let lines = lines(results);
    let width = |column: usize| {
        let cells = lines.iter().map(|line| &line[column][..]).chain([COLUMNS[column]]);
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let aligned = |cells: &[&str]| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    let mut text = aligned(&COLUMNS);
    for line in &lines {
        text += &aligned(&line.each_ref().map(String::as_str));
    }
    text
}

/// What a reader of the table must know: who failed and why, what was left out.
pub fn remarks(results: &Results) -> Vec<String> {
    let mut remarks = Vec::new();
    for result in &results.cases {
        for (label, outcome) in &result.outcomes {
            if let Outcome::Failed(reason) = outcome {
                remarks.push(format!("{label} failed in {}: {reason}", result.case.label()));
            }
        }
    }
    remarks.extend(results.skipped.iter().cloned());
    remarks.extend(results.notes.iter().cloned());
    remarks
}

/// A sentence for each contestant but the first: how its times compare.
pub fn summary(results: &Results) -> Vec<String> {
    let Some((first, others)) = results.contestants.split_first() else { return Vec::new() };
    let sentence = |other: &Contestant| {
        let ratios = results.ratios(other);
        let mean = geometric_mean(&ratios)?;
        let faster = ratios.iter().filter(|&&ratio| ratio > 1.0).count();
        Some(format!(
            "{} takes {} the time of {} (geometric mean of {} cases; {} is faster in {faster} of them)",
            other.label,
            units::times(mean),
            first.label,
            ratios.len(),
            first.label,
        ))
    };
    others.iter().filter_map(sentence).collect()
}

/// The lines of a comparison, regressions first.
pub fn comparison(comparison: &Comparison) -> Vec<String> {
    let mut lines = vec![format!("Against `{}` ({}):", comparison.name, comparison.about)];
    lines.extend(comparison.warnings.iter().map(|warning| format!("note: {warning}")));
    let change = |words: &str, change: &Change| {
        let (before, now) = (units::time(change.before), units::time(change.now));
        format!(
            "{words}  {} on {}: {before} → {now} ({})",
            change.case,
            change.contestant,
            units::times(change.ratio())
        )
    };
    lines.extend(comparison.regressions.iter().map(|regression| change("slower", regression)));
    lines.extend(comparison.improvements.iter().map(|improvement| change("faster", improvement)));
    let changed = comparison.regressions.len() + comparison.improvements.len();
    lines.push(match comparison.compared {
        0 => "no case in common".to_owned(),
        compared => format!("{} of {compared} times are unchanged within noise", compared - changed),
    });
    lines
}

/// The whole as Markdown.
pub fn markdown(results: &Results, compared: Option<&Comparison>) -> String {
    let machine = &results.machine;
    let mut text = format!(
        "# Benchmarks, {} UTC\n\n{}, {} processors, {}, {}. Commit {}.\n\n```sh\n{}\n```\n",
        results.date, machine.processor, machine.cores, machine.system, machine.rustc, results.commit, results.command
    );
    if let Some(compared) = compared {
        text += "\n## Changes\n\n";
        text += &comparison(compared).iter().map(|line| format!("- {}\n", escaped(line))).collect::<String>();
    }
    text += "\n## Limits\n\n| device | limit | one thread | all threads | measured by |\n|---|---|--:|--:|---|\n";
    for (label, limits) in &results.limits {
        let one = |rate: Option<f64>, unit: fn(f64) -> String| rate.map_or_else(|| "–".into(), unit);
        let memory = &limits.memory;
        text += &format!(
            "| {label} | memory | {} | {} | {} |\n",
            one(memory.one_thread, units::bandwidth),
            units::bandwidth(memory.all_threads),
            escaped(&memory.how)
        );
        for peak in &limits.peaks {
            text += &format!(
                "| {label} | {} | {} | {} | {} |\n",
                peak.arithmetic,
                one(peak.one_thread, units::compute),
                units::compute(peak.all_threads),
                escaped(&peak.how)
            );
        }
    }
    text += "\n## Times\n\n";
    text += &summary(results).iter().map(|line| format!("- {}\n", escaped(line))).collect::<String>();
    text += &format!("\n| {} |\n|---|---|{}\n", COLUMNS.join(" | "), "--:|".repeat(COLUMNS.len() - 2));
    for line in lines(results) {
        text += &format!("| {} |\n", line.map(|cell| escaped(&cell)).join(" | "));
    }
    text += "\nTimes are medians of the rounds, ± half of what lies between the fastest and the slowest round. Memory and \
             compute are the least bytes and operations of a case over its time; \"of limit\" is the time that memory (mem) or \
             arithmetic (comp) needs at the least, over the time measured; \
             \"cache\" is memory's limit for operands that fit in a cache, which can beat it.\n";
    let remarks = remarks(results);
    if !remarks.is_empty() {
        text += "\n## Remarks\n\n";
        text += &remarks.iter().map(|remark| format!("- {}\n", escaped(remark))).collect::<String>();
    }
    text
}

/// Text that Markdown takes for nothing else, on one line.
fn escaped(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::super::baseline::compare;
    use super::super::results::tests::{example, timed};
    use super::*;

    #[test]
    fn the_terminals_columns_are_aligned() {
        let text = terminal(&example());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 7);
        assert!(lines[1].starts_with("linear 1×2×3    cpu"), "{text}");
        assert!(
            lines[1].contains("2.10 ms") && lines[1].contains("4.76 GB/s") && lines[1].contains("48% mem"),
            "{text}"
        );
        assert!(lines[2].trim_start().starts_with("torch") && lines[2].ends_with("2.00×"), "{text}");
        assert!(lines[3].contains("50% comp"), "{text}");
        assert!(lines[4].contains("has none"), "{text}");
        assert!(lines[6].contains("failed"), "{text}");
        let end = |line: &str| line.split("ms").next().unwrap_or_default().chars().count();
        assert_eq!(end(lines[1]), end(lines[3]), "{text}");
    }

    #[test]
    fn remarks_say_what_failed_and_what_was_skipped() {
        let remarks = remarks(&example());
        assert_eq!(remarks[0], "torch failed in rope 1×8: ended by signal 4");
        assert!(remarks.contains(&"candle: cargo is not there".to_owned()));
        assert!(remarks.contains(&"Other programs were running.".to_owned()));
    }

    #[test]
    fn the_summary_compares_with_the_first() {
        let summary = summary(&example());
        assert_eq!(
            summary,
            ["torch takes 2.00× the time of cpu (geometric mean of 1 cases; cpu is faster in 1 of them)"]
        );
    }

    #[test]
    fn regressions_come_before_improvements() {
        let mut now = example();
        now.cases[0].outcomes.insert("cpu".into(), timed(&[1e-3]));
        now.cases[1].outcomes.insert("cpu".into(), timed(&[4e-2]));
        let lines = comparison(&compare("main", &example(), &now));
        assert_eq!(lines[0], "Against `main` (2026-01-02 03:04, commit abc1234):");
        assert_eq!(lines[1], "slower  linear 512×2×3 on cpu: 20.0 ms → 40.0 ms (2.00×)");
        assert!(lines[2].starts_with("faster  linear 1×2×3"), "{lines:?}");
        assert_eq!(lines[3], "1 of 3 times are unchanged within noise");
    }

    #[test]
    fn markdown_has_a_row_for_every_line_and_escapes() {
        let results = example();
        let text = markdown(&results, Some(&compare("main", &results, &results)));
        let rows = text.lines().filter(|line| line.starts_with("| linear") || line.starts_with("| rope")).count();
        assert_eq!(rows, 3);
        assert!(text.contains("| cpu | memory | 6.00 GB/s | 10.0 GB/s |"), "{text}");
        assert!(text.contains("A <processor>") && text.contains("cargo xtask bench --peers torch"), "{text}");
        assert!(text.contains("## Changes") && text.contains("3 of 3 times are unchanged"), "{text}");
        assert_eq!(escaped("a|b\n<c"), "a\\|b &lt;c");
    }
}
