//! Training a vocabulary.

use fornax_text::{BpeTrainerConfig, train_bpe};

#[test]
fn a_vocabulary_from_a_megabyte_is_used_well() {
    let names = ["Mia", "Tom", "the fox", "an owl", "Grandma"];
    let deeds = ["found", "hid", "painted", "forgot", "shared"];
    let things = ["a red ball", "the old map", "some honey", "her drum", "a paper boat"];
    let story = |i: usize| {
        let pick = |list: &[&'static str], step: usize| list[i / step % list.len()];
        format!("{} {} {}. Then it was evening {i}.\n", pick(&names, 1), pick(&deeds, 5), pick(&things, 25))
    };
    let texts: Vec<String> = (0..20_000).map(story).collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    assert!(bytes > 900_000, "{bytes}");
    let tokenizer =
        train_bpe(texts.iter().cloned(), &BpeTrainerConfig { vocab_size: 512, ..Default::default() }).unwrap();
    assert_eq!(tokenizer.vocab_size(), 512);
    let text = "Grandma painted the old map. Then it was evening 7.\n";
    let encoding = tokenizer.encode(text, false).unwrap();
    assert!(encoding.len() <= 16, "{} tokens", encoding.len());
    for text in [text, "unseen: Ωμέγα 🙂\u{0}"] {
        let ids = tokenizer.encode(text, true).unwrap().ids;
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
}
