//! Looks a tokenizer.json over before the `tokenizers` crate builds it.
//!
//! That crate trusts some of the file: it indexes, subtracts or allocates by values that it did not check.
//! Everything found here becomes a typed error; what is left is caught at [`guarded`]. It does not repeat the
//! checks that the crate makes itself.

use crate::{Result, TextError};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How deep lists of steps may be nested in each other; real files nest once.
const MAX_NESTING: usize = 4;
/// How many repetitions a pattern's counted loops may unfold to.
const MAX_REPETITIONS: u64 = 100_000;
/// Ids above this would need tables of gigabytes in a model; they are a sign of a broken file.
const MAX_ID: u64 = 1 << 26;

/// Checks the parsed file; `Ok` means that the `tokenizers` crate may have it.
pub(crate) fn check(json: &Value) -> Result<()> {
    let root = json.as_object().ok_or_else(|| bad("tokenizer.json", "expected an object"))?;
    let tokens = check_model(root.get("model").ok_or_else(|| bad("tokenizer.json", "it has no model"))?)?;
    check_added_tokens(root, tokens)?;
    for (key, list, kinds) in [
        ("normalizer", "normalizers", None),
        ("pre_tokenizer", "pretokenizers", None),
        ("post_processor", "processors", None),
        ("decoder", "decoders", Some(&DECODERS[..])),
    ] {
        if let Some(value) = root.get(key).filter(|v| !v.is_null()) {
            check_step(key, list, kinds, value, 0)?;
        }
    }
    Ok(())
}

const DECODERS: [&str; 10] = [
    "BPEDecoder",
    "ByteLevel",
    "WordPiece",
    "Metaspace",
    "CTC",
    "Sequence",
    "Replace",
    "Fuse",
    "Strip",
    "ByteFallback",
];

/// Runs `work`, which calls into the `tokenizers` crate, and turns a panic in there into an error.
///
/// The crate's values that `work` borrows hold no lock and no half-made state over a panic: encoding and decoding
/// take `&self`, and a tokenizer whose building panicked is dropped.
pub(crate) fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(panic) => {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(format!("the tokenizers library stopped: {words}"))
        }
    }
}

fn bad(what: &str, reason: impl ToString) -> TextError {
    TextError::invalid(what, reason)
}

/// Returns the number of tokens.
fn check_model(model: &Value) -> Result<usize> {
    let model = model.as_object().ok_or_else(|| bad("model", "expected an object"))?;
    let vocab = model.get("vocab").ok_or_else(|| bad("model", "it has no vocab"))?;
    let vocab = match vocab {
        Value::Array(list) => return check_unigram(model, list),
        Value::Object(vocab) => vocab,
        _ => return Err(bad("model.vocab", "expected an object or a list")),
    };
    let mut seen = HashSet::with_capacity(vocab.len());
    for (token, id) in vocab {
        let id = id.as_u64().filter(|&id| id < MAX_ID);
        let id = id.ok_or_else(|| bad("model.vocab", format!("the id of {token:?} is not below {MAX_ID}")))?;
        if !seen.insert(id) {
            return Err(bad("model.vocab", format!("two tokens have the id {id}; one is {token:?}")));
        }
    }
    if let Some(merges) = model.get("merges") {
        check_merges(model, vocab, merges)?;
    }
    if let Some(limit) = model.get("max_input_chars_per_word").and_then(Value::as_u64)
        && limit > 100_000
    {
        // WordPiece compares every part of a word with the vocabulary: quadratic in the word.
        return Err(bad("model.max_input_chars_per_word", format!("{limit} is above 100000")));
    }
    Ok(vocab.len())
}

fn check_unigram(model: &Map<String, Value>, list: &[Value]) -> Result<usize> {
    for entry in list {
        let score = match entry.as_array().map(Vec::as_slice) {
            Some([Value::String(_), score]) => score.as_f64(),
            _ => None,
        };
        if !score.is_some_and(f64::is_finite) {
            return Err(bad("model.vocab", format!("expected pairs of a token and a score, found {entry}")));
        }
    }
    let unk = model.get("unk_id").and_then(Value::as_u64);
    if unk.is_some_and(|id| id >= list.len() as u64) || list.is_empty() {
        return Err(bad("model.unk_id", format!("{unk:?} is not one of the {} tokens", list.len())));
    }
    Ok(list.len())
}

