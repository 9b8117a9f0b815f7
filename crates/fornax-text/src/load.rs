//! Tokenizers from the files of a Hugging Face folder.
//!
//! tokenizer.json says how to tokenize; the files beside it only add names of special tokens, added tokens that it
//! lacks, and the chat template. Nothing here downloads.

use crate::check::{check, guarded};
use crate::tokenizer::SpecialIds;
use crate::{ChatTemplate, Result, TextError, Tokenizer};
use serde_json::{Map, Value, json};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use tokenizers::AddedToken;

/// The names under which tokenizer_config.json and special_tokens_map.json give special tokens.
pub(crate) const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl Tokenizer {
    /// Reads a tokenizer.json by itself. It names no roles, so [`bos_id`](Self::bos_id) and the others are guessed
    /// from the usual names (`<s>`, `</s>`, `<pad>`, `[PAD]`, `<unk>`, …) among the special tokens;
    /// [`from_folder`](Self::from_folder) knows them.
    ///
    /// # Errors
    /// [`TextError::Io`] or [`TextError::Invalid`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_bytes(&fs::read(path).map_err(TextError::io("read", path))?)
    }

    /// [`from_file`](Self::from_file) for a file that is already in memory.
    ///
    /// ```
    /// use fornax_text::Tokenizer;
    /// let error = Tokenizer::from_bytes(br#"{"model": {"type": "BPE", "vocab": {}, "merges": []}}"#).unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "tokenizer.json is not usable: the vocabulary is empty; fetch it again or convert the model again"
    /// );
    /// ```
    ///
    /// # Errors
    /// [`TextError::Invalid`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let hf = build("tokenizer.json", parse("tokenizer.json", bytes)?)?;
        let specials = usual_names(&hf);
        Self::new(hf, None, specials, None, Map::new())
    }

    /// Reads a folder as transformers' `save_pretrained` writes it: tokenizer.json, and where they are there
    /// tokenizer_config.json, special_tokens_map.json, added_tokens.json, generation_config.json (for its list of
    /// end tokens), chat_template.jinja, chat_template.json and additional_chat_templates.
    ///
    /// # Errors
    /// [`TextError::NoTokenizer`] without a tokenizer.json, otherwise [`TextError::Io`] or [`TextError::Invalid`].
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let bytes = match fs::read(folder.join("tokenizer.json")) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(TextError::NoTokenizer { folder: folder.to_owned(), expected: "tokenizer.json" });
            }
            bytes => bytes.map_err(TextError::io("read", &folder.join("tokenizer.json")))?,
        };
        let mut hf = build("tokenizer.json", parse("tokenizer.json", &bytes)?)?;
        let mut config = optional_object(folder, "tokenizer_config.json")?;
        let map = optional_object(folder, "special_tokens_map.json")?;
        for (key, value) in map {
            config.entry(key).or_insert(value);
        }
        add_tokens(&mut hf, folder, &config)?;
        let mut specials = special_ids(&hf, &config);
        add_ends(&mut specials, &hf, &optional_object(folder, "generation_config.json")?);
        add_bos_and_eos(&mut hf, &config, &specials)?;
        let template = templates(folder, &mut config)?;
        Self::new(hf, None, specials, template, config)
    }
}

pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|e| TextError::invalid(what, e))
}

/// Checks a parsed tokenizer.json and builds the tokenizer. Truncation and padding of the file are dropped:
/// transformers sets both on every call, and they are options of a batch here.
pub(crate) fn build(what: &str, mut json: Value) -> Result<tokenizers::Tokenizer> {
    check(&json)?;
    json["truncation"] = Value::Null;
    json["padding"] = Value::Null;
    let invalid = |reason: String| TextError::invalid(what, reason);
    // The crate's own types want to borrow from the text, so the value goes through a string once more.
    let text = serde_json::to_vec(&json).map_err(|e| invalid(e.to_string()))?;
    let expected = std::mem::take(&mut json["added_tokens"]);
    drop(json);
    let hf = guarded(|| tokenizers::Tokenizer::from_bytes(&text)).map_err(invalid)?;
    // The crate numbers added tokens itself and only warns where the file says otherwise.
    for token in expected.as_array().into_iter().flatten() {
        let content = token.get("content").and_then(Value::as_str).unwrap_or_default();
        let id = token.get("id").and_then(Value::as_u64);
        let found = hf.token_to_id(content).map(u64::from);
        if !content.is_empty() && found != id {
            return Err(invalid(format!("added token {content:?} should have id {id:?}, but gets {found:?}")));
        }
    }
    Ok(hf)
}

