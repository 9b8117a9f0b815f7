//! Tokenizers from the metadata of a GGUF file.
//!
//! The metadata arrives as a plain struct, [`GgufVocab`]; the caller reads the file.
//! The rules are llama.cpp's: what a field means where the file does not say, and which tokens come out.

mod pre;
mod spm;

pub(crate) use spm::Spm;

use crate::load::{build, surround};
use crate::tokenizer::SpecialIds;
use crate::{ChatTemplate, Result, TextError, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};

/// The `tokenizer.*` metadata of a GGUF file. The names follow the keys; ids that the file does not give are
/// `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GgufVocab {
    /// `tokenizer.ggml.model`: `llama` (SentencePiece), `gpt2` (byte-level BPE) or `bert` (WordPiece).
    pub model: String,
    /// `tokenizer.ggml.pre`: how `gpt2` splits a text into words. Missing means llama.cpp's `default`.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`, by id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.scores`, by id, or empty. `llama` joins the pair with the highest score first.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.token_type`, by id, or empty: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.merges`, each two tokens with a space between, the first to be joined first.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`; for `bert` also `cls_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`: the end of a turn.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.eom_token_id`: the end of a message.
    pub eom: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unk: Option<u32>,
    /// `tokenizer.ggml.seperator_token_id` (so spelt in the format).
    pub sep: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad: Option<u32>,
    /// `tokenizer.ggml.mask_token_id`.
    pub mask: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.ggml.normalizer.lowercase`, for `bert`.
    pub lowercase: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
    /// `tokenizer.chat_template.NAME`, by name.
    pub named_chat_templates: Vec<(String, String)>,
}

/// The values of `tokenizer.ggml.model` that are understood.
const MODELS: [&str; 3] = ["llama", "gpt2", "bert"];
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
/// Longer tokens than this are a sign of a broken file, and would cost a lot to look for.
const MAX_TOKEN_BYTES: usize = 1 << 16;
/// What GGUF calls the field that errors are about.
const WHAT: &str = "the tokenizer metadata of the GGUF file";

impl Tokenizer {
    /// Builds the tokenizer that llama.cpp would use for this metadata.
    ///
    /// ```
    /// use fornax_text::{GgufVocab, Tokenizer};
    /// let tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁ab"].map(String::from).to_vec();
    /// let scores = vec![0.0, 0.0, 0.0, -3.0, -4.0, -5.0, -1.0, -2.0];
    /// let vocab = GgufVocab { model: "llama".into(), tokens, scores, ..Default::default() };
    /// let tokenizer = Tokenizer::from_gguf(&vocab)?;
    /// assert_eq!(tokenizer.encode("ab ba", true)?.ids, [1, 7, 3, 5, 4]);
    /// # Ok::<(), fornax_text::TextError>(())
    /// ```
    ///
    /// # Errors
    /// [`TextError::UnknownModel`] and [`TextError::UnknownPreTokenizer`] name what is known;
    /// [`TextError::VocabLength`], [`TextError::DuplicateToken`], [`TextError::UnknownId`] and
    /// [`TextError::Invalid`] say what does not fit.
    pub fn from_gguf(vocab: &GgufVocab) -> Result<Self> {
        let tokens = Tokens::new(vocab)?;
        match vocab.model.as_str() {
            "llama" => llama(vocab, &tokens),
            "gpt2" => gpt2(vocab, &tokens),
            "bert" => bert(vocab, &tokens),
            _ => Err(TextError::UnknownModel { found: vocab.model.clone(), known: MODELS.to_vec() }),
        }
    }
}

/// The checked vocabulary.
struct Tokens {
    /// By id; an empty token has a name of its own, as in llama.cpp.
    texts: Vec<String>,
    types: Vec<i32>,
    ids: HashMap<String, u32>,
}

