//! Logits of every decoder, from the whole text at once and token by token through the cache.

use burn::tensor::{Int, Tensor};
use fornax_backend::Device;
use fornax_nn::{Decoder, KvCache};

use crate::common::{DECODERS, Expected, assert_close, device, folder, load, tolerance, values};

#[test]
fn prefill() {
    let device = device();
    for case in DECODERS {
        let (model, expected) = (load(&folder(case), &device), Expected::of(case));
        let decoder = model.decoder().expect("a decoder");
        let found = values(decoder.logits(decoder.forward(expected.id_tensor("input_ids", &device), None)));
        assert_close(&format!("{case}, prefill"), &found, &expected.floats("logits"), tolerance(&device));
    }
}

/// Token by token, which must give the same: but for dynamic scalings, whose angles depend on the length so far.
#[test]
fn decode_through_the_cache() {
    let device = device();
    for case in DECODERS {
        let (model, expected) = (load(&folder(case), &device), Expected::of(case));
        let decoder = model.decoder().expect("a decoder");
        let found = in_pieces(&expected, 1, &device, decoder, |piece, cache, _| decoder.forward(piece, Some(cache)));
        let name = if expected.contains("decode_logits") { "decode_logits" } else { "logits" };
        assert_close(&format!("{case}, decode"), &found, &expected.floats(name), tolerance(&device));
    }
}

/// A known text in pieces of 7, where the cache holds some and the piece brings several: the angles are those of the whole.
#[test]
fn chunked_prefill() {
    let device = device();
    for case in DECODERS {
        let (model, expected) = (load(&folder(case), &device), Expected::of(case));
        let decoder = model.decoder().expect("a decoder");
        let found = in_pieces(&expected, 7, &device, decoder, |piece, cache, len| {
            decoder.forward_piece(piece, Some(cache), len)
        });
        assert_close(&format!("{case}, chunks"), &found, &expected.floats("logits"), tolerance(&device));
    }
}

pub fn in_pieces(
    expected: &Expected,
    size: usize,
    device: &Device,
    decoder: &Decoder,
    forward: impl Fn(Tensor<2, Int>, &mut KvCache, usize) -> Tensor<3>,
) -> Vec<f32> {
    let tokens = expected.id_tensor("input_ids", device);
    let [batch, len] = tokens.dims();
    let mut cache = decoder.new_cache(batch, len);
    let pieces: Vec<Tensor<3>> = (0..len)
        .step_by(size)
        .map(|start| {
            let piece = tokens.clone().narrow(1, start, size.min(len - start));
            decoder.logits(forward(piece, &mut cache, len))
        })
        .collect();
    assert_eq!(cache.len(), len);
    values(Tensor::cat(pieces, 1))
}

/// Configurations as transformers wrote them before version 5 (`rope_scaling`, `rope_theta`) mean the same.
#[test]
fn older_configurations() {
    let device = device();
    for case in DECODERS {
        let legacy = folder(case).join("config_legacy.json");
        if !legacy.exists() {
            continue;
        }
        let copy = tempfile::tempdir().expect("a folder");
        std::fs::copy(&legacy, copy.path().join("config.json")).expect("copied");
        std::fs::copy(folder(case).join("model.safetensors"), copy.path().join("model.safetensors")).expect("copied");
        let (model, expected) = (load(copy.path(), &device), Expected::of(case));
        let decoder = model.decoder().expect("a decoder");
        let found = values(decoder.logits(decoder.forward(expected.id_tensor("input_ids", &device), None)));
        assert_close(&format!("{case}, older config"), &found, &expected.floats("logits"), tolerance(&device));
    }
}
