//! Vectors that stand for whole texts, from an encoder's (or a decoder's) last layer.
//! Searching among vectors is not done here.

use burn::tensor::{Int, Tensor, TensorData};
use fornax_models::{AutoModel, Network};
use fornax_nn::visible_positions;
use fornax_text::Tokenizer;

use crate::EngineError;
use crate::error::to_host;
use crate::prompt::check_vocabulary;

/// How the states of a text's tokens become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// The mean over the tokens, special ones included, padding not.
    #[default]
    Mean,
    /// The first token's state, which for BERT is that of `[CLS]`.
    Cls,
    /// The last token's state, which decoders that embed are trained for.
    Last,
}

/// Options of [`Embedder::embed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedOptions {
    /// How tokens become one vector.
    pub pooling: Pooling,
    /// Whether vectors are scaled to length 1.
    pub normalize: bool,
    /// Texts that run through the model together. At least 1.
    pub batch_size: usize,
    /// Longer texts are cut to this many tokens; to the model's own limit without.
    pub max_length: Option<usize>,
}

impl Default for EmbedOptions {
    /// Mean pooling, normalized, 32 texts at a time: what sentence-transformers does for most models.
    fn default() -> Self {
        Self { pooling: Pooling::Mean, normalize: true, batch_size: 32, max_length: None }
    }
}

/// Turns texts into vectors.
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

    /// The default options, with the pooling that the model was trained for where it says so (as sentence-transformers'
    /// models do in `1_Pooling/config.json`).
    pub fn default_options(&self) -> EmbedOptions {
        let pooling = match self.model.pooling_mode() {
            Some("cls") => Pooling::Cls,
            Some("lasttoken") => Pooling::Last,
            _ => Pooling::Mean,
        };
        EmbedOptions { pooling, ..EmbedOptions::default() }
    }

    /// One vector a text, in the order of the texts. A text's vector does not depend on the texts beside it, up to
    /// rounding.
    ///
    /// # Errors
    /// [`EngineError`]: no tokenizer, an option out of its range, a device that fails.
    pub fn embed<S: AsRef<str>>(&self, texts: &[S], options: &EmbedOptions) -> Result<Vec<Vec<f32>>, EngineError> {
        let tokenizer = self.model.tokenizer().ok_or(EngineError::NoTokenizer)?;
        if options.batch_size == 0 {
            return Err(out_of_range("batch_size", 0, "at least 1"));
        }
        let limit = self.model.network().context_length();
        let max_length = options.max_length.unwrap_or(limit);
        if max_length == 0 || max_length > limit {
            return Err(out_of_range("max_length", max_length, format!("1 to {limit}, which the model was made for")));
        }
        let mut rows = Vec::with_capacity(texts.len());
        for text in texts {
            rows.push(self.encode(tokenizer, text.as_ref(), max_length)?);
        }

        // Texts of like length together, so that little is computed for padding.
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&index| rows[index].len());
        // A causal model would need its padding on the other side; one text at a time needs none.
        let batch_size = if matches!(self.model.network(), Network::Decoder(_)) { 1 } else { options.batch_size };
        let mut vectors = vec![Vec::new(); texts.len()];
        for batch in order.chunks(batch_size) {
            let tokens: Vec<&[u32]> = batch.iter().map(|&index| rows[index].as_slice()).collect();
            let (size, values) = self.pooled(&tokens, options.pooling)?;
            for (&index, vector) in batch.iter().zip(values.chunks_exact(size)) {
                vectors[index] = if options.normalize { normalized(vector) } else { vector.to_vec() };
            }
        }
        Ok(vectors)
    }

    /// The tokens of a text, at least one and at most `max_length`.
    fn encode(&self, tokenizer: &Tokenizer, text: &str, max_length: usize) -> Result<Vec<u32>, EngineError> {
        let options = fornax_text::BatchOptions {
            max_length: Some(max_length),
            padding: fornax_text::Padding::None,
            ..fornax_text::BatchOptions::default()
        };
        let encodings = tokenizer.encode_batch(&[text], &options)?;
        let mut ids = encodings.into_iter().next().map(|encoding| encoding.ids).unwrap_or_default();
        if ids.is_empty() {
            // An empty text without special tokens still needs something to attend to.
            let begin = self.model.generation_defaults().bos_token_id.or(tokenizer.pad_id());
            ids.push(begin.ok_or(EngineError::EmptyPrompt)?);
        }
        check_vocabulary(&ids, self.model)?;
        Ok(ids)
    }

    /// The length of a vector, and the vectors one after the other.
    fn pooled(&self, rows: &[&[u32]], pooling: Pooling) -> Result<(usize, Vec<f32>), EngineError> {
        let lengths: Vec<usize> = rows.iter().map(|row| row.len()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let device = self.model.device().as_burn();
        // Padding is masked, so any id that has a vector will do, and 0 always has one.
        let padded =
            rows.iter().flat_map(|row| row.iter().map(|&id| id as i32).chain(std::iter::repeat(0)).take(longest));
        let ids = TensorData::new(padded.collect::<Vec<i32>>(), [rows.len(), longest]);
        let tokens = Tensor::<2, Int>::from_data(ids, device);
        let hidden = match self.model.network() {
            Network::Bert(bert) => bert.forward(tokens, None, Some(visible_positions(&lengths, device))),
            Network::Decoder(decoder) => decoder.forward(tokens, None),
        };
        let [batch, seq, size] = hidden.dims();
        let weight = |length: usize, at: usize| match pooling {
            Pooling::Mean if at < length => 1.0 / length as f32,
            Pooling::Cls if at == 0 => 1.0,
            Pooling::Last if at + 1 == length => 1.0,
            _ => 0.0,
        };
        let weights: Vec<f32> = lengths.iter().flat_map(|&length| (0..seq).map(move |at| weight(length, at))).collect();
        let dtype = hidden.dtype();
        let weights = TensorData::new(weights, [batch, 1, seq]).convert_dtype(dtype);
        let weights = Tensor::<3>::from_data(weights, (device, dtype));
        Ok((size, to_host(weights.matmul(hidden))?))
    }
}

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
