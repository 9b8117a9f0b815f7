//! One line on the terminal that tells how far the run is. Where standard error is no terminal there is none, so that
//! logs stay readable.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// The line.
#[derive(Debug)]
pub struct Progress {
    shown: bool,
    started: Instant,
    total: usize,
}

/// Characters of the bar.
const WIDTH: usize = 24;

impl Progress {
    /// Begins, at 0 of `total`.
    pub fn new(total: usize) -> Self {
        Self { shown: std::io::stderr().is_terminal(), started: Instant::now(), total }
    }

    /// Shows that `done` of the whole are done, and what is at hand.
    pub fn at(&self, done: usize, what: &str) {
        self.write(&line(done, self.total, self.started.elapsed(), what));
    }

    /// Shows words without a bar, where nobody knows the whole.
    pub fn say(&self, words: &str) {
        self.write(words);
    }

    /// Takes the line away.
    pub fn clear(&self) {
        self.write("");
    }

    fn write(&self, line: &str) {
        if self.shown {
            // The rest of the line before is erased. A terminal that is gone is no reason to stop.
            let line: String = line.chars().take(110).collect();
            let _ = write!(std::io::stderr(), "\r{line}\x1b[K");
        }
    }
}

fn line(done: usize, total: usize, elapsed: Duration, what: &str) -> String {
    let share = done as f64 / total.max(1) as f64;
    let filled = (share * WIDTH as f64) as usize;
    let left = match done {
        0 => String::new(),
        _ => {
            let seconds = elapsed.as_secs_f64() / share - elapsed.as_secs_f64();
            format!(", {} left", minutes(seconds))
        }
    };
    format!("[{}{}] {done}/{total}{left}  {what}", "█".repeat(filled), "·".repeat(WIDTH - filled))
}

/// Minutes and seconds: `2:05`.
pub fn minutes(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills_and_the_rest_is_foreseen() {
        assert_eq!(line(0, 4, Duration::ZERO, "linear"), format!("[{}] 0/4  linear", "·".repeat(24)));
        let half = line(2, 4, Duration::from_secs(65), "rope");
        assert_eq!(half, format!("[{}{}] 2/4, 1:05 left  rope", "█".repeat(12), "·".repeat(12)));
        assert!(line(4, 4, Duration::from_secs(9), "").contains(", 0:00 left"));
        assert!(!line(0, 0, Duration::ZERO, "").is_empty());
    }
}
