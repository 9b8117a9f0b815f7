//! Plots, read back: where lines, points, bars and words stand. The axes span 620 by 290, from (70, 330) to (690, 40).

use std::collections::BTreeMap;

use fornax_scheduler::simulate::plot::{Labels, Line, bars, lines, points};

/// An element's attributes, and its words under the empty name.
type Element = BTreeMap<String, String>;

/// The elements of a kind, in order.
fn elements(svg: &str, kind: &str) -> Vec<Element> {
    let begin = format!("<{kind} ");
    svg.lines()
        .filter_map(|line| line.strip_prefix(&begin))
        .map(|line| {
            let (head, rest) = line.split_once('>').expect("an element that is closed");
            let mut element = Element::new();
            let mut parts = head.split('"');
            while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
                element.insert(name.trim().trim_end_matches('=').to_owned(), value.to_owned());
            }
            element.insert(String::new(), rest.split('<').next().unwrap_or_default().to_owned());
            element
        })
        .collect()
}

/// The numbers of some attributes of an element.
fn numbers<const N: usize>(element: &Element, names: [&str; N]) -> [f64; N] {
    names.map(|name| element[name].parse().unwrap_or_else(|_| panic!("{name} of {element:?}")))
}

/// Where words stand, by what they say and how they are aligned.
fn words(svg: &str, anchor: &str) -> Vec<(String, f64, f64)> {
    let texts = elements(svg, "text").into_iter().filter(|text| text.get("text-anchor").is_some_and(|at| at == anchor));
    texts
        .map(|text| {
            let [x, y] = numbers(&text, ["x", "y"]);
            (text[""].clone(), x, y)
        })
        .collect()
}

/// The numbers below the horizontal axis with their places.
fn ticks(svg: &str) -> Vec<(String, f64)> {
    words(svg, "middle").into_iter().filter(|(_, _, y)| *y == 348.0).map(|(text, x, _)| (text, x)).collect()
}

fn line(name: &str, points: &[(f64, f64)]) -> Line {
    Line { name: name.into(), points: points.to_vec() }
}

const LABELS: Labels<'static> = Labels { title: "a title", x: "across", y: "up", log_x: false };

#[test]
fn lines_run_between_the_axes() {
    let svg = lines(LABELS, &[line("one", &[(2.0, 0.0), (4.0, 3.0), (12.0, 8.0)]), line("two", &[(2.0, 10.0)])]);
    let drawn = elements(&svg, "polyline");
    assert_eq!(drawn[0]["points"], "70.0,330.0 194.0,243.0 690.0,98.0");
    assert_eq!(drawn[1]["points"], "70.0,40.0");
    assert_ne!(drawn[0]["stroke"], drawn[1]["stroke"]);
    let expected = [("2", 70.0), ("4", 194.0), ("6", 318.0), ("8", 442.0), ("10", 566.0), ("12", 690.0)];
    assert_eq!(ticks(&svg), expected.map(|(text, x)| (text.to_owned(), x)));
    // The grid with its numbers, then the ticks, then the legend's samples.
    let rules: Vec<[f64; 4]> =
        elements(&svg, "line").iter().map(|rule| numbers(rule, ["x1", "y1", "x2", "y2"])).collect();
    let heights = [330.0, 272.0, 214.0, 156.0, 98.0, 40.0];
    assert_eq!(rules[..6], heights.map(|y| [70.0, y, 690.0, y]));
    assert_eq!(rules[6..12], expected.map(|(_, x)| [x, 330.0, x, 334.0]));
    assert_eq!(rules[12..], [[704.0, 46.0, 724.0, 46.0], [704.0, 61.0, 724.0, 61.0]]);
    let strokes: Vec<String> = elements(&svg, "line")[..7].iter().map(|rule| rule["stroke"].clone()).collect();
    assert_eq!(strokes, ["#444", "#ddd", "#ddd", "#ddd", "#ddd", "#ddd", "#444"]);
    let heights = ["0", "2", "4", "6", "8", "10"].into_iter().zip(heights.map(|y| y + 4.0));
    assert_eq!(words(&svg, "end"), heights.map(|(text, y)| (text.to_owned(), 64.0, y)).collect::<Vec<_>>());
    assert_eq!(words(&svg, "start"), [("one".to_owned(), 730.0, 50.0), ("two".to_owned(), 730.0, 65.0)]);
    let middle = words(&svg, "middle");
    for (text, x, y) in [("a title", 380.0, 18.0), ("across", 380.0, 368.0), ("up", 16.0, 190.0)] {
        assert!(middle.contains(&(text.to_owned(), x, y)), "{text}: {middle:?}");
    }
}

