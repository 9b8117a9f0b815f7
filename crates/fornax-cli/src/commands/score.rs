//! `fornax score`: how likely a model finds a text, token by token, or the texts of a file.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use fornax::prelude::*;
use serde::Serialize;

use crate::args::CommonArgs;
use crate::batch_output::BatchOutput;
use crate::output::Output;
use crate::progress::Inputs;
use crate::table::{printable, table};
use crate::{input, texts};

/// The most texts of a file that are scored together.
const TOGETHER: usize = 64;

/// Show how likely a model finds a text, or each text of a file: log-probabilities and perplexity
///
/// A token's log-probability is natural and given the tokens before it; the first token has none. Perplexity is exp of
/// the mean negative log-probability: the lower, the more expected.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  fornax score ./model --text \"The cat sat on the mat.\"
  fornax score ./model --file chapter.txt --json
  fornax score ./model --token-ids 1,403,407
  fornax score ./model --texts sentences.txt > scores.jsonl
  echo '{\"id\": 7, \"text\": \"The cat sat.\"}' | fornax score ./model --texts - --jsonl

With --json: {\"token_ids\", \"logprobs\" (null for the first token), \"perplexity\"}. Token ids need no tokenizer.

With --texts each text has a line of the output, in the order of the file: {\"index\" (the line, counted from 0; empty ones \
are skipped), \"id\" (if it has one)} and what --json writes. A text that cannot be scored gets {\"index\", \"id\", \
\"error\"} in its place; the others are scored, and at the end the exit code is 1.")]
pub struct ScoreArgs {
    /// A folder, a .gguf file or a hub id
    #[arg(value_name = "MODEL")]
    model: String,

    #[command(flatten)]
    text: TextArgs,

    /// The file of --texts holds JSON objects: "text" or "token_ids", and an "id" if you like
    #[arg(long)]
    jsonl: bool,

    /// Write one JSON object
    #[arg(long)]
    json: bool,
}

/// What to score.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct TextArgs {
    /// The text; - reads standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    text: Option<String>,

    /// A file with the text (the line break at its end is no part of it); - reads standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// The tokens, for models without a tokenizer too
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    token_ids: Option<Vec<u32>>,

    /// A file with one text a line, or one JSON object a line where its name ends in .jsonl; - reads standard input. The
    /// scores are JSON too
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
}

/// Runs it.
pub fn run(args: &ScoreArgs, common: &CommonArgs) -> Result<()> {
    texts::check_jsonl(args.jsonl, args.text.texts.as_deref())?;
    if let Some(path) = &args.text.texts {
        return score_file(path, args, common);
    }
    let text = args.text.read()?;
    let model = common.load(&args.model)?;
    let scored = score(&model, text)?;
    let mut out = Output::stdout();
    if args.json {
        out.json(&JsonScore::from(&scored))?;
    } else {
        write_table(&model, &scored, &mut out)?;
    }
    out.flush()
}

impl TextArgs {
    fn read(&self) -> Result<Prompt> {
        let text = input::prompt(self.token_ids.as_deref(), self.file.as_deref(), self.text.as_deref())?;
        // The arguments' group requires one of them.
        text.context("there is no text; give --text, --file, --token-ids or --texts")
    }
}

/// A score as JSON.
#[derive(Serialize)]
struct JsonScore<'a> {
    token_ids: &'a [u32],
    logprobs: &'a [Option<f32>],
    perplexity: Option<f64>,
}

impl<'a> From<&'a Score> for JsonScore<'a> {
    fn from(score: &'a Score) -> Self {
        Self { token_ids: &score.token_ids, logprobs: &score.logprobs, perplexity: score.perplexity() }
    }
}

/// Scores the texts of a file.
fn score_file(path: &Path, args: &ScoreArgs, common: &CommonArgs) -> Result<()> {
    let mut texts = texts::open(path, args.jsonl, 4 * TOGETHER)?;
    let total = texts::count(path, common.notices());
    let model = common.load(&args.model)?;
    let mut out = BatchOutput::stdout();
    let mut progress = Inputs::new(common.notices(), total, "tokens");
    texts::answer_each(
        &mut texts,
        TOGETHER,
        |prompts| Ok(score_all(&model, prompts)?),
        |place, score| {
            progress.advance(score.as_ref().map_or(0, |score| score.token_ids.len()));
            progress.finished(|| out.write(place, score.as_ref().map(JsonScore::from)))
        },
    )?;
    progress.report();
    out.finish()
}

fn write_table(model: &AutoModel, scored: &Score, out: &mut Output) -> Result<()> {
    let mut rows = vec![["position", "id", "logprob", "token"].map(str::to_owned).to_vec()];
    for (position, (&id, logprob)) in scored.token_ids.iter().zip(&scored.logprobs).enumerate() {
        let token = model.tokenizer().and_then(|tokenizer| tokenizer.id_to_token(id)).unwrap_or_default();
        let logprob = logprob.map_or_else(|| "-".to_owned(), |logprob| format!("{logprob:.4}"));
        rows.push(vec![position.to_string(), id.to_string(), logprob, printable(&token)]);
    }
    for line in table(&rows, &[true, true, true, false]) {
        out.line(line)?;
    }
    match scored.perplexity() {
        Some(perplexity) => out.line(format_args!("\nperplexity {perplexity:.4} over {} tokens", rows.len() - 2)),
        None => out.line("\nno perplexity: a single token has nothing before it"),
    }
}