/// Every merge joins two tokens to a third. The `tokenizers` crate copies them into a buffer of the length of
/// the longest token and cuts the prefix off unchecked.
fn check_merges(model: &Map<String, Value>, vocab: &Map<String, Value>, merges: &Value) -> Result<()> {
    let merges = merges.as_array().ok_or_else(|| bad("model.merges", "expected a list"))?;
    let prefix = model.get("continuing_subword_prefix").and_then(Value::as_str).unwrap_or("");
    let mut joined = String::new();
    for merge in merges {
        let pair = match merge {
            Value::String(line) if line.starts_with("#version") => continue,
            Value::String(line) => line.split_once(' '),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(a), Value::String(b)] => Some((a.as_str(), b.as_str())),
                _ => None,
            },
            _ => None,
        };
        let (a, b) = pair.ok_or_else(|| bad("model.merges", format!("expected two tokens, found {merge}")))?;
        let rest = b.strip_prefix(prefix);
        let rest = rest.ok_or_else(|| bad("model.merges", format!("{b:?} does not begin with {prefix:?}")))?;
        joined.clear();
        joined.extend([a, rest]);
        for token in [a, b, &joined] {
            if !vocab.contains_key(token) {
                return Err(bad("model.merges", format!("{a:?} + {b:?} needs {token:?}, which is not in the vocab")));
            }
        }
    }
    Ok(())
}

fn check_added_tokens(root: &Map<String, Value>, tokens: usize) -> Result<()> {
    let Some(added) = root.get("added_tokens").filter(|v| !v.is_null()) else {
        return if tokens == 0 { Err(bad("tokenizer.json", "the vocabulary is empty")) } else { Ok(()) };
    };
    let added = added.as_array().ok_or_else(|| bad("added_tokens", "expected a list"))?;
    if tokens + added.len() == 0 {
        return Err(bad("tokenizer.json", "the vocabulary is empty"));
    }
    for token in added {
        let id = token.get("id").and_then(Value::as_u64);
        if id.is_none_or(|id| id >= MAX_ID) {
            return Err(bad("added_tokens", format!("the id of {token} is not below {MAX_ID}")));
        }
    }
    Ok(())
}

fn check_step(key: &str, list: &str, kinds: Option<&[&str]>, step: &Value, depth: usize) -> Result<()> {
    let kind = step.get("type").and_then(Value::as_str);
    let kind = kind.ok_or_else(|| bad(key, format!("a step has no type: {}", shortened(step))))?;
    if kinds.is_some_and(|kinds| !kinds.contains(&kind)) {
        return Err(bad(key, format!("unknown type {kind:?}")));
    }
    if depth > MAX_NESTING {
        return Err(bad(key, format!("lists are nested more than {MAX_NESTING} deep")));
    }
    if let Some(steps) = step.get(list).and_then(Value::as_array) {
        for step in steps {
            check_step(key, list, kinds, step, depth + 1)?;
        }
    }
    if let Some(pattern) = step.get("pattern").and_then(|p| p.get("Regex")).and_then(Value::as_str)
        && repetitions(pattern) > MAX_REPETITIONS
    {
        return Err(bad(key, format!("the counted loops of {pattern:?} unfold to more than {MAX_REPETITIONS}")));
    }
    if step.get("pattern").and_then(|p| p.get("String")).and_then(Value::as_str) == Some("") {
        return Err(bad(key, "an empty pattern matches everywhere"));
    }
    if kind == "FixedLength" && step.get("length").and_then(Value::as_u64) == Some(0) {
        return Err(bad(key, "pieces of length 0"));
    }
    if kind == "TemplateProcessing" {
        check_template(key, step)?;
    }
    Ok(())
}

