//! The same models as GGUF files, whose heads of the `llama` architecture are ordered otherwise.

use super::common::{DECODERS, Expected, assert_close, device, folder, load, logits, tolerance, values};
use super::encoders::seen;

#[test]
fn logits_of_gguf_files() {
    let device = device();
    let mut seen = 0;
    for case in DECODERS {
        let path = folder(case).join("gguf/model.gguf");
        if !path.exists() {
            continue;
        }
        seen += 1;
        let (model, expected) = (load(&path, &device), Expected::of(case));
        let found = logits(model.decoder().expect("a decoder"), &expected.batch());
        let name = if expected.contains("gguf_logits") { "gguf_logits" } else { "logits" };
        assert_close(&format!("{case}, gguf"), &found, &expected.floats(name), tolerance(&device));
    }
    assert!(seen >= 6, "found {seen} GGUF fixtures");
}

#[test]
fn hidden_states_of_a_gguf_bert() {
    let device = device();
    let (model, expected) = (load(&folder("bert").join("gguf/model.gguf"), &device), Expected::of("bert"));
    let bert = model.encoder().expect("an encoder");
    let batch = expected.batch().with_token_types(expected.unpadded("token_type_ids").concat());
    let found = values(bert.forward(&batch));
    assert_close("bert, gguf", &found, &seen(&expected, "last_hidden_state"), tolerance(&device));
}
