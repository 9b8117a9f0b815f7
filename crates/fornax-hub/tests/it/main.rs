//! The crate against a stand-in for the hub, over real sockets and real files. The hub itself is never asked.

mod cache;
mod download;
mod faults;
mod names;
mod server;

use fornax_hub::HubConfig;
use server::Server;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A hub with an empty cache of its own.
struct World {
    server: Server,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { server: Server::start(), folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// No pauses, so that the tests do not depend on time; one file after another, so that requests are in order.
    fn config(&self) -> HubConfig {
        HubConfig {
            endpoint: self.server.url.clone(),
            backoff: Duration::ZERO,
            retries: 3,
            parallel: 1,
            ..HubConfig::new(self.folder.path())
        }
    }

    fn repo(&self, id: &str) -> PathBuf {
        self.folder.path().join(format!("models--{}", id.replace('/', "--")))
    }

    fn blobs(&self, id: &str) -> Vec<String> {
        names_in(&self.repo(id).join("blobs"))
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("readable").file_name();
    let mut names: Vec<String> = entries.map(|entry| name(entry).into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// Bytes that differ from place to place.
fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut x = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x.to_le_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}
