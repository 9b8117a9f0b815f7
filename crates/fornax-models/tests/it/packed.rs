//! Packed weights on the CPU: near the dense model by as much as the type rounds, and the same to the last bit however a
//! text is cut into pieces and whatever runs beside it.

use std::path::Path;

use burn::tensor::Tensor;
use fornax_backend::Device;
use fornax_cpu::WeightType;
use fornax_models::{AutoModel, LoadOptions, ModelError, WeightFormat};

use crate::common::{DECODERS, Expected, batch, device, folder, in_pieces, load, logits, values};

fn load_packed(path: &Path, weight_type: WeightType) -> Result<AutoModel, ModelError> {
    let options = LoadOptions { weights: WeightFormat::Packed(weight_type), ..LoadOptions::default() };
    AutoModel::load_with(path.to_str().expect("fixture paths are UTF-8"), &Device::cpu(), &options)
}

/// The model with weights of a type, or `None` where its shapes are no multiple of the type's blocks.
fn packed(case: &str, weight_type: WeightType) -> Option<AutoModel> {
    match load_packed(&folder(case), weight_type) {
        Ok(model) => Some(model),
        Err(error @ ModelError::Pack { .. }) => {
            assert!(error.to_string().contains("not a multiple of"), "{case}: {error}");
            None
        }
        Err(error) => panic!("{case}: {error}"),
    }
}

/// How far the second is from the first, relative to the first's length.
fn distance(expected: &[f32], found: &[f32]) -> f32 {
    assert_eq!(expected.len(), found.len());
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>();
    let apart = square(&mut expected.iter().zip(found).map(|(a, b)| a - b));
    (apart / square(&mut expected.iter().copied())).sqrt()
}

/// Against the dense model of the very numbers that are packed, so that only the rounding of inputs lies between.
#[test]
fn packed_models_are_near_the_dense_ones() {
    if !device().is_plain_cpu() {
        return;
    }
    let mut compared = 0;
    for case in DECODERS {
        let expected = Expected::of(case);
        let logits = |model: &AutoModel| logits(model.decoder().expect("a decoder"), &expected.batch());
        for (weight_type, tolerance) in
            [(WeightType::F16, 0.02), (WeightType::BF16, 0.02), (WeightType::Q8_0, 0.06), (WeightType::Q4_0, 0.06)]
        {
            let Some(model) = packed(case, weight_type) else { continue };
            let unpacked = tempfile::tempdir().expect("a folder");
            model.save(unpacked.path()).expect("saved");
            let dense = logits(&load(unpacked.path(), &Device::cpu()));
            let distance = distance(&dense, &logits(&model));
            assert!(distance < tolerance, "{case} as {weight_type}: {distance} from the dense model's logits");
            compared += 1;
        }
    }
    assert!(compared > DECODERS.len(), "most shapes are taken by several types, {compared}");
}

#[test]
fn a_text_is_the_same_in_pieces() {
    if !device().is_plain_cpu() {
        return;
    }
    for case in DECODERS {
        let expected = Expected::of(case);
        for weight_type in [WeightType::F16, WeightType::BF16, WeightType::Q8_0, WeightType::Q4_0] {
            let Some(model) = packed(case, weight_type) else { continue };
            let decoder = model.decoder().expect("a decoder");
            let texts = expected.texts();
            let hidden = |size: &dyn Fn(usize) -> usize| {
                values(Tensor::cat(in_pieces(decoder, &texts, true, |text, _| size(text)), 0))
            };
            let whole = hidden(&|_| usize::MAX);
            for size in [1, 7] {
                assert!(whole == hidden(&|_| size), "{case} as {weight_type}, in pieces of {size}");
                assert!(whole == hidden(&|text| size + text), "{case} as {weight_type}, in pieces of {size} and more");
            }
        }
    }
}

#[test]
fn a_text_is_the_same_in_any_company() {
    if !device().is_plain_cpu() {
        return;
    }
    for case in ["llama", "gpt2", "qwen3"] {
        let expected = Expected::of(case);
        for weight_type in [WeightType::F16, WeightType::BF16, WeightType::Q8_0, WeightType::Q4_0] {
            let Some(model) = packed(case, weight_type) else { continue };
            let decoder = model.decoder().expect("a decoder");
            let text = expected.texts().swap_remove(0);
            let alone = values(decoder.forward(&batch(std::slice::from_ref(&text)), None));
            for count in [2, 7, 39] {
                // Other sequences before it, with other tokens and lengths.
                let other = |index: usize| text.iter().rev().copied().cycle().take(1 + index % 23).collect();
                let mut texts: Vec<Vec<u32>> = (0..count).map(other).collect();
                texts.push(text.clone());
                let hidden = decoder.forward(&batch(&texts), None);
                let rows = hidden.dims()[0];
                let last = values(hidden.narrow(0, rows - text.len(), text.len()));
                assert!(alone == last, "{case} as {weight_type}, with {count} others");
            }
        }
    }
}

#[test]
fn packed_models_are_saved_as_what_they_hold() {
    if !device().is_plain_cpu() {
        return;
    }
    let saved = tempfile::tempdir().expect("a folder");
    for weight_type in [WeightType::BF16, WeightType::Q8_0] {
        let model = packed("llama", weight_type).expect("its shapes are multiples of 32");
        model.save(saved.path()).expect("saved");
        let again = load_packed(saved.path(), weight_type).expect("loaded");
        let batch = Expected::of("llama").batch();
        let hidden = |model: &AutoModel| values(model.decoder().expect("a decoder").forward(&batch, None));
        let distance = distance(&hidden(&model), &hidden(&again));
        assert!(distance < 1e-6, "{weight_type}: {distance}");
        assert_eq!(model.num_parameters(), again.num_parameters());
    }
}

#[test]
fn what_cannot_be_packed_is_named() {
    let error = load_packed(&folder("llama"), WeightType::Q4_K).expect_err("rows shorter than a block");
    let text = error.to_string();
    assert!(text.contains("model.embed_tokens.weight") && text.contains("multiple of 256"), "{text}");
    let error = load_packed(&folder("llama"), WeightType::Q5_0).expect_err("a type that is read alone");
    assert!(error.to_string().contains("q8_0"), "{error}");
    assert!("q9".parse::<WeightFormat>().expect_err("no such type").to_string().contains("q4_k"));
}
