//! `fornax bench`: how fast a model loads, reads prompts and continues them on this machine.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use fornax::engine::bench::{BenchOptions, BenchRun, bench};
use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};
use serde::Serialize;

use fornax::prelude::*;

use crate::args::CommonArgs;
use crate::input;
use crate::output::Output;
use crate::table::table;

/// Measure how fast a model loads, reads prompts and continues them, or turns texts into vectors
///
/// Everything is measured several times after one run that does not count. The median is given with the least and the
/// most. Other work on the machine slows the measurements: watch the spread. The token ids of the prompts are made up,
/// so a model without a tokenizer will do.
///
/// With several sequences (--batch), prompts of unequal lengths, which rise evenly up to --prompt-tokens, and one
/// sequence alone are measured in turn too. The speed of the batch is compared with that of one sequence.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  fornax bench model.gguf
  fornax bench ./model --prompt-tokens 512 --new-tokens 64 --threads 2 --weights q4_0 --repeat 5
  fornax bench ./model --batch 8 --json
  fornax bench ./minilm --texts sentences.txt --batch 32

With --json: {\"prefill_tokens_per_s\", \"decode_tokens_per_s\" (all sequences of the batch together), \"load_s\", \
\"first_token_s\" (from the prompt to the first logits), \"peak_rss_bytes\" (null where the system does not say), \
\"bytes_per_token\" (the least that the machine reads for a new token)}, medians. With --batch above 1 also \
{\"unequal_prefill_tokens_per_s\", \"unequal_decode_tokens_per_s\" (the same for prompts of unequal lengths), \
\"one_decode_tokens_per_s\" (one sequence alone), \"decode_ratio\" and \"unequal_decode_ratio\" (how many times as fast as \
one sequence)}. With --texts: \
{\"texts_per_s\", \"load_s\", \"peak_rss_bytes\"}.")]
pub struct BenchArgs {
    /// A folder, a .gguf file or a hub id
    #[arg(value_name = "MODEL")]
    model: String,

    /// Tokens of each prompt
    #[arg(long, short, value_name = "COUNT", default_value_t = 512)]
    prompt_tokens: usize,

    /// New tokens of each sequence
    #[arg(long, short, value_name = "COUNT", default_value_t = 64)]
    new_tokens: usize,

    /// Sequences in the batch
    #[arg(long, short, value_name = "COUNT", default_value_t = 1)]
    batch: usize,

    /// A file with one text a line, to be turned into vectors --batch at a time: for encoders
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,

    /// Measurements of each figure
    #[arg(long, short, value_name = "COUNT", default_value_t = 5)]
    repeat: usize,

    /// Write one JSON object
    #[arg(long)]
    json: bool,
}

/// Medians, as JSON.
#[derive(Serialize)]
struct Medians {
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: f64,
    load_s: f64,
    first_token_s: f64,
    peak_rss_bytes: Option<u64>,
    bytes_per_token: f64,
    #[serde(flatten)]
    batch: Option<BatchMedians>,
}

/// Medians of sequences of unequal lengths, and of one sequence alone, as JSON.
#[derive(Serialize)]
struct BatchMedians {
    unequal_prefill_tokens_per_s: f64,
    unequal_decode_tokens_per_s: f64,
    one_decode_tokens_per_s: f64,
    decode_ratio: f64,
    unequal_decode_ratio: f64,
}

/// The measurements of a round.
struct Round {
    run: BenchRun,
    /// With several sequences: prompts of unequal lengths, and one sequence alone.
    others: Option<(BenchRun, BenchRun)>,
}

/// Medians of an encoder, as JSON.
#[derive(Serialize)]
struct TextMedians {
    texts_per_s: f64,
    load_s: f64,
    peak_rss_bytes: Option<u64>,
}

