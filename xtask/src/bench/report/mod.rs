//! The results as a page: one file that needs no network, no scripts and no fonts, for light and dark, wide and narrow.
//!
//! The words and the table are here; the plots are in `bars` and `roofline`.

mod bars;
mod roofline;

use super::baseline::{Change, Comparison};
use super::results::{Contestant, Outcome, Results};
use super::statistics::{geometric_mean, median};
use super::table;
use super::units;

/// The page.
pub fn page(results: &Results, comparison: Option<&Comparison>) -> String {
    let machine = &results.machine;
    let memory = machine.memory.map_or_else(String::new, |bytes| format!(", {}", units::bytes(bytes)));
    let facts = format!(
        "{} · {} processors{memory} · {} · {} · commit {}",
        machine.processor, machine.cores, machine.system, machine.rustc, results.commit
    );
    let kind = if results.quick { "quick run" } else { "full run" };
    [
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n".to_owned(),
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n".to_owned(),
        format!("<title>Fornax benchmarks, {}</title>\n", escaped(&results.date)),
        format!("<style>\n{}</style>\n</head>\n<body>\n<main>\n", include_str!("style.css")),
        "<h1>Fornax benchmarks</h1>\n".to_owned(),
        format!("<p>{} UTC, {kind}</p>\n<p class=\"soft\">{}</p>\n", escaped(&results.date), escaped(&facts)),
        tiles(results),
        comparison.map_or_else(String::new, changes),
        rooflines(results),
        operations(results),
        limits(results),
        figures(results),
        remarks(results),
        format!("<h2>To run it again</h2>\n<pre>{}</pre>\n", escaped(&results.command)),
        "</main>\n</body>\n</html>\n".to_owned(),
    ]
    .concat()
}

/// The few numbers that say most.
fn tiles(results: &Results) -> String {
    let mut tiles = Vec::new();
    if let Some(first) = results.contestants.first() {
        if let Some(limits) = results.limits_of(first) {
            tiles.push((units::bandwidth(limits.memory.all_threads), format!("memory bandwidth of {}", first.label)));
            for arithmetic in ["f32", "bf16", "int8"] {
                if limits.peaks.iter().any(|peak| peak.arithmetic == arithmetic) {
                    tiles.push((units::compute(limits.peak(arithmetic)), format!("peak of {arithmetic} arithmetic")));
                }
            }
        }
        let shares: Vec<f64> = results
            .cases
            .iter()
            .filter(|result| !result.case.in_cache())
            .filter_map(|result| results.row(result, first)?.share)
            .collect();
        if let Some(middle) = median(&shares) {
            let words =
                format!("of the limit reached by {}, median of {} cases beyond caches", first.label, shares.len());
            tiles.push((units::percent(middle), words));
        }
        for other in results.contestants.iter().skip(1) {
            let ratios = results.ratios(other);
            if let Some(mean) = geometric_mean(&ratios) {
                let words =
                    format!("the time of {} is what {} takes, over {} cases", first.label, other.label, ratios.len());
                tiles.push((units::times(mean), words));
            }
        }
    }
    let tile = |(number, words): (String, String)| {
        // The unit is smaller than the number.
        let number = match number.split_once(' ') {
            Some((number, unit)) => format!("{number} <small>{unit}</small>"),
            None => number,
        };
        format!("<div class=\"card tile\"><b>{number}</b><span>{}</span></div>\n", escaped(&words))
    };
    format!("<div class=\"tiles\">\n{}</div>\n", tiles.into_iter().map(tile).collect::<String>())
}

/// What became slower and faster, first of all.
fn changes(comparison: &Comparison) -> String {
    let line = |class: &str, words: &str, change: &Change| {
        format!(
            "<li class=\"{class}\"><b>{words} {}</b> {} on {}: {} → {}</li>\n",
            units::times(change.ratio()),
            escaped(&change.case),
            escaped(&change.contestant),
            units::time(change.before),
            units::time(change.now)
        )
    };
    let worse: String = comparison.regressions.iter().map(|change| line("worse", "slower", change)).collect();
    let better: String = comparison.improvements.iter().map(|change| line("better", "faster", change)).collect();
    let changed = comparison.regressions.len() + comparison.improvements.len();
    let warnings: String =
        comparison.warnings.iter().map(|warning| format!("<p><b>{}</b></p>\n", escaped(warning))).collect();
    format!(
        "<h2>Against “{}”</h2>\n<div class=\"card\"><p class=\"soft\">{}</p>\n{warnings}\
         <ul class=\"changes\">\n{worse}{better}</ul>\n\
         <p class=\"soft\">{} of {} times are unchanged within noise.</p></div>\n",
        escaped(&comparison.name),
        escaped(&comparison.about),
        comparison.compared - changed,
        comparison.compared
    )
}

