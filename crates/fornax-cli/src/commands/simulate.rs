//! `fornax simulate`: runs schedulers and routers on traffic in simulated time.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use fornax::scheduler::simulate::{BUILT_IN, Outcome, Progress, Scenario, TimeUnit, Trace, summary};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::CommonArgs;
use crate::input;
use crate::output::Output;
use crate::table::{printable, table};

/// Try schedulers and routers on made-up or recorded traffic
///
/// A scenario gives the requests, the time that a step of the model takes, and the variants to compare. Scheduler and
/// router are the same code that serves models; only time and texts are made up. The same seed gives the same output.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  fornax simulate --list
  fornax simulate mixed
  fornax simulate mixed --compare fcfs,shortest:ageing=0.05,vtc --seed 7
  fornax simulate policies --seeds 5
  fornax simulate prefixes --plots plots/
  fornax simulate my-scenario.toml --trace requests.jsonl --json

A scenario to begin with:
  title = \"Mine\"
  requests = 1000
  arrivals = { poisson = 5.0 }          # a second; or bursty = { rate, factor, on, off }, diurnal = { rate, depth, period }
  cost = { fitted = { base = 0.007, per_token = 4e-5, per_context = 5e-8 } }    # seconds of a step; or roofline = { ... }
  [[class]]
  name = \"chat\"
  prompt = { log-normal = [200.0, 0.8, 4096] }      # median, spread, most; or fixed, uniform, pareto
  output = { log-normal = [100.0, 0.7, 1024] }
  [[variant]]
  policy = \"fcfs\"
  [[variant]]
  policy = \"shortest\"

A trace has a line for each request, in order of time: {\"arrival\": 0.5, \"prompt\": 200, \"output\": 50}, in seconds and \
tokens; \"max_tokens\", \"class\", \"tenant\", \"priority\", \"deadline\", \"cancel\", \"n\", \"adapter\", \"prefix\" with \
\"prefix_group\", and \"hash_ids\" may be added. Traces with the keys of Mooncake are read as they are.

With --json: {\"title\", \"seed\", \"seeds\", \"variants\": [a report each], \"times_the_oracle\", \"regret\", \"plots\"}, and \
\"spread\" where there are several seeds.")]
pub struct SimulateArgs {
    /// A TOML file, - for standard input, or the name of a scenario that comes with fornax
    #[arg(value_name = "SCENARIO", required_unless_present = "list")]
    scenario: Option<String>,

    /// Show the scenarios that come with fornax
    #[arg(long)]
    list: bool,

    /// Serve the requests of this file, one as JSON a line, instead of made-up ones
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// The unit of the trace's times: s, ms or us [default: s for arrival, ms for timestamp]
    #[arg(long, value_name = "UNIT", requires = "trace")]
    time_unit: Option<TimeUnit>,

    /// Run with this many seeds, and show means and, after ±, standard deviations
    #[arg(long, value_name = "COUNT")]
    seeds: Option<u64>,

    /// Compare these policies instead of the scenario's variants, separated by commas
    #[arg(long, value_name = "POLICIES")]
    compare: Option<String>,

    /// How many requests come, instead of as many as the scenario says
    #[arg(long, value_name = "COUNT", conflicts_with = "trace")]
    requests: Option<u64>,

    /// Write plots as SVG files into this folder
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,

    /// Write one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &SimulateArgs, common: &CommonArgs) -> Result<()> {
    let Some(name) = args.scenario.as_deref().filter(|_| !args.list) else { return list(args.json) };
    let mut scenario = read(name)?;
    if let Some(seed) = common.seed {
        scenario.seed = seed;
    }
    if let Some(requests) = args.requests {
        scenario.requests = Some(requests);
    }
    if let Some(seeds) = args.seeds {
        scenario.seeds = seeds;
    }
    scenario.trace.time_unit = args.time_unit.or(scenario.trace.time_unit);
    if let Some(policies) = &args.compare {
        scenario.compare(policies)?;
    }
    let trace = args.trace.as_deref().map(|path| read_trace(&scenario, path)).transpose()?;
    // Made before the simulation, so that a folder that cannot be made is an error at once.
    if let Some(folder) = &args.plots {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let bar = bar(common);
    let outcome = scenario.run(trace.as_ref(), &mut |progress| show(&bar, progress))?;
    bar.finish_and_clear();
    let plots = args.plots.as_deref().map(|folder| write_plots(&outcome, folder)).transpose()?.unwrap_or_default();

    let mut out = Output::stdout();
    if args.json {
        let mut json = outcome.json();
        json["plots"] = plots.iter().map(|path| path.display().to_string()).collect();
        out.pretty_json(&json)?;
        return out.flush();
    }
    out.line(printable(&outcome.heading()))?;
    for found in outcome.tables() {
        out.line(format_args!("\n{}", found.title))?;
        let (head, numbers): (Vec<String>, Vec<bool>) = found.columns.into_iter().unzip();
        let rows: Vec<Vec<String>> = std::iter::once(head).chain(found.rows).collect();
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
        for line in table(&rows, &numbers) {
            out.line(line)?;
        }
    }
    if !plots.is_empty() {
        out.line("\nPlots")?;
    }
    for path in &plots {
        out.line(path.display())?;
    }
    out.flush()
}

/// Lists the scenarios that come with fornax.
fn list(json: bool) -> Result<()> {
    let mut out = Output::stdout();
    let all = BUILT_IN.iter().map(|(name, text)| ((*name).to_owned(), summary(text)));
    if json {
        out.json(
            &all.map(|(name, summary)| serde_json::json!({"name": name, "summary": summary})).collect::<Vec<_>>(),
        )?;
        return out.flush();
    }
    let rows: Vec<Vec<String>> = all.map(|(name, summary)| vec![name, summary]).collect();
    for line in table(&rows, &[false, false]) {
        out.line(line)?;
    }
    out.flush()
}

/// Reads the built-in scenario of this name, or a file.
fn read(name: &str) -> Result<Scenario> {
    if let Some((_, text)) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
        return Ok(Scenario::parse(text)?);
    }
    let path = Path::new(name);
    if name != "-" && !path.exists() {
        let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
        bail!("{name}: there is no such file; expected a TOML file, or one of {}", names.join(", "));
    }
    Scenario::parse(&input::file(path)?).map_err(|error| anyhow!("{name}: {error}"))
}

fn read_trace(scenario: &Scenario, path: &Path) -> Result<Trace> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    scenario.read_trace(&bytes).map_err(|error| anyhow!("{}: {error}", path.display()))
}

fn write_plots(outcome: &Outcome, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for (name, svg) in outcome.plots() {
        let path = folder.join(name);
        fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
        paths.push(path);
    }
    Ok(paths)
}

fn bar(common: &CommonArgs) -> ProgressBar {
    if !common.notices().shows_info() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg:28!} [{bar:20}] {percent:>3}% {eta:>4}");
    ProgressBar::new(1).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "))
}

fn show(bar: &ProgressBar, progress: Progress<'_>) {
    let done = progress.run as u64 * progress.of + progress.requests;
    bar.set_length(progress.runs as u64 * progress.of);
    if progress.requests == 0 {
        bar.set_message(printable(progress.variant));
    }
    bar.set_position(done);
}
