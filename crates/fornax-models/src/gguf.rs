//! GGUF metadata as a Hugging Face configuration and a tokenizer's vocabulary, with the keys that families share.
//! The file format is read in `fornax-checkpoint`, the vocabulary in `fornax-text`.

use fornax_checkpoint::{Checkpoint, Gguf, GgufValue};
use fornax_text::GgufVocab;
use serde_json::{Value, json};

use crate::ModelError;

/// An open GGUF file: its metadata under the keys of its own architecture, and its tensors' shapes.
#[derive(Debug, Clone, Copy)]
pub struct GgufModel<'a> {
    checkpoint: &'a Checkpoint,
    gguf: &'a Gguf,
    architecture: &'a str,
}

impl<'a> GgufModel<'a> {
    /// Of a checkpoint that is a GGUF file; `None` for other formats.
    pub(crate) fn new(checkpoint: &'a Checkpoint) -> Option<Result<Self, ModelError>> {
        let gguf = checkpoint.gguf()?;
        Some(match gguf.str("general.architecture") {
            Ok(architecture) => Ok(Self { checkpoint, gguf, architecture }),
            Err(error) => Err(error.into()),
        })
    }

    /// `general.architecture`.
    pub fn architecture(&self) -> &'a str {
        self.architecture
    }

    /// A size, by its key without the architecture's name.
    ///
    /// # Errors
    /// When it is missing or not a whole number.
    pub fn size(&self, key: &str) -> Result<usize, ModelError> {
        // Some sizes may differ by layer, and are lists then; the networks here have one for all.
        let key = self.key(key);
        if let Some(GgufValue::Array(list)) = self.gguf.value(&key) {
            let values = list.integers::<usize>().unwrap_or_default();
            return match values.first() {
                Some(&first) if values.iter().all(|&value| value == first) => Ok(first),
                _ => Err(ModelError::config(key, "the same number for every layer", format!("{values:?}"))),
            };
        }
        Ok(self.gguf.usize(&key)?)
    }

    /// A size that may be missing.
    ///
    /// # Errors
    /// When it is there and not a whole number.
    pub fn optional_size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        if self.gguf.contains(&self.key(key)) { self.size(key).map(Some) } else { Ok(None) }
    }

    /// A real number.
    ///
    /// # Errors
    /// When it is missing or not a number.
    pub fn number(&self, key: &str) -> Result<f64, ModelError> {
        Ok(shortest(self.gguf.f32(&self.key(key))?))
    }

    /// A real number that may be missing.
    ///
    /// # Errors
    /// When it is there and not a number.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        if self.gguf.contains(&self.key(key)) { self.number(key).map(Some) } else { Ok(None) }
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, tensor: &str) -> bool {
        self.checkpoint.contains(tensor)
    }

    /// The first dimension of a tensor.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn rows(&self, tensor: &str) -> Result<usize, ModelError> {
        let view = self.checkpoint.tensor(tensor)?;
        Ok(view.info.shape.first().copied().unwrap_or(0))
    }

    /// Tokens of the vocabulary, which are the rows of the embedding.
    ///
    /// # Errors
    /// When the file has no embedding.
    pub fn vocab_size(&self) -> Result<usize, ModelError> {
        self.rows("token_embd.weight")
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }
}