/// A roofline for each device whose limits are known.
fn rooflines(results: &Results) -> String {
    let plot = |(label, limits): (&String, _)| {
        let on_it: Vec<(usize, &Contestant)> = results
            .contestants
            .iter()
            .enumerate()
            .filter(|(_, contestant)| results.limits_of(contestant) == results.limits.get(label))
            .collect();
        let plot = roofline::svg(results, limits, &on_it)?;
        Some(format!(
            "<h2>Roofline of {}</h2>\n<figure class=\"card\" style=\"margin:0\">{}<div class=\"scroll\">{plot}</div>\
             <figcaption>Each point is a case. No point can be above the roof: on its slope memory holds it up, on its flat \
             part arithmetic does. Pale points have their operands in a cache, and may be above it.</figcaption></figure>\n",
            escaped(label),
            legend(&on_it)
        ))
    };
    results.limits.iter().filter_map(plot).collect()
}

fn legend(contestants: &[(usize, &Contestant)]) -> String {
    let entry = |(index, contestant): &(usize, &Contestant)| {
        format!("<span><i style=\"background:{}\"></i>{}</span>", color(*index), escaped(&full_name(contestant)))
    };
    format!("<div class=\"legend\">{}</div>", contestants.iter().map(entry).collect::<String>())
}

/// Who it is, with its version and threads.
fn full_name(contestant: &Contestant) -> String {
    let threads = contestant.threads.map_or_else(String::new, |threads| format!(", {threads} threads"));
    let name =
        if contestant.is_fornax() { format!("Fornax on {}", contestant.label) } else { contestant.label.clone() };
    format!("{name} {}{threads}", contestant.version)
}

/// Bars for each operation.
fn operations(results: &Results) -> String {
    let everyone: Vec<(usize, &Contestant)> = results.contestants.iter().enumerate().collect();
    format!(
        "<h2>Operations</h2>\n<p class=\"soft\">A bar is the share of the machine's limit that was reached; longer is better. \
         The upright line, where it is in sight, is the limit.</p>\n{}<div class=\"operations\">\n{}</div>\n",
        legend(&everyone),
        bars::cards(results)
    )
}