impl Tokens {
    fn new(vocab: &GgufVocab) -> Result<Self> {
        let expected = vocab.tokens.len();
        if expected == 0 {
            return Err(TextError::invalid(WHAT, "it has no tokens"));
        }
        for (field, found) in
            [("tokenizer.ggml.scores", vocab.scores.len()), ("tokenizer.ggml.token_type", vocab.token_types.len())]
        {
            if found != 0 && found != expected {
                return Err(TextError::VocabLength { field, expected, found });
            }
        }
        let (mut texts, mut ids) = (Vec::with_capacity(expected), HashMap::with_capacity(expected));
        for (id, token) in vocab.tokens.iter().enumerate() {
            let text = if token.is_empty() { format!("[EMPTY_{id}]") } else { token.clone() };
            let second = u32::try_from(id).map_err(|_| TextError::invalid(WHAT, "more tokens than ids"))?;
            if text.len() > MAX_TOKEN_BYTES {
                let reason = format!("token {id} has {} bytes, more than {MAX_TOKEN_BYTES}", text.len());
                return Err(TextError::invalid(WHAT, reason));
            }
            if let Some(first) = ids.insert(text.clone(), second) {
                return Err(TextError::DuplicateToken { token: text, first, second });
            }
            texts.push(text);
        }
        let types = if vocab.token_types.is_empty() { vec![NORMAL; expected] } else { vocab.token_types.clone() };
        Ok(Self { texts, types, ids })
    }

    /// An id from the file. Converters write -1 where there is none.
    fn checked(&self, id: Option<u32>) -> Result<Option<u32>> {
        // There is at least one token, and their number fits an id.
        let max_id = (self.texts.len() - 1) as u32;
        match id.filter(|&id| id != u32::MAX) {
            Some(id) if id > max_id => Err(TextError::UnknownId { id, max_id }),
            id => Ok(id),
        }
    }

    /// An id from the file, else this one if the vocabulary is large enough.
    fn or_default(&self, id: Option<u32>, default: u32) -> Result<Option<u32>> {
        let default = Some(default).filter(|&id| (id as usize) < self.texts.len());
        Ok(self.checked(id)?.or(default))
    }

    fn text(&self, id: u32) -> &str {
        &self.texts[id as usize]
    }

    /// The tokens that are found in a text as they stand, and those of `roles`, as tokenizer.json lists them.
    fn added(&self, roles: &[Option<u32>]) -> Vec<Value> {
        let roles: HashSet<u32> = roles.iter().copied().flatten().collect();
        let entry = |(id, (text, &kind)): (usize, (&String, &i32))| {
            let role = roles.contains(&(id as u32));
            let special = role || matches!(kind, CONTROL | UNKNOWN);
            (special || kind == USER_DEFINED).then(|| {
                json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                       "normalized": false, "special": special})
            })
        };
        self.texts.iter().zip(&self.types).enumerate().filter_map(entry).collect()
    }

    /// The tokens that end a generation: the end tokens that the file names, and tokens with the usual names.
    fn ends(&self, vocab: &GgufVocab, eos: Option<u32>) -> Result<Vec<u32>> {
        const NAMES: [&str; 22] = [
            "<|eot_id|>",
            "<|im_end|>",
            "<|end|>",
            "<|return|>",
            "<|call|>",
            "<|flush|>",
            "<|calls|>",
            "<end_of_turn>",
            "<|endoftext|>",
            "</s>",
            "<|eom_id|>",
            "<EOT>",
            "_<EOT>",
            "[EOT]",
            "[EOS]",
            "<|end_of_text|>",
            "<end_of_utterance>",
            "<eos>",
            "<turn|>",
            "<|tool_response>",
            "<｜end▁of▁sentence｜>",
            "[e~[",
        ];
        let mut ends = Vec::new();
        let named = [eos, self.checked(vocab.eot)?, self.checked(vocab.eom)?];
        let usual = NAMES.iter().filter_map(|name| self.ids.get(*name).copied());
        for id in named.into_iter().flatten().chain(usual) {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
        // In the harmony format `<|end|>` only ends one of several parts of an answer.
        let has = |name: &str| self.ids.contains_key(name);
        if (has("<|return|>") && has("<|call|>") || has("<|calls|>") && has("<|flush|>"))
            && eos != self.ids.get("<|end|>").copied()
        {
            ends.retain(|&id| self.text(id) != "<|end|>");
        }
        Ok(ends)
    }
}

