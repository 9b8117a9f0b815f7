//! What a download fetches, what it asks for, and what it reports when nothing goes wrong.

use crate::server::{Fault, git_sha1, sha256};
use crate::{World, names_in, noise};
use fornax_hub::{Event, Hub, HubConfig, ModelSource, Silent, Token, download, resolve};
use std::fs;
use std::path::Path;
use std::sync::Mutex;

const INDEX: &[u8] =
    br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;

#[test]
fn a_fresh_download_has_the_layout_of_huggingface_hub() {
    let world = World::new();
    let weights = noise(300_000, 1);
    let commit = world.server.publish(
        "org/name",
        "main",
        &[
            ("config.json", b"{}"),
            ("tokenizer.json", b"{\"a\": 1}"),
            ("README.md", b"# no"),
            ("tf_model.h5", b"no"),
            ("onnx/model.onnx", b"no"),
            ("pytorch_model.bin", b"no"),
            ("1_Pooling/config.json", b"{\"mean\": true}"),
            ("model.safetensors", &weights),
        ],
    );
    let source = resolve("org/name", &world.config(), &Silent).expect("downloaded");
    let snapshot = world.repo("org/name").join("snapshots").join(&commit);
    assert_eq!(source, ModelSource::Folder(snapshot.clone()));
    assert_eq!(names_in(&snapshot), ["1_Pooling", "config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(fs::read(snapshot.join("model.safetensors")).expect("readable"), weights);
    assert_eq!(fs::read(snapshot.join("1_Pooling/config.json")).expect("readable"), b"{\"mean\": true}");
    assert_eq!(fs::read_to_string(world.repo("org/name").join("refs/main")).expect("readable"), commit);
    let mut blobs = vec![sha256(&weights), git_sha1(b"{}"), git_sha1(b"{\"a\": 1}"), git_sha1(b"{\"mean\": true}")];
    blobs.sort();
    assert_eq!(world.blobs("org/name"), blobs);
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(snapshot.join("1_Pooling/config.json")).expect("a link"),
        Path::new("../../../blobs").join(git_sha1(b"{\"mean\": true}"))
    );
}

#[test]
fn a_second_call_asks_for_the_commit_alone() {
    let world = World::new();
    let files: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("model.safetensors", b"weights")];
    let commit = world.server.publish("org/name", "main", &files);
    let first = download("org/name", &world.config(), &Silent).expect("downloaded");
    assert!(world.server.take_seen().iter().any(|seen| seen.cdn));
    let second = download("org/name", &world.config(), &Silent).expect("cached");
    assert_eq!(first, second);
    let seen = world.server.take_seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].path, "/api/models/org/name/revision/main");

    // A new commit fetches what has changed, and links what has not.
    let files: [(&str, &[u8]); 2] = [("config.json", b"{\"new\": 1}"), ("model.safetensors", b"weights")];
    let newer = world.server.publish("org/name", "main", &files);
    assert_ne!(commit, newer);
    let third = download("org/name", &world.config(), &Silent).expect("downloaded");
    assert!(third.ends_with(&newer));
    assert_eq!(fs::read(third.join("model.safetensors")).expect("readable"), b"weights");
    let got: Vec<String> = world.server.take_seen().into_iter().filter(|s| s.method == "GET").map(|s| s.file).collect();
    assert_eq!(got, ["", "config.json"]);
}

#[test]
fn shards_are_those_that_the_index_names() {
    let world = World::new();
    let (one, two) = (noise(1000, 1), noise(2000, 2));
    let files: [(&str, &[u8]); 5] = [
        ("config.json", b"{}"),
        ("model.safetensors.index.json", INDEX),
        ("model-00001-of-00002.safetensors", &one),
        ("model-00002-of-00002.safetensors", &two),
        ("consolidated.safetensors", b"the same weights again"),
    ];
    world.server.publish("org/name", "main", &files);
    let config = HubConfig { parallel: 4, ..world.config() };
    let folder = download("org/name", &config, &Silent).expect("downloaded");
    let expected = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ];
    assert_eq!(names_in(&folder), expected);
    assert_eq!(fs::read(folder.join(expected[2])).expect("readable"), two);
}

#[test]
fn revisions_are_branches_tags_pull_requests_and_commits() {
    let world = World::new();
    let publish = |branch: &str, weights: &[u8]| {
        world.server.publish("org/name", branch, &[("config.json", b"{}"), ("model.safetensors", weights)])
    };
    let commits = [publish("main", b"1"), publish("v2", b"2"), publish("refs/pr/3", b"3")];
    let read = |model: &str, config: &HubConfig| {
        fs::read(download(model, config, &Silent).expect(model).join("model.safetensors")).expect("readable")
    };
    assert_eq!(read("org/name", &world.config()), b"1");
    assert_eq!(read("org/name@v2", &world.config()), b"2");
    assert_eq!(read("org/name@refs/pr/3", &world.config()), b"3");
    assert_eq!(read("org/name", &HubConfig { revision: "v2".into(), ..world.config() }), b"2");
    assert_eq!(read(&format!("org/name@{}", commits[2]), &world.config()), b"3");
    let refs = world.repo("org/name").join("refs");
    assert_eq!(names_in(&refs), ["main", "refs", "v2"], "a commit needs no ref");
    assert_eq!(fs::read_to_string(refs.join("refs/pr/3")).expect("readable"), commits[2]);
}