/// Each special token of a template is defined, and the template uses each text at most as often as is sane.
fn check_template(key: &str, step: &Value) -> Result<()> {
    let defined = step.get("special_tokens").and_then(Value::as_object);
    for (name, token) in defined.into_iter().flatten() {
        let length = |field: &str| token.get(field).and_then(Value::as_array).map(Vec::len);
        if length("ids") != length("tokens") {
            return Err(bad(key, format!("special token {name:?} has not as many ids as tokens")));
        }
    }
    for field in ["single", "pair"] {
        let pieces = step.get(field).and_then(Value::as_array);
        let pieces = pieces.ok_or_else(|| bad(key, format!("template {field:?} is not a list")))?;
        if pieces.len() > 64 {
            return Err(bad(key, format!("template {field:?} has {} pieces", pieces.len())));
        }
        for piece in pieces {
            if let Some(id) = piece.get("SpecialToken").and_then(|t| t.get("id")).and_then(Value::as_str)
                && !defined.is_some_and(|d| d.contains_key(id))
            {
                return Err(bad(key, format!("template {field:?} uses {id:?}, which special_tokens does not define")));
            }
            let second = piece.get("Sequence").and_then(|s| s.get("id")).and_then(Value::as_str) == Some("B");
            if second && field == "single" {
                return Err(bad(key, "the template for one text uses the second"));
            }
        }
    }
    Ok(())
}

fn shortened(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}

/// How many single matches the counted loops of a pattern unfold to: loops side by side add up, loops inside
/// each other multiply. It overestimates where a character is escaped; that is harmless at this limit.
fn repetitions(pattern: &str) -> u64 {
    let mut groups: Vec<u64> = vec![0];
    let mut last = 0u64;
    let mut chars = pattern.char_indices();
    while let Some((at, c)) = chars.next() {
        // The stack holds at least the outermost group: it is only popped above that.
        let depth = groups.len();
        match c {
            '\\' => {
                chars.next();
                last = 1;
                groups[depth - 1] = groups[depth - 1].saturating_add(1);
            }
            '(' => groups.push(0),
            ')' if depth > 1 => {
                last = groups.pop().unwrap_or(0).max(1);
                groups[depth - 2] = groups[depth - 2].saturating_add(last);
            }
            '{' => {
                let body: String = pattern[at + 1..].chars().take_while(|&c| c != '}').collect();
                let count = body.split(',').filter_map(|n| n.trim().parse::<u64>().ok()).max();
                if let Some(count) = count.filter(|&n| n > 1) {
                    let more = last.saturating_mul(count - 1);
                    groups[depth - 1] = groups[depth - 1].saturating_add(more);
                    last = last.saturating_add(more);
                }
            }
            _ => {
                last = 1;
                groups[depth - 1] = groups[depth - 1].saturating_add(1);
            }
        }
    }
    groups.into_iter().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counted_loops_multiply_when_nested() {
        assert!(repetitions(r"\p{N}{1,3}|\s{512}(?!\S)|\s{256}") < 2_000);
        assert!(repetitions("(((a{100}){100}){100})") >= 1_000_000);
        assert!(repetitions("a{99999999999999999999}") < 100);
        assert!(repetitions("((a{4294967295}){4294967295}){4294967295}") > MAX_REPETITIONS);
    }

    #[test]
    fn a_broken_part_is_named() {
        let whole = |key: &str, value: Value| {
            let mut json =
                json!({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}});
            json[key] = value;
            check(&json).map_err(|e| e.to_string())
        };
        assert_eq!(whole("decoder", json!(null)), Ok(()));
        for (key, value, expected) in [
            ("model", json!({"vocab": {"a": 0}, "merges": [["a", "b"]]}), "needs \"b\""),
            ("model", json!({"vocab": {"a": 0}, "merges": ["a a"]}), "needs \"aa\""),
            ("model", json!({"vocab": {"a": 0, "b": 0}, "merges": []}), "two tokens have the id 0"),
            ("model", json!({"vocab": {}, "merges": []}), "vocabulary is empty"),
            ("model", json!({"vocab": {"a": -1}}), "the id of \"a\""),
            ("decoder", json!({"type": "Nonsense"}), "unknown type \"Nonsense\""),
            (
                "post_processor",
                json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}], "pair": []}),
                "uses \"x\"",
            ),
            ("pre_tokenizer", json!({"type": "Split", "pattern": {"Regex": "(a{1000}){1000}"}}), "counted loops"),
        ] {
            let found = whole(key, value).unwrap_err();
            assert!(found.contains(expected), "{found} should contain {expected}");
        }
    }
}
