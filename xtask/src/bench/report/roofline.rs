//! The roofline: what each case computes a second over how much it computes for a byte, under the roof of what the
//! machine can (Williams et al., 2009). Both axes are logarithmic.

use super::super::results::{Contestant, Limits, Results};
use super::super::units;
use super::{color, escaped};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 86.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 44.0;

/// A case's place, in operations a byte and operations a second.
struct Point {
    intensity: f64,
    speed: f64,
    /// The contestant's place in the list, for its colour.
    index: usize,
    op: String,
    in_cache: bool,
    title: String,
}

/// The plot of these contestants' cases; `None` where there is none to show.
pub fn svg(results: &Results, limits: &Limits, contestants: &[(usize, &Contestant)]) -> Option<String> {
    let points = points(results, contestants);
    if points.is_empty() {
        return None;
    }
    let axes = Axes::around(&points, limits);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Roofline: operations a second over operations a \
         byte\">\n{}",
        axes.grid()
    );
    svg += &roofs(&axes, limits);
    // The first contestant's points are drawn last, on top of the others.
    for point in points.iter().rev() {
        svg += &format!(
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"6\" style=\"fill:{}{}\"><title>{}</title></circle>\n",
            axes.x(point.intensity),
            axes.y(point.speed),
            color(point.index),
            if point.in_cache { ";fill-opacity:0.4" } else { "" },
            escaped(&point.title)
        );
    }
    svg += &names(&axes, &points, contestants.first().map_or(0, |(index, _)| *index));
    Some(svg + "</svg>")
}

fn points(results: &Results, contestants: &[(usize, &Contestant)]) -> Vec<Point> {
    let mut points = Vec::new();
    for &(index, contestant) in contestants {
        for result in results.cases.iter().filter(|result| result.case.flops > 0 && result.case.bytes > 0) {
            let Some(row) = results.row(result, contestant) else { continue };
            let share = row.share.map_or_else(String::new, |share| format!(", {} of the limit", units::percent(share)));
            points.push(Point {
                intensity: result.case.flops as f64 / result.case.bytes as f64,
                speed: row.flops_per_second,
                index,
                op: result.case.op.clone(),
                in_cache: result.case.in_cache(),
                title: format!(
                    "{} on {}: {}, {}, {}{share}",
                    result.case.label(),
                    contestant.label,
                    units::time(row.summary.median),
                    units::bandwidth(row.bytes_per_second),
                    units::compute(row.flops_per_second)
                ),
            });
        }
    }
    points
}

/// The ranges of both axes, as powers of ten.
struct Axes {
    x: (f64, f64),
    y: (f64, f64),
}

impl Axes {
    fn around(points: &[Point], limits: &Limits) -> Self {
        let ridge = limits.peak("f32") / limits.memory.all_threads;
        let peak = limits.peaks.iter().map(|peak| peak.all_threads).fold(0.0, f64::max);
        let decades = |values: &mut dyn Iterator<Item = f64>| {
            let (least, most) = values
                .filter(|value| value.is_finite() && *value > 0.0)
                .fold((f64::INFINITY, f64::MIN_POSITIVE), |(least, most), value| (least.min(value), most.max(value)));
            ((least * 0.8).log10().floor(), (most * 1.3).log10().ceil())
        };
        Self {
            x: decades(&mut points.iter().map(|point| point.intensity).chain([ridge])),
            y: decades(&mut points.iter().map(|point| point.speed).chain([peak])),
        }
    }

    fn x(&self, intensity: f64) -> f64 {
        LEFT + (intensity.log10() - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, speed: f64) -> f64 {
        HEIGHT - BOTTOM - (speed.log10() - self.y.0) / (self.y.1 - self.y.0) * (HEIGHT - TOP - BOTTOM)
    }

    /// A line at each power of ten, with its number.
    fn grid(&self) -> String {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let mut grid = String::new();
        for power in self.x.0 as i32..=self.x.1 as i32 {
            let (value, x) = (10f64.powi(power), self.x(10f64.powi(power)));
            grid += &format!(
                "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>\n",
                bottom + 18.0
            );
        }
        for power in self.y.0 as i32..=self.y.1 as i32 {
            let y = self.y(10f64.powi(power));
            let number = units::compute(10f64.powi(power));
            let number = number.replace(".00", "").replace(".0", "");
            grid += &format!(
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{number}</text>\n",
                LEFT - 8.0,
                y + 4.0
            );
        }
        grid + &format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">operations for each byte of memory (FLOP/B)</text>\n",
            (LEFT + right) / 2.0,
            HEIGHT - 6.0
        )
    }
}