#[test]
fn logarithmic_axes_are_marked_by_powers_of_ten() {
    let of = |low: f64, high: f64| lines(Labels { log_x: true, ..LABELS }, &[line("one", &[(low, 0.0), (high, 1.0)])]);
    let near = |found: Vec<(String, f64)>, expected: &[(&str, f64)]| {
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((text, x), (word, at)) in found.iter().zip(expected) {
            assert!(text == word && (x - at).abs() < 0.11, "{found:?}");
        }
    };
    near(ticks(&of(0.01, 10.0)), &[("0.01", 70.0), ("0.1", 276.7), ("1", 483.3), ("10", 690.0)]);
    near(ticks(&of(5.0, 200.0)), &[("10", 186.5), ("100", 573.5)]);
    // Where there is one power or none, six numbers stand evenly.
    let even = [70.0, 194.0, 318.0, 442.0, 566.0, 690.0];
    let expected = ["2", "3.17", "5.02", "7.96", "12.62", "20"];
    near(ticks(&of(2.0, 20.0)), &std::array::from_fn::<_, 6, _>(|at| (expected[at], even[at])));
    let expected = ["2", "2.4", "2.9", "3.5", "4.2", "5"];
    near(ticks(&of(2.0, 5.0)), &std::array::from_fn::<_, 6, _>(|at| (expected[at], even[at])));
    // What has no logarithm stands at its least.
    assert!(elements(&of(0.0, 10.0), "polyline")[0]["points"].starts_with("70.0,330.0 "));
}

