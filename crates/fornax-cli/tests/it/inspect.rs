//! `fornax inspect`.

use std::fs;
use std::path::{Path, PathBuf};

use fornax::burn::module::Module;
use serde_json::{Value, json};

use crate::support::{arg, bare, data, llama, load, ok};

fn inspect(path: &str) -> Value {
    serde_json::from_str(&ok(&["inspect", path, "--json"])).expect("one JSON object")
}

/// Files that the checkpoint crate is tested with.
fn checkpoint_fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fornax-checkpoint/tests/fixtures").join(name)
}

#[test]
fn a_folder_is_described() {
    let report = inspect(&llama());
    let model = load(&llama());
    assert_eq!(report["parameters"], model.network().num_params());
    assert_eq!(report["bytes"], 4 * model.network().num_params());
    assert_eq!(report["format"], "safetensors");
    assert_eq!(report["config"]["model_type"], "llama");
    assert_eq!(report["metadata"]["format"], "pt");
    assert_eq!(report["dtypes"]["F32"]["parameters"], report["parameters"]);
    let tensors = report["tensors"].as_array().expect("a list");
    let embedding =
        tensors.iter().find(|tensor| tensor["name"] == "model.embed_tokens.weight").expect("every Llama has one");
    assert_eq!(
        embedding,
        &json!({"name": "model.embed_tokens.weight", "dtype": "F32", "shape": [268, 32], "parameters": 8576, "bytes": 34304})
    );
    let text = ok(&["inspect", &llama()]);
    for part in ["LlamaForCausalLM", "model.embed_tokens.weight", "[268, 32]", "34.30 kB", "hidden_size"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(!text.contains("unknown"), "{text}");
}

#[test]
fn a_file_is_described_with_its_configuration() {
    let file = Path::new(&bare()).join("model.safetensors");
    let report = inspect(arg(&file));
    assert_eq!(report["tensors"], inspect(&bare())["tensors"]);
    assert_eq!(report["config"]["vocab_size"], 268);
}

#[test]
fn an_unknown_architecture_is_described_too() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::copy(Path::new(&bare()).join("model.safetensors"), folder.path().join("model.safetensors")).expect("copied");
    fs::write(folder.path().join("config.json"), r#"{"architectures": ["MambaForCausalLM"], "d": {"x": [1]}}"#)
        .expect("written");
    let text = ok(&["inspect", arg(folder.path())]);
    assert!(text.contains("MambaForCausalLM (unknown to this version)") && text.contains(r#"{"x":[1]}"#), "{text}");
    fs::remove_file(folder.path().join("config.json")).expect("removed");
    assert_eq!(inspect(arg(folder.path()))["config"], Value::Null);
}

#[test]
fn gguf_and_pytorch_files_are_described() {
    let types = inspect(arg(&checkpoint_fixture("types.gguf")));
    assert_eq!(types["format"], "GGUF");
    let dtypes = types["dtypes"].as_object().expect("an object");
    assert!(dtypes.contains_key("Q4_K") && dtypes.contains_key("Q8_0"), "{dtypes:?}");
    let metadata = inspect(arg(&checkpoint_fixture("metadata.gguf")));
    assert!(!metadata["metadata"].as_object().expect("an object").is_empty());
    ok(&["inspect", arg(&checkpoint_fixture("metadata.gguf"))]);
    assert_eq!(inspect(arg(&checkpoint_fixture("dict.bin")))["format"], "PyTorch zip");
}

#[test]
fn types_that_are_not_computed_with_are_listed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("codebook.gguf");
    fs::write(&path, gguf_with_one_tensor("blk.0.ffn_up.weight", 23, 256, 136)).expect("written");
    let report = inspect(arg(&path));
    assert_eq!(
        report["tensors"],
        json!([{"name": "blk.0.ffn_up.weight", "dtype": "IQ4_XS", "shape": [256], "parameters": 256, "bytes": 136}])
    );
    assert_eq!(report["metadata"]["general.architecture"], "nobody");
}

/// A GGUF file of version 3 with one row of `elements` elements of GGUF's type `ggml_type` in `bytes` bytes.
fn gguf_with_one_tensor(name: &str, ggml_type: u32, elements: u64, bytes: usize) -> Vec<u8> {
    fn string(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend(1u64.to_le_bytes());
    out.extend(1u64.to_le_bytes());
    string(&mut out, "general.architecture");
    out.extend(8u32.to_le_bytes());
    string(&mut out, "nobody");
    string(&mut out, name);
    out.extend(1u32.to_le_bytes());
    out.extend(elements.to_le_bytes());
    out.extend(ggml_type.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    out.resize(out.len().next_multiple_of(32) + bytes, 0);
    out
}

#[test]
fn a_real_gguf_file_is_described() {
    let Some(path) = data("stories260K.gguf") else { return };
    let report = inspect(arg(&path));
    assert_eq!(report["metadata"]["general.architecture"], "llama");
    assert_eq!(report["metadata"]["tokenizer.ggml.tokens"], json!({"array_of": "string", "length": 512}));
    let text = ok(&["inspect", arg(&path)]);
    assert!(text.contains("512 × string") && text.contains("token_embd.weight"), "{text}");
}
