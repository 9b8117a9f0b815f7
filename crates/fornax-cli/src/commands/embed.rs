//! `fornax embed`: the vectors of texts as JSON, a table of how similar the texts are, or the vectors of a whole file.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};
use fornax::prelude::*;
use serde::Serialize;

use crate::args::CommonArgs;
use crate::batch_output::BatchOutput;
use crate::output::Output;
use crate::progress::Inputs;
use crate::table::{shortened, table};
use crate::{input, texts};

/// How many batches are read at once, so that texts of similar lengths can be computed together.
const BATCHES: usize = 8;

/// The most texts of a table; more would make it wider than a terminal.
const WIDEST_TABLE: usize = 12;
/// How many of the most similar texts are listed for each text where there is no table.
const NEAREST: usize = 3;
/// Characters shown of a text.
const SHOWN: usize = 60;

/// Turn texts into vectors, or compare them
///
/// With --json the vectors are written. Without it, a table shows how similar the texts are: the cosine of the angle
/// between their vectors, 1 for the same direction.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  fornax embed ./minilm --text \"A cat sleeps.\" \"A kitten naps.\" \"Shares fell.\"
  fornax embed ./minilm --file sentences.txt --json > vectors.json
  fornax embed ./bge --text \"A cat sleeps.\" --pooling cls --json
  fornax embed ./minilm --texts sentences.txt > vectors.jsonl
  fornax embed ./minilm --texts documents.jsonl > vectors.jsonl

With --json: {\"embeddings\": [[…], …]}, in the order of the texts (those of --text before those of --file).

With --texts, for files of any length, each text has a line of the output, in the order of the file: {\"index\" (the line, \
counted from 0; empty ones are skipped), \"id\" (if it has one), \"embedding\": […]}. A line of a .jsonl file is a JSON \
object: \"text\" or \"token_ids\", and an \"id\" if you like. A text that cannot be embedded gets {\"index\", \"id\", \
\"error\"} in its place; the others are embedded, and at the end the exit code is 1.")]
pub struct EmbedArgs {
    /// A folder, a .gguf file or a hub id
    #[arg(value_name = "MODEL")]
    model: String,

    /// The texts (may be given several times)
    #[arg(long, value_name = "TEXT", num_args = 1.., required_unless_present_any = ["file", "texts"])]
    text: Vec<String>,

    /// A file with one text a line; - reads standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// A file with one text a line, or one JSON object a line where its name ends in .jsonl; - reads standard input. Writes
    /// one JSON object a text
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "file"])]
    texts: Option<PathBuf>,

    /// The file of --texts holds JSON objects: "text" or "token_ids", and an "id" if you like
    #[arg(long)]
    jsonl: bool,

    /// How the vectors of a text's tokens become one [default: what the model was trained for if it says so, else mean]
    #[arg(long, value_name = "HOW", value_enum)]
    pooling: Option<PoolingArg>,

    /// Leave the vectors at their length instead of scaling them to 1
    #[arg(long)]
    no_normalize: bool,

    /// Texts that run through the model together
    #[arg(long, value_name = "COUNT", default_value_t = 32)]
    batch_size: usize,

    /// Cut longer texts to this many tokens [default: all that the model has
    /// positions for]
    #[arg(long, value_name = "COUNT")]
    max_length: Option<usize>,

    /// Write one JSON object
    #[arg(long)]
    json: bool,
}

/// [`Pooling`] as an argument.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum PoolingArg {
    /// Their mean
    Mean,
    /// The first one, which is trained for it in BERT and BGE
    Cls,
    /// The last one, which is trained for it in decoders that embed
    Last,
}

/// Runs it.
pub fn run(args: &EmbedArgs, common: &CommonArgs) -> Result<()> {
    texts::check_jsonl(args.jsonl, args.texts.as_deref())?;
    if let Some(path) = &args.texts {
        return embed_file(path, args, common);
    }
    let texts = args.texts()?;
    let model = common.load(&args.model)?;
    let embeddings = model.embedder().embed(&texts, &args.options(&model))?;
    let mut out = Output::stdout();
    if args.json {
        out.json(&JsonEmbeddings { embeddings: &embeddings })?;
    } else {
        for line in comparison(&texts, &embeddings) {
            out.line(line)?;
        }
    }
    out.flush()
}

