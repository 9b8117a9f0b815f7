//! Training a byte-level BPE vocabulary, for small models made from scratch.
//!
//! One kind of tokenizer with good defaults; for others use the `tokenizers` package in Python and load its file.

use crate::check::guarded;
use crate::tokenizer::SpecialIds;
use crate::{ChatTemplate, Result, TextError, Tokenizer};
use serde_json::Map;
use tokenizers::AddedToken;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// Settings of [`train_bpe`].
#[derive(Clone, Debug, PartialEq)]
pub struct BpeTrainerConfig {
    /// The number of tokens to end with, special ones and the 256 bytes included. A small text may give fewer.
    pub vocab_size: usize,
    /// A pair that occurs less often is never joined.
    pub min_frequency: u64,
    /// The token that begins a text. It is added by encoding with special tokens.
    pub bos_token: Option<String>,
    /// The token that ends a text. Encoding does not add it.
    pub eos_token: Option<String>,
    /// The token that fills up a batch.
    pub pad_token: Option<String>,
    /// More special tokens, such as those of a chat template.
    pub special_tokens: Vec<String>,
    /// The source of the chat template.
    pub chat_template: Option<String>,
}

impl Default for BpeTrainerConfig {
    fn default() -> Self {
        Self {
            vocab_size: 1024,
            min_frequency: 2,
            bos_token: Some("<s>".into()),
            eos_token: Some("</s>".into()),
            pad_token: None,
            special_tokens: Vec::new(),
            chat_template: None,
        }
    }
}

/// Trains byte-level BPE, GPT-2's kind of tokenizer, on `texts`. Every text can be encoded with it and comes back
/// unchanged. The special tokens get the first ids, the 256 bytes the next; the same texts and settings give the
/// same tokenizer.
///
/// # Errors
/// [`TextError::Setting`] for a `vocab_size` that cannot hold the bytes and the special tokens.
pub fn train_bpe(texts: impl IntoIterator<Item = String>, config: &BpeTrainerConfig) -> Result<Tokenizer> {
    let mut specials: Vec<&String> = Vec::new();
    let named = [&config.bos_token, &config.eos_token, &config.pad_token];
    for token in named.into_iter().flatten().chain(&config.special_tokens) {
        if token.is_empty() {
            let (expected, found) = ("not empty".into(), String::from("\"\""));
            return Err(TextError::Setting { name: "a special token", expected, found });
        }
        if !specials.contains(&token) {
            specials.push(token);
        }
    }
    let least = 256 + specials.len();
    if config.vocab_size < least {
        let expected = format!("at least {least}, for 256 bytes and {} special tokens", specials.len());
        return Err(TextError::Setting { name: "vocab_size", expected, found: config.vocab_size.to_string() });
    }
    let mut trainer = TrainerWrapper::from(
        BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(config.vocab_size)
            .min_frequency(config.min_frequency)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(specials.into_iter().map(|token| AddedToken::from(token.as_str(), true)).collect())
            .build(),
    );
    let mut hf = tokenizers::Tokenizer::new(BPE::default());
    hf.with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)));
    hf.with_decoder(Some(ByteLevel::default()));
    // The crate wants an iterator that may be sent to another thread, which `texts` need not be.
    let texts: Vec<String> = texts.into_iter().collect();
    guarded(|| hf.train(&mut trainer, texts.into_iter()).map(drop))
        .map_err(|reason| TextError::invalid("the training text", reason))?;

    let id = |token: &Option<String>| token.as_ref().and_then(|token| hf.token_to_id(token));
    let ids = SpecialIds {
        bos: id(&config.bos_token),
        eos: id(&config.eos_token).into_iter().collect(),
        pad: id(&config.pad_token),
        unk: None,
    };
    crate::load::surround(&mut hf, ids.bos, None)?;
    Tokenizer::new(hf, None, ids, config.chat_template.as_deref().map(ChatTemplate::new), Map::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vocabulary_without_room_for_the_bytes_is_refused() {
        let config = BpeTrainerConfig { vocab_size: 257, ..Default::default() };
        let error = train_bpe([String::new()], &config).unwrap_err();
        assert!(error.to_string().contains("at least 258"), "{error}");
    }

    #[test]
    fn training_is_deterministic_and_the_specials_come_first() {
        let texts = || (0..200).map(|i| format!("story {i}: the cat and the dog went {} times", i * 7 % 13));
        let config = BpeTrainerConfig { vocab_size: 290, ..Default::default() };
        let (a, b) = (train_bpe(texts(), &config).unwrap(), train_bpe(texts(), &config).unwrap());
        assert_eq!((a.bos_id(), a.eos_ids(), a.vocab_size()), (Some(0), &[1][..], 290));
        assert_eq!(a.encode("the cat", true).unwrap().ids[0], 0);
        for id in 0..290 {
            assert_eq!(a.id_to_token(id), b.id_to_token(id));
        }
    }
}
