//! Progress bars on standard error: one for each file that is fetched, and one for the inputs of a file. Without a
//! terminal no bar is drawn, and notices are written as lines.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fornax::hub::{Event, Progress};
use indicatif::{DecimalBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::notices::Notices;
use crate::table::printable;

const WITH_TOTAL: &str =
    "{msg:28!} [{bar:20}] {decimal_bytes:>9} of {decimal_total_bytes:9} {decimal_bytes_per_sec:>13} {eta:>4}";
const WITHOUT_TOTAL: &str = "{msg:28!} {decimal_bytes:>9} {decimal_bytes_per_sec:>13}";

const INPUTS: &str = "{pos:>8} of {len} inputs [{bar:20}] {msg} {eta:>4}";
const INPUTS_WITHOUT_TOTAL: &str = "{pos:>8} inputs {elapsed:>4} {msg}";

/// Shows a download.
#[derive(Debug)]
pub struct Downloads {
    notices: Notices,
    bars: MultiProgress,
    files: Mutex<HashMap<String, ProgressBar>>,
}

impl Downloads {
    /// Shows nothing until something is fetched.
    pub fn new(notices: Notices) -> Self {
        let target = if notices.shows_info() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { notices, bars: MultiProgress::with_draw_target(target), files: Mutex::default() }
    }

    fn with_bar(&self, file: &str, total: Option<u64>, change: impl FnOnce(&ProgressBar)) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = files.entry(file.to_owned()).or_insert_with(|| {
            let bar = match total {
                Some(total) => ProgressBar::new(total).with_style(style(WITH_TOTAL)),
                None => ProgressBar::no_length().with_style(style(WITHOUT_TOTAL)),
            };
            self.bars.add(bar.with_message(printable(file)))
        });
        change(bar);
    }

    /// Writes a line above the bars.
    fn line(&self, write: impl FnOnce(Notices, &dyn Display), text: &dyn Display) {
        self.bars.suspend(|| write(self.notices, text));
    }
}

impl Progress for Downloads {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Plan { files: 0, .. } => {}
            Event::Plan { files, bytes } => {
                let text = format!("fetching {files} file(s), {}", DecimalBytes(*bytes));
                self.line(|notices, text| notices.detail(text), &text);
            }
            Event::Started { file, total, resumed } => {
                self.with_bar(file, *total, |bar| {
                    bar.set_position(*resumed);
                    // The bytes that an earlier run fetched do not count for the speed.
                    bar.reset_eta();
                });
                if *resumed > 0 {
                    let text = format!("{}: continuing after {}", printable(file), DecimalBytes(*resumed));
                    self.line(|notices, text| notices.detail(text), &text);
                }
            }
            Event::Advanced { file, bytes } => self.with_bar(file, None, |bar| bar.set_position(*bytes)),
            Event::Finished { file, bytes } => {
                self.with_bar(file, Some(*bytes), |bar| {
                    bar.set_position(*bytes);
                    bar.finish();
                });
                let text = format!("{}: {} fetched", printable(file), DecimalBytes(*bytes));
                self.line(|notices, text| notices.detail(text), &text);
            }
            Event::Retrying { what, reason, pause } => {
                let text =
                    format!("{}: {}; trying again in {:.1} s", printable(what), printable(reason), pause.as_secs_f64());
                self.line(|notices, text| notices.warn(text), &text);
            }
            Event::Waiting { file } => {
                let text = format!("{}: another process is fetching it; waiting for it", printable(file));
                self.line(|notices, text| notices.warn(text), &text);
            }
            Event::UsingCache { repo, reason } => {
                let text = format!("{}: using the copy on this machine, for {}", printable(repo), printable(reason));
                self.line(|notices, text| notices.warn(text), &text);
            }
            // Events that later versions of the library add are not shown.
            _ => {}
        }
    }
}

/// Shows how many inputs of a file have been answered, and the speed.
#[derive(Debug)]
pub struct Inputs {
    notices: Notices,
    bar: ProgressBar,
    since: Instant,
    /// The unit of `count`: `tokens` or `vectors`.
    unit: &'static str,
    /// How many units were computed so far.
    count: usize,
}

impl Inputs {
    /// Begins with no input answered. `total` is the number of inputs, if it is known.
    pub fn new(notices: Notices, total: Option<u64>, unit: &'static str) -> Self {
        let bar = match total {
            _ if !notices.shows_info() => ProgressBar::hidden(),
            Some(total) => ProgressBar::new(total).with_style(style(INPUTS)),
            None => ProgressBar::no_length().with_style(style(INPUTS_WITHOUT_TOTAL)),
        };
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self { notices, bar, since: Instant::now(), unit, count: 0 }
    }

    /// Counts `count` more computed units.
    pub fn advance(&mut self, count: usize) {
        self.count += count;
        if !self.bar.is_hidden() {
            self.bar.set_message(self.rate());
        }
    }

    /// Writes the answer of an input while the bar is hidden, and counts the input.
    pub fn finished<T>(&self, write: impl FnOnce() -> T) -> T {
        let written = self.bar.suspend(write);
        self.bar.inc(1);
        written
    }

    /// Removes the bar, and reports the totals and the speed.
    pub fn report(&self) {
        self.bar.finish_and_clear();
        let (inputs, seconds) = (self.bar.position(), self.since.elapsed().as_secs_f64());
        self.notices.info(format_args!(
            "{inputs} inputs, {} {} in {seconds:.2} s, {}",
            self.count,
            self.unit,
            self.rate()
        ));
    }

    fn rate(&self) -> String {
        format!("{:.1} {}/s", self.count as f64 / self.since.elapsed().as_secs_f64().max(1e-9), self.unit)
    }
}

fn style(template: &'static str) -> ProgressStyle {
    // A template that does not parse would give a plain bar; the test below checks that all parse.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_parse() {
        for template in [WITH_TOTAL, WITHOUT_TOTAL, INPUTS, INPUTS_WITHOUT_TOTAL] {
            ProgressStyle::with_template(template).expect("it is written as indicatif reads it");
        }
    }
}
