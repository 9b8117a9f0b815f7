//! What is said on standard error beside errors: how far things are, how fast they were, what to know.
//! Progress bars are drawn elsewhere (`progress`).

use std::fmt::Display;
use std::io::{IsTerminal, Write, stderr};

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Nothing,
    /// What the user should know, which a script's log should hold too.
    Warnings,
    /// Progress and speed as well.
    Info,
    /// Each step.
    Verbose,
}

/// Writes notices, or keeps silent.
#[derive(Debug, Clone, Copy)]
pub struct Notices {
    level: Level,
}

impl Notices {
    /// As the arguments say, and otherwise everything to a terminal and warnings to all else.
    pub fn new(quiet: bool, verbose: bool) -> Self {
        let level = match (quiet, verbose) {
            (true, _) => Level::Nothing,
            (_, true) => Level::Verbose,
            _ if stderr().is_terminal() => Level::Info,
            _ => Level::Warnings,
        };
        Self { level }
    }

    /// Whether progress is shown at all.
    pub fn shows_info(self) -> bool {
        self.level >= Level::Info
    }

    /// Something that the user should know.
    pub fn warn(self, text: impl Display) {
        self.write(Level::Warnings, text);
    }

    /// How things go.
    pub fn info(self, text: impl Display) {
        self.write(Level::Info, text);
    }

    /// A detail.
    pub fn detail(self, text: impl Display) {
        self.write(Level::Verbose, text);
    }

    fn write(self, level: Level, text: impl Display) {
        if self.level >= level {
            say(text);
        }
    }
}

/// A line on standard error, whatever the level. Where nobody listens there is nobody to tell.
pub fn say(text: impl Display) {
    let _ = writeln!(stderr().lock(), "{text}");
}
