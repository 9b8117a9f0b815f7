//! Results of inputs from a file: one JSON object a line in the order of the input, an error object where an input failed, and
//! at the end an error that counts them.

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::output::Output;

/// Which input a result is of.
#[derive(Debug, Clone, Serialize)]
pub struct Place {
    /// The line, counted from 0.
    pub index: usize,
    /// What the input gave to be known by.
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
    /// On standard output.
    pub fn stdout() -> Self {
        Self { out: Output::stdout(), inputs: 0, failed: 0 }
    }

    /// The result of an input, or why there is none.
    pub fn write<T: Serialize>(&mut self, place: &Place, result: Result<T, &String>) -> Result<()> {
        self.write_all(place, result.map(|result| [result]))
    }

    /// The results of an input, or why there are none. They are sent on at once.
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

    /// An error if any input failed.
    pub fn finish(self) -> Result<()> {
        let Self { inputs, failed, .. } = self;
        if failed > 0 {
            bail!("{failed} of {inputs} inputs failed; the objects with \"error\" in the output say why");
        }
        Ok(())
    }
}
