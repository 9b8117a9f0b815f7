//! `fornax quickstart`: a small model trained, saved, loaded and run, with nothing downloaded.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use fornax::burn::module::Module;
use fornax::models::Network;
use fornax::models::families::llama::LlamaConfig;
use fornax::prelude::*;
use fornax::text::{BpeTrainerConfig, train_bpe};
use fornax::train::{PretrainArgs, PretrainReport, StepReport, pretrain, stories};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::CommonArgs;
use crate::notices::{Notices, say};
use crate::output::Output;
use crate::table::short_count;

/// Train a tiny model on this machine, save it, load it back and let it write
///
/// The model has Llama's shape and a million parameters. It learns from stories that the program makes itself, by a small
/// grammar, so nothing is downloaded. What is saved is an ordinary Hugging Face folder: transformers loads it too.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  fornax quickstart\n  fornax quickstart --out my-model --steps 1000\n\nThen:\n  \
fornax generate fornax-quickstart --prompt \"Once upon a time\" --temperature 0.8")]
pub struct QuickstartArgs {
    /// The folder to save the model in
    #[arg(long, value_name = "FOLDER", default_value = DEFAULT_OUT)]
    pub out: PathBuf,

    /// How long to train, in steps of 16 sequences of 64 tokens
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    pub steps: usize,
}

const DEFAULT_OUT: &str = "fornax-quickstart";
const PROMPT: &str = "Once upon a time";
/// Enough text that no story is seen twice in the default run's 200,000 tokens.
const STORIES: usize = 4000;

