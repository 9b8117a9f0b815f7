//! Plots as self-contained SVG: lines, points and bars, and no more than the book needs. What colours mean stands beside the
//! axes, never over them.

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

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 70.0;
/// Room for the legend.
const RIGHT: f64 = 210.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Colours that are told apart by most eyes (Okabe and Ito).
const COLOURS: [&str; 12] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933", "#762a83", "#8c510a",
    "#7f7f7f", "#1b7837",
];

/// A pair of axes that holds some points.
struct Axes {
    log_x: bool,
    low: f64,
    high: f64,
    top: f64,
}

impl Axes {
    fn new(log_x: bool, points: impl Iterator<Item = (f64, f64)> + Clone) -> Self {
        let axes = Self { log_x, low: 0.0, high: 1.0, top: 1.0 };
        let low = points.clone().map(|point| axes.scale(point.0)).fold(f64::INFINITY, f64::min);
        let high = points.clone().map(|point| axes.scale(point.0)).fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = match () {
            () if low < high => (low, high),
            () if low.is_finite() => (low - 0.5, low + 0.5),
            () => (0.0, 1.0),
        };
        Self { low, high, top: nice(points.map(|point| point.1).fold(0.0, f64::max)), ..axes }
    }

    fn scale(&self, value: f64) -> f64 {
        if self.log_x { value.max(1e-9).log10() } else { value }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + (self.scale(value) - self.low) / (self.high - self.low) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM)
    }

    /// The frame with the marks below it.
    fn draw(&self, labels: Labels<'_>) -> String {
        let mut svg = frame(labels, self.top);
        let steps = |count: i32| (0..=count).map(move |tick| f64::from(tick) / f64::from(count));
        let between = steps(5).map(|part| self.low + (self.high - self.low) * part);
        let ticks: Vec<f64> = match self.log_x {
            // Powers of ten where there are some, and otherwise what lies evenly between.
            true if self.high.floor() - self.low.ceil() >= 1.0 => {
                (self.low.ceil() as i32..=self.high.floor() as i32).map(|power| 10f64.powi(power)).collect()
            }
            true => between.map(|power| 10f64.powf(power)).collect(),
            false => between.collect(),
        };
        // As many digits as tell the marks apart.
        let span = ticks.last().unwrap_or(&1.0) - ticks.first().unwrap_or(&0.0);
        let digits = (1.0 - span.log10().floor()).clamp(0.0, 9.0) as usize;
        for tick in ticks {
            let powers = self.log_x && self.high - self.low >= 1.0;
            let words = if powers { number(tick) } else { trimmed(format!("{tick:.digits$}")) };
            text(&mut svg, self.x(tick), HEIGHT - BOTTOM + 18.0, "middle", &words);
            rule(&mut svg, (self.x(tick), HEIGHT - BOTTOM), (self.x(tick), HEIGHT - BOTTOM + 4.0), "#444");
        }
        svg
    }
}

