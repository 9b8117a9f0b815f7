//! A model that was saved is the model that was loaded: names, shapes and numbers of every tensor.

use std::path::PathBuf;

use fornax_checkpoint::Checkpoint;

use super::common::{DECODERS, Expected, assert_close, device, folder, load, logits, tolerance};

#[test]
fn saved_tensors_are_the_loaded_ones() {
    let device = device();
    for case in DECODERS.iter().chain(&["bert", "bert_mlm", "bert_classifier"]) {
        let temporary = tempfile::tempdir().expect("a folder");
        // `../fixtures/check_saved.py` asks transformers what it makes of these.
        let kept = std::env::var_os("FORNAX_KEEP_SAVED").map(|place| PathBuf::from(place).join(case));
        let copy = kept.as_deref().unwrap_or(temporary.path());
        load(&folder(case), &device).save(copy).expect("saved");
        let original = Checkpoint::open(folder(case).join("model.safetensors")).expect("opens");
        let written = Checkpoint::open(copy.join("model.safetensors")).expect("opens");
        for info in written.tensors() {
            let (a, b) = (original.tensor(&info.name), written.tensor(&info.name));
            let a = a.unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!(a.info.shape, info.shape, "{case}: {}", info.name);
            assert_eq!(
                a.to_f32().expect("floats"),
                b.expect("listed").to_f32().expect("floats"),
                "{case}: {}",
                info.name
            );
        }
        assert_eq!(written.len(), original.len(), "{case}: number of tensors");
    }
}

#[test]
fn a_gguf_file_becomes_a_folder() {
    let device = device();
    let copy = tempfile::tempdir().expect("a folder");
    load(&folder("llama").join("gguf/model.gguf"), &device).save(copy.path()).expect("saved");
    let (model, expected) = (load(copy.path(), &device), Expected::of("llama"));
    let found = logits(model.decoder().expect("a decoder"), &expected.batch());
    assert_close("llama, saved from gguf", &found, &expected.floats("logits"), tolerance(&device));
}
