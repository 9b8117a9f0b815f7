//! Streaming gives the same text as decoding at once, in whole characters, whatever the ids are.

use crate::{NAMES, crossing, fixture, json, spm, texts};
use fornax_text::{TextError, Tokenizer};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn tokenizers() -> Vec<(String, Tokenizer)> {
    let folder = |name: &str| (name.to_owned(), Tokenizer::from_folder(fixture(name)).unwrap());
    let mut all: Vec<_> = NAMES.iter().map(|name| folder(name)).collect();
    all.push(("gguf llama".into(), spm()));
    all.push(("gguf gpt2".into(), Tokenizer::from_gguf(&crossing("qwen2")).unwrap()));
    all
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip: bool) -> String {
    let mut stream = tokenizer.stream_decoder(skip);
    let mut text = String::new();
    for &id in ids {
        let piece = stream.push(id).unwrap();
        assert_ne!(piece.as_deref(), Some(""), "an empty piece is None");
        text.extend(piece);
    }
    text.extend(stream.finish().unwrap());
    assert_eq!(stream.finish().unwrap(), None, "nothing is left after the end");
    text
}

#[test]
fn pieces_of_random_ids_make_the_decoded_text() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for (name, tokenizer) in tokenizers() {
        for round in 0..400 {
            // Half of the rounds draw from few ids, so that bytes of characters and special tokens meet often.
            let top = if round % 2 == 0 { tokenizer.max_id() + 1 } else { 260.min(tokenizer.max_id() + 1) };
            let ids: Vec<u32> = (0..rng.random_range(0..40)).map(|_| rng.random_range(0..top)).collect();
            for skip in [false, true] {
                let whole = tokenizer.decode(&ids, skip).unwrap();
                assert_eq!(streamed(&tokenizer, &ids, skip), whole, "{name}: {ids:?}");
            }
        }
    }
}

#[test]
fn texts_come_back_in_whole_characters_as_early_as_they_can() {
    for (name, tokenizer) in tokenizers() {
        for text in texts(&json("expected.json")["texts"]) {
            let ids = tokenizer.encode(&text, false).unwrap().ids;
            let mut stream = tokenizer.stream_decoder(false);
            let mut so_far = String::new();
            for (n, &id) in ids.iter().enumerate() {
                so_far.extend(stream.push(id).unwrap());
                // What is out cannot change any more: it begins the text of all ids up to here, and at most an
                // unfinished character is missing.
                let whole = tokenizer.decode(&ids[..=n], false).unwrap();
                let rest = whole.strip_prefix(&so_far).unwrap_or_else(|| panic!("{name}: {so_far:?} in {whole:?}"));
                assert!(rest.is_empty() || rest == "\u{FFFD}", "{name}: {rest:?} held back");
            }
            so_far.extend(stream.finish().unwrap());
            assert_eq!(so_far, tokenizer.decode(&ids, false).unwrap(), "{name}: {text:?}");
        }
    }
}

#[test]
fn an_unknown_id_is_an_error_and_does_not_end_the_stream() {
    for (name, tokenizer) in tokenizers() {
        let id = tokenizer.max_id() + 1;
        let unknown = |error: TextError| matches!(error, TextError::UnknownId { id: found, .. } if found == id);
        assert!(unknown(tokenizer.decode(&[0, id], true).unwrap_err()), "{name}");
        let mut stream = tokenizer.stream_decoder(true);
        assert!(unknown(stream.push(id).unwrap_err()), "{name}");
        let known = tokenizer.encode("a", false).unwrap().ids;
        let mut text: String = known.iter().filter_map(|&id| stream.push(id).unwrap()).collect();
        text.extend(stream.finish().unwrap());
        assert_eq!(text, "a", "{name}");
    }
}

#[test]
fn a_decoder_that_needs_all_tokens_answers_at_the_end() {
    let mut raw = json("wordpiece/tokenizer.json");
    raw["decoder"] = serde_json::json!({"type": "BPEDecoder", "suffix": "##"});
    let tokenizer = Tokenizer::from_bytes(raw.to_string().as_bytes()).unwrap();
    let ids = tokenizer.encode("the king", false).unwrap().ids;
    assert_eq!(streamed(&tokenizer, &ids, false), tokenizer.decode(&ids, false).unwrap());
    assert_eq!(streamed(&tokenizer, &[], false), "");
}