fn optional_object(folder: &Path, name: &str) -> Result<Map<String, Value>> {
    let path = folder.join(name);
    match fs::read(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Map::new()),
        bytes => match parse(name, &bytes.map_err(TextError::io("read", &path))?)? {
            Value::Object(map) => Ok(map),
            _ => Err(TextError::invalid(name, "expected an object")),
        },
    }
}

/// The text of a token that is given as a string or as an object with its `content`.
pub(crate) fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// Adds what the side files name and tokenizer.json does not have, and marks tokens with a role as special.
fn add_tokens(hf: &mut tokenizers::Tokenizer, folder: &Path, config: &Map<String, Value>) -> Result<()> {
    let mut wanted: Vec<(u64, AddedToken)> = Vec::new();
    for (id, token) in config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
        let flag = |key: &str| token.get(key).and_then(Value::as_bool).unwrap_or(false);
        let (Ok(id), Some(content)) = (id.parse(), token_text(token)) else {
            return Err(TextError::invalid("tokenizer_config.json", format!("added token {id} is {token}")));
        };
        let added = AddedToken::from(content, flag("special"));
        let added = added.lstrip(flag("lstrip")).rstrip(flag("rstrip"));
        wanted.push((id, added.single_word(flag("single_word")).normalized(flag("normalized"))));
    }
    for (content, id) in optional_object(folder, "added_tokens.json")? {
        let id = id.as_u64().ok_or_else(|| TextError::invalid("added_tokens.json", format!("{content:?} is {id}")))?;
        wanted.push((id, AddedToken::from(content, false)));
    }
    wanted.sort_by_key(|(id, _)| *id);
    for (id, token) in wanted {
        if hf.token_to_id(&token.content).is_none() {
            let content = token.content.clone();
            add(hf, token)?;
            let found = hf.token_to_id(&content).map(u64::from);
            if found != Some(id) {
                let reason = format!("added token {content:?} should have id {id}, but the next free id is {found:?}");
                return Err(TextError::invalid("tokenizer_config.json", reason));
            }
        }
    }
    let more = ["additional_special_tokens", "extra_special_tokens"].iter().filter_map(|key| config.get(*key));
    let more = more.filter_map(Value::as_array).flatten();
    for content in ROLES.iter().filter_map(|role| config.get(*role)).chain(more).filter_map(token_text) {
        let known = hf.token_to_id(content).is_some();
        if known && !hf.get_added_vocabulary().is_special_token(content) {
            add(hf, AddedToken::from(content, true))?;
        }
    }
    Ok(())
}

fn add(hf: &mut tokenizers::Tokenizer, token: AddedToken) -> Result<()> {
    guarded(|| hf.add_tokens([token])).map_err(|reason| TextError::invalid("an added token", reason))?;
    Ok(())
}

fn special_ids(hf: &tokenizers::Tokenizer, config: &Map<String, Value>) -> SpecialIds {
    let id = |role: &str| config.get(role).and_then(token_text).and_then(|token| hf.token_to_id(token));
    SpecialIds {
        bos: id("bos_token"),
        eos: id("eos_token").into_iter().collect(),
        pad: id("pad_token"),
        unk: id("unk_token"),
    }
}

/// Adds the end tokens of generation_config.json: chat models end a turn with other tokens than a text.
fn add_ends(specials: &mut SpecialIds, hf: &tokenizers::Tokenizer, generation: &Map<String, Value>) {
    let ends = generation.get("eos_token_id");
    let ends = ends.and_then(Value::as_array).map_or_else(|| ends.into_iter().collect(), |list| list.iter().collect());
    let ends: Vec<&Value> = ends;
    for id in ends.into_iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()) {
        if hf.id_to_token(id).is_some() && !specials.eos.contains(&id) {
            specials.eos.push(id);
        }
    }
}

/// The roles by the usual names, for a tokenizer.json without the files that tell them.
fn usual_names(hf: &tokenizers::Tokenizer) -> SpecialIds {
    let vocabulary = hf.get_added_vocabulary();
    let first = |names: &[&str]| {
        let special = names.iter().find(|name| vocabulary.is_special_token(name));
        special.and_then(|name| hf.token_to_id(name))
    };
    SpecialIds {
        bos: first(&["<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>"]),
        eos: first(&["</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>"]).into_iter().collect(),
        pad: first(&["<pad>", "[PAD]", "<|pad|>"]),
        unk: first(&["<unk>", "[UNK]"]),
    }
}