/// Runs it.
pub fn run(args: &BenchArgs, common: &CommonArgs) -> Result<()> {
    if args.repeat == 0 {
        bail!("--repeat: found 0, expected at least 1");
    }
    let options = BenchOptions {
        prompt_tokens: args.prompt_tokens,
        new_tokens: args.new_tokens,
        batch: args.batch,
        unequal: false,
    };
    let texts = args.texts.as_deref().map(read_texts).transpose()?;
    let bar = bar(common, 2 * args.repeat as u64 + 2);
    let (mut loads, mut model) = (Vec::new(), None);
    for _ in 0..=args.repeat {
        bar.set_message("loading");
        // One model at a time, so that the peak of memory is that of one model.
        drop(model.take());
        let start = Instant::now();
        model = Some(common.load_quietly(&args.model)?);
        loads.push(start.elapsed().as_secs_f64());
        bar.inc(1);
    }
    let Some(model) = model else { bail!("no model was loaded") };
    let load = Spread::of(loads[1..].iter().copied());
    if let Some(file) = &texts {
        return embed(args, &model, file, load, &bar);
    }
    let mut rounds = Vec::new();
    for _ in 0..=args.repeat {
        bar.set_message("reading and continuing");
        let run = bench(&model, &options)?;
        let others = if options.batch > 1 {
            let unequal = bench(&model, &BenchOptions { unequal: true, ..options.clone() })?;
            Some((unequal, bench(&model, &BenchOptions { batch: 1, ..options.clone() })?))
        } else {
            None
        };
        rounds.push(Round { run, others });
        bar.inc(1);
    }
    bar.finish_and_clear();

    // The first round warmed up memory and caches, and does not count.
    let rounds = &rounds[1..];
    let of = |figure: fn(&BenchRun) -> f64| Spread::of(rounds.iter().map(|round| figure(&round.run)));
    let prefill = of(|run| run.prefill_tokens_per_s);
    let decode = of(|run| run.decode_tokens_per_s);
    let first_token = of(|run| run.first_token_s);
    let batch = Batch::of(rounds);
    let medians = Medians {
        prefill_tokens_per_s: prefill.median,
        decode_tokens_per_s: decode.median,
        load_s: load.median,
        first_token_s: first_token.median,
        peak_rss_bytes: peak_rss_bytes(),
        bytes_per_token: of(|run| run.bytes_per_token).median,
        batch: batch.as_ref().map(Batch::medians),
    };
    let mut out = Output::stdout();
    if args.json {
        out.json(&medians)?;
        return out.flush();
    }
    let mut rows = vec![
        head(),
        row(format!("prefill of {} × {}", options.batch, options.prompt_tokens), prefill, "tokens/s", 1),
        row(format!("decode of {} × {}", options.batch, options.new_tokens), decode, "tokens/s", 1),
    ];
    rows.extend(batch.iter().flat_map(|batch| batch.rows(&options)));
    rows.push(row("first token".to_owned(), first_token, "s", 3));
    rows.push(row("load".to_owned(), load, "s", 3));
    for line in table(&rows, &COLUMNS) {
        out.line(line)?;
    }
    let read = medians.bytes_per_token * medians.decode_tokens_per_s;
    out.line(format_args!(
        "\n{} read for each new token, {}/s; weights {}, on {}",
        DecimalBytes(medians.bytes_per_token as u64),
        DecimalBytes(read as u64),
        common.weight_format()?,
        model.device(),
    ))?;
    if let Some(bytes) = medians.peak_rss_bytes {
        out.line(format_args!("at most {} of memory at once", DecimalBytes(bytes)))?;
    }
    out.flush()
}

/// The figures of several sequences, compared with one sequence alone.
struct Batch {
    unequal_prefill: Spread,
    unequal_decode: Spread,
    one_decode: Spread,
    /// Computed within each round, whose measurements are close to each other in time.
    ratio: Spread,
    unequal_ratio: Spread,
}

impl Batch {
    fn of(rounds: &[Round]) -> Option<Self> {
        let runs: Option<Vec<_>> =
            rounds.iter().map(|round| round.others.map(|(unequal, one)| (round.run, unequal, one))).collect();
        let runs = runs?;
        let of = |figure: fn(&(BenchRun, BenchRun, BenchRun)) -> f64| Spread::of(runs.iter().map(figure));
        Some(Self {
            unequal_prefill: of(|(_, unequal, _)| unequal.prefill_tokens_per_s),
            unequal_decode: of(|(_, unequal, _)| unequal.decode_tokens_per_s),
            one_decode: of(|(_, _, one)| one.decode_tokens_per_s),
            ratio: of(|(run, _, one)| run.decode_tokens_per_s / one.decode_tokens_per_s),
            unequal_ratio: of(|(_, unequal, one)| unequal.decode_tokens_per_s / one.decode_tokens_per_s),
        })
    }

