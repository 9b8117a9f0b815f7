//! The cache without a hub: offline, and with a hub that does not answer.

use crate::World;
use crate::server::Fault;
use fornax_hub::{Event, HubConfig, HubError, Silent, Token, download};
use std::fs;
use std::sync::Mutex;

const FILES: [(&str, &[u8]); 3] =
    [("config.json", b"{}"), ("tokenizer.json", b"{\"t\": 1}"), ("model.safetensors", b"weights")];

/// The address of a port where nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("bound"))
}

#[test]
fn offline_uses_the_cache_and_makes_no_request() {
    let world = World::new();
    let commit = world.server.publish("org/name", "main", &FILES);
    let online = download("org/name", &world.config(), &Silent).expect("downloaded");
    world.server.take_seen();
    let offline = HubConfig { offline: true, ..world.config() };
    assert_eq!(download("org/name", &offline, &Silent).expect("cached"), online);
    assert_eq!(download(&format!("org/name@{commit}"), &offline, &Silent).expect("cached"), online);
    assert!(world.server.take_seen().is_empty());
}

#[test]
fn offline_without_the_model_says_what_is_missing() {
    let world = World::new();
    world.server.publish("org/name", "main", &FILES);
    let offline = HubConfig { offline: true, ..world.config() };
    let error = download("org/name", &offline, &Silent).expect_err("nothing cached");
    assert!(matches!(&error, HubError::NotCached { repo, .. } if repo == "org/name"), "{error}");
    assert!(error.to_string().contains("--offline"), "{error}");
    assert!(world.server.take_seen().is_empty());

    // Half a model: the weights have failed.
    world.server.fault("GET", "model.safetensors", &[Fault::WrongBytes]);
    download("org/name", &world.config(), &Silent).expect_err("damaged");
    let error = download("org/name", &offline, &Silent).expect_err("half cached");
    assert!(matches!(&error, HubError::NotCached { .. }), "{error}");

    // A blob that someone has removed.
    let folder = download("org/name", &world.config(), &Silent).expect("downloaded");
    fs::remove_file(fs::canonicalize(folder.join("model.safetensors")).expect("there")).expect("removed");
    let error = download("org/name", &offline, &Silent).expect_err("weights gone");
    assert!(matches!(&error, HubError::NotCached { missing, .. } if missing == &["its weights"]), "{error}");
    download("org/name", &world.config(), &Silent).expect("mended");
    download("org/name", &offline, &Silent).expect("cached");
}

#[test]
fn offline_names_the_shards_that_are_missing() {
    let world = World::new();
    let index = br#"{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}"#;
    let files: [(&str, &[u8]); 4] = [
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("a.safetensors", b"a"),
        ("b.safetensors", b"b"),
    ];
    world.server.publish("org/name", "main", &files);
    let folder = download("org/name", &world.config(), &Silent).expect("downloaded");
    fs::remove_file(folder.join("b.safetensors")).expect("removed");
    let offline = HubConfig { offline: true, ..world.config() };
    let error = download("org/name", &offline, &Silent).expect_err("one shard gone");
    assert!(matches!(&error, HubError::NotCached { missing, .. } if missing == &["b.safetensors"]), "{error}");
}

#[test]
fn without_a_connection_a_complete_copy_is_used_and_said_so() {
    let world = World::new();
    world.server.publish("org/name", "main", &FILES);
    let online = download("org/name", &world.config(), &Silent).expect("downloaded");
    let config = HubConfig { endpoint: nobody(), ..world.config() };
    let told = Mutex::new(0);
    let progress = |event: &Event<'_>| match event {
        Event::UsingCache { repo: "org/name", .. } => *told.lock().expect("no panic") += 1,
        other => panic!("{other:?}"),
    };
    assert_eq!(download("org/name", &config, &progress).expect("cached"), online);
    assert_eq!(told.into_inner().expect("no panic"), 1);

    let error = download("org/other", &config, &Silent).expect_err("no copy");
    assert!(matches!(error, HubError::Network { attempts: 4, .. }), "{error}");
}

#[test]
fn a_hub_that_fails_or_refuses_leaves_the_cache_in_use() {
    let world = World::new();
    world.server.publish("org/name", "main", &FILES);
    let online = download("org/name", &world.config(), &Silent).expect("downloaded");
    world.server.fault("LIST", "", &[Fault::Status(500, "")]);
    assert_eq!(download("org/name", &world.config(), &Silent).expect("cached"), online);
    world.server.require_token("hf_right");
    let config = HubConfig { token: Token::new("hf_expired"), ..world.config() };
    assert_eq!(download("org/name", &config, &Silent).expect("cached"), online);
}

#[test]
fn a_revision_that_is_gone_is_an_error_in_spite_of_the_cache() {
    let world = World::new();
    world.server.publish("org/name", "v1", &FILES);
    download("org/name@v1", &world.config(), &Silent).expect("downloaded");
    world.server.fault("LIST", "", &[Fault::Status(404, "X-Error-Code: RevisionNotFound")]);
    let error = download("org/name@v1", &world.config(), &Silent).expect_err("gone");
    assert!(matches!(error, HubError::RevisionNotFound { .. }), "{error}");
}

#[test]
fn a_failed_update_leaves_the_branch_at_the_commit_that_is_whole() {
    let world = World::new();
    world.server.publish("org/name", "main", &FILES);
    let old = download("org/name", &world.config(), &Silent).expect("downloaded");
    world.server.publish("org/name", "main", &[("config.json", b"{\"v\": 2}"), ("model.safetensors", b"weights 2")]);
    world.server.fault("GET", "model.safetensors", &[Fault::WrongBytes]);
    download("org/name", &world.config(), &Silent).expect_err("damaged");
    let offline = HubConfig { offline: true, ..world.config() };
    assert_eq!(download("org/name", &offline, &Silent).expect("cached"), old);
}