/// Lines over a common pair of axes.
pub fn lines(labels: Labels<'_>, lines: &[Line]) -> String {
    let axes = Axes::new(labels.log_x, lines.iter().flat_map(|line| line.points.iter().copied()));
    let mut svg = axes.draw(labels);
    for (at, line) in lines.iter().enumerate() {
        let mut path = String::new();
        for point in &line.points {
            let _ = write!(path, "{:.1},{:.1} ", axes.x(point.0), axes.y(point.1));
        }
        let path = path.trim_end();
        let style = format!(r#"stroke="{}" stroke-width="2"{}"#, colour(at), dashes(at));
        let _ = writeln!(svg, r#"<polyline points="{path}" fill="none" {style}/>"#);
        let height = legend(&mut svg, at, &line.name);
        let (from, to) = (WIDTH - RIGHT + 14.0, WIDTH - RIGHT + 34.0);
        let _ = writeln!(svg, r#"<line x1="{from}" y1="{height}" x2="{to}" y2="{height}" {style}/>"#);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Single points, each with its name in the legend.
pub fn points(labels: Labels<'_>, points: &[(String, (f64, f64))]) -> String {
    let mut axes = Axes::new(labels.log_x, points.iter().map(|(_, point)| *point));
    let margin = 0.04 * (axes.high - axes.low);
    (axes.low, axes.high) = (axes.low - margin, axes.high + margin);
    let mut svg = axes.draw(labels);
    for (at, (name, point)) in points.iter().enumerate() {
        mark(&mut svg, at, (axes.x(point.0), axes.y(point.1)));
        let height = legend(&mut svg, at, name);
        mark(&mut svg, at, (WIDTH - RIGHT + 24.0, height));
    }
    svg.push_str("</svg>\n");
    svg
}

/// Groups of bars: for each name one bar a series.
pub fn bars(labels: Labels<'_>, names: &[&str], series: &[(String, Vec<f64>)]) -> String {
    // A little higher than the highest bar, for the number on it.
    let top = nice(1.1 * series.iter().flat_map(|(_, values)| values.iter().copied()).fold(0.0, f64::max));
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
            let (width, height) = (bar * 0.92, HEIGHT - BOTTOM - y(value));
            rectangle(&mut svg, (left, y(value)), (width, height), colour(at));
            // Upright where numbers side by side would run into each other.
            let (x, value, above) = (left + bar * 0.46, number(value), y(value) - 4.0);
            if bar >= 36.0 {
                text(&mut svg, x, above, "middle", &value);
            } else if bar >= 10.0 {
                let x = x + 4.0;
                let turn = format!(r#"transform="rotate(-90 {x:.1} {above:.1})""#);
                let _ = writeln!(svg, r#"<text x="{x:.1}" y="{above:.1}" {turn}>{value}</text>"#);
            }
        }
        let height = legend(&mut svg, at, name);
        rectangle(&mut svg, (WIDTH - RIGHT + 19.0, height - 5.0), (10.0, 10.0), colour(at));
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
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    text(&mut svg, middle, 18.0, "middle", labels.title);
    text(&mut svg, middle, HEIGHT - 12.0, "middle", labels.x);
    let _ = writeln!(
        svg,
        r#"<text x="16" y="{0}" text-anchor="middle" transform="rotate(-90 16 {0})">{1}</text>"#,
        HEIGHT / 2.0,
        escape(labels.y)
    );
    svg
}

/// Writes a name beside the axes, and gives the height at which its mark belongs. Beyond twenty, names would leave the plot.
fn legend(svg: &mut String, at: usize, name: &str) -> f64 {
    let height = TOP + 15.0 * at.min(20) as f64 + 6.0;
    let short: String =
        if name.chars().count() > 26 { name.chars().take(25).chain(['…']).collect() } else { name.into() };
    text(svg, WIDTH - RIGHT + 40.0, height + 4.0, "start", if at < 20 { &short } else { "…" });
    height
}

fn colour(at: usize) -> &'static str {
    COLOURS[at % COLOURS.len()]
}

/// Lines beyond the number of colours are dashed.
fn dashes(at: usize) -> &'static str {
    match at / COLOURS.len() {
        0 => "",
        1 => r#" stroke-dasharray="6 3""#,
        _ => r#" stroke-dasharray="2 3""#,
    }
}

/// A point: a disc, or a square beyond the number of colours.
fn mark(svg: &mut String, at: usize, (x, y): (f64, f64)) {
    if at < COLOURS.len() {
        let _ = writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="6" fill="{}"/>"#, colour(at));
    } else {
        rectangle(svg, (x - 5.0, y - 5.0), (10.0, 10.0), colour(at));
    }
}

fn rectangle(svg: &mut String, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str) {
    let size = format!(r#"width="{width:.1}" height="{height:.1}""#);
    let _ = writeln!(svg, r#"<rect x="{x:.1}" y="{y:.1}" {size} fill="{fill}"/>"#);
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
    power * [1.0, 2.0, 2.5, 5.0].into_iter().find(|step| step * power >= value).unwrap_or(10.0)
}

fn number(value: f64) -> String {
    let text = if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    };
    trimmed(text)
}

/// Without the zeros at the end of a fraction.
fn trimmed(text: String) -> String {
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
        // From 0.01 to 10 are three powers of ten over 620 of width.
        assert!(svg.contains(r#"points="70.0,330.0 483.3,185.0 690.0,40.0""#), "{svg}");
        let svg = bars(Labels::default(), &["x", "y"], &[("s".into(), vec![1.0, 2.0])]);
        assert_eq!(svg.matches("<rect").count(), 1 + 2 + 1);
        let all: Vec<(String, (f64, f64))> = (0..14).map(|at| (format!("p{at}"), (1.0, f64::from(at)))).collect();
        let svg = points(Labels { log_x: true, ..labels }, &all);
        // A mark for each point and one for its name; squares where the colours repeat.
        assert_eq!((svg.matches("<circle").count(), svg.matches("<rect").count()), (24, 1 + 4));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn marks_below_the_axis_are_told_apart() {
        let narrow: Vec<(String, (f64, f64))> = [1.018, 1.036, 1.049].map(|x| (String::new(), (x, 1.0))).to_vec();
        for log_x in [true, false] {
            let svg = points(Labels { log_x, ..Labels::default() }, &narrow);
            let below: Vec<&str> = svg.lines().filter(|line| line.contains(r#"y="348.0""#)).collect();
            let mut words: Vec<&str> = below.iter().filter_map(|line| line.split(['>', '<']).nth(2)).collect();
            assert_eq!(words.len(), 6, "{svg}");
            words.dedup();
            assert_eq!(words.len(), 6, "{words:?}");
        }
    }

    #[test]
    fn legends_stand_beside_the_axes_whatever_their_number() {
        let many: Vec<Line> = (0..40)
            .map(|at| Line { name: "a name that is much too long for it".repeat(1 + at), points: vec![] })
            .collect();
        let svg = lines(Labels::default(), &many);
        assert!(svg.contains("a name that is much too lo…") || svg.contains("a name that is much too l…"), "{svg}");
        for coordinate in svg.split("y1=\"").skip(1) {
            let y: f64 = coordinate.split('"').next().and_then(|y| y.parse().ok()).expect("a number");
            assert!((0.0..=HEIGHT).contains(&y), "{y}");
        }
        let empty = [lines(Labels::default(), &[]), points(Labels::default(), &[]), bars(Labels::default(), &[], &[])];
        assert!(empty.iter().all(|svg| !svg.contains("NaN") && !svg.contains("inf")));
    }

    #[test]
    fn numbers_are_short() {
        let cases = [(0.0, "0"), (0.5, "0.5"), (1.25, "1.25"), (100.0, "100"), (1500.4, "1500")];
        cases.into_iter().for_each(|(value, text)| assert_eq!(number(value), text));
        assert_eq!((nice(0.0), nice(3.0), nice(0.021), nice(9.0)), (1.0, 5.0, 0.025, 10.0));
    }
}
