//! BERT with padding and token types, and each of its heads.

use burn::tensor::{Bool, Tensor};

use crate::common::{Expected, assert_close, device, folder, load, tolerance, values};

#[test]
fn hidden_states_and_heads() {
    let device = device();
    for case in ["bert", "bert_odd", "bert_mlm", "bert_classifier"] {
        let (model, expected) = (load(&folder(case), &device), Expected::of(case));
        let bert = model.encoder().expect("an encoder");
        let ids = |name| expected.id_tensor(name, &device);
        let visible: Tensor<2, Bool> = ids("attention_mask").equal_elem(1);
        let hidden = bert.forward(ids("input_ids"), Some(ids("token_type_ids")), Some(visible));

        let tolerance = tolerance(&device);
        let check = |name: &str, found: Vec<f32>| {
            assert_close(&format!("{case}, {name}"), &found, &expected.floats(name), tolerance);
        };
        let mask = expected.ids("attention_mask");
        let seen = |states: Vec<f32>| -> Vec<f32> {
            let rows = states.chunks_exact(states.len() / mask.len()).zip(&mask);
            rows.filter(|&(_, &mask)| mask == 1).flat_map(|(row, _)| row.to_vec()).collect()
        };
        // What stands at padding is nobody's business.
        assert_close(
            &format!("{case}, last_hidden_state"),
            &seen(values(hidden.clone())),
            &seen(expected.floats("last_hidden_state")),
            tolerance,
        );
        if expected.contains("pooler_output") {
            check("pooler_output", values(bert.pooled(hidden.clone()).expect("a pooler")));
        }
        match case {
            "bert_mlm" => assert_close(
                &format!("{case}, logits"),
                &seen(values(bert.masked_lm_logits(hidden).expect("a head"))),
                &seen(expected.floats("logits")),
                tolerance,
            ),
            "bert_classifier" => check("logits", values(bert.class_logits(hidden).expect("a head"))),
            _ => {
                assert!(bert.masked_lm_logits(hidden.clone()).is_none());
                assert!(bert.class_logits(hidden).is_none());
            }
        }
    }
}