/// Runs it.
pub fn run(args: &QuickstartArgs, common: &CommonArgs) -> Result<()> {
    let start = Instant::now();
    refuse_to_overwrite(args)?;
    let device = common.open_device()?;
    let notices = common.notices();
    let seed = common.seed.unwrap_or(0);
    device.seed(seed);
    // The steps are what the command is for, so they are told even where standard error is a file.
    let tell = |text: String| {
        if !common.quiet {
            say(text);
        }
    };

    let texts = stories(STORIES, seed);
    let bytes: usize = texts.iter().map(String::len).sum();
    let config = LlamaConfig::tiny();
    let tokenizer = train_bpe(
        texts.iter().cloned(),
        &BpeTrainerConfig { vocab_size: config.vocab_size, ..BpeTrainerConfig::default() },
    )?;
    let tokens = token_stream(&tokenizer, &texts)?;
    tell(format!(
        "1. made {STORIES} stories ({} kB) and a tokenizer of {} tokens",
        bytes / 1000,
        tokenizer.vocab_size()
    ));

    let decoder = config.decoder()?.init(&device);
    let parameters = decoder.num_params() as u64;
    tell(format!("2. training a Llama of {} parameters on {device}", short_count(parameters)));
    let training = PretrainArgs {
        steps: args.steps,
        batch_size: 16,
        sequence_length: 64,
        learning_rate: 3e-3,
        warmup_steps: 20.min(args.steps / 2),
        seed,
        ..PretrainArgs::default()
    };
    let progress = TrainingProgress::new(args.steps, notices, common.quiet);
    let (trained, report) = pretrain(decoder, tokens, &training, |step| progress.step(step))?;
    progress.finish(&report);

    let model = AutoModel::from_parts(config.to_json(), Network::Decoder(trained), Some(tokenizer), &device)?;
    model.save(&args.out).with_context(|| format!("cannot save the model in {}", args.out.display()))?;
    tell(format!("3. saved as a Hugging Face folder: {}", args.out.display()));

    let folder = args.out.to_str().context("the folder's name is not valid Unicode; choose another with --out")?;
    let model = AutoModel::load_with(folder, &device, &LoadOptions::default())?;
    tell(format!("4. loaded back; it continues \"{PROMPT}\":\n"));
    let params = SamplingParams::default().temperature(0.7).top_p(0.95).max_new_tokens(160).seed(seed);
    let mut output = Output::stdout();
    output.piece(PROMPT)?;
    for piece in model.generator().stream(PROMPT, &params)? {
        output.piece(&piece?.text)?;
    }
    output.line("")?;
    output.flush()?;
    tell(format!(
        "\ndone in {:.0} s; next: fornax generate {folder} --prompt \"{PROMPT}\"",
        start.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// The default folder may be replaced; any other folder that is not empty may hold a user's files.
fn refuse_to_overwrite(args: &QuickstartArgs) -> Result<()> {
    if args.steps == 0 {
        bail!("--steps: found 0, expected at least 1");
    }
    let holds_something = fs::read_dir(&args.out).is_ok_and(|mut entries| entries.next().is_some());
    if holds_something && args.out.as_os_str() != DEFAULT_OUT {
        bail!("{} is not empty; name a new folder with --out, or remove it first", args.out.display());
    }
    if args.out.exists() && !args.out.is_dir() {
        bail!("{} is a file; name a folder with --out", args.out.display());
    }
    // Known before the training rather than after it.
    let place = args.out.ancestors().find(|place| place.is_dir()).unwrap_or(Path::new("."));
    tempfile::tempfile_in(place).with_context(|| format!("cannot write to {}", place.display()))?;
    Ok(())
}

/// All stories one after the other, each between the tokens that begin and end a text.
fn token_stream(tokenizer: &Tokenizer, texts: &[String]) -> Result<Vec<u32>> {
    let mut tokens = Vec::new();
    for text in texts {
        tokens.extend(tokenizer.encode(text, true)?.ids);
        tokens.extend(tokenizer.eos_ids().first());
    }
    Ok(tokens)
}

/// Loss and speed while the model learns: a bar on a terminal, a line every tenth elsewhere.
struct TrainingProgress {
    bar: ProgressBar,
    lines: bool,
    quiet: bool,
    steps: usize,
}

impl TrainingProgress {
    fn new(steps: usize, notices: Notices, quiet: bool) -> Self {
        let on_terminal = notices.shows_info();
        let target = if on_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("   [{bar:32}] step {pos}/{len}  {msg}  {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar = ProgressBar::with_draw_target(Some(steps as u64), target).with_style(style);
        Self { bar, lines: !on_terminal, quiet, steps }
    }

    fn step(&self, step: &StepReport) {
        let speed = step.tokens as f64 / step.elapsed.as_secs_f64().max(1e-9);
        let message = format!("loss {:.3}  {speed:.0} tokens/s", step.loss);
        if self.lines && !self.quiet && (step.step == 1 || step.step.is_multiple_of((self.steps / 10).max(1))) {
            say(format_args!("   step {}/{}  {message}", step.step, self.steps));
        }
        self.bar.set_message(message);
        self.bar.set_position(step.step as u64);
    }

    fn finish(&self, report: &PretrainReport) {
        self.bar.finish_and_clear();
        if !self.quiet {
            let (first, last) = (report.losses.first().unwrap_or(&0.0), report.losses.last().unwrap_or(&0.0));
            say(format_args!("   loss {first:.2} {} {last:.2}", sparkline(&report.losses, 40)));
            say(format_args!("   {:.0} tokens/s, {:.1} s", report.tokens_per_second(), report.elapsed.as_secs_f64()));
        }
    }
}

/// The values as a curve of `width` characters, each the mean of its share.
fn sparkline(values: &[f32], width: usize) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    if values.is_empty() {
        return String::new();
    }
    let columns = width.min(values.len());
    let means: Vec<f32> = (0..columns)
        .map(|column| {
            let share = &values[column * values.len() / columns..(column + 1) * values.len() / columns];
            share.iter().sum::<f32>() / share.len() as f32
        })
        .collect();
    let (low, high) = means.iter().fold((f32::MAX, f32::MIN), |(low, high), &mean| (low.min(mean), high.max(mean)));
    let level = |mean: f32| ((mean - low) / (high - low).max(f32::MIN_POSITIVE) * 7.0).round() as usize;
    means.iter().map(|&mean| LEVELS[level(mean).min(7)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_loss_is_a_falling_curve() {
        assert_eq!(sparkline(&[8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 8), "█▇▆▅▄▃▂▁");
        assert_eq!(sparkline(&[1.0, 1.0], 40), "▁▁");
        assert_eq!(sparkline(&[], 40), "");
    }
}
