//! `fornax generate`: continues a prompt, as a stream of text or as JSON, or the prompts of a file (`offline`).

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Error, Result, bail};
use clap::{ArgGroup, Args};
use fornax::engine::Stream;
use fornax::engine::sampling::EarlyStopping;
use fornax::prelude::*;

use crate::args::CommonArgs;
use crate::engine::{KvArgs, at_least_one, check_sequences, default_max_running};
use crate::lines::Lines;
use crate::notices::Notices;
use crate::output::Output;
use crate::requests::RequestReader;
use crate::sampling::SamplingArgs;
use crate::sequences::JsonSequence;
use crate::{input, offline, texts};

/// The default of `--max-new-tokens`.
const MAX_NEW_TOKENS: usize = 128;

/// Continue a prompt, or all prompts of a file
///
/// Without further arguments the model takes its most likely token each time, so the same prompt gives the same text.
/// The text is written as it is made. The prompts of a file are computed together, which is several times faster than
/// one after the other; each prompt gets the same tokens as alone.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("json_output").args(["json", "prompts"]).multiple(true), after_help = "\
Examples:
  fornax generate ./model --prompt \"Once upon a time\"
  fornax generate model.gguf --prompt \"Dear Ada,\" --temperature 0.8 --top-p 0.95 --seed 7
  fornax generate ./model --prompt \"Q: 2+2? A:\" --stop Q: --json
  fornax generate ./model --prompt \"The sea\" --temperature 1 --num-return-sequences 3
  fornax generate ./model --prompt \"The sea\" --num-beams 4 --num-return-sequences 2
  fornax generate ./model --token-ids 1,403,407
  echo \"The sea\" | fornax generate ./model --prompt -
  fornax generate ./model --prompts prompts.jsonl --max-new-tokens 64 > answers.jsonl
  echo '{\"prompt\": \"The sea\"}' | fornax generate ./model --prompts -

With --json each sequence is one line: {\"text\", \"token_ids\", \"finish_reason\"}, where finish_reason is \"stop\" (an end \
token, a stop token or a stop text) or \"length\"; also \"logprobs\" with --logprobs, and \"score\" from a beam search.

A file of --prompts holds one JSON object a line (no plain text), such as

  {\"prompt\": \"Once upon a time\"}
  {\"id\": \"b\", \"messages\": [{\"role\": \"user\", \"content\": \"Why is the sky blue?\"}], \"temperature\": 0.7}
  {\"id\": 3, \"token_ids\": [1, 403, 407], \"max_new_tokens\": 16, \"stop\": [\"\\n\"]}

with exactly one of \"prompt\" (a text), \"token_ids\" and \"messages\" (a conversation, which the model's chat template \
writes out); an \"id\" if you like (a string or a number); and parameters that differ from the command's arguments: \
temperature, top_k, top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty, seed, max_new_tokens, \
min_new_tokens, stop, stop_token_ids, ignore_eos, num_return_sequences, num_beams, length_penalty, early_stopping, logprobs, \
logit_bias. Empty lines are skipped.

Each sequence is one line, in the order of the file, once all lines before it are written: \"index\" (the line, counted \
from 0) and the \"id\", then \"sequence\" where a prompt has several, then what --json writes. A line that cannot be \
answered gets {\"index\", \"id\", \"error\"} in its place; the others are answered, and at the end the exit code is 1. Files \
may be of any length: no more than 4 times --max-running lines are read ahead.")]
pub struct GenerateArgs {
    /// A folder, a .gguf file or a hub id
    #[arg(value_name = "MODEL")]
    model: String,

    #[command(flatten)]
    prompt: PromptArgs,

    /// Write one JSON object a sequence, each on its line
    #[arg(long)]
    json: bool,

    /// Report the log-probability of each token, and of this many most likely tokens at its place (with --json or
    /// --prompts)
    #[arg(long, value_name = "COUNT", requires = "json_output")]
    logprobs: Option<usize>,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    sequences: SequenceArgs,

    #[command(flatten)]
    kv: KvArgs,
}

/// What to continue.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct PromptArgs {
    /// The text to continue; - reads standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,

    /// A file with the text to continue (the line break at its end is no part of it); - reads standard input
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,

    /// The tokens to continue, for models without a tokenizer too
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    token_ids: Option<Vec<u32>>,

    /// A file with many prompts, one JSON object a line (see below); - reads standard input. The answers are JSON too
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
}

/// How many sequences, and how they are searched.
#[derive(Debug, Args)]
#[command(next_help_heading = "Several sequences")]
struct SequenceArgs {
    /// How many sequences to return
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    num_return_sequences: usize,

    /// Search with this many beams; 1 for no search
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    num_beams: usize,

    /// In a beam search, above 0 favours long sequences, below 0 short ones
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0, allow_negative_numbers = true)]
    length_penalty: f32,

    /// When a beam search ends: false (when nothing better is in sight), true (when enough have finished) or never
    /// (when nothing better is possible)
    #[arg(long, value_name = "WHEN", default_value = "false")]
    early_stopping: EarlyStopping,

    /// The most sequences that run at once, over all prompts of a file [default: 64]
    #[arg(long, value_name = "COUNT", value_parser = at_least_one, allow_negative_numbers = true)]
    max_running: Option<usize>,
}

