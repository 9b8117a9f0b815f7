//! The same ids, offsets, texts and batches as the tokenizers and transformers packages in Python.

use crate::{NAMES, fixture, ids, json, texts};
use fornax_text::{BatchOptions, Tokenizer};

#[test]
fn ids_offsets_and_texts_are_those_of_python() {
    let expected = json("expected.json");
    let texts = texts(&expected["texts"]);
    for name in NAMES {
        let tokenizer = Tokenizer::from_folder(fixture(name)).unwrap();
        let cases = expected["tokenizers"][name].as_array().unwrap();
        assert_eq!(cases.len(), texts.len());
        for (text, case) in texts.iter().zip(cases) {
            let encoding = tokenizer.encode(text, true).unwrap();
            assert_eq!(encoding.ids, ids(&case["ids"]), "{name}: {text:?}");
            if let Some(expected) = case.get("offsets") {
                let offsets: Vec<u32> = encoding.offsets.iter().flat_map(|r| [r.start as u32, r.end as u32]).collect();
                assert_eq!(offsets, ids(expected), "{name}: offsets of {text:?}");
            }
            let plain = tokenizer.encode(text, false).unwrap();
            let expected = case["plain"].as_u64().map_or(encoding.len(), |n| n as usize);
            assert_eq!(plain.len(), expected, "{name}: {text:?}");
            for (key, skip) in [("decoded", false), ("skipped", true)] {
                let decoded = tokenizer.decode(&encoding.ids, skip).unwrap();
                let expected = case[key].as_str().unwrap_or(text);
                assert_eq!(decoded, expected, "{name}: {key} of {text:?}");
            }
            // The masks and segments belong to the tokens one to one.
            assert_eq!(encoding.attention_mask, vec![1; encoding.len()]);
            assert_eq!((encoding.type_ids.len(), encoding.special_tokens_mask.len()), (encoding.len(), encoding.len()));
        }
    }
}

#[test]
fn batches_are_padded_and_truncated_as_in_python() {
    let expected = json("expected.json");
    let tokenizer = Tokenizer::from_folder(fixture("wordpiece")).unwrap();
    let pairs: Vec<(String, String)> = serde_json::from_value(expected["pairs"].clone()).unwrap();
    let firsts: Vec<&str> = pairs.iter().map(|(first, _)| first.as_str()).collect();
    for case in expected["batches"].as_array().unwrap() {
        let max_length = case["max_length"].as_u64().map(|n| n as usize);
        let options = BatchOptions { max_length, ..Default::default() };
        for (key, batch) in [
            ("pair", tokenizer.encode_pair_batch(&pairs, &options).unwrap()),
            ("single", tokenizer.encode_batch(&firsts, &options).unwrap()),
        ] {
            for (row, encoding) in batch.iter().enumerate() {
                let case = &case[key];
                assert_eq!(encoding.ids, ids(&case["input_ids"][row]), "{key} {max_length:?} row {row}");
                let mask: Vec<u32> = encoding.attention_mask.iter().map(|&m| u32::from(m)).collect();
                assert_eq!(mask, ids(&case["attention_mask"][row]), "{key} {max_length:?} row {row}");
                if key == "pair" {
                    assert_eq!(encoding.type_ids, ids(&case["token_type_ids"][row]), "{max_length:?} row {row}");
                }
            }
        }
    }
}

#[test]
fn special_tokens_have_their_roles() {
    let bytelevel = Tokenizer::from_folder(fixture("bytelevel")).unwrap();
    let id = |token: &str| bytelevel.token_to_id(token).unwrap();
    assert_eq!(bytelevel.bos_id(), Some(id("<|endoftext|>")));
    assert_eq!(bytelevel.eos_ids(), [id("<|im_end|>")]);
    assert_eq!((bytelevel.pad_id(), bytelevel.unk_id()), (Some(id("<|endoftext|>")), None));
    assert!(bytelevel.is_special(id("<|im_start|>")) && !bytelevel.is_special(id("<extra>")));
    assert_eq!(bytelevel.vocab_size(), bytelevel.max_id() as usize + 1);
    // A tokenizer.json by itself has no roles; the usual names stand in.
    let alone = Tokenizer::from_file(fixture("sentencepiece/tokenizer.json")).unwrap();
    assert_eq!((alone.bos_id(), alone.eos_ids(), alone.unk_id()), (Some(1), &[2][..], Some(0)));
}
