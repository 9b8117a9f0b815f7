//! Ctrl-C while a model answers: the first one ends the answer, a second one, or one at any other time, the program.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result};

const IDLE: u8 = 0;
const ANSWERING: u8 = 1;
const INTERRUPTED: u8 = 2;
/// What shells expect of a program that Ctrl-C has ended.
const EXIT_CODE: i32 = 130;

/// Knows whether there is an answer that could be ended, and whether the user wants that.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    state: Arc<AtomicU8>,
}

impl Interrupt {
    /// Listens to Ctrl-C from now on. Once a process.
    pub fn install() -> Result<Self> {
        let interrupt = Self::default();
        let listener = interrupt.clone();
        let listen = move || {
            if !listener.pressed() {
                process::exit(EXIT_CODE);
            }
        };
        ctrlc::set_handler(listen).context("cannot listen to Ctrl-C")?;
        Ok(interrupt)
    }

    /// An answer begins: until [`end`](Self::end) it is the answer that Ctrl-C ends.
    pub fn begin(&self) {
        self.state.store(ANSWERING, Ordering::SeqCst);
    }

    /// Whether the answer should end.
    pub fn is_interrupted(&self) -> bool {
        self.state.load(Ordering::SeqCst) == INTERRUPTED
    }

    /// The answer has ended, however it did.
    pub fn end(&self) {
        self.state.store(IDLE, Ordering::SeqCst);
    }

    /// Ctrl-C: whether there was an answer to end.
    fn pressed(&self) -> bool {
        self.state.compare_exchange(ANSWERING, INTERRUPTED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ends_the_answer_and_the_next_the_program() {
        let interrupt = Interrupt::default();
        assert!(!interrupt.pressed(), "there is no answer to end");
        interrupt.begin();
        assert!(!interrupt.is_interrupted());
        assert!(interrupt.pressed());
        assert!(interrupt.is_interrupted());
        assert!(!interrupt.pressed(), "the answer is ending already");
        interrupt.end();
        assert!(!interrupt.is_interrupted() && !interrupt.pressed());
    }
}