/// Runs it.
pub fn run(args: &GenerateArgs, common: &CommonArgs) -> Result<()> {
    let params = args.params(common)?;
    let max_running = args.sequences.max_running.unwrap_or_else(|| default_max_running(&params));
    check_sequences(&params, max_running).map_err(Error::msg)?;
    // The answers of a file are written when they are whole, so nobody waits for a single token.
    let config = EngineConfig { max_running, prompt_delay: None, ..args.kv.config() };
    if let Some(path) = &args.prompt.prompts {
        // Opened before the model is loaded, so that a missing file is an error at once.
        let lines = Lines::open(path)?;
        let total = texts::count(path, common.notices());
        let reader = RequestReader::new(params).context("cannot write the parameters as JSON")?;
        return offline::run(common.load(&args.model)?, &config, lines, reader, total, common.notices());
    }
    args.sampling.warn_of_unused(common);
    let prompt = args.prompt.read()?;
    let model = common.load(&args.model)?;

    let start = Instant::now();
    let stream = Generator::with_config(model.clone(), config).stream(prompt, &params)?;
    let mut speed = Speed { start, first: None, tokens: 0 };
    let mut out = Output::stdout();
    let ids_for_text = model.tokenizer().is_none();
    if args.json {
        write_json(stream, &mut out, &mut speed, args.logprobs.is_some())?;
    } else if params.num_return_sequences == 1 {
        write_one(stream, &mut out, &mut speed, ids_for_text)?;
    } else {
        write_each(stream, &mut out, &mut speed, ids_for_text, params.num_return_sequences)?;
    }
    out.flush()?;
    speed.report(common.notices());
    Ok(())
}

impl GenerateArgs {
    fn params(&self, common: &CommonArgs) -> Result<SamplingParams> {
        let params = self
            .sampling
            .params(MAX_NEW_TOKENS, common)?
            .num_return_sequences(self.sequences.num_return_sequences)
            .num_beams(self.sequences.num_beams)
            .length_penalty(self.sequences.length_penalty)
            .early_stopping(self.sequences.early_stopping)
            .logprobs(self.logprobs);
        params.validate()?;
        if params.num_beams > 1 && params.logprobs.is_some() {
            bail!("a beam search reports no logprobs; leave out --logprobs or --num-beams");
        }
        Ok(params)
    }
}

impl PromptArgs {
    fn read(&self) -> Result<Prompt> {
        let prompt = input::prompt(self.token_ids.as_deref(), self.prompt_file.as_deref(), self.prompt.as_deref())?;
        // The arguments' group requires one of them.
        prompt.context("there is no prompt; give --prompt, --prompt-file, --token-ids or --prompts")
    }
}

/// Writes all sequences at the end, so that an error leaves no partial output.
fn write_json(mut stream: Stream, out: &mut Output, speed: &mut Speed, logprobs: bool) -> Result<()> {
    for chunk in stream.by_ref() {
        speed.count(&chunk?);
    }
    for generation in stream.into_generations() {
        out.json(&JsonSequence::new(&generation, logprobs))?;
    }
    Ok(())
}

/// Writes the text as it is made.
fn write_one(stream: Stream, out: &mut Output, speed: &mut Speed, ids_for_text: bool) -> Result<()> {
    let mut is_first = true;
    for chunk in stream {
        let chunk = chunk?;
        speed.count(&chunk);
        if ids_for_text {
            out.piece(&ids(&chunk.token_ids, is_first))?;
        } else {
            out.piece(&chunk.text)?;
        }
        is_first = false;
    }
    out.line("")
}

/// Writes each sequence when it is finished, as the texts of several running sequences would mix.
fn write_each(stream: Stream, out: &mut Output, speed: &mut Speed, ids_for_text: bool, count: usize) -> Result<()> {
    let mut texts = vec![String::new(); count];
    for chunk in stream {
        let chunk = chunk?;
        speed.count(&chunk);
        let text = &mut texts[chunk.sequence];
        if ids_for_text {
            text.push_str(&ids(&chunk.token_ids, text.is_empty()));
        } else {
            text.push_str(&chunk.text);
        }
        if let Some(reason) = chunk.finish_reason {
            out.line(format_args!("=== {} of {count} ({reason}) ===", chunk.sequence + 1))?;
            out.piece(text)?;
            out.line("")?;
            out.flush()?;
        }
    }
    Ok(())
}

/// Ids as `--token-ids` takes them.
fn ids(token_ids: &[u32], is_first: bool) -> String {
    let ids: Vec<String> = token_ids.iter().map(u32::to_string).collect();
    let comma = if is_first || ids.is_empty() { "" } else { "," };
    format!("{comma}{}", ids.join(","))
}

/// How fast it went.
struct Speed {
    start: Instant,
    /// When the first chunk came, and the number of its tokens. With beams, the whole search is over then.
    first: Option<(Instant, usize)>,
    tokens: usize,
}

impl Speed {
    fn count(&mut self, chunk: &Chunk) {
        self.first.get_or_insert_with(|| (Instant::now(), chunk.token_ids.len()));
        self.tokens += chunk.token_ids.len();
    }

    fn report(&self, notices: Notices) {
        let Some((first, with_it)) = self.first else { return };
        let (prompt, seconds) = ((first - self.start).as_secs_f64(), first.elapsed().as_secs_f64());
        // A search is over before its first token is shown.
        let rate = if seconds > 1e-3 {
            format!(", {:.1} tokens/s", (self.tokens - with_it) as f64 / seconds)
        } else {
            String::new()
        };
        notices.info(format_args!(
            "{} tokens, the first after {prompt:.2} s, the others in {seconds:.2} s{rate}",
            self.tokens
        ));
    }
}
