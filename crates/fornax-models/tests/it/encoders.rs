//! BERT with texts of different lengths and token types, and each of its heads.

use crate::common::{Expected, assert_close, batch, device, folder, load, tolerance, values};

/// The numbers of a tensor `[batch, length, …]` at tokens, without the padding.
pub fn seen(expected: &Expected, name: &str) -> Vec<f32> {
    let (mask, floats) = (expected.ids("attention_mask"), expected.floats(name));
    let rows = floats.chunks_exact(floats.len() / mask.len()).zip(&mask);
    rows.filter(|&(_, &mask)| mask == 1).flat_map(|(row, _)| row.to_vec()).collect()
}

#[test]
fn hidden_states_and_heads() {
    let device = device();
    for case in ["bert", "bert_odd", "bert_mlm", "bert_classifier"] {
        let (model, expected) = (load(&folder(case), &device), Expected::of(case));
        let bert = model.encoder().expect("an encoder");
        let batch = batch(&expected.texts()).with_token_types(expected.unpadded("token_type_ids").concat());
        let hidden = bert.forward(&batch);

        let tolerance = tolerance(&device);
        let check = |name: &str, found: Vec<f32>, expected: &[f32]| {
            assert_close(&format!("{case}, {name}"), &found, expected, tolerance);
        };
        check("last_hidden_state", values(hidden.clone()), &seen(&expected, "last_hidden_state"));
        if expected.contains("pooler_output") {
            let pooled = bert.pooled(hidden.clone(), batch.sequences()).expect("a pooler");
            check("pooler_output", values(pooled), &expected.floats("pooler_output"));
        }
        match case {
            "bert_mlm" => {
                let logits = bert.masked_lm_logits(hidden).expect("a head");
                check("logits", values(logits), &seen(&expected, "logits"));
            }
            "bert_classifier" => {
                let logits = bert.class_logits(hidden, batch.sequences()).expect("a head");
                check("logits", values(logits), &expected.floats("logits"));
            }
            _ => {
                assert!(bert.masked_lm_logits(hidden.clone()).is_none());
                assert!(bert.class_logits(hidden, batch.sequences()).is_none());
            }
        }
    }
}
