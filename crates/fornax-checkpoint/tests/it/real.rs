//! A model that someone trained and converted, found through `FORNAX_TEST_DATA`. Expected values are what the Python
//! `gguf` package read from it.

use std::path::PathBuf;

use bytes::Bytes;
use fornax_checkpoint::{Checkpoint, Dtype};

use crate::support::Random;

/// The model's path; `None`, and a word about it, where the data are not there.
fn stories() -> Option<PathBuf> {
    let path = std::env::var_os("FORNAX_TEST_DATA").map(|folder| PathBuf::from(folder).join("data/stories260K.gguf"));
    let path = path.filter(|path| path.exists());
    if path.is_none() {
        #[allow(clippy::print_stderr)] // A test that does not test says so.
        {
            eprintln!("skipped: FORNAX_TEST_DATA is unset, or has no data/stories260K.gguf");
        }
    }
    path
}

#[test]
fn a_trained_model_reads_as_the_python_package_reads_it() {
    let Some(path) = stories() else { return };
    let checkpoint = Checkpoint::open(path).unwrap();
    assert_eq!(checkpoint.len(), 48);
    assert!(checkpoint.tensors().all(|info| info.dtype == Dtype::F32));
    let first: Vec<_> = checkpoint.tensors().take(4).map(|info| &info.name[..]).collect();
    assert_eq!(first, ["token_embd.weight", "output_norm.weight", "output.weight", "blk.0.attn_q.weight"]);
    let cases: [(&str, &[usize], [u32; 3], u32); 4] = [
        ("token_embd.weight", &[512, 64], [3197561168, 1058003044, 1043571191], 3201899213),
        ("output_norm.weight", &[64], [1075664111, 1068434542, 1071648348], 1071290479),
        ("blk.0.attn_q.weight", &[64, 64], [1026938166, 1034113732, 3155311518], 1024365686),
        ("blk.4.ffn_up.weight", &[172, 64], [1011663222, 1013402277, 3185853343], 1037641542),
    ];
    for (name, shape, front, last) in cases {
        let view = checkpoint.tensor(name).unwrap();
        let values = view.to_f32().unwrap();
        assert_eq!(view.info.shape, shape);
        assert_eq!(values[..3], front.map(f32::from_bits), "{name}");
        assert_eq!(values.last().unwrap().to_bits(), last, "{name}");
    }
    // The exclusive or over the bits of every value of the file.
    let mix =
        |name: &str| checkpoint.tensor(name).unwrap().to_f32().unwrap().iter().fold(0, |mix, v| mix ^ v.to_bits());
    assert_eq!(checkpoint.tensors().fold(0, |all, info| all ^ mix(&info.name)), 4252911424);

    let gguf = checkpoint.gguf().unwrap();
    assert_eq!(gguf.str("general.architecture").unwrap(), "llama");
    assert_eq!(gguf.u32("llama.feed_forward_length").unwrap(), 172);
    assert_eq!(gguf.f32("llama.attention.layer_norm_rms_epsilon").unwrap(), 1e-5);
    let tokens = gguf.strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!((tokens.len(), tokens[259], tokens[263]), (512, "▁t", "▁w"));
    assert_eq!(gguf.f32s("tokenizer.ggml.scores").unwrap()[511], -252.0);
    assert_eq!(gguf.i32s("tokenizer.ggml.token_type").unwrap().len(), 512);
}

#[test]
fn truncations_of_a_trained_model_are_errors() {
    let Some(path) = stories() else { return };
    let bytes = Bytes::from(std::fs::read(path).unwrap());
    let mut random = Random(2024);
    for round in 0..4000 {
        // Half of them within the header.
        let length = random.below(if round % 2 == 0 { bytes.len() } else { 16 << 10 });
        assert!(Checkpoint::from_bytes("stories", bytes.slice(..length)).is_err(), "{length}");
    }
}