fn limits(results: &Results) -> String {
    let mut rows = String::new();
    for (label, limits) in &results.limits {
        let mut row = |what: &str, one: Option<String>, all: String, how: &str| {
            rows += &format!(
                "<tr><td class=\"word\">{}</td><td class=\"word\">{what}</td><td>{}</td><td>{all}</td>\
                 <td class=\"word\">{}</td></tr>\n",
                escaped(label),
                one.unwrap_or_else(|| "–".into()),
                escaped(how)
            );
        };
        let memory = &limits.memory;
        let cache = memory
            .largest_cache
            .map_or_else(String::new, |bytes| format!("; the largest cache is said to have {}", units::bytes(bytes)));
        row(
            "memory",
            memory.one_thread.map(units::bandwidth),
            units::bandwidth(memory.all_threads),
            &format!("{}{cache}", memory.how),
        );
        for peak in &limits.peaks {
            row(&peak.arithmetic, peak.one_thread.map(units::compute), units::compute(peak.all_threads), &peak.how);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "<h2>Limits measured</h2>\n<div class=\"card scroll\"><table>\n<tr><th class=\"word\">device</th>\
         <th class=\"word\">limit</th><th>one thread</th><th>all threads</th><th class=\"word\">measured by</th></tr>\n{rows}\
         </table></div>\n"
    )
}

/// Every figure.
fn figures(results: &Results) -> String {
    let mut rows = String::new();
    for result in &results.cases {
        for (index, contestant) in results.contestants.iter().enumerate() {
            let first = index == 0;
            let class = if first { " class=\"first\"" } else { "" };
            let case = if first { result.case.label() } else { String::new() };
            let dot = format!("<i style=\"background:{}\"></i>", color(index));
            let head = format!(
                "<tr{class}><td class=\"word\">{}</td><td class=\"word\">{dot}{}</td>",
                escaped(&case),
                escaped(&contestant.label)
            );
            let Some(row) = results.row(result, contestant) else {
                let reason = match result.outcomes.get(&contestant.label) {
                    Some(Outcome::Failed(reason)) => format!("failed: {reason}"),
                    Some(Outcome::Unsupported(reason)) => reason.clone(),
                    _ => "not measured".into(),
                };
                rows += &format!("{head}<td class=\"word\" colspan=\"7\">{}</td></tr>\n", escaped(&reason));
                continue;
            };
            let yields = result.case.yields.as_ref().map_or_else(String::new, |yields| {
                units::rate(yields.count as f64 / row.summary.median, &format!("{}/s", yields.unit))
            });
            let compute = if result.case.flops == 0 { "–".into() } else { units::compute(row.flops_per_second) };
            rows += &format!(
                "{head}<td>{}</td><td>{}</td><td>{}</td><td>{compute}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                units::time(row.summary.median),
                row.summary.spread().map_or_else(|| "–".into(), units::percent),
                units::bandwidth(row.bytes_per_second),
                table::share(&row).unwrap_or_else(|| "–".into()),
                row.to_first.filter(|_| !first).map_or_else(|| "–".into(), units::times),
                escaped(&yields)
            );
        }
    }
    let reference = results.contestants.first().map_or("the first", |first| &first.label);
    format!(
        "<h2>Figures</h2>\n<p class=\"soft\">Medians of the rounds, in which the contestants took turns; ± is half of what lies \
         between the fastest and the slowest round. Memory and compute are the least bytes and operations of a case over its \
         time; “of limit” is the time that memory (mem) or arithmetic (comp) needs at the least, over the time measured; “cache” is memory’s limit for operands that fit in a cache, \
         which can beat it.</p>\n\
         <div class=\"card scroll\"><table>\n<tr><th class=\"word\">case</th><th class=\"word\">on</th><th>time</th><th>±</th>\
         <th>memory</th><th>compute</th><th>of limit</th><th>time ÷ {}</th><th>yields</th></tr>\n{rows}</table></div>\n",
        escaped(reference)
    )
}

fn remarks(results: &Results) -> String {
    let remarks = table::remarks(results);
    if remarks.is_empty() {
        return String::new();
    }
    let items: String = remarks.iter().map(|remark| format!("<li>{}</li>\n", escaped(remark))).collect();
    format!("<h2>Remarks</h2>\n<ul class=\"soft\">\n{items}</ul>\n")
}

/// The colour of a contestant, by its place.
fn color(index: usize) -> String {
    format!("var(--c{})", index.min(5))
}

/// Text as HTML shows it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::baseline::compare;
    use super::super::results::tests::{example, timed};
    use super::*;

    #[test]
    fn the_page_holds_itself_together() {
        let results = example();
        let page = page(&results, Some(&compare("main", &results, &results)));
        for outside in ["http://", "https://", "<script", "<link", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        for tag in ["html", "body", "main", "table", "svg", "figure", "div", "ul", "li", "tr", "td"] {
            let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
            assert!(opened > 0, "{tag}");
        }
        assert!(page.contains("prefers-color-scheme: dark") && page.contains("width=device-width"));
    }

    #[test]
    fn what_was_measured_is_on_it() {
        let page = page(&example(), None);
        for words in [
            "2026-01-02 03:04",
            "abc1234",
            "cargo xtask bench --peers torch",
            "10.0 GB/s",
            "linear 1×2×3",
            "2.10 ms",
            "48% mem",
            "candle: cargo is not there",
            "failed: ended by signal 4",
        ] {
            assert!(page.contains(words), "{words}");
        }
        assert!(!page.contains("Against"));
    }

    #[test]
    fn names_cannot_break_the_page() {
        let page = page(&example(), None);
        assert!(page.contains("A &lt;processor&gt; &amp; more") && page.contains("no &lt;such&gt; kernel"));
        assert_eq!(escaped("<\"&\">"), "&lt;&quot;&amp;&quot;&gt;");
    }

    #[test]
    fn regressions_are_named_before_all_else() {
        let mut now = example();
        now.cases[1].outcomes.insert("cpu".into(), timed(&[4e-2]));
        let page = page(&now, Some(&compare("main", &example(), &now)));
        let at = |words: &str| page.find(words).unwrap_or_else(|| panic!("{words}"));
        assert!(at("slower 2.00×") < at("<h2>Roofline") && at("<h2>Roofline") < at("<h2>Operations"));
    }

    #[test]
    fn a_run_without_limits_and_times_has_a_page() {
        let mut results = example();
        results.limits.clear();
        assert!(page(&results, None).contains("<h2>Figures</h2>"));
        results.cases.clear();
        results.contestants.clear();
        assert!(page(&results, None).contains("</html>"));
    }
}
