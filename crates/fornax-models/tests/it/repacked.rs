//! Packed weights from the cache: the same model, with or without it, whatever is wrong with it.

use std::fs;

use fornax_backend::Device;
use fornax_checkpoint::RepackedCache;
use fornax_cpu::WeightType;
use fornax_models::families::llama::LlamaConfig;
use fornax_models::{AutoModel, LoadOptions, Network, PackedCache, WeightFormat};

use crate::common::{batch, values};

/// Large enough to be worth a file: 27 million parameters.
fn model() -> AutoModel {
    let config = LlamaConfig {
        vocab_size: 2000,
        hidden_size: 512,
        intermediate_size: 2048,
        num_hidden_layers: 6,
        num_attention_heads: 8,
        ..LlamaConfig::tiny()
    };
    let device = Device::cpu();
    let network = config.decoder().expect("a valid configuration").init(&device);
    AutoModel::from_parts(config.to_json(), Network::Decoder(network), None, &device).expect("parts that fit")
}

#[test]
fn a_cached_model_is_the_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let (saved, cache) = (folder.path().join("model"), folder.path().join("cache"));
    model().save(&saved).expect("saved");
    let load = |cache: PackedCache| {
        let weights = WeightFormat::Packed(WeightType::Q8_0);
        let options = LoadOptions { weights, repacked: cache, ..LoadOptions::default() };
        AutoModel::load_with(saved.to_str().expect("UTF-8"), &Device::cpu(), &options).expect("loads")
    };
    let hidden = |model: &AutoModel| {
        let tokens: Vec<u32> = (5..25).collect();
        values(model.decoder().expect("a decoder").forward(&batch(&[tokens]), None))
    };
    let uncached = load(PackedCache::Off);
    let expected = hidden(&uncached);
    let with_cache = || load(PackedCache::At(RepackedCache::new(&cache)));
    for start in 0..2 {
        let model = with_cache();
        assert!(model.warnings().is_empty(), "start {start}: {:?}", model.warnings());
        assert!(hidden(&model) == expected, "start {start}");
    }
    let files = RepackedCache::new(&cache).list().expect("listed");
    assert_eq!(files.len(), 1);

    // A flipped bit of a weight, half a file, and another file: each gives a warning, and the file is rewritten.
    let path = &files[0].path;
    let whole = fs::read(path).expect("read");
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    for bytes in [damaged.as_slice(), &whole[..whole.len() / 2], b"something else"] {
        fs::remove_file(path).expect("removed");
        fs::write(path, bytes).expect("written");
        let model = with_cache();
        let [warning] = model.warnings() else { panic!("one warning, found {:?}", model.warnings()) };
        assert!(warning.contains("rewritten"), "{warning}");
        assert!(hidden(&model) == expected);
        assert!(with_cache().warnings().is_empty());
    }

    // A folder that cannot be one.
    let model = load(PackedCache::At(RepackedCache::new(saved.join("config.json"))));
    assert!(!model.warnings().is_empty());
    assert!(hidden(&model) == expected);
}
