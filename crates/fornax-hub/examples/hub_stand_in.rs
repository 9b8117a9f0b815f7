//! Runs the tests' stand-in for the hub until it is stopped, so that other clients can be tried on it:
//! `cargo run -p fornax-hub --example hub_stand_in`, then `HF_ENDPOINT=http://127.0.0.1:PORT …` with the address
//! that it prints. It serves one made-up model, `org/name`. With a cache's folder as its argument it fetches the
//! model into that cache first.

#![allow(clippy::print_stdout, clippy::print_stderr)]

#[allow(dead_code)]
#[path = "../tests/it/server.rs"]
mod server;

use fornax_hub::{Event, HubConfig, download};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = server::Server::start();
    let weights: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let commit = server.publish(
        "org/name",
        "main",
        &[
            ("1_Pooling/config.json", b"{}"),
            ("config.json", b"{\"model_type\": \"llama\"}"),
            ("tokenizer.json", b"{\"version\": \"1.0\"}"),
            ("model.safetensors", &weights),
        ],
    );
    println!("{} org/name {commit}", server.url);
    if let Some(cache) = std::env::args_os().nth(1) {
        let config = HubConfig { endpoint: server.url.clone(), ..HubConfig::new(cache) };
        let folder = download("org/name", &config, &|event: &Event<'_>| eprintln!("{event:?}"))?;
        println!("{}", folder.display());
    }
    loop {
        std::thread::park();
    }
}
