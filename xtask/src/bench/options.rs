//! The options of `cargo xtask bench`, and their help.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use regex_lite::Regex;

use super::{baseline, cases, peers};

/// What `--backends` takes, each the name of a cargo feature too.
pub const BACKENDS: [&str; 6] = ["cpu", "wgpu", "vulkan", "metal", "cuda", "rocm"];

/// What follows the options in the help.
const EXAMPLES: &str = "\
What it does:
  Builds Fornax's runner with the backends, measures the limits of each device (memory bandwidth,
  peak FLOP/s), then times every case on each device and peer in turn, A B A B, so that all see
  the same machine. Prints a table, and writes a page with pictures (report.html), the table as
  Markdown (report.md) and the figures (results.json) into target/bench.

How to read it:
  A case states the least bytes it must move and the least operations it must compute. \"of limit\"
  is the time that the machine needs for them at its best, over the time measured: 100% of \"mem\"
  or \"comp\" (memory, arithmetic) cannot be beaten; \"cache\" says that the operands fit in a
  cache, which can beat memory. ± is half of what lies between the fastest and the slowest round:
  smaller differences mean nothing.

Examples:
  The processor, in less than five minutes; one operation; some cases (x stands for ×):
    cargo xtask bench --quick
    cargo xtask bench --quick --filter linear
    cargo xtask bench --filter 'decode|1x2048x2048'
  Devices side by side, and other libraries:
    cargo xtask bench --backends cpu,vulkan,cuda:1
    cargo xtask bench --peers torch,llama.cpp --python ../venv/bin/python
  What a change does to the times:
    cargo xtask bench --quick --save before
    cargo xtask bench --quick --compare before --fail-on-regression
";

/// Measure Fornax on this machine: against its limits, an earlier run, and other libraries
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Devices to measure: cpu, wgpu, vulkan, metal, cuda or rocm, with an index where there are several (cuda:1). The
    /// others are compared with the first
    #[arg(long, value_name = "DEVICES", value_delimiter = ',', default_value = "cpu", value_parser = check_backend)]
    pub backends: Vec<String>,
    /// Other libraries to measure beside, on the processor
    #[arg(long, value_name = "LIBRARIES", value_delimiter = ',', value_parser = peer_names())]
    pub peers: Vec<String>,
    /// Only cases whose name has this in it: a part of it, or a regular expression
    #[arg(long, value_name = "REGEX", value_parser = cases::filter)]
    pub filter: Option<Regex>,
    /// Fewer cases and fewer rounds: less than five minutes after the build
    #[arg(long)]
    pub quick: bool,
    /// Keep the figures under this name, for `--compare`
    #[arg(long, value_name = "NAME", value_parser = baseline::check_name)]
    pub save: Option<String>,
    /// Name what is slower or faster than the figures kept under this name; `last` is the run before
    #[arg(long, value_name = "NAME", value_parser = baseline::check_name)]
    pub compare: Option<String>,
    /// End with an error when `--compare` finds something slower beyond noise
    #[arg(long, requires = "compare")]
    pub fail_on_regression: bool,
    /// Threads of the processor, for Fornax and the peers alike; one for each processor without
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub threads: Option<u16>,
    /// The Python that has the peers' packages; that of the active environment without
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// The folder for reports and baselines; target/bench without
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// The cargo profile to build with; figures of another than `release` are not what users get
    #[arg(long, value_name = "PROFILE", default_value = "release")]
    pub profile: String,
    /// Print the cases that would be run, and end
    #[arg(long)]
    pub list: bool,
}

impl Options {
    /// The cargo features that the devices need, each once.
    pub fn features(&self) -> Vec<String> {
        let mut features: Vec<String> = Vec::new();
        for device in &self.backends {
            let backend = backend_of(device);
            if !features.iter().any(|feature| feature == backend) {
                features.push(backend.to_owned());
            }
        }
        features
    }
}

/// The backend of a device: `cuda` of `cuda:1`.
pub fn backend_of(device: &str) -> &str {
    device.split_once(':').map_or(device, |(backend, _)| backend)
}

fn check_backend(device: &str) -> Result<String, String> {
    let known = BACKENDS.join(", ");
    let (backend, index) = device.split_once(':').map_or((device, None), |(backend, index)| (backend, Some(index)));
    if !BACKENDS.contains(&backend) {
        return Err(format!("expected one of {known}, with an index where there are several (cuda:1)"));
    }
    if index.is_some_and(|index| index.parse::<u16>().is_err()) {
        return Err(format!("the index after `{backend}:` is not a number"));
    }
    Ok(device.to_owned())
}

fn peer_names() -> PossibleValuesParser {
    PossibleValuesParser::new(peers::names())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn parse(arguments: &str) -> Result<Options, String> {
        let arguments = std::iter::once("bench").chain(arguments.split_whitespace());
        Command::try_parse_from(arguments).map(|command| command.options).map_err(|error| error.to_string())
    }

    #[test]
    fn without_options_it_is_the_processor() {
        let options = parse("").expect("defaults");
        assert_eq!((options.backends, options.profile.as_str()), (vec!["cpu".to_owned()], "release"));
        assert!(options.peers.is_empty() && !options.quick);
    }

    #[test]
    fn lists_are_split_and_features_named_once() {
        let options = parse("--backends cpu,cuda:0,cuda:1 --peers torch,llama.cpp").expect("lists");
        assert_eq!(options.backends, ["cpu", "cuda:0", "cuda:1"]);
        assert_eq!(options.features(), ["cpu", "cuda"]);
        assert_eq!(options.peers, ["torch", "llama.cpp"]);
    }

    #[test]
    fn bad_input_is_refused_with_what_is_expected() {
        for (arguments, words) in [
            ("--backends gpu", "cpu, wgpu, vulkan, metal, cuda, rocm"),
            ("--backends cuda:x", "not a number"),
            ("--backends cpu,,wgpu", "expected one of"),
            ("--peers jax", "llama.cpp, torch, candle"),
            ("--filter (", "--filter linear"),
            ("--save a/b", "letters, digits"),
            ("--threads 0", "1..=4096"),
            ("--threads many", "invalid digit"),
            ("--fail-on-regression", "--compare"),
        ] {
            let error = parse(arguments).expect_err(arguments);
            assert!(error.contains(words), "{arguments}: {error}");
        }
    }
}
