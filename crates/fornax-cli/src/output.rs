//! Standard output, where results go and nothing else. Writing never panics: a reader that has gone is told apart from
//! a disk that is full.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::table::harmless;

/// The reader of standard output has closed it. This is not a failure: nobody wants the rest.
#[derive(Debug)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for Closed {}

/// Standard output, held for as long as this lives. [`flush`](Self::flush) it before the end: only so is it known that
/// everything arrived.
#[derive(Debug)]
pub struct Output<W: Write = StdoutLock<'static>> {
    writer: BufWriter<W>,
    is_terminal: bool,
}

impl Output {
    /// The process's standard output.
    pub fn stdout() -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        Self { is_terminal, ..Self::new(stdout.lock()) }
    }
}

impl<W: Write> Output<W> {
    fn new(writer: W) -> Self {
        Self { writer: BufWriter::new(writer), is_terminal: false }
    }

    /// Text as it is.
    pub fn text(&mut self, text: &str) -> Result<()> {
        checked(self.writer.write_all(text.as_bytes()))
    }

    /// A piece of a text that is being read while it is made. On a terminal, control characters that a model writes are
    /// shown and not obeyed.
    pub fn piece(&mut self, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        if self.is_terminal {
            self.text(&harmless(text))?
        } else {
            self.text(text)?
        }
        self.flush()
    }

    /// A line.
    pub fn line(&mut self, line: impl fmt::Display) -> Result<()> {
        checked(writeln!(self.writer, "{line}"))
    }

    /// A value as JSON on one line.
    pub fn json(&mut self, value: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(value).context("cannot write the result as JSON")?;
        self.line(line)
    }

    /// A value as JSON that is pleasant to read.
    pub fn pretty_json(&mut self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).context("cannot write the result as JSON")?;
        self.line(text)
    }

    /// Sends everything on.
    pub fn flush(&mut self) -> Result<()> {
        checked(self.writer.flush())
    }
}

fn checked(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Closed.into()),
        other => other.context("cannot write to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_reader_that_left_is_no_failure_but_a_full_disk_is() {
        let error = Output::new(Failing(io::ErrorKind::BrokenPipe)).piece("x").expect_err("closed");
        assert!(error.is::<Closed>());
        let error = Output::new(Failing(io::ErrorKind::StorageFull)).piece("x").expect_err("full");
        assert!(!error.is::<Closed>());
        assert!(error.to_string().contains("standard output"), "{error}");
    }

    #[test]
    fn numbers_keep_the_digits_that_they_have() {
        let mut bytes = Vec::new();
        let mut output = Output::new(&mut bytes);
        output.json(&[Some(0.1f32), None, Some(f32::NAN)]).expect("written");
        output.flush().expect("flushed");
        drop(output);
        assert_eq!(String::from_utf8(bytes).expect("UTF-8"), "[0.1,null,null]\n");
    }
}
