//! The runner that `cargo xtask bench` starts for each device: it prepares and times cases as it is told, and prints
//! times as JSON. What they mean, and how they are shown, is not its matter.
//!
//! ```text
//! fornax-bench-runner DEVICE [THREADS]     # then requests on standard input, see `fornax_benches::protocol`
//! fornax-bench-runner limits [THREADS]     # prints the machine's limits, and ends
//! ```

#![allow(clippy::print_stdout, reason = "its answers go to standard output")]

use std::io::Write as _;

use anyhow::Context as _;
use fornax_benches::limits;
use fornax_benches::protocol::Runner;
use fornax_cpu::limits::Limits;
use serde_json::json;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_else(|| "cpu".into());
    let threads = arguments.next().map(|threads| threads.parse::<usize>()).transpose();
    let threads = threads.context("the second argument is the number of threads")?;
    if what == "limits" {
        let threads = threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
        println!("{:#}", limits::processor(&Limits::measure(threads)));
        return Ok(());
    }
    // The process that started this one reads its answers; this is the first.
    let device = match start(&what, threads) {
        Ok(device) => device,
        Err(error) => {
            println!("{}", json!({"error": format!("{error:#}")}));
            return Ok(());
        }
    };
    let mut runner = Runner::new(device);
    let mut output = std::io::stdout();
    for line in std::io::stdin().lines() {
        writeln!(output, "{}", runner.answer(&line?))?;
        output.flush()?;
    }
    Ok(())
}

fn start(device: &str, threads: Option<usize>) -> anyhow::Result<fornax::prelude::Device> {
    if let Some(threads) = threads {
        fornax::backend::set_threads(threads)?;
    }
    Ok(device.parse()?)
}