fn template(vocab: &GgufVocab) -> Option<ChatTemplate> {
    let default = vocab.chat_template.iter().map(|source| ("default".to_owned(), source.clone()));
    let named: Vec<_> = default.chain(vocab.named_chat_templates.iter().cloned()).collect();
    (!named.is_empty()).then(|| ChatTemplate::named(named))
}

/// SentencePiece: encoded by [`Spm`], decoded by the `tokenizers` crate's steps for such vocabularies.
fn llama(vocab: &GgufVocab, tokens: &Tokens) -> Result<Tokenizer> {
    let bos = tokens.or_default(vocab.bos, 1)?;
    let eos = tokens.or_default(vocab.eos, 2)?;
    let unk = tokens.or_default(vocab.unk, 0)?;
    let pad = tokens.checked(vocab.pad)?;
    let space_prefix = vocab.add_space_prefix.unwrap_or(true);

    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let normalizer = if space_prefix {
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, spaces]})
    } else {
        spaces
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if space_prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let mut hf = build(
        WHAT,
        json!({
            "version": "1.0",
            "added_tokens": tokens.added(&[bos, eos, unk, pad]),
            "normalizer": normalizer,
            "pre_tokenizer": null,
            "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            // The merges follow from the scores and are only needed in the saved form: see `Spm::merges`.
            "model": {"type": "BPE", "unk_token": unk.map(|id| tokens.text(id)), "fuse_unk": true,
                      "byte_fallback": true, "vocab": tokens.ids, "merges": []},
        }),
    )?;
    let add_bos = bos.filter(|_| vocab.add_bos.unwrap_or(true));
    let add_eos = eos.filter(|_| vocab.add_eos.unwrap_or(false));
    surround(&mut hf, add_bos, add_eos)?;
    let spm = Spm::new(tokens, &vocab.scores, unk, space_prefix, add_bos, add_eos)?;
    let specials = SpecialIds { bos, eos: tokens.ends(vocab, eos)?, pad, unk };
    Tokenizer::new(hf, Some(spm), specials, template(vocab), Map::new())
}

/// Byte-level BPE.
fn gpt2(vocab: &GgufVocab, tokens: &Tokens) -> Result<Tokenizer> {
    let pre = pre::find(vocab.pre.as_deref())?;
    let bos = tokens.checked(vocab.bos)?;
    let eos = tokens.checked(vocab.eos)?;
    let unk = tokens.checked(vocab.unk)?;
    let pad = tokens.checked(vocab.pad)?;
    let mut seen = HashSet::new();
    let mut merges = Vec::with_capacity(vocab.merges.len());
    for (rank, merge) in vocab.merges.iter().enumerate() {
        // The first token is at least one character long, so a space at the start belongs to it.
        let first = merge.chars().next().map_or(0, char::len_utf8);
        let pair = merge[first..].split_once(' ').map(|(rest, b)| (&merge[..first + rest.len()], b));
        let pair =
            pair.ok_or_else(|| TextError::invalid(WHAT, format!("merge {rank} is {merge:?}, not two tokens")))?;
        // Of a pair that is listed twice the first rank counts.
        if seen.insert(pair) {
            merges.push(pair);
        }
    }
    let split = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let mut steps: Vec<Value> = pre.patterns.iter().map(split).collect();
    steps.push(byte_level.clone());
    let mut hf = build(
        WHAT,
        json!({
            "version": "1.0",
            "added_tokens": tokens.added(&[bos, eos, unk, pad]),
            "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "post_processor": null,
            "decoder": byte_level,
            "model": {"type": "BPE", "ignore_merges": pre.ignore_merges, "vocab": tokens.ids, "merges": merges},
        }),
    )?;
    let add_bos = bos.filter(|_| vocab.add_bos.unwrap_or(pre.add_bos));
    let add_eos = eos.filter(|_| vocab.add_eos.unwrap_or(false));
    surround(&mut hf, add_bos, add_eos)?;
    let specials = SpecialIds { bos, eos: tokens.ends(vocab, eos)?, pad, unk };
    Tokenizer::new(hf, None, specials, template(vocab), Map::new())
}

