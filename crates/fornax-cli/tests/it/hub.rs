//! Models of the hub: from the cache on this machine, and by `fornax download` from a stand-in for the hub. The hub
//! crate tests failing transfers.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use crate::support::{arg, bare, error_of, fornax, stdout};

fn run(cache: &Path, args: &[&str]) -> Output {
    fornax().env("HF_HUB_CACHE", cache).env_remove("HF_HUB_OFFLINE").args(args).output().expect("the command starts")
}

/// A cache as huggingface_hub lays it out, with one model.
fn cache_with_model() -> tempfile::TempDir {
    let cache = tempfile::tempdir().expect("a folder");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let repo = cache.path().join("models--ada--tiny");
    let snapshot = repo.join("snapshots").join(commit);
    fs::create_dir_all(repo.join("refs")).expect("made");
    fs::create_dir_all(&snapshot).expect("made");
    fs::write(repo.join("refs/main"), commit).expect("written");
    for entry in fs::read_dir(bare()).expect("a folder").flatten() {
        fs::copy(entry.path(), snapshot.join(entry.file_name())).expect("copied");
    }
    cache
}

#[test]
fn a_cached_model_needs_no_network() {
    let cache = cache_with_model();
    let path = stdout(&run(cache.path(), &["download", "ada/tiny", "--offline"]));
    let path = Path::new(path.trim_end());
    assert!(path.starts_with(cache.path()) && path.join("config.json").is_file(), "{path:?}");

    let by_id = ["generate", "ada/tiny", "--offline", "--token-ids", "5,6,7", "--max-new-tokens", "4", "--json"];
    let mut by_path = by_id;
    by_path[1] = arg(path);
    assert_eq!(stdout(&run(cache.path(), &by_id)), stdout(&run(cache.path(), &by_path)));

    // Inspecting makes no request, whether or not it is told so.
    let inspected = stdout(&run(cache.path(), &["inspect", "ada/tiny"]));
    assert!(inspected.contains("LlamaForCausalLM"), "{inspected}");
}

#[test]
fn what_is_not_cached_is_named() {
    let cache = cache_with_model();
    let error = error_of(&run(cache.path(), &["download", "ada/huge", "--offline"]));
    assert!(error.contains("ada/huge") && error.contains("--offline"), "{error}");
    let error = error_of(&run(cache.path(), &["download", "ada/tiny", "--offline", "--revision", "v2"]));
    assert!(error.contains("v2"), "{error}");
    let error = error_of(&run(cache.path(), &["inspect", "ada/huge"]));
    assert!(error.contains("fornax download ada/huge"), "{error}");
    let error = error_of(&run(cache.path(), &["download", "../secrets", "--offline"]));
    assert!(error.contains("../secrets"), "{error}");
}

/// Files of the stand-in, each with git's sha1 of it, which the hub states and the client checks.
const FILES: [(&str, &[u8], &str); 2] = [
    ("config.json", b"{\"architectures\": [\"MambaForCausalLM\"]}", "f254bd03111a2dce5e5632e8971a9a36780de376"),
    ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}", "7b19cc601c0e9f2f80f83c1b0b2d9586d018ae2b"),
];

/// Answers as the hub does about the one model `ada/new`, until the process ends. Returns its address. It states
/// `weights_hash` for the weights.
fn serve(weights_hash: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines().map_while(Result::ok);
            let request = lines.next().unwrap_or_default();
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            // A client that hangs up has its answer.
            let _ = stream.write_all(&answer(&request, weights_hash));
        }
    });
    url
}

/// The answer to a request's first line.
fn answer(request: &str, weights_hash: &str) -> Vec<u8> {
    let commit = "89abcdef0123456789abcdef0123456789abcdef";
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let file = FILES.iter().find(|(name, ..)| path.ends_with(&format!("/{name}")));
    let (status, etag, body) = match file {
        Some(("config.json", body, hash)) => (200, *hash, body.to_vec()),
        Some((_, body, _)) => (200, weights_hash, body.to_vec()),
        None if path.starts_with("/api/models/ada/new") => {
            let siblings: Vec<_> = FILES.iter().map(|(name, ..)| serde_json::json!({"rfilename": name})).collect();
            let listing = serde_json::json!({"id": "ada/new", "sha": commit, "siblings": siblings});
            (200, "none", listing.to_string().into_bytes())
        }
        None => (404, "none", b"{}".to_vec()),
    };
    let length = body.len();
    let mut answer = format!(
        "HTTP/1.1 {status} Answer\r\nConnection: close\r\nX-Repo-Commit: {commit}\r\nETag: \"{etag}\"\r\nContent-Length: {length}\r\n\r\n"
    )
    .into_bytes();
    if method != "HEAD" {
        answer.extend(body);
    }
    answer
}

fn download(endpoint: &str, cache: &Path, more: &[&str]) -> Output {
    fornax()
        .env("HF_ENDPOINT", endpoint)
        .env("HF_HUB_CACHE", cache)
        .env_remove("HF_HUB_OFFLINE")
        .env("NO_PROXY", "127.0.0.1")
        .args(["download", "ada/new"])
        .args(more)
        .output()
        .expect("the command starts")
}

#[test]
fn a_model_is_fetched_once_and_its_path_written() {
    let cache = tempfile::tempdir().expect("a folder");
    let url = serve(FILES[1].2);
    let first = stdout(&download(&url, cache.path(), &[]));
    let folder = Path::new(first.trim_end());
    for (name, bytes, _) in FILES {
        assert_eq!(fs::read(folder.join(name)).expect("fetched"), bytes);
    }
    assert_eq!(stdout(&download(&url, cache.path(), &[])), first);
    assert_eq!(stdout(&download(&url, cache.path(), &["--offline"])), first);
    let inspected = stdout(&run(cache.path(), &["inspect", "ada/new"]));
    assert!(inspected.contains("MambaForCausalLM (unknown to this version)"), "{inspected}");

    let other = tempfile::tempdir().expect("a folder");
    let verbose = download(&url, other.path(), &["--verbose"]);
    let notices = String::from_utf8_lossy(&verbose.stderr);
    assert!(notices.contains("model.safetensors: 10 B fetched"), "{notices}");
    assert_eq!(String::from_utf8_lossy(&verbose.stdout).lines().count(), 1);
}

#[test]
fn damaged_weights_are_refused() {
    let cache = tempfile::tempdir().expect("a folder");
    let error = error_of(&download(&serve("0000000000000000000000000000000000000000"), cache.path(), &[]));
    assert!(error.contains("model.safetensors of ada/new is damaged"), "{error}");
    error_of(&download("http://127.0.0.1:1", cache.path(), &["--offline"]));
}
