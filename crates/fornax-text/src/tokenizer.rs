//! [`Tokenizer`]: text to tokens and back.
//!
//! What a tokenizer is made from stands in `load.rs`, `gguf/` and `train.rs`; how it is written in `save.rs`.

use crate::check::guarded;
use crate::decode::{Plan, Running};
use crate::encoding::{BatchOptions, Encoding, Padding, pad};
use crate::gguf::Spm;
use crate::{ChatTemplate, Result, StreamDecoder, TextError};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// Turns text into token ids and back.
///
/// Cloning is cheap: clones share the vocabulary.
///
/// ```
/// use fornax_text::{BpeTrainerConfig, Tokenizer, train_bpe};
///
/// let texts = ["the cat sat on the mat", "the dog sat on the log"].map(String::from);
/// let tokenizer: Tokenizer = train_bpe(texts, &BpeTrainerConfig { vocab_size: 300, ..Default::default() })?;
/// let encoding = tokenizer.encode("the cat 🐈", false)?;
/// assert_eq!(tokenizer.decode(&encoding.ids, false)?, "the cat 🐈");
/// # Ok::<(), fornax_text::TextError>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    pub(crate) inner: Arc<Inner>,
}

/// The shared part of a tokenizer.
pub(crate) struct Inner {
    pub hf: tokenizers::Tokenizer,
    /// Encodes in place of `hf` for a vocabulary from GGUF metadata whose rules `hf` cannot express.
    pub spm: Option<Spm>,
    pub plan: Plan,
    pub specials: SpecialIds,
    pub special_ids: HashSet<u32>,
    pub max_id: u32,
    pub template: Option<ChatTemplate>,
    /// The entries of tokenizer_config.json, kept so that saving loses nothing.
    pub config: Map<String, Value>,
}

/// The tokens with a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SpecialIds {
    pub bos: Option<u32>,
    pub eos: Vec<u32>,
    pub pad: Option<u32>,
    pub unk: Option<u32>,
}

impl Tokenizer {
    pub(crate) fn new(
        hf: tokenizers::Tokenizer,
        spm: Option<Spm>,
        specials: SpecialIds,
        template: Option<ChatTemplate>,
        config: Map<String, Value>,
    ) -> Result<Self> {
        let decoder = serde_json::to_value(hf.get_decoder());
        let decoder = decoder.map_err(|e| TextError::invalid("the decoder", e))?;
        let added = hf.get_added_tokens_decoder();
        let special_ids = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        let max_id = hf.get_vocab(true).into_values().max();
        let max_id = max_id.ok_or_else(|| TextError::invalid("the tokenizer", "the vocabulary is empty"))?;
        let template = template.map(|t| t.with_tokens(&hf, &specials, &config));
        let plan = Plan::new(&decoder);
        Ok(Self { inner: Arc::new(Inner { hf, spm, plan, specials, special_ids, max_id, template, config }) })
    }

