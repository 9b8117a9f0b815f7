//! Logits of every decoder against transformers: a whole text at once, in chunks, and token by token through a pool, in
//! batches whose sequences are at different positions.

use burn::tensor::Tensor;

use crate::common::{DECODERS, Expected, assert_close, device, folder, in_pieces, load, logits, tolerance, values};

#[test]
fn prefill() {
    let device = device();
    for case in DECODERS {
        let (model, expected) = (load(&folder(case), &device), Expected::of(case));
        let found = logits(model.decoder().expect("a decoder"), &expected.batch());
        assert_close(&format!("{case}, prefill"), &found, &expected.floats("logits"), tolerance(&device));
    }
}

/// Token by token, which must give the same: but for dynamic scalings, whose angles depend on the length so far.
#[test]
fn decode_through_the_pool() {
    let device = device();
    for case in DECODERS {
        let (model, expected) = (load(&folder(case), &device), Expected::of(case));
        let decoder = model.decoder().expect("a decoder");
        let hidden = Tensor::cat(in_pieces(decoder, &expected.texts(), false, |_, _| 1), 0);
        let name = if expected.contains("decode_logits") { "decode_logits" } else { "logits" };
        let found = values(decoder.logits(hidden));
        assert_close(&format!("{case}, decode"), &found, &expected.floats(name), tolerance(&device));
    }
}

/// A known text in chunks, which differ for each sequence of the batch: the angles are those of the whole text.
#[test]
fn chunked_prefill() {
    let device = device();
    for case in DECODERS {
        let (model, expected) = (load(&folder(case), &device), Expected::of(case));
        let decoder = model.decoder().expect("a decoder");
        let piece = |text: usize, done: usize| [7, 3, 0, 5][(text + done) % 4] + usize::from(done.is_multiple_of(3));
        let hidden = Tensor::cat(in_pieces(decoder, &expected.texts(), true, piece), 0);
        let found = values(decoder.logits(hidden));
        assert_close(&format!("{case}, chunks"), &found, &expected.floats("logits"), tolerance(&device));
    }
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
        let found = logits(model.decoder().expect("a decoder"), &expected.batch());
        assert_close(&format!("{case}, older config"), &found, &expected.floats("logits"), tolerance(&device));
    }
}
