//! The same models as GGUF files, whose heads of the `llama` architecture are ordered otherwise.

use crate::common::{DECODERS, Expected, assert_close, device, folder, load, tolerance, values};

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
        let decoder = model.decoder().expect("a decoder");
        let found = values(decoder.logits(decoder.forward(expected.id_tensor("input_ids", &device), None)));
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
    let ids = |name| expected.id_tensor(name, &device);
    let hidden = bert.forward(ids("input_ids"), Some(ids("token_type_ids")), Some(ids("attention_mask").equal_elem(1)));
    let mask = expected.ids("attention_mask");
    let size = hidden.dims()[2];
    let seen = |states: Vec<f32>| -> Vec<f32> {
        let rows = states.chunks_exact(size).zip(&mask);
        rows.filter(|&(_, &mask)| mask == 1).flat_map(|(row, _)| row.to_vec()).collect()
    };
    assert_close("bert, gguf", &seen(values(hidden)), &seen(expected.floats("last_hidden_state")), tolerance(&device));
}