    /// Encodes one text.
    ///
    /// Special tokens that are written out in the text (such as `<|im_end|>`) become their ids; with
    /// `add_special_tokens` the special tokens that the model expects around a text (such as BOS) are added too.
    ///
    /// # Errors
    /// [`TextError::Encode`] when the vocabulary cannot express the text, for example a character that is not in
    /// it where there is no unknown token.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Encoding> {
        match &self.inner.spm {
            Some(spm) => spm.encode(&self.inner.hf, text, add_special_tokens),
            None => self.encode_hf(text.into(), [text, ""], add_special_tokens),
        }
    }

    /// Encodes two texts as one sequence, such as a question and an answer for BERT: the second has type id 1
    /// where the tokenizer's template says so.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_pair(&self, first: &str, second: &str, add_special_tokens: bool) -> Result<Encoding> {
        match &self.inner.spm {
            Some(spm) => spm.encode_pair(&self.inner.hf, first, second, add_special_tokens),
            None => self.encode_hf((first, second).into(), [first, second], add_special_tokens),
        }
    }

    fn encode_hf(
        &self,
        input: tokenizers::EncodeInput<'_>,
        texts: [&str; 2],
        add_special_tokens: bool,
    ) -> Result<Encoding> {
        let encoding = guarded(|| {
            let encoding = self.inner.hf.encode(input, add_special_tokens)?;
            let sequences = encoding.get_sequence_ids();
            Ok((encoding, sequences))
        });
        let (encoding, sequences) = encoding.map_err(|reason| TextError::Encode { reason })?;
        // A strange combination of steps can give the crate offsets beside the text; ours always lie in it.
        let within = |(&(start, end), sequence): (&(usize, usize), Option<usize>)| {
            let text = texts[usize::from(sequence == Some(1))];
            let start = text.floor_char_boundary(start);
            start..text.ceil_char_boundary(end).max(start)
        };
        Ok(Encoding {
            ids: encoding.get_ids().to_vec(),
            type_ids: encoding.get_type_ids().to_vec(),
            offsets: encoding.get_offsets().iter().zip(sequences).map(within).collect(),
            special_tokens_mask: encoding.get_special_tokens_mask().iter().map(|&flag| u8::from(flag != 0)).collect(),
            attention_mask: encoding.get_attention_mask().iter().map(|&flag| u8::from(flag != 0)).collect(),
        })
    }

    /// Encodes texts and brings them to one length, as a model wants a batch: `[texts][tokens]`.
    ///
    /// ```
    /// # use fornax_text::{BatchOptions, BpeTrainerConfig, train_bpe};
    /// let config = BpeTrainerConfig { pad_token: Some("<pad>".into()), ..Default::default() };
    /// let tokenizer = train_bpe(["a few words".to_owned()], &config)?;
    /// let batch = tokenizer.encode_batch(&["a", "a few words"], &BatchOptions::default())?;
    /// assert_eq!(batch[0].len(), batch[1].len());
    /// assert_eq!(batch[0].attention_mask.last(), Some(&0));
    /// # Ok::<(), fornax_text::TextError>(())
    /// ```
    ///
    /// # Errors
    /// As [`encode`](Self::encode); [`TextError::NoPadToken`] where padding is needed and the tokenizer has no
    /// padding token; [`TextError::MaxLength`] where `max_length` leaves no room for text.
    pub fn encode_batch<S: AsRef<str>>(&self, texts: &[S], options: &BatchOptions) -> Result<Vec<Encoding>> {
        let encode = |text: &S| self.encode(text.as_ref(), options.add_special_tokens);
        self.finish_batch(texts.iter().map(encode), options)
    }

    /// [`encode_batch`](Self::encode_batch) for pairs of texts. `max_length` cuts the longer text of a pair.
    ///
    /// # Errors
    /// As [`encode_batch`](Self::encode_batch).
    pub fn encode_pair_batch<S: AsRef<str>>(&self, pairs: &[(S, S)], options: &BatchOptions) -> Result<Vec<Encoding>> {
        let encode = |(a, b): &(S, S)| self.encode_pair(a.as_ref(), b.as_ref(), options.add_special_tokens);
        self.finish_batch(pairs.iter().map(encode), options)
    }

    fn finish_batch(
        &self,
        encodings: impl Iterator<Item = Result<Encoding>>,
        options: &BatchOptions,
    ) -> Result<Vec<Encoding>> {
        let mut encodings = encodings.collect::<Result<Vec<_>>>()?;
        if let Some(max_length) = options.max_length {
            encodings.iter_mut().try_for_each(|encoding| encoding.truncate(max_length))?;
        }
        let uneven = encodings.windows(2).any(|pair| pair[0].len() != pair[1].len());
        let needed = match options.padding {
            Padding::None => false,
            Padding::Longest => uneven,
            Padding::Fixed(length) => encodings.iter().any(|encoding| encoding.len() < length),
        };
        if needed {
            let pad_id = self.pad_id().ok_or(TextError::NoPadToken)?;
            pad(&mut encodings, options.padding, options.padding_side, pad_id);
        }
        Ok(encodings)
    }

    /// The text of tokens; with `skip_special_tokens` without special tokens.
    ///
    /// Bytes that are not UTF-8 become U+FFFD, one for each broken character. A run of byte tokens with a broken
    /// character in it keeps its other characters, as in llama.cpp; transformers replaces the whole run.
    ///
    /// # Errors
    /// [`TextError::UnknownId`] for an id that has no token.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let Plan::Streaming(steps) = &self.inner.plan else {
            return self.decode_whole(ids, skip_special_tokens);
        };
        let (mut running, mut out) = (Running::new(steps), String::new());
        for &id in ids {
            let token = self.piece(id)?;
            if !(skip_special_tokens && self.is_special(id)) {
                running.push(&token, &mut out);
            }
        }
        running.finish(&mut out);
        Ok(out)
    }

    /// Decodes with the `tokenizers` crate, for a decoder that needs all tokens at once.
    pub(crate) fn decode_whole(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        ids.iter().try_for_each(|&id| self.piece(id).map(drop))?;
        // Some decoders of the crate subtract one from the number of tokens.
        if ids.iter().all(|&id| skip_special_tokens && self.is_special(id)) {
            return Ok(String::new());
        }
        guarded(|| self.inner.hf.decode(ids, skip_special_tokens)).map_err(|reason| TextError::Decode { reason })
    }

    /// The form of a token that decoding starts from.
    pub(crate) fn piece(&self, id: u32) -> Result<String> {
        let hf = &self.inner.hf;
        let piece = hf.get_added_vocabulary().simple_id_to_token(id).or_else(|| hf.id_to_token(id));
        piece.ok_or(TextError::UnknownId { id, max_id: self.inner.max_id })
    }

    /// A decoder that takes one token at a time.
    ///
    /// ```
    /// # use fornax_text::{BpeTrainerConfig, train_bpe};
    /// # let tokenizer = train_bpe(["a text".to_owned()], &BpeTrainerConfig::default())?;
    /// let mut stream = tokenizer.stream_decoder(true);
    /// let mut text = String::new();
    /// for id in tokenizer.encode("a text 你好", false)?.ids {
    ///     text.extend(stream.push(id)?);
    /// }
    /// text.extend(stream.finish()?);
    /// assert_eq!(text, "a text 你好");
    /// # Ok::<(), fornax_text::TextError>(())
    /// ```
    pub fn stream_decoder(&self, skip_special_tokens: bool) -> StreamDecoder {
        StreamDecoder::new(self.clone(), skip_special_tokens)
    }

    /// The id of a token, by its form in the vocabulary (`Ġthe`, not ` the`).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.hf.token_to_id(token)
    }

    /// The form of an id in the vocabulary.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.hf.id_to_token(id)
    }

    /// The number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.hf.get_vocab_size(true)
    }

    /// The largest id that has a token: a model needs at least `max_id() + 1` rows in its embedding.
    pub fn max_id(&self) -> u32 {
        self.inner.max_id
    }

    /// The token that begins a text.
    pub fn bos_id(&self) -> Option<u32> {
        self.inner.specials.bos
    }

    /// The tokens that end a text or a turn; generation stops at any of them. The first is the main one.
    pub fn eos_ids(&self) -> &[u32] {
        &self.inner.specials.eos
    }

    /// The token that fills up a batch.
    pub fn pad_id(&self) -> Option<u32> {
        self.inner.specials.pad
    }

    /// The token for what the vocabulary does not have.
    pub fn unk_id(&self) -> Option<u32> {
        self.inner.specials.unk
    }

    /// Whether decoding may skip this token.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.special_ids.contains(&id)
    }

    /// The chat template that came with the tokenizer.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.inner.template.as_ref()
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("specials", &self.inner.specials)
            .field("has_chat_template", &self.inner.template.is_some())
            .finish_non_exhaustive()
    }
}
