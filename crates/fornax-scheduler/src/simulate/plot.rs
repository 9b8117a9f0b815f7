//! Plots as self-contained SVG: lines and bars, and no more than the book needs.

use std::fmt::Write as _;

/// A named line.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What the legend calls it.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

/// What stands beside a plot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labels<'a> {
    /// Above it.
    pub title: &'a str,
    /// Below it.
    pub x: &'a str,
    /// At its left.
    pub y: &'a str,
    /// Whether the horizontal axis is logarithmic.
    pub log_x: bool,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Colours that are told apart by most eyes (Okabe and Ito).
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933"];

/// Lines over a common pair of axes.
pub fn lines(labels: Labels<'_>, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let scale = |value: f64| if labels.log_x { value.max(1e-9).log10() } else { value };
    let low = points().map(|point| scale(point.0)).fold(f64::INFINITY, f64::min);
    let high = points().map(|point| scale(point.0)).fold(f64::NEG_INFINITY, f64::max);
    let (low, high) = if low < high { (low, high) } else { (0.0, 1.0) };
    let top = nice(points().map(|point| point.1).fold(0.0, f64::max));
    let x = |value: f64| LEFT + (scale(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
    let mut svg = frame(labels, top);
    let ticks: Vec<f64> = if labels.log_x {
        (low.ceil() as i32..=high.floor() as i32).map(|power| 10f64.powi(power)).collect()
    } else {
        (0..=5).map(|tick| low + (high - low) * f64::from(tick) / 5.0).collect()
    };
    for tick in ticks {
        text(&mut svg, x(tick), HEIGHT - BOTTOM + 18.0, "middle", &number(tick));
        rule(&mut svg, (x(tick), HEIGHT - BOTTOM), (x(tick), HEIGHT - BOTTOM + 4.0), "#444");
    }
    for (at, line) in lines.iter().enumerate() {
        let mut path = String::new();
        for point in &line.points {
            let _ = write!(path, "{:.1},{:.1} ", x(point.0), y(point.1));
        }
        let colour = COLOURS[at % COLOURS.len()];
        let _ =
            writeln!(svg, r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#, path.trim_end());
        legend(&mut svg, at, &line.name);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Groups of bars: for each name one bar a series.
pub fn bars(labels: Labels<'_>, names: &[&str], series: &[(String, Vec<f64>)]) -> String {
    let top = nice(series.iter().flat_map(|(_, values)| values.iter().copied()).fold(0.0, f64::max));
    let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
    let mut svg = frame(labels, top);
    let group = (WIDTH - LEFT - RIGHT) / names.len().max(1) as f64;
    let bar = group * 0.8 / series.len().max(1) as f64;
    for (at, name) in names.iter().enumerate() {
        text(&mut svg, LEFT + group * (at as f64 + 0.5), HEIGHT - BOTTOM + 18.0, "middle", name);
    }
    for (at, (name, values)) in series.iter().enumerate() {
        for (place, &value) in values.iter().enumerate() {
            let left = LEFT + group * (place as f64 + 0.1) + bar * at as f64;
            let colour = COLOURS[at % COLOURS.len()];
            let _ = writeln!(
                svg,
                r#"<rect x="{left:.1}" y="{:.1}" width="{:.1}" height="{:.1}" fill="{colour}"/>"#,
                y(value),
                bar * 0.92,
                HEIGHT - BOTTOM - y(value)
            );
            text(&mut svg, left + bar * 0.46, y(value) - 4.0, "middle", &number(value));
        }
        legend(&mut svg, at, name);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Axes, grid and labels.
fn frame(labels: Labels<'_>, top: f64) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\" role=\"img\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    for tick in 0..=5 {
        let height = HEIGHT - BOTTOM - f64::from(tick) / 5.0 * (HEIGHT - TOP - BOTTOM);
        rule(&mut svg, (LEFT, height), (WIDTH - RIGHT, height), if tick == 0 { "#444" } else { "#ddd" });
        text(&mut svg, LEFT - 6.0, height + 4.0, "end", &number(top * f64::from(tick) / 5.0));
    }
    text(&mut svg, WIDTH / 2.0, 18.0, "middle", labels.title);
    text(&mut svg, WIDTH / 2.0, HEIGHT - 12.0, "middle", labels.x);
    let _ = writeln!(
        svg,
        r#"<text x="16" y="{0}" text-anchor="middle" transform="rotate(-90 16 {0})">{1}</text>"#,
        HEIGHT / 2.0,
        escape(labels.y)
    );
    svg
}

fn legend(svg: &mut String, at: usize, name: &str) {
    let height = TOP + 14.0 * at as f64 + 6.0;
    let colour = COLOURS[at % COLOURS.len()];
    let _ = writeln!(
        svg,
        r#"<rect x="{}" y="{}" width="10" height="10" fill="{colour}"/>"#,
        WIDTH - RIGHT - 200.0,
        height - 9.0
    );
    text(svg, WIDTH - RIGHT - 186.0, height, "start", name);
}

fn rule(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{colour}"/>"#,
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, what: &str) {
    let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, escape(what));
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The next of 1, 2, 2.5, 5 times a power of ten.
fn nice(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * power).into_iter().find(|step| *step >= value).unwrap_or(10.0 * power)
}

fn number(value: f64) -> String {
    let text = if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_hold_their_data_and_escape_their_words() {
        let labels = Labels { title: "a < b", x: "seconds", y: "part", log_x: true };
        let line = Line { name: "one & two".into(), points: vec![(0.01, 0.0), (1.0, 0.5), (10.0, 1.0)] };
        let svg = lines(labels, &[line]);
        assert!(svg.contains("a &lt; b") && svg.contains("one &amp; two"), "{svg}");
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.contains(r#"points="70.0,330.0 523.3,185.0 750.0,40.0""#) || svg.contains("740.0,40.0"), "{svg}");
        let svg = bars(Labels::default(), &["x", "y"], &[("s".into(), vec![1.0, 2.0])]);
        assert_eq!(svg.matches("<rect").count(), 1 + 2 + 1);
    }

    #[test]
    fn numbers_are_short() {
        let cases = [(0.0, "0"), (0.5, "0.5"), (1.25, "1.25"), (100.0, "100"), (1500.4, "1500")];
        cases.into_iter().for_each(|(value, text)| assert_eq!(number(value), text));
        assert_eq!((nice(0.0), nice(3.0), nice(0.021), nice(9.0)), (1.0, 5.0, 0.025, 10.0));
    }
}
