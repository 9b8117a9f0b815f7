//! Turning tokens into text, one token at a time.
//!
//! The decoder of a tokenizer.json is a list of steps over all tokens at once. Almost all of them look at one
//! token and at whether it is the first, so they can run as tokens arrive; [`Plan::new`] recognises those.
//! A decoder with a step that needs the whole text is left to the `tokenizers` crate and only runs at the end.

use crate::utf8::Utf8Stream;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// The decoding steps of one tokenizer, read once when it is loaded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Plan {
    /// Steps that run token by token.
    Streaming(Arc<Steps>),
    /// Steps that only the `tokenizers` crate can run, over all tokens together.
    Whole,
}

/// Steps that run token by token, in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Steps {
    each: Vec<Step>,
    bytes: Bytes,
    /// How many of this character are removed from the start of the text.
    strip: Vec<(char, usize)>,
}

/// What is done with each token by itself.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Replace { from: String, to: String },
    WordPiece { prefix: String, cleanup: bool },
    Metaspace { replacement: char, drop_first: bool },
    SpaceBetween,
    Strip { content: char, start: usize, stop: usize },
}

/// How bytes hide in tokens.
#[derive(Clone, Debug, Default, PartialEq)]
enum Bytes {
    /// They don't.
    #[default]
    None,
    /// Tokens such as `<0xE4>` are one byte each.
    Fallback,
    /// Every character stands for one byte, as GPT-2 has it.
    Level,
}

impl Plan {
    /// Reads the `decoder` of a tokenizer.json; null joins the tokens with spaces.
    pub fn new(decoder: &Value) -> Self {
        Self::streaming(decoder).map_or(Self::Whole, |steps| Self::Streaming(Arc::new(steps)))
    }

    fn streaming(decoder: &Value) -> Option<Steps> {
        let mut steps = Steps::default();
        if decoder.is_null() {
            steps.each.push(Step::SpaceBetween);
            return Some(steps);
        }
        let mut list = Vec::new();
        flatten(decoder, &mut list);
        let mut fused = false;
        for decoder in list {
            let text = |key: &str| decoder.get(key).and_then(Value::as_str);
            let number = |key: &str| decoder.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
            let single = |key: &str| text(key).and_then(|t| t.chars().next());
            let bytes_are_done = steps.bytes != Bytes::None;
            match text("type")? {
                "Fuse" => fused = true,
                "Strip" if fused && number("stop")? == 0 => steps.strip.push((single("content")?, number("start")?)),
                "ByteFallback" if !fused && !bytes_are_done => steps.bytes = Bytes::Fallback,
                // This decoder joins all tokens itself.
                "ByteLevel" if !fused && !bytes_are_done => (steps.bytes, fused) = (Bytes::Level, true),
                // Any other step would see tokens that are not yet known when bytes or the whole text were joined.
                _ if fused || bytes_are_done => return None,
                "Strip" => steps.each.push(Step::Strip {
                    content: single("content")?,
                    start: number("start")?,
                    stop: number("stop")?,
                }),
                "Replace" => {
                    let from = decoder.get("pattern")?.get("String")?.as_str()?.to_owned();
                    if from.is_empty() {
                        return None;
                    }
                    steps.each.push(Step::Replace { from, to: text("content")?.to_owned() });
                }
                "WordPiece" => steps.each.push(Step::WordPiece {
                    prefix: text("prefix")?.to_owned(),
                    cleanup: decoder.get("cleanup")?.as_bool()?,
                }),
                "Metaspace" => steps.each.push(Step::Metaspace {
                    replacement: single("replacement")?,
                    drop_first: text("prepend_scheme") != Some("never"),
                }),
                _ => return None,
            }
        }
        Some(steps)
    }
}

fn flatten<'a>(decoder: &'a Value, list: &mut Vec<&'a Value>) {
    match decoder.get("decoders").and_then(Value::as_array) {
        Some(inner) => inner.iter().for_each(|decoder| flatten(decoder, list)),
        None => list.push(decoder),
    }
}

/// The state between two tokens; its size does not grow with the text.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    steps: Arc<Steps>,
    first: bool,
    utf8: Utf8Stream,
    strip: Vec<(char, usize)>,
}

impl Running {
    pub fn new(steps: &Arc<Steps>) -> Self {
        Self { steps: Arc::clone(steps), first: true, utf8: Utf8Stream::default(), strip: steps.strip.clone() }
    }

    /// Appends to `out` the text that `token` completes.
    pub fn push(&mut self, token: &str, out: &mut String) {
        let mut piece = token.to_owned();
        for step in &self.steps.each {
            piece = step.apply(piece, self.first);
        }
        self.first = false;
        let start = out.len();
        match self.steps.bytes {
            Bytes::None => out.push_str(&piece),
            Bytes::Fallback => match fallback_byte(&piece) {
                Some(byte) => self.utf8.push(&[byte], out),
                None => {
                    self.utf8.finish(out);
                    out.push_str(&piece);
                }
            },
            Bytes::Level => {
                let bytes: Option<Vec<u8>> = piece.chars().map(|c| BYTE_OF_CHAR.get(&c).copied()).collect();
                self.utf8.push(bytes.as_deref().unwrap_or(piece.as_bytes()), out);
            }
        }
        self.strip(start, out);
    }

