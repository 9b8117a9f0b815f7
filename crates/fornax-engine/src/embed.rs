//! Vectors of whole texts, from the last layer of an encoder or a decoder. Search among vectors is not done here.

use std::sync::{Mutex, PoisonError};

use fornax_cpu::Pool;
use fornax_models::{AutoModel, Network};
use fornax_nn::Batch;
use fornax_text::Tokenizer;

use crate::error::to_host;
use crate::prompt::check_vocabulary;
use crate::{EngineError, Prompt};

/// How the states of a text's tokens become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// The mean over the tokens, special ones included, padding not.
    #[default]
    Mean,
    /// The first token's state; for BERT, the state of `[CLS]`.
    Cls,
    /// The last token's state, as decoders for embeddings are trained for.
    Last,
}

impl Pooling {
    /// Adds the states of `rows` tokens from position `start` on to the vector of a text of `len` tokens. A text's
    /// chunks come in order; after preemption they come again from the beginning.
    pub(crate) fn add(self, vector: &mut Vec<f32>, states: &[f32], [start, rows, len]: [usize; 3]) {
        let size = states.len() / rows;
        if start == 0 {
            *vector = vec![0.0; size];
        }
        match self {
            Self::Cls if start == 0 => vector.copy_from_slice(&states[..size]),
            Self::Last if start + rows == len => vector.copy_from_slice(&states[(rows - 1) * size..]),
            Self::Cls | Self::Last => {}
            Self::Mean => {
                for state in states.chunks_exact(size) {
                    vector.iter_mut().zip(state).for_each(|(sum, state)| *sum += state);
                }
                if start + rows == len {
                    vector.iter_mut().for_each(|sum| *sum /= len as f32);
                }
            }
        }
    }
}

/// Options of [`Embedder::embed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedOptions {
    /// How the states of tokens become one vector.
    pub pooling: Pooling,
    /// Whether vectors are scaled to length 1.
    pub normalize: bool,
    /// How many texts run through the model together, of any lengths. At least 1.
    pub batch_size: usize,
    /// Longer texts are cut to this many tokens. Without it, they are cut to the model's limit.
    pub max_length: Option<usize>,
}

impl Default for EmbedOptions {
    /// Mean pooling, normalized, 32 texts at a time: what sentence-transformers does for most models.
    fn default() -> Self {
        Self { pooling: Pooling::Mean, normalize: true, batch_size: 32, max_length: None }
    }
}

/// Turns texts into vectors, with encoders and with decoders. It needs no engine: texts run through the model in
/// batches, each thread takes some texts through all layers, and no keys and values are kept.
/// [`EngineHandle::embed`](crate::EngineHandle::embed) gives a decoder's vectors beside other requests.
///
/// ```no_run
/// use fornax_engine::{EmbedOptions, ModelExt, cosine_similarity};
///
/// # fn run(model: fornax_models::AutoModel) -> Result<(), fornax_engine::EngineError> {
/// let vectors = model.embedder().embed(&["A cat sleeps.", "Ein Kätzchen schläft."], &EmbedOptions::default())?;
/// println!("{:.3}", cosine_similarity(&vectors[0], &vectors[1]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Embedder<'a> {
    model: &'a AutoModel,
}

impl<'a> Embedder<'a> {
    /// An embedder of this model.
    pub fn new(model: &'a AutoModel) -> Self {
        Self { model }
    }

    /// The default options, with the pooling that the model's files name (`1_Pooling/config.json` of
    /// sentence-transformers' models).
    pub fn default_options(&self) -> EmbedOptions {
        let pooling = match self.model.pooling_mode() {
            Some("cls") => Pooling::Cls,
            Some("lasttoken") => Pooling::Last,
            _ => Pooling::Mean,
        };
        EmbedOptions { pooling, ..EmbedOptions::default() }
    }

    /// One vector a text, in the order of the texts. A text's vector does not depend on the texts beside it.
    ///
    /// # Errors
    /// [`EngineError`]: no tokenizer, an option out of its range, a device that fails.
    pub fn embed<S: AsRef<str>>(&self, texts: &[S], options: &EmbedOptions) -> Result<Vec<Vec<f32>>, EngineError> {
        self.embed_all(texts.iter().map(AsRef::as_ref), options)?.into_iter().collect()
    }