/// WordPiece. GGUF marks the start of a word with `▁` where BERT's own vocabulary marks the continuation with `##`.
fn bert(vocab: &GgufVocab, tokens: &Tokens) -> Result<Tokenizer> {
    let role = |id: Option<u32>, name: &str, default: u32| match tokens.checked(id)? {
        Some(id) => Ok::<_, TextError>(Some(id)),
        None => Ok(tokens.ids.get(name).copied().or(tokens.or_default(None, default)?)),
    };
    let cls = role(vocab.bos, "[CLS]", 101)?;
    let sep = role(vocab.sep, "[SEP]", 102)?;
    let unk = role(vocab.unk, "[UNK]", 100)?;
    let pad = role(vocab.pad, "[PAD]", 0)?;
    let mask = role(vocab.mask, "[MASK]", 103)?;
    let (Some(cls_id), Some(sep_id), Some(unk_id)) = (cls, sep, unk) else {
        return Err(TextError::invalid(WHAT, "it names no [CLS], [SEP] or [UNK] token"));
    };
    let roles = [cls, sep, unk, pad, mask];
    let mut entries: HashMap<String, u32> = HashMap::with_capacity(tokens.texts.len());
    let mut plain = Vec::with_capacity(tokens.texts.len());
    for (id, text) in tokens.texts.iter().enumerate() {
        let second = id as u32;
        let bracketed = text.starts_with('[') && text.ends_with(']') && text.len() > 2;
        let token = match text.strip_prefix('▁') {
            _ if roles.contains(&Some(second)) || matches!(tokens.types[id], CONTROL | UNKNOWN) => text.clone(),
            Some(word) if !word.is_empty() => word.to_owned(),
            _ if bracketed => text.clone(),
            _ => format!("##{text}"),
        };
        if let Some(first) = entries.insert(token.clone(), second) {
            return Err(TextError::DuplicateToken { token, first, second });
        }
        plain.push(token);
    }
    let renamed = Tokens { texts: plain, types: tokens.types.clone(), ids: entries };
    let name = |id: u32| renamed.text(id);
    let lowercase = vocab.lowercase.unwrap_or(true);
    let special = |id: u32, segment: u32| json!({"SpecialToken": {"id": name(id), "type_id": segment}});
    let first = [special(cls_id, 0), json!({"Sequence": {"id": "A", "type_id": 0}}), special(sep_id, 0)];
    let second = [json!({"Sequence": {"id": "B", "type_id": 1}}), special(sep_id, 1)];
    let define = |id: u32| json!({"id": name(id), "ids": [id], "tokens": [name(id)]});
    let mut defined = Map::new();
    defined.extend([cls_id, sep_id].map(|id| (name(id).to_owned(), define(id))));
    let hf = build(
        WHAT,
        json!({
            "version": "1.0",
            "added_tokens": renamed.added(&roles),
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                           "strip_accents": null, "lowercase": lowercase},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {"type": "TemplateProcessing", "single": first,
                               "pair": first.iter().chain(&second).collect::<Vec<_>>(), "special_tokens": defined},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {"type": "WordPiece", "unk_token": name(unk_id), "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": renamed.ids},
        }),
    )?;
    let specials = SpecialIds { bos: cls, eos: vec![sep_id], pad, unk };
    let mut config = Map::new();
    for (key, id) in [("cls_token", cls), ("sep_token", sep), ("mask_token", mask)] {
        config.extend(id.map(|id| (key.to_owned(), Value::from(name(id)))));
    }
    Tokenizer::new(hf, None, specials, template(vocab), config)
}