    fn medians(&self) -> BatchMedians {
        BatchMedians {
            unequal_prefill_tokens_per_s: self.unequal_prefill.median,
            unequal_decode_tokens_per_s: self.unequal_decode.median,
            one_decode_tokens_per_s: self.one_decode.median,
            decode_ratio: self.ratio.median,
            unequal_decode_ratio: self.unequal_ratio.median,
        }
    }

    fn rows(&self, options: &BenchOptions) -> Vec<Vec<String>> {
        let BenchOptions { new_tokens, batch, .. } = options;
        let prompts = BenchOptions { unequal: true, ..options.clone() }.prompts();
        let lengths = format!("{} to {}", prompts[0], options.prompt_tokens);
        vec![
            row("  times one sequence".to_owned(), self.ratio, "×", 2),
            row(format!("prefill of {batch} × {lengths}"), self.unequal_prefill, "tokens/s", 1),
            row(format!("decode of {batch} × {new_tokens} after {lengths}"), self.unequal_decode, "tokens/s", 1),
            row("  times one sequence".to_owned(), self.unequal_ratio, "×", 2),
            row(format!("decode of 1 × {new_tokens}"), self.one_decode, "tokens/s", 1),
        ]
    }
}

/// The file's lines that are not empty.
fn read_texts(path: &Path) -> Result<Vec<String>> {
    let file = input::file(path)?;
    let texts: Vec<String> = file.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    if texts.is_empty() {
        bail!("{}: there is no text in it; expected one a line", path.display());
    }
    Ok(texts)
}

/// Measures an encoder.
fn embed(args: &BenchArgs, model: &AutoModel, texts: &[String], load: Spread, bar: &ProgressBar) -> Result<()> {
    let embedder = model.embedder();
    let options = EmbedOptions { batch_size: args.batch, ..embedder.default_options() };
    let mut speeds = Vec::new();
    for _ in 0..=args.repeat {
        bar.set_message("embedding");
        let start = Instant::now();
        embedder.embed(texts, &options)?;
        speeds.push(texts.len() as f64 / start.elapsed().as_secs_f64());
        bar.inc(1);
    }
    bar.finish_and_clear();
    let speed = Spread::of(speeds[1..].iter().copied());
    let mut out = Output::stdout();
    if args.json {
        out.json(&TextMedians { texts_per_s: speed.median, load_s: load.median, peak_rss_bytes: peak_rss_bytes() })?;
        return out.flush();
    }
    let name = format!("{} texts, {} at a time", texts.len(), args.batch);
    for line in table(&[head(), row(name, speed, "texts/s", 1), row("load".to_owned(), load, "s", 3)], &COLUMNS) {
        out.line(line)?;
    }
    out.flush()
}

/// Which columns of the table hold numbers.
const COLUMNS: [bool; 5] = [false, true, true, true, false];

fn head() -> Vec<String> {
    ["", "median", "least", "most", ""].map(str::to_owned).to_vec()
}

fn row(name: String, spread: Spread, unit: &str, digits: usize) -> Vec<String> {
    let number = |value: f64| format!("{value:.digits$}");
    vec![name, number(spread.median), number(spread.least), number(spread.most), unit.to_owned()]
}

/// The median, the least and the most of several measurements.
#[derive(Clone, Copy)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// The spread of at least one value.
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        Self { median, least: values[0], most: values[values.len() - 1] }
    }
}

/// The most memory that this process held at once; `None` where the system does not say.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kibibytes)
}

fn bar(common: &CommonArgs, steps: u64) -> ProgressBar {
    if !common.notices().shows_info() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg:24} [{bar:20}] {pos}/{len}");
    ProgressBar::new(steps).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0].into_iter()).median, 2.0);
        let even = Spread::of([4.0, 1.0, 2.0, 3.0].into_iter());
        assert_eq!((even.median, even.least, even.most), (2.5, 1.0, 4.0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_says_how_much_memory_was_held() {
        assert!(peak_rss_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