/// The configuration that Llama and its descendants share.
pub(crate) fn rotary_config(gguf: &GgufModel) -> Result<Value, ModelError> {
    if let Some(experts) = gguf.optional_size("expert_count")?.filter(|&experts| experts > 0) {
        return Err(ModelError::config(gguf.key("expert_count"), "0; mixtures of experts are not supported", experts));
    }
    check_rope_keys(gguf)?;
    let heads = gguf.size("attention.head_count")?;
    let hidden_size = gguf.size("embedding_length")?;
    let head_dim = match gguf.optional_size("attention.key_length")? {
        Some(head_dim) => head_dim,
        None => hidden_size.checked_div(heads).unwrap_or(0),
    };
    if let Some(rotary_dim) = gguf.optional_size("rope.dimension_count")?.filter(|&rotary| rotary != head_dim) {
        return Err(ModelError::config("rope.dimension_count", format!("the head's size, {head_dim}"), rotary_dim));
    }
    let max_positions = gguf.size("context_length")?;
    let mut config = json!({
        "vocab_size": gguf.vocab_size()?,
        "hidden_size": hidden_size,
        "intermediate_size": gguf.size("feed_forward_length")?,
        "num_hidden_layers": gguf.size("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": gguf.optional_size("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": head_dim,
        "max_position_embeddings": max_positions,
        "rms_norm_eps": gguf.number("attention.layer_norm_rms_epsilon")?,
        "rope_theta": gguf.optional_number("rope.freq_base")?.unwrap_or(10_000.0),
        "tie_word_embeddings": !gguf.contains("output.weight"),
    });
    if let Some(parameters) = rope_parameters(gguf, max_positions)? {
        config["rope_parameters"] = parameters;
    }
    Ok(config)
}

/// How the file stretches the rotary wavelengths, in transformers' terms.
fn rope_parameters(gguf: &GgufModel, max_positions: usize) -> Result<Option<Value>, ModelError> {
    if gguf.contains("rope_freqs.weight") {
        // One divisor for each wavelength is what longrope has too, with one list for short and one for long.
        let factors = gguf.checkpoint.tensor("rope_freqs.weight")?.to_f32()?;
        return Ok(Some(json!({
            "rope_type": "longrope",
            "short_factor": factors,
            "long_factor": factors,
            "attention_factor": 1.0,
            "original_max_position_embeddings": max_positions,
        })));
    }
    // As llama.cpp reads them: linear where no type is given, by a factor that older files call `rope.scale_linear`.
    let key = gguf.key("rope.scaling.type");
    let kind = if gguf.gguf.contains(&key) { gguf.gguf.str(&key)? } else { "linear" };
    let factor = match gguf.optional_number("rope.scaling.factor")? {
        Some(factor) => factor,
        None => gguf.optional_number("rope.scale_linear")?.unwrap_or(1.0),
    };
    let magnitude = gguf.optional_number("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let original = gguf.optional_size("rope.scaling.original_context_length")?.unwrap_or(max_positions);
    match kind {
        "none" | "linear" if magnitude != 1.0 => {
            Err(ModelError::config(gguf.key("rope.scaling.attn_factor"), "1 without yarn", magnitude))
        }
        "none" => Ok(None),
        "linear" if factor == 1.0 || factor == 0.0 => Ok(None),
        "linear" => Ok(Some(json!({"rope_type": "linear", "factor": factor}))),
        "yarn" => Ok(Some(json!({
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
            "beta_fast": gguf.optional_number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            "beta_slow": gguf.optional_number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            "attention_factor": magnitude * (1.0 + 0.1 * factor.max(1.0).ln()),
        }))),
        other => Err(ModelError::config(key, "none, linear or yarn", other)),
    }
}

/// Refuses scalings that would be left out without a word.
fn check_rope_keys(gguf: &GgufModel) -> Result<(), ModelError> {
    const KNOWN: &[&str] = &[
        "type",
        "factor",
        "attn_factor",
        "original_context_length",
        // Says that the file was trained so, and changes nothing.
        "finetuned",
        "yarn_beta_fast",
        "yarn_beta_slow",
    ];
    let prefix = gguf.key("rope.scaling.");
    let unknown = gguf.gguf.iter().find_map(|(key, _)| key.strip_prefix(&prefix).filter(|name| !KNOWN.contains(name)));
    match unknown {
        Some(name) => Err(ModelError::config(format!("{prefix}{name}"), "not to be there; it is not supported", "it")),
        None => Ok(()),
    }
}

/// The vocabulary that the file holds; `None` when it holds none.
pub(crate) fn vocab(gguf: &Gguf) -> Result<Option<GgufVocab>, ModelError> {
    const PREFIX: &str = "tokenizer.ggml.";
    let key = |name: &str| format!("{PREFIX}{name}");
    if !gguf.contains(&key("model")) || !gguf.contains(&key("tokens")) {
        return Ok(None);
    }
    let strings = |name: &str| -> Result<Vec<String>, ModelError> {
        if !gguf.contains(&key(name)) {
            return Ok(Vec::new());
        }
        Ok(gguf.strings(&key(name))?.into_iter().map(str::to_owned).collect())
    };
    let string = |key: &str| -> Result<Option<String>, ModelError> {
        Ok(if gguf.contains(key) { Some(gguf.str(key)?.to_owned()) } else { None })
    };
    let id = |name: &str| -> Result<Option<u32>, ModelError> {
        Ok(if gguf.contains(&key(name)) { Some(gguf.u32(&key(name))?) } else { None })
    };
    let flag = |name: &str| -> Result<Option<bool>, ModelError> {
        Ok(if gguf.contains(&key(name)) { Some(gguf.bool(&key(name))?) } else { None })
    };
    let named_chat_templates = gguf
        .iter()
        .filter_map(|(key, value)| match (key.strip_prefix("tokenizer.chat_template."), value) {
            (Some(name), GgufValue::String(template)) => Some((name.to_owned(), template.clone())),
            _ => None,
        })
        .collect();
    Ok(Some(GgufVocab {
        model: gguf.str(&key("model"))?.to_owned(),
        pre: string(&key("pre"))?,
        tokens: strings("tokens")?,
        scores: if gguf.contains(&key("scores")) { gguf.f32s(&key("scores"))? } else { Vec::new() },
        token_types: if gguf.contains(&key("token_type")) { gguf.i32s(&key("token_type"))? } else { Vec::new() },
        merges: strings("merges")?,
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        eot: id("eot_token_id")?,
        eom: id("eom_token_id")?,
        unk: id("unknown_token_id")?,
        sep: id("seperator_token_id")?,
        pad: id("padding_token_id")?,
        mask: id("mask_token_id")?,
        add_bos: flag("add_bos_token")?,
        add_eos: flag("add_eos_token")?,
        add_space_prefix: flag("add_space_prefix")?,
        lowercase: flag("normalizer.lowercase")?,
        chat_template: string("tokenizer.chat_template")?,
        named_chat_templates,
    }))
}

/// The shortest decimal that is this `f32`, so that 1e-5 does not become 9.999999747378752e-6.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