#[test]
fn one_gguf_file_of_a_repository() {
    let world = World::new();
    let files: [(&str, &[u8]); 4] =
        [("README.md", b""), ("m-q4_k_m.gguf", b"four"), ("m-q8_0.gguf", b"eight"), ("config.json", b"{}")];
    let commit = world.server.publish("org/name-GGUF", "main", &files);
    let snapshot = world.repo("org/name-GGUF").join("snapshots").join(commit);
    for name in ["org/name-GGUF:m-q8_0.gguf", "org/name-GGUF@main:Q8_0"] {
        let source = resolve(name, &world.config(), &Silent).expect(name);
        assert_eq!(source, ModelSource::File(snapshot.join("m-q8_0.gguf")));
    }
    assert_eq!(names_in(&snapshot), ["m-q8_0.gguf"]);
    assert_eq!(fs::read(snapshot.join("m-q8_0.gguf")).expect("readable"), b"eight");
    let offline = HubConfig { offline: true, ..world.config() };
    let source = resolve("org/name-GGUF:Q8_0", &offline, &Silent).expect("cached");
    assert_eq!(source.path(), snapshot.join("m-q8_0.gguf"));
}

#[test]
fn paths_go_before_repositories() {
    let world = World::new();
    let gguf = world.folder.path().join("m.gguf");
    fs::write(&gguf, "GGUF").expect("written");
    let hub = Hub::new(world.config()).expect("a valid configuration");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    assert_eq!(hub.resolve(&text(&gguf), &Silent).expect("a file"), ModelSource::File(gguf));
    let folder = world.folder.path().to_owned();
    assert_eq!(hub.resolve(&text(&folder), &Silent).expect("a folder"), ModelSource::Folder(folder));
    assert!(world.server.take_seen().is_empty());
}

#[test]
fn progress_tells_files_bytes_and_ends() {
    let world = World::new();
    let weights = noise(700_000, 3);
    world.server.publish("org/name", "main", &[("config.json", b"{}"), ("model.safetensors", &weights)]);
    world.server.fault("GET", "model.safetensors", &[Fault::Cut(400_000)]);
    let log = Mutex::new(Vec::new());
    let progress = |event: &Event<'_>| {
        let line = match event {
            Event::Plan { files, bytes } => format!("plan {files} {bytes}"),
            Event::Started { file, total, resumed } => format!("start {file} {total:?} {resumed}"),
            Event::Advanced { file, bytes } => {
                let mut log = log.lock().expect("no panic");
                let at = format!("at {file} ");
                let last = log.last().filter(|line: &&String| line.starts_with(&at));
                let before: u64 = last.map_or(0, |line| line[at.len()..].parse().expect("a number"));
                assert!(before < *bytes);
                if last.is_some() {
                    log.pop();
                }
                log.push(format!("{at}{bytes}"));
                return;
            }
            Event::Finished { file, bytes } => format!("end {file} {bytes}"),
            Event::Retrying { what, .. } => format!("again {what}"),
            other => panic!("{other:?}"),
        };
        log.lock().expect("no panic").push(line);
    };
    download("org/name", &world.config(), &progress).expect("downloaded");
    let expected = [
        "plan 1 2",
        "start config.json Some(2) 0",
        "at config.json 2",
        "end config.json 2",
        "plan 1 700000",
        "start model.safetensors Some(700000) 0",
        "at model.safetensors 400000",
        "again model.safetensors",
        "at model.safetensors 700000",
        "end model.safetensors 700000",
    ];
    assert_eq!(log.into_inner().expect("no panic"), expected);
}

#[test]
fn a_token_stays_with_the_hub() {
    let world = World::new();
    world.server.publish("org/name", "main", &[("config.json", b"{}"), ("model.safetensors", b"weights")]);
    world.server.require_token("hf_right");
    let config = HubConfig { token: Token::new("hf_right\n"), ..world.config() };
    download("org/name", &config, &Silent).expect("downloaded");
    let seen = world.server.take_seen();
    let (cdn, hub): (Vec<_>, Vec<_>) = seen.iter().partition(|seen| seen.cdn);
    assert_eq!(cdn.len(), 1);
    assert_eq!(cdn[0].authorization, None);
    assert!(hub.iter().all(|seen| seen.authorization.as_deref() == Some("Bearer hf_right")), "{hub:?}");
}

#[test]
fn two_at_once_fetch_a_file_once() {
    let world = World::new();
    let weights = noise(500_000, 4);
    world.server.publish("org/name", "main", &[("config.json", b"{}"), ("model.safetensors", &weights)]);
    // The first transfer is held until both have asked for the file's hash, and so mean to fetch it.
    world.server.fault("GET", "model.safetensors", &[Fault::AwaitHeads(2)]);
    let folders: Vec<_> = std::thread::scope(|scope| {
        let one = || download("org/name", &world.config(), &Silent).expect("downloaded");
        let threads = [scope.spawn(one), scope.spawn(one)];
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(folders[0], folders[1]);
    assert_eq!(fs::read(folders[0].join("model.safetensors")).expect("readable"), weights);
    let transfers = world.server.take_seen().into_iter().filter(|seen| seen.cdn && seen.method == "GET").count();
    assert_eq!(transfers, 1);
    assert_eq!(world.blobs("org/name"), {
        let mut names = vec![sha256(&weights), git_sha1(b"{}")];
        names.sort();
        names
    });
}