/// Adds BOS and EOS where the configuration asks for them and tokenizer.json does not put them there.
fn add_bos_and_eos(hf: &mut tokenizers::Tokenizer, config: &Map<String, Value>, specials: &SpecialIds) -> Result<()> {
    let asked = |key: &str| config.get(key).and_then(Value::as_bool) == Some(true);
    let empty = guarded(|| hf.encode("", true)).map_err(|reason| TextError::invalid("tokenizer.json", reason))?;
    let bos = specials.bos.filter(|&id| asked("add_bos_token") && empty.get_ids().first() != Some(&id));
    let eos = specials.eos.first().copied().filter(|&id| asked("add_eos_token") && empty.get_ids().last() != Some(&id));
    surround(hf, bos, eos)
}

/// Makes `hf` put `bos` before and `eos` after each text, around what it already adds.
pub(crate) fn surround(hf: &mut tokenizers::Tokenizer, bos: Option<u32>, eos: Option<u32>) -> Result<()> {
    if bos.is_none() && eos.is_none() {
        return Ok(());
    }
    let (mut tokens, mut single, mut pair) = (Map::new(), Vec::new(), Vec::new());
    let mut special = |hf: &tokenizers::Tokenizer, id: u32, segment: u32| {
        let token = hf.id_to_token(id).unwrap_or_default();
        tokens.insert(token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}));
        json!({"SpecialToken": {"id": token, "type_id": segment}})
    };
    for (name, segment, texts) in [("A", 0, 2), ("B", 1, 1)] {
        let mut part = Vec::new();
        part.extend(bos.map(|id| special(hf, id, segment)));
        part.push(json!({"Sequence": {"id": name, "type_id": segment}}));
        part.extend(eos.map(|id| special(hf, id, segment)));
        if texts == 2 {
            single.extend(part.iter().cloned());
        }
        pair.extend(part);
    }
    let template = json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens});
    let invalid = |e: serde_json::Error| TextError::invalid("the post-processor", e);
    let processor = match hf.get_post_processor() {
        Some(inner) => {
            let inner = serde_json::to_value(inner).map_err(invalid)?;
            json!({"type": "Sequence", "processors": [inner, template]})
        }
        None => template,
    };
    let processor: tokenizers::PostProcessorWrapper = serde_json::from_value(processor).map_err(invalid)?;
    hf.with_post_processor(Some(processor));
    Ok(())
}

/// Collects the chat templates and takes them out of the configuration.
fn templates(folder: &Path, config: &mut Map<String, Value>) -> Result<Option<ChatTemplate>> {
    let mut named: Vec<(String, String)> = Vec::new();
    let invalid = |reason: String| TextError::invalid("tokenizer_config.json", reason);
    match config.remove("chat_template") {
        None | Some(Value::Null) => {}
        Some(Value::String(source)) => named.push(("default".into(), source)),
        Some(Value::Array(list)) => {
            for entry in list {
                let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
                let (Some(name), Some(source)) = (text("name"), text("template")) else {
                    return Err(invalid("chat_template: expected objects with a name and a template".into()));
                };
                named.push((name, source));
            }
        }
        Some(other) => return Err(invalid(format!("chat_template: expected a text or a list, found {other}"))),
    }
    if let Some(Value::String(source)) = optional_object(folder, "chat_template.json")?.remove("chat_template") {
        named.push(("default".into(), source));
    }
    let read = |path: &Path| match fs::read_to_string(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        source => source.map(Some).map_err(TextError::io("read", path)),
    };
    if let Some(source) = read(&folder.join("chat_template.jinja"))? {
        named.push(("default".into(), source));
    }
    if let Ok(entries) = fs::read_dir(folder.join("additional_chat_templates")) {
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|e| e == "jinja")
                && let Some(name) = path.file_stem().and_then(|s| s.to_str())
                && let Some(source) = read(&path)?
            {
                named.push((name.to_owned(), source));
            }
        }
    }
    if named.is_empty() {
        return Ok(None);
    }
    Ok(Some(ChatTemplate::named(named)))
}
