//! What the fuzz targets do with their input; the crate's ordinary tests run the same over fixtures.
//!
//! Each body returns whether the input was accepted. A panic anywhere is a finding.

use fornax_text::{ChatTemplate, GgufVocab, Message, TemplateOptions, Tokenizer};

/// A small tokenizer.json of the kind that no other fixture has, to start from.
#[allow(dead_code, reason = "the fuzz targets take their first inputs from a corpus instead")]
pub const UNIGRAM: &str = r#"{"version": "1.0", "added_tokens": [{"id": 0, "content": "<unk>", "single_word": false, "lstrip": true, "rstrip": true, "normalized": false, "special": true}],
 "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}, {"type": "StripAccents"}]},
 "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
 "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<unk>", "type_id": 0}}],
  "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"<unk>": {"id": "<unk>", "ids": [0], "tokens": ["<unk>"]}}},
 "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
 "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": [["<unk>", 0.0], ["▁", -1.0], ["a", -2.5], ["b", -3.0], ["▁a", -1.5], ["ab", -2.0]]}}"#;

const TEXTS: [&str; 6] = ["", " a ab  b", "<unk>x<s>", "你好 🙂 e\u{301}", "The 12,345 dogs' day\n\n", "\u{0}\u{FFFF}"];

/// Encodes, decodes and streams a few texts. Errors are fine; the ids of an encoding must decode.
fn exercise(tokenizer: &Tokenizer) {
    for text in TEXTS {
        if let Ok(encoding) = tokenizer.encode(text, true) {
            for range in &encoding.offsets {
                assert!(text.get(range.clone()).is_some(), "offsets {range:?} in {text:?}");
            }
            let whole = tokenizer.decode(&encoding.ids, false);
            let mut stream = tokenizer.stream_decoder(false);
            let pieces: Result<Vec<_>, _> = encoding.ids.iter().map(|&id| stream.push(id)).collect();
            if let (Ok(whole), Ok(pieces), Ok(last)) = (whole, pieces, stream.finish()) {
                assert_eq!(whole, pieces.into_iter().flatten().chain(last).collect::<String>());
            }
        }
        if let Ok(pair) = tokenizer.encode_pair(text, "b", true) {
            assert_eq!((pair.type_ids.len(), pair.offsets.len()), (pair.len(), pair.len()));
        }
    }
    let all: Vec<u32> = (0..=tokenizer.max_id().min(2000)).collect();
    let _ = tokenizer.decode(&all, true);
    let _ = tokenizer.decode(&[tokenizer.max_id(), u32::MAX], false);
}

/// A tokenizer.json.
#[allow(dead_code, reason = "each fuzz target uses one body")]
pub fn tokenizer_json(bytes: &[u8]) -> bool {
    Tokenizer::from_bytes(bytes).is_ok_and(|tokenizer| {
        exercise(&tokenizer);
        true
    })
}

/// A GGUF vocabulary as JSON.
#[allow(dead_code, reason = "each fuzz target uses one body")]
pub fn gguf_vocab(bytes: &[u8]) -> bool {
    let Ok(vocab) = serde_json::from_slice::<GgufVocab>(bytes) else { return false };
    Tokenizer::from_gguf(&vocab).is_ok_and(|tokenizer| {
        exercise(&tokenizer);
        true
    })
}

/// The source of a chat template.
#[allow(dead_code, reason = "each fuzz target uses one body")]
pub fn chat_template(bytes: &[u8]) -> bool {
    let Ok(source) = std::str::from_utf8(bytes) else { return false };
    let template =
        ChatTemplate::new(source).with_token("bos_token", "<s>").with_token("eos_token", "</s>").with_fuel(50_000);
    let messages = [Message::system("Be brief."), Message::user(" Hi\n"), Message::assistant("Ho").with("name", "x")];
    let options = TemplateOptions::generation();
    template.render(&messages[1..2], &options).is_ok() | template.render(&messages, &options).is_ok()
}
