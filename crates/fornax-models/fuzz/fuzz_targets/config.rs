//! Any `config.json`: a network's configuration or a typed error.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = serde_json::from_slice(bytes) {
        let _ = fornax_models::NetworkConfig::from_json(&config);
    }
});