#[test]
fn axes_without_a_width_are_given_one() {
    let svg = lines(LABELS, &[line("one", &[(3.0, 5.0)])]);
    assert_eq!(elements(&svg, "polyline")[0]["points"], "380.0,40.0");
    let found: Vec<String> = ticks(&svg).into_iter().map(|(text, _)| text).collect();
    assert_eq!(found, ["2.5", "2.7", "2.9", "3.1", "3.3", "3.5"]);
    // Marks that lie close together have as many digits as tell them apart.
    let close = lines(LABELS, &[line("one", &[(1.0, 0.0), (1.002, 1.0)])]);
    let found: Vec<String> = ticks(&close).into_iter().map(|(text, _)| text).collect();
    assert_eq!(found, ["1", "1.0004", "1.0008", "1.0012", "1.0016", "1.002"]);
    let nothing = lines(LABELS, &[]);
    let found: Vec<String> = ticks(&nothing).into_iter().map(|(text, _)| text).collect();
    assert_eq!(found, ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
    assert_eq!(words(&nothing, "end").last().map(|(text, ..)| text.as_str()), Some("1"));
}

#[test]
fn points_stand_off_the_sides() {
    let named = |at: usize, x: f64, y: f64| (format!("p{at}"), (x, y));
    let svg = points(LABELS, &[named(0, 0.0, 1.0), named(1, 10.0, 2.0)]);
    let circles: Vec<[f64; 2]> = elements(&svg, "circle").iter().map(|mark| numbers(mark, ["cx", "cy"])).collect();
    // Each point and its mark in the legend; a 25th of the width is left on both sides.
    assert_eq!(circles, [[93.0, 185.0], [714.0, 46.0], [667.0, 40.0], [714.0, 61.0]]);
    // Wherever they lie.
    let svg = points(LABELS, &[named(0, 500.0, 1.0), named(1, 510.0, 2.0)]);
    let far: Vec<[f64; 2]> = elements(&svg, "circle").iter().map(|mark| numbers(mark, ["cx", "cy"])).collect();
    assert_eq!(far, circles);
    let many: Vec<(String, (f64, f64))> = (0..14).map(|at| named(at, 5.0, at as f64)).collect();
    let svg = points(LABELS, &many);
    assert_eq!(elements(&svg, "circle").len(), 24);
    let squares: Vec<[f64; 4]> =
        elements(&svg, "rect")[1..].iter().map(|mark| numbers(mark, ["x", "y", "width", "height"])).collect();
    // The thirteenth, at 12 of 20.
    assert_eq!(squares[..2], [[375.0, 151.0, 10.0, 10.0], [709.0, 221.0, 10.0, 10.0]]);
    let fills: Vec<String> = elements(&svg, "circle").iter().map(|mark| mark["fill"].clone()).collect();
    assert!(fills[0] == fills[1] && fills[0] != fills[2]);
    assert_eq!(elements(&svg, "rect")[1]["fill"], fills[0], "colours repeat");
}

#[test]
fn bars_stand_in_groups_with_their_numbers() {
    let series = [("s".to_owned(), vec![1.0, 2.0]), ("t".to_owned(), vec![3.0, 4.0])];
    let svg = bars(LABELS, &["a", "b"], &series);
    let drawn: Vec<[f64; 4]> =
        elements(&svg, "rect").iter().skip(1).map(|bar| numbers(bar, ["x", "y", "width", "height"])).collect();
    let legend = |y| [709.0, y, 10.0, 10.0];
    let expected = [
        [101.0, 272.0, 114.1, 58.0],
        [411.0, 214.0, 114.1, 116.0],
        legend(41.0),
        [225.0, 156.0, 114.1, 174.0],
        [535.0, 98.0, 114.1, 232.0],
        legend(56.0),
    ];
    assert_eq!(drawn, expected);
    let expected = [("a", 225.0), ("b", 535.0)];
    assert_eq!(ticks(&svg), expected.map(|(text, x)| (text.to_owned(), x)));
    let middle = words(&svg, "middle");
    for (text, x, y) in [("1", 158.0, 268.0), ("2", 468.0, 210.0), ("3", 282.0, 152.0), ("4", 592.0, 94.0)] {
        assert!(middle.contains(&(text.to_owned(), x, y)), "{text}: {middle:?}");
    }
    // The highest bar leaves room for its number: 5 is the top where 4 is the most, and 10 where it is 5.
    let top = |most: f64| {
        let svg = bars(LABELS, &["a"], &[("s".to_owned(), vec![most])]);
        words(&svg, "end").last().map(|(text, ..)| text.clone()).expect("a number at the top")
    };
    assert_eq!([4.0, 5.0, 0.0, 0.9, 190.0].map(top), ["5", "10", "1", "1", "250"]);
}

#[test]
fn numbers_of_narrow_bars_stand_upright_and_of_narrower_ones_not_at_all() {
    let of = |names: usize, series: usize| {
        let series: Vec<(String, Vec<f64>)> = (0..series).map(|at| (format!("s{at}"), vec![4.0; names])).collect();
        bars(LABELS, &vec!["a"; names], &series)
    };
    let upright =
        |svg: &str| elements(svg, "text").into_iter().filter(|text| !text.contains_key("text-anchor")).collect();
    let found: Vec<Element> = upright(&of(1, 20));
    assert_eq!(found.len(), 20);
    assert_eq!(numbers(&found[0], ["x", "y"]), [147.4, 94.0]);
    assert_eq!((found[0]["transform"].as_str(), found[0][""].as_str()), ("rotate(-90 147.4 94.0)", "4"));
    assert_eq!(numbers(&found[1], ["x", "y"]), [172.2, 94.0]);
    let none: Vec<Element> = upright(&of(10, 10));
    assert!(none.is_empty());
    assert_eq!(words(&of(10, 10), "middle").len(), 10 + 3);
}

#[test]
fn legends_are_cut_where_they_would_leave_the_plot() {
    let name = |count: usize| "n".repeat(count);
    let all: Vec<Line> = (0..40)
        .map(|at| line(&if at < 2 { name(26 + at) } else { format!("line {at}") }, &[(0.0, 0.0), (1.0, at as f64)]))
        .collect();
    let svg = lines(LABELS, &all);
    let legend = words(&svg, "start");
    assert_eq!((legend[0].0.clone(), legend[1].0.clone()), (name(26), format!("{}…", name(25))));
    assert_eq!(legend[19], ("line 19".to_owned(), 730.0, 335.0));
    assert!(legend[20..].iter().all(|(text, x, y)| (text.as_str(), *x, *y) == ("…", 730.0, 350.0)));
    // The twelve colours repeat with dashed lines, and then with dotted lines.
    let drawn = elements(&svg, "polyline");
    let dashes: Vec<Option<&str>> =
        [0, 11, 12, 23, 24, 39].map(|at| drawn[at].get("stroke-dasharray").map(String::as_str)).to_vec();
    assert_eq!(dashes, [None, None, Some("6 3"), Some("6 3"), Some("2 3"), Some("2 3")]);
    assert!(drawn[0]["stroke"] == drawn[12]["stroke"] && drawn[1]["stroke"] == drawn[25]["stroke"]);
    assert_ne!(drawn[0]["stroke"], drawn[11]["stroke"]);
}

#[test]
fn words_are_escaped() {
    let svg = lines(Labels { y: "<up>", ..LABELS }, &[line("a & b", &[])]);
    assert!(svg.contains("&lt;up&gt;") && svg.contains("a &amp; b") && !svg.contains("<up>"));
}
