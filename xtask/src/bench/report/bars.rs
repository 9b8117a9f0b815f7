//! Bars: what share of the limit each contestant reached, operation by operation. Where no limit is known, a bar is the
//! speed beside the fastest's.

use super::super::results::{By, CaseResult, Results};
use super::super::units;
use super::{color, escaped};

/// Where an operation's axis may end.
const ENDS: [f64; 11] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0];

/// A card for each operation.
pub fn cards(results: &Results) -> String {
    let mut operations: Vec<(&str, Vec<&CaseResult>)> = Vec::new();
    for result in &results.cases {
        match operations.iter_mut().find(|(op, _)| *op == result.case.op) {
            Some((_, cases)) => cases.push(result),
            None => operations.push((&result.case.op, vec![result])),
        }
    }
    operations.iter().map(|(op, cases)| card(results, op, cases)).collect()
}

fn card(results: &Results, op: &str, cases: &[&CaseResult]) -> String {
    let lengths = cases.iter().flat_map(|case| lengths(results, case)).flatten();
    let end = axis_end(lengths.fold(0.0, f64::max));
    let cases: String = cases.iter().map(|case| self::case(results, case, end)).collect();
    let axis = if results.limits.is_empty() {
        "a full bar is the fastest".to_owned()
    } else {
        format!("a full bar is {} of the limit", units::percent(end))
    };
    format!("<section class=\"card\"><h3>{}</h3><p class=\"soft\">{axis}</p>{cases}</section>\n", escaped(op))
}

fn case(results: &Results, result: &CaseResult, end: f64) -> String {
    let lengths = lengths(results, result);
    let bar = |(index, length): (usize, &Option<f64>)| {
        let contestant = &results.contestants[index];
        let row = results.row(result, contestant)?;
        let share = row.share.map_or_else(String::new, |share| format!(" <em>{}</em>", units::percent(share)));
        let limit = if row.share.is_some() && end >= 1.0 {
            format!("<u style=\"left:calc({:.1}% - 2px)\"></u>", 100.0 / end)
        } else {
            String::new()
        };
        Some(format!(
            "<div class=\"bar\"><span class=\"who\">{}</span><span class=\"track\"><i style=\"width:{:.1}%;background:{}\"></i>\
             {limit}</span><span class=\"value\">{}{share}</span></div>",
            escaped(&contestant.label),
            100.0 * ((*length)? / end).min(1.0),
            color(index),
            units::time(row.summary.median)
        ))
    };
    let bars: String = lengths.iter().enumerate().filter_map(bar).collect();
    if bars.is_empty() {
        return String::new();
    }
    let first = results.contestants.first().and_then(|first| results.row(result, first));
    let by = match first.and_then(|row| row.bound).map(|bound| bound.by) {
        Some(By::Memory) => "held by memory",
        Some(By::Cache) => "operands in a cache",
        Some(By::Arithmetic) => "held by arithmetic",
        None => "",
    };
    format!(
        "<div class=\"case\"><p><span>{}</span><span class=\"soft\">{by}</span></p>{bars}</div>",
        escaped(&result.case.name)
    )
}

/// The length of each contestant's bar: its share of the limit, or its speed beside the fastest's.
fn lengths(results: &Results, result: &CaseResult) -> Vec<Option<f64>> {
    let rows: Vec<_> = results.contestants.iter().map(|contestant| results.row(result, contestant)).collect();
    let fastest = rows.iter().flatten().map(|row| row.summary.median).fold(f64::INFINITY, f64::min);
    let length = |row: &Option<super::super::results::Row>| {
        let row = row.as_ref()?;
        Some(if results.limits.is_empty() { fastest / row.summary.median } else { row.share? })
    };
    rows.iter().map(length).collect()
}

/// The first end that the longest bar does not reach past.
fn axis_end(longest: f64) -> f64 {
    ENDS.into_iter().find(|&end| longest <= end).unwrap_or(longest)
}

#[cfg(test)]
mod tests {
    use super::super::super::results::tests::example;
    use super::*;

    #[test]
    fn an_operation_has_one_card_and_a_bar_for_each_time() {
        let cards = cards(&example());
        assert_eq!(cards.matches("<section").count(), 2);
        // Two in the first case; in the others the second contestant has no time.
        assert_eq!(cards.matches("class=\"bar\"").count(), 4);
        assert!(cards.contains("held by memory") && cards.contains("held by arithmetic"));
    }

    #[test]
    fn bars_are_shares_of_the_limit_on_the_operations_axis() {
        let cards = cards(&example());
        // 48% and 24% of the limit, on an axis that ends at 50%.
        assert!(cards.contains("a full bar is 50% of the limit"), "{cards}");
        assert!(cards.contains("width:95.2%") && cards.contains("width:47.6%"), "{cards}");
        assert!(!cards.contains("<u "), "the limit is out of sight");
    }

    #[test]
    fn without_limits_the_fastest_is_full() {
        let mut results = example();
        results.limits.clear();
        let cards = cards(&results);
        assert!(cards.contains("width:100.0%") && cards.contains("width:50.0%"), "{cards}");
    }

    #[test]
    fn axes_end_where_the_longest_bar_fits() {
        assert_eq!(
            [axis_end(0.0), axis_end(0.02), axis_end(0.3), axis_end(1.0), axis_end(1.2)],
            [0.01, 0.02, 0.5, 1.0, 1.5]
        );
        assert_eq!(axis_end(12.0), 12.0);
    }
}
