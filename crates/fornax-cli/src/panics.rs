//! The last net: a panic anywhere below ends the command as an error does, with one line and exit code 1.
//! It is no way of handling errors; whatever it catches is a mistake in the program.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, anyhow};

/// Where the last panic of this process came from.
static LAST: Mutex<Option<String>> = Mutex::new(None);

/// Runs `body`; a panic of it becomes an error. With `RUST_BACKTRACE` set, panics are also printed as usual.
pub fn guarded(body: impl FnOnce() -> Result<()>) -> Result<()> {
    if env::var_os("RUST_BACKTRACE").is_none_or(|value| value == "0") {
        // Devices are tried out in ways that may panic and are caught there; the usual hook would print that.
        set_hook(Box::new(|panic| {
            let text = panic.payload_as_str().unwrap_or("no reason given").lines().next().unwrap_or_default();
            let place = panic.location().map(|location| format!(" ({}:{})", location.file(), location.line()));
            let text = format!("{text}{}", place.unwrap_or_default());
            *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        }));
    }
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        let last = LAST.lock().unwrap_or_else(PoisonError::into_inner).take();
        Err(anyhow!(
            "internal error: {}; this is a mistake in fornax, please report it with the command and the output of the same command under RUST_BACKTRACE=1",
            last.as_deref().unwrap_or("a panic")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        let error = guarded(|| panic!("a planted mistake")).expect_err("it panicked").to_string();
        assert!(error.starts_with("internal error: "), "{error}");
        guarded(|| Ok(())).expect("no panic");
    }
}