/// The roof for f32, and those of other arithmetic above it.
fn roofs(axes: &Axes, limits: &Limits) -> String {
    let memory = limits.memory.all_threads;
    let mut kinds: Vec<&str> = limits.peaks.iter().map(|peak| peak.arithmetic.as_str()).collect();
    // The lowest first, so that the name of a higher one can be lifted above its.
    kinds.sort_by(|a, b| limits.peak(a).total_cmp(&limits.peak(b)));
    kinds.dedup();
    let mut free = f64::INFINITY;
    let mut roofs = String::new();
    let (left, right) = (10f64.powf(axes.x.0), 10f64.powf(axes.x.1));
    for kind in &kinds {
        let peak = limits.peak(kind);
        let ridge = (peak / memory).clamp(left, right);
        // Where the slope comes in at the bottom of the plot, if not at its left.
        let start = (10f64.powf(axes.y.0) / memory).max(left).min(ridge);
        let class = if *kind == "f32" || kinds.len() == 1 { "roof" } else { "lower" };
        roofs += &format!(
            "<polyline class=\"{class}\" points=\"{:.1},{:.1} {:.1},{:.1} {:.1},{:.1}\"/>\n",
            axes.x(start),
            axes.y(memory * start),
            axes.x(ridge),
            axes.y(peak.min(memory * ridge)),
            axes.x(right),
            axes.y(peak.min(memory * right))
        );
        if peak < memory * right {
            let y = (axes.y(peak) - 6.0).min(free);
            free = y - 14.0;
            roofs += &format!(
                "<text x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{kind} {}</text>\n",
                WIDTH - RIGHT - 4.0,
                units::compute(peak)
            );
        }
    }
    // The slope's name stands along it, a little above.
    let at = 10f64.powf(axes.x.0 + 0.12 * (axes.x.1 - axes.x.0)).max(10f64.powf(axes.y.0 + 0.3) / memory);
    let per_decade_x = (WIDTH - LEFT - RIGHT) / (axes.x.1 - axes.x.0);
    let per_decade_y = (HEIGHT - TOP - BOTTOM) / (axes.y.1 - axes.y.0);
    let angle = -(per_decade_y / per_decade_x).atan().to_degrees();
    let (x, y) = (axes.x(at), axes.y(memory * at) - 8.0);
    roofs
        + &format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" transform=\"rotate({angle:.1} {x:.1} {y:.1})\">memory {}</text>\n",
            units::bandwidth(memory)
        )
}

/// The operations' names beside the points of the contestant `index`, where there is room.
fn names(axes: &Axes, points: &[Point], index: usize) -> String {
    let mut taken: Vec<(f64, f64, f64)> = Vec::new();
    let mut names = String::new();
    for point in points.iter().filter(|point| point.index == index) {
        let width = 6.2 * point.op.chars().count() as f64;
        let (x, y) = (axes.x(point.intensity) + 9.0, axes.y(point.speed) + 4.0);
        let overlaps =
            |&(other, at, long): &(f64, f64, f64)| (y - at).abs() < 13.0 && x < other + long && other < x + width;
        if taken.iter().any(overlaps) || x + width > WIDTH - RIGHT {
            continue;
        }
        taken.push((x, y, width));
        names += &format!("<text class=\"name\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>\n", escaped(&point.op));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::super::super::results::tests::example;
    use super::*;

    fn plot(results: &Results) -> Option<String> {
        let contestants: Vec<(usize, &Contestant)> = results.contestants.iter().enumerate().collect();
        svg(results, &results.limits["cpu"], &contestants)
    }

    #[test]
    fn every_time_is_a_point_inside_of_the_plot() {
        let svg = plot(&example()).expect("points");
        assert_eq!(svg.matches("<circle").count(), 4);
        let places = |name: &str| -> Vec<f64> {
            let name = format!(" {name}=\"");
            let parts = svg.split(&name).skip(1);
            parts.map(|part| part.split('"').next().and_then(|text| text.parse().ok()).expect("a number")).collect()
        };
        assert!(places("cx").iter().all(|x| (LEFT..=WIDTH - RIGHT).contains(x)), "{svg}");
        assert!(places("cy").iter().all(|y| (TOP..=HEIGHT - BOTTOM).contains(y)), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(svg.contains("linear 1×2×3 on torch: 4.20 ms") && svg.contains("memory 10.0 GB/s"));
    }

    #[test]
    fn no_point_is_above_the_roof_that_it_is_held_against() {
        let results = example();
        let limits = &results.limits["cpu"];
        let contestants: Vec<(usize, &Contestant)> = results.contestants.iter().enumerate().collect();
        for point in points(&results, &contestants) {
            assert!(point.speed <= limits.peak("f32").min(point.intensity * limits.memory.all_threads) * 1.001);
        }
    }

    #[test]
    fn cases_without_operations_have_no_place() {
        let mut results = example();
        results.cases.iter_mut().for_each(|result| result.case.flops = 0);
        assert_eq!(plot(&results), None);
    }

    #[test]
    fn names_do_not_lie_on_each_other() {
        let mut results = example();
        let again = results.cases[0].clone();
        results.cases.push(again);
        let svg = plot(&results).expect("points");
        assert_eq!(svg.matches(">linear</text>").count(), 2);
    }
}
