//! Names that a user or a server makes up, and where they must not lead.

use crate::{World, names_in};
use fornax_hub::{HubConfig, HubError, Silent, download, resolve};

#[test]
fn a_listing_with_a_name_that_leaves_the_folder_is_refused() {
    for name in ["../config.json", "/etc/config.json", "a/../../x.safetensors", "C:\\x", "a\\..\\b", ""] {
        let world = World::new();
        world.server.publish("org/name", "main", &[("model.safetensors", b"x"), (name, b"x")]);
        let error = download("org/name", &world.config(), &Silent).expect_err(name);
        assert!(matches!(&error, HubError::UnsafeName { name: found, .. } if found == name), "{name}: {error}");
        assert!(names_in(world.folder.path()).is_empty(), "{name}");
    }
}

#[test]
fn an_index_with_a_name_that_leaves_the_folder_is_refused() {
    let world = World::new();
    let index = br#"{"weight_map": {"a": "../../../../x.safetensors"}}"#;
    world.server.publish("org/name", "main", &[("config.json", b"{}"), ("model.safetensors.index.json", index)]);
    let error = download("org/name", &world.config(), &Silent).expect_err("unsafe");
    assert!(matches!(error, HubError::UnsafeName { .. }), "{error}");
}

#[test]
fn an_index_that_names_an_absent_shard_is_an_error() {
    let world = World::new();
    let index = br#"{"weight_map": {"a": "model-00001-of-00001.safetensors"}}"#;
    world.server.publish("org/name", "main", &[("config.json", b"{}"), ("model.safetensors.index.json", index)]);
    let error = download("org/name", &world.config(), &Silent).expect_err("absent");
    assert!(matches!(error, HubError::FileNotFound { file, .. } if file == "model-00001-of-00001.safetensors"));
}

#[test]
fn mistyped_paths_and_impossible_ids_make_no_request() {
    let world = World::new();
    let error = |model: &str| resolve(model, &world.config(), &Silent).expect_err(model);
    for path in ["./nothing", "/nothing/here", "nothing.gguf", "a/b/c", "models/x.safetensors", "..\\x"] {
        assert!(matches!(error(path), HubError::NoSuchPath { .. }), "{path}");
    }
    for id in ["a b", "org/name--x", "org/name@", "org/name@../../x", "org/name:../x", "https://huggingface.co/a/b"] {
        assert!(matches!(error(id), HubError::InvalidName { .. }), "{id}");
    }
    let bad = HubConfig { revision: "../x".into(), ..world.config() };
    assert!(matches!(resolve("a/b", &bad, &Silent), Err(HubError::InvalidName { what: "revision", .. })));
    let bad = HubConfig { endpoint: "huggingface.co".into(), ..world.config() };
    assert!(matches!(resolve("a/b", &bad, &Silent), Err(HubError::InvalidEndpoint { .. })));
    let folder = world.folder.path().to_str().expect("UTF-8");
    resolve(folder, &bad, &Silent).expect("a folder needs no hub");
    assert!(world.server.take_seen().is_empty());
}