/// Embeds the texts of a file.
fn embed_file(path: &Path, args: &EmbedArgs, common: &CommonArgs) -> Result<()> {
    let together = args.batch_size.saturating_mul(BATCHES);
    let mut texts = texts::open(path, args.jsonl, together.saturating_add(2))?;
    let total = texts::count(path, common.notices());
    let model = common.load(&args.model)?;
    let options = args.options(&model);
    let mut out = BatchOutput::stdout();
    let mut progress = Inputs::new(common.notices(), total, "vectors");
    texts::answer_each(
        &mut texts,
        together,
        |prompts| Ok(model.embedder().embed_all(prompts, &options)?),
        |place, vector| {
            progress.advance(usize::from(vector.is_ok()));
            progress.finished(|| out.write(place, vector.as_ref().map(|embedding| JsonEmbedding { embedding })))
        },
    )?;
    progress.report();
    out.finish()
}

impl EmbedArgs {
    fn options(&self, model: &AutoModel) -> EmbedOptions {
        EmbedOptions {
            pooling: match self.pooling {
                Some(PoolingArg::Mean) => Pooling::Mean,
                Some(PoolingArg::Cls) => Pooling::Cls,
                Some(PoolingArg::Last) => Pooling::Last,
                None => model.embedder().default_options().pooling,
            },
            normalize: !self.no_normalize,
            batch_size: self.batch_size,
            max_length: self.max_length,
        }
    }

    fn texts(&self) -> Result<Vec<String>> {
        let mut texts = self.text.clone();
        if let Some(path) = &self.file {
            texts.extend(input::file(path)?.lines().map(str::to_owned));
        }
        Ok(texts)
    }
}

/// A vector as JSON.
#[derive(Serialize)]
struct JsonEmbedding<'a> {
    embedding: &'a [f32],
}

/// Vectors as JSON.
#[derive(Serialize)]
struct JsonEmbeddings<'a> {
    embeddings: &'a [Vec<f32>],
}

/// How similar the texts are: of one text the beginning of its vector, of a few texts a table, of many the nearest of
/// each.
fn comparison(texts: &[String], vectors: &[Vec<f32>]) -> Vec<String> {
    let label = |index: usize| format!("[{}]", index + 1);
    if let [vector] = vectors {
        let start: Vec<String> = vector.iter().take(6).map(|value| format!("{value:.4}")).collect();
        return vec![format!("{} numbers: {}, … (--json writes them all)", vector.len(), start.join(", "))];
    }
    let cosine = |a: usize, b: usize| cosine_similarity(&vectors[a], &vectors[b]);
    if vectors.len() <= WIDEST_TABLE {
        let mut header = vec![String::new()];
        header.extend((0..texts.len()).map(label));
        header.push(String::new());
        let mut rows = vec![header];
        for (index, text) in texts.iter().enumerate() {
            let mut row = vec![label(index)];
            row.extend((0..texts.len()).map(|other| format!("{:.3}", cosine(index, other))));
            row.push(shortened(text, SHOWN));
            rows.push(row);
        }
        let mut right = vec![true; texts.len() + 1];
        right.push(false);
        return table(&rows, &right);
    }
    let mut lines = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let mut others: Vec<(f32, usize)> =
            (0..texts.len()).filter(|&other| other != index).map(|other| (cosine(index, other), other)).collect();
        others.sort_by(|a, b| b.0.total_cmp(&a.0));
        lines.push(format!("{} {}", label(index), shortened(text, SHOWN)));
        for &(cosine, other) in others.iter().take(NEAREST) {
            lines.push(format!("    {cosine:.3}  {} {}", label(other), shortened(&texts[other], SHOWN)));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(count: usize) -> Vec<String> {
        let texts: Vec<String> = (0..count).map(|index| format!("text {index}")).collect();
        let vectors: Vec<Vec<f32>> = (0..count).map(|index| vec![1.0, index as f32]).collect();
        comparison(&texts, &vectors)
    }

    #[test]
    fn few_texts_make_a_table() {
        assert_eq!(compared(2), ["       [1]    [2]", "[1]  1.000  0.707  text 0", "[2]  0.707  1.000  text 1"]);
        assert!(compared(1)[0].starts_with("2 numbers: 1.0000, 0.0000"));
    }

    #[test]
    fn many_texts_name_their_nearest() {
        let lines = compared(20);
        assert_eq!(lines.len(), 20 * (1 + NEAREST));
        assert_eq!((lines[0].as_str(), lines[1].as_str()), ("[1] text 0", "    0.707  [2] text 1"));
    }
}