    /// Appends to `out` what was held back.
    pub fn finish(&mut self, out: &mut String) {
        let start = out.len();
        self.utf8.finish(out);
        self.strip(start, out);
    }

    fn strip(&mut self, start: usize, out: &mut String) {
        for (content, count) in &mut self.strip {
            while *count > 0
                && let Some(c) = out[start..].chars().next()
            {
                if c == *content {
                    out.remove(start);
                    *count -= 1;
                } else {
                    *count = 0;
                }
            }
            // A later strip sees the text only once this one has let something through.
            if out.len() == start {
                break;
            }
        }
    }
}

impl Step {
    fn apply(&self, piece: String, first: bool) -> String {
        match self {
            Self::Replace { from, to } => piece.replace(from, to),
            Self::SpaceBetween if first => piece,
            Self::SpaceBetween => format!(" {piece}"),
            Self::WordPiece { prefix, cleanup } => {
                let piece = match piece.strip_prefix(prefix.as_str()) {
                    _ if first => piece,
                    Some(rest) => rest.to_owned(),
                    None => format!(" {piece}"),
                };
                if *cleanup { clean_up(piece) } else { piece }
            }
            Self::Metaspace { replacement, drop_first } => {
                let spaced = |c: char| match c == *replacement {
                    true if first && *drop_first => None,
                    true => Some(' '),
                    false => Some(c),
                };
                piece.chars().filter_map(spaced).collect()
            }
            Self::Strip { content, start, stop } => {
                let count = |c: &char| c == content;
                let front: usize = piece.chars().take(*start).take_while(count).map(char::len_utf8).sum();
                let rest = &piece[front..];
                let back: usize = rest.chars().rev().take(*stop).take_while(count).map(char::len_utf8).sum();
                rest[..rest.len() - back].to_owned()
            }
        }
    }
}

/// Removes the spaces that WordPiece puts before punctuation and English contractions.
fn clean_up(mut piece: String) -> String {
    const RULES: [(&str, &str); 11] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    for (from, to) in RULES {
        if piece.contains(from) {
            piece = piece.replace(from, to);
        }
    }
    piece
}

/// The byte of a token such as `<0x0A>`.
pub(crate) fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}

/// GPT-2's alphabet: the printable bytes stand for themselves, the others follow from U+0100 on.
pub(crate) fn char_of_byte(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|&b| !printable(b)).count();
    // At most 68 bytes are not printable, and U+0100..U+0144 are all characters.
    char::from_u32(0x100 + rank as u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

static BYTE_OF_CHAR: LazyLock<HashMap<char, u8>> =
    LazyLock::new(|| (0..=255).map(|byte| (char_of_byte(byte), byte)).collect());

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(decoder: &Value, tokens: &[&str]) -> String {
        let Plan::Streaming(steps) = Plan::new(decoder) else { panic!("{decoder} should stream") };
        let (mut running, mut out) = (Running::new(&steps), String::new());
        tokens.iter().for_each(|token| running.push(token, &mut out));
        running.finish(&mut out);
        out
    }

    #[test]
    fn sentencepiece_strips_one_space_of_the_text_only() {
        let decoder = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        assert_eq!(run(&decoder, &["▁▁Hello", "▁", "<0xE4>", "<0xBD>", "<0xA0>", "!"]), " Hello 你!");
        assert_eq!(run(&decoder, &["<0xE4>", "<0xBD>", "a", "<0xFF>"]), "\u{FFFD}a\u{FFFD}");
        assert_eq!(run(&decoder, &["", "▁", "x"]), "x");
    }

    #[test]
    fn byte_level_alphabet_is_a_bijection_with_the_known_ends() {
        assert_eq!(BYTE_OF_CHAR.len(), 256);
        assert_eq!((char_of_byte(b' '), char_of_byte(b'\n'), char_of_byte(0xAD)), ('Ġ', 'Ċ', 'Ń'));
    }

    #[test]
    fn per_token_strip_survives_tokens_that_are_too_short() {
        let decoder = json!({"type": "Strip", "content": " ", "start": 1, "stop": 2});
        assert_eq!(run(&decoder, &[" a  ", "", " ", "b"]), "ab");
    }

    #[test]
    fn what_needs_the_whole_text_is_not_streamed() {
        for decoder in [
            json!({"type": "CTC"}),
            json!({"type": "BPEDecoder", "suffix": "</w>"}),
            json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}]}),
            json!({"type": "Replace", "pattern": {"Regex": "a+"}, "content": "b"}),
        ] {
            assert_eq!(Plan::new(&decoder), Plan::Whole, "{decoder}");
        }
    }
}