    /// As [`embed`](Self::embed), for any [`Prompt`]s, token ids too. An error of one text is that text's result.
    ///
    /// # Errors
    /// [`EngineError`]: an option out of its range, a device that fails.
    pub fn embed_all(
        &self,
        texts: impl IntoIterator<Item = impl Into<Prompt>>,
        options: &EmbedOptions,
    ) -> Result<Vec<Result<Vec<f32>, EngineError>>, EngineError> {
        if options.batch_size == 0 {
            return Err(out_of_range("batch_size", 0, "at least 1"));
        }
        let limit = self.model.network().context_length();
        let max_length = options.max_length.unwrap_or(limit);
        if max_length == 0 || max_length > limit {
            return Err(out_of_range("max_length", max_length, format!("1 to {limit}, which the model was made for")));
        }
        let (mut rows, mut vectors) = (Vec::new(), Vec::new());
        for (index, text) in texts.into_iter().enumerate() {
            // The vectors are filled in below.
            vectors.push(self.encode(&text.into(), max_length).map(|tokens| {
                rows.push((index, tokens));
                Vec::new()
            }));
        }

        // Texts of similar lengths together, so that the threads have similar amounts of work.
        rows.sort_by_key(|(_, tokens)| tokens.len());
        for batch in rows.chunks(options.batch_size) {
            let tokens: Vec<&[u32]> = batch.iter().map(|(_, tokens)| tokens.as_slice()).collect();
            for (&(index, _), vector) in batch.iter().zip(self.pooled(&tokens, options.pooling)?) {
                vectors[index] = Ok(if options.normalize { normalized(&vector) } else { vector });
            }
        }
        Ok(vectors)
    }

    /// The tokens of a text, at least one and at most `max_length`.
    fn encode(&self, text: &Prompt, max_length: usize) -> Result<Vec<u32>, EngineError> {
        let mut ids = match text {
            Prompt::Text(text) => {
                let options = fornax_text::BatchOptions {
                    max_length: Some(max_length),
                    padding: fornax_text::Padding::None,
                    ..fornax_text::BatchOptions::default()
                };
                let tokenizer = self.model.tokenizer().ok_or(EngineError::NoTokenizer)?;
                let encodings = tokenizer.encode_batch(&[text], &options)?;
                encodings.into_iter().next().map(|encoding| encoding.ids).unwrap_or_default()
            }
            other => other.token_ids(self.model)?,
        };
        ids.truncate(max_length);
        if ids.is_empty() {
            // An empty text without special tokens still needs a token to attend to.
            let pad = self.model.tokenizer().and_then(Tokenizer::pad_id);
            ids.push(self.model.generation_defaults().bos_token_id.or(pad).ok_or(EngineError::EmptyPrompt)?);
        }
        check_vocabulary(&ids, self.model)?;
        Ok(ids)
    }

    /// One vector a sequence.
    fn pooled(&self, rows: &[&[u32]], pooling: Pooling) -> Result<Vec<Vec<f32>>, EngineError> {
        let batch = Batch::uncached(rows);
        let states = |batch: &Batch| match self.model.network() {
            Network::Bert(bert) => to_host(bert.forward(batch)),
            Network::Decoder(decoder) => to_host(decoder.forward(batch, None)),
        };
        let parts = if self.model.device().is_plain_cpu() { batch.split(PART_ROWS) } else { vec![batch] };
        let done: Vec<Mutex<Result<Vec<f32>, EngineError>>> =
            parts.iter().map(|_| Mutex::new(Ok(Vec::new()))).collect();
        let run = |part: usize| {
            *done[part].lock().unwrap_or_else(PoisonError::into_inner) = states(&parts[part]);
        };
        let pool = Pool::global();
        if parts.len() < pool.threads() {
            // Fewer parts than threads: the parts run one after another, each on all threads.
            (0..parts.len()).for_each(run);
        } else {
            pool.run(parts.len(), run);
        }
        let mut vectors = Vec::with_capacity(rows.len());
        for (part, done) in parts.iter().zip(done) {
            let states = done.into_inner().unwrap_or_else(PoisonError::into_inner)?;
            let size = states.len() / part.rows().max(1);
            for sequence in 0..part.sequences().len() {
                let own = part.sequences().rows_of(sequence);
                let mut vector = Vec::new();
                pooling.add(&mut vector, &states[own.start * size..own.end * size], [0, own.len(), own.len()]);
                vectors.push(vector);
            }
        }
        Ok(vectors)
    }
}

/// How many rows a thread takes through all layers at once, unless a single sequence has more. So the values of the
/// widest layer fit the second-level cache beside the weights that stream through it, and tiles of 16 rows are mostly
/// full.
const PART_ROWS: usize = 160;

/// The cosine of the angle between two vectors of the same length: 1 for the same direction. 0 if either is zero.
pub fn cosine_similarity(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

/// The vector scaled to length 1; a zero vector stays as it is.
fn normalized(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
    vector.iter().map(|x| x / length).collect()
}

fn out_of_range(option: &'static str, found: usize, expected: impl Into<String>) -> EngineError {
    EngineError::Option { option, found: found.to_string(), expected: expected.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines() {
        assert_eq!(cosine_similarity(&[1.0, 0.0], &[0.0, 2.0]), 0.0);
        assert!((cosine_similarity(&[1.0, 1.0], &[2.0, 2.0]) - 1.0).abs() < 1e-6);
        assert_eq!(cosine_similarity(&[0.0], &[1.0]), 0.0);
    }
}
