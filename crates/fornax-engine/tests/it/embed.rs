//! Sentence embeddings, pooled over what is not padding.

use fornax_engine::{EmbedOptions, ModelExt, Pooling, cosine_similarity};
use serde_json::Value;

use crate::common::{fixture, load, notice};

fn minilm() -> Option<fornax_models::AutoModel> {
    let found = std::env::var_os("FORNAX_TEST_MINILM").map(std::path::PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        notice("FORNAX_TEST_MINILM does not name all-MiniLM-L6-v2's folder: this test checks nothing");
    }
    found.map(|path| load(&path))
}

/// all-MiniLM-L6-v2 against transformers' mean-pooled, normalized states; `tests/fixtures/minilm.py` made them.
#[test]
fn minilm_embeddings_are_those_of_transformers() {
    let Some(model) = minilm() else { return };
    let text = include_str!("../fixtures/minilm.json");
    let json: Value = serde_json::from_str(text).expect("JSON");
    let sentences: Vec<&str> =
        json["sentences"].as_array().expect("a list").iter().map(|text| text.as_str().expect("a text")).collect();
    assert_eq!(sentences.len(), 50);
    let found = model.embedder().embed(&sentences, &EmbedOptions::default()).expect("it embeds");
    for ((sentence, found), wanted) in sentences.iter().zip(&found).zip(json["embeddings"].as_array().expect("a list"))
    {
        let wanted: Vec<f32> =
            wanted.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number") as f32).collect();
        let worst = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(found.len() == wanted.len() && worst < 1e-5, "{sentence:?}: {worst:.2e} apart");
    }
}

#[test]
fn a_sentence_does_not_depend_on_those_beside_it() {
    let Some(model) = minilm() else { return };
    let sentences = ["Short.", "A sentence that is a good deal longer than the first one, for padding's sake.", ""];
    for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Last] {
        let options = EmbedOptions { pooling, ..EmbedOptions::default() };
        let together = model.embedder().embed(&sentences, &options).expect("it embeds");
        for (sentence, together) in sentences.iter().zip(&together) {
            let alone = model.embedder().embed(&[sentence], &options).expect("it embeds").remove(0);
            assert!(cosine_similarity(&alone, together) > 0.99999, "{sentence:?} with {pooling:?}");
        }
    }
}

/// A folder of sentence-transformers says how its model was trained to be pooled.
#[test]
fn the_pooling_of_a_folder_is_the_default() {
    let copy = tempfile::tempdir().expect("a folder");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("bert").join(name), copy.path().join(name)).expect("copied");
    }
    assert_eq!(load(copy.path()).embedder().default_options().pooling, Pooling::Mean);
    std::fs::create_dir(copy.path().join("1_Pooling")).expect("made");
    let text = r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#;
    std::fs::write(copy.path().join("1_Pooling/config.json"), text).expect("written");
    assert_eq!(load(copy.path()).embedder().default_options().pooling, Pooling::Cls);
}
