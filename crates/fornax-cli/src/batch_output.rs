//! The results of inputs from a file: JSON objects, one a line, in the order of the inputs. A failed input has an error
//! object in its place, and at the end an error counts the failed inputs.

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::output::Output;

/// The input that a result belongs to.
#[derive(Debug, Clone, Serialize)]
pub struct Place {
    /// The line, counted from 0.
    pub index: usize,
    /// The input's own id, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
}

/// A result with its place.
#[derive(Serialize)]
struct Placed<'a, T> {
    #[serde(flatten)]
    place: &'a Place,
    #[serde(flatten)]
    result: &'a T,
}

/// An input that failed.
#[derive(Serialize)]
struct JsonError<'a> {
    #[serde(flatten)]
    place: &'a Place,
    error: &'a str,
}

/// Writes results and counts failures.
pub struct BatchOutput {
    out: Output,
    inputs: usize,
    failed: usize,
}

impl BatchOutput {
    /// Writes to standard output.
    pub fn stdout() -> Self {
        Self { out: Output::stdout(), inputs: 0, failed: 0 }
    }

    /// Writes the result of an input, or its error.
    pub fn write<T: Serialize>(&mut self, place: &Place, result: Result<T, &String>) -> Result<()> {
        self.write_all(place, result.map(|result| [result]))
    }

    /// Writes the results of an input, or its error, and flushes the output.
    pub fn write_all<T: Serialize>(&mut self, place: &Place, results: Result<impl AsRef<[T]>, &String>) -> Result<()> {
        self.inputs += 1;
        match results {
            Ok(results) => results.as_ref().iter().try_for_each(|result| self.out.json(&Placed { place, result }))?,
            Err(error) => {
                self.failed += 1;
                self.out.json(&JsonError { place, error })?;
            }
        }
        self.out.flush()
    }

    /// Returns an error if any input failed.
    pub fn finish(self) -> Result<()> {
        let Self { inputs, failed, .. } = self;
        if failed > 0 {
            bail!("{failed} of {inputs} inputs failed; the objects with \"error\" in the output say why");
        }
        Ok(())
    }
}
