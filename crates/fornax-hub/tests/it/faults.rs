//! Servers and connections that fail: what is continued, what is refused, and what is left on disk.

use crate::server::{EXCESS, Fault, Server, git_sha1, sha256};
use crate::{World, names_in, noise};
use fornax_hub::{Event, HubConfig, HubError, Silent, Token, download};
use std::fs;
use std::time::Duration;

const FILE: &str = "model.safetensors";
const LEN: usize = 300_000;

/// A model of one small and one large file, and the large one's bytes.
fn model() -> (World, Vec<u8>) {
    let world = World::new();
    let weights = noise(LEN, 7);
    world.server.publish("org/name", "main", &[("config.json", b"{}"), (FILE, &weights)]);
    (world, weights)
}

fn assert_downloaded(world: &World, config: &HubConfig, weights: &[u8]) {
    let folder = download("org/name", config, &Silent).expect("downloaded");
    assert_eq!(fs::read(folder.join(FILE)).expect("readable"), weights);
    assert!(world.blobs("org/name").iter().all(|name| !name.contains("incomplete")));
}

/// Range and bytes of each transfer from the CDN.
fn transfers(server: &Server) -> Vec<(Option<String>, usize)> {
    let of_cdn = server.take_seen().into_iter().filter(|seen| seen.cdn && seen.method == "GET");
    of_cdn.map(|seen| (seen.range, seen.sent)).collect()
}

/// Nothing of the large file is in a snapshot.
fn assert_no_pointer(world: &World) {
    for snapshot in names_in(&world.repo("org/name").join("snapshots")) {
        let names = names_in(&world.repo("org/name").join("snapshots").join(snapshot));
        assert_eq!(names, ["config.json"]);
    }
    assert!(!world.repo("org/name").join("refs").exists(), "a ref to half a model");
}

#[test]
fn a_cut_connection_is_continued_in_the_same_call() {
    let (world, weights) = model();
    world.server.fault("GET", FILE, &[Fault::Cut(100_000), Fault::Cut(50_000), Fault::Cut(0)]);
    assert_downloaded(&world, &world.config(), &weights);
    let expected = [
        (None, 100_000),
        (Some("bytes=100000-".into()), 50_000),
        (Some("bytes=150000-".into()), 0),
        (Some("bytes=150000-".into()), 150_000),
    ];
    assert_eq!(transfers(&world.server), expected);
}

#[test]
fn a_cut_connection_is_continued_in_a_later_call() {
    let (world, weights) = model();
    world.server.fault("GET", FILE, &[Fault::Cut(100_000)]);
    let once = HubConfig { retries: 0, ..world.config() };
    let error = download("org/name", &once, &Silent).expect_err("cut");
    assert!(matches!(error, HubError::Network { attempts: 1, .. }), "{error}");
    let partial = world.repo("org/name").join("blobs").join(format!("{}.incomplete", sha256(&weights)));
    assert_eq!(fs::read(&partial).expect("kept"), weights[..100_000]);
    assert_no_pointer(&world);
    world.server.take_seen();

    assert_downloaded(&world, &once, &weights);
    assert_eq!(transfers(&world.server), [(Some("bytes=100000-".into()), 200_000)]);
}

#[test]
fn progress_counts_resumed_bytes() {
    let (world, weights) = model();
    let partial = world.repo("org/name").join("blobs").join(format!("{}.incomplete", sha256(&weights)));
    fs::create_dir_all(partial.parent().expect("a folder")).expect("created");
    fs::write(&partial, &weights[..LEN - 10]).expect("written");
    let events = std::sync::Mutex::new(Vec::new());
    let progress = |event: &Event<'_>| match event {
        Event::Started { file, resumed, .. } if *file == FILE => events.lock().expect("no panic").push(*resumed),
        Event::Advanced { file, bytes } if *file == FILE => events.lock().expect("no panic").push(*bytes),
        _ => {}
    };
    download("org/name", &world.config(), &progress).expect("downloaded");
    assert_eq!(events.into_inner().expect("no panic"), [LEN as u64 - 10, LEN as u64]);
}

#[test]
fn a_whole_partial_file_needs_no_transfer() {
    let (world, weights) = model();
    let partial = world.repo("org/name").join("blobs").join(format!("{}.incomplete", sha256(&weights)));
    fs::create_dir_all(partial.parent().expect("a folder")).expect("created");
    fs::write(&partial, &weights).expect("written");
    assert_downloaded(&world, &world.config(), &weights);
    assert_eq!(transfers(&world.server), []);
}

#[test]
fn a_partial_file_that_is_too_long_is_dropped() {
    let (world, weights) = model();
    let partial = world.repo("org/name").join("blobs").join(format!("{}.incomplete", sha256(&weights)));
    fs::create_dir_all(partial.parent().expect("a folder")).expect("created");
    fs::write(&partial, noise(LEN + 1, 9)).expect("written");
    assert_downloaded(&world, &world.config(), &weights);
    assert_eq!(transfers(&world.server), [(None, LEN)]);
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let (world, weights) = model();
    world.server.fault("GET", FILE, &[Fault::Cut(100_000), Fault::IgnoreRange]);
    assert_downloaded(&world, &world.config(), &weights);
    assert_eq!(transfers(&world.server), [(None, 100_000), (Some("bytes=100000-".into()), LEN)]);
}

#[test]
fn a_server_that_refuses_the_range_is_read_from_the_start() {
    let (world, weights) = model();
    world.server.fault("GET", FILE, &[Fault::Cut(100_000), Fault::RefuseRange]);
    assert_downloaded(&world, &world.config(), &weights);
    let expected = [(None, 100_000), (Some("bytes=100000-".into()), 0), (None, LEN)];
    assert_eq!(transfers(&world.server), expected);
}

#[test]
fn a_server_that_sends_another_range_is_read_from_the_start() {
    let (world, weights) = model();
    world.server.fault("GET", FILE, &[Fault::Cut(100_000), Fault::OtherRange]);
    assert_downloaded(&world, &world.config(), &weights);
    let ranges: Vec<_> = transfers(&world.server).into_iter().map(|(range, _)| range).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".into()), None]);
}

#[test]
fn cuts_that_bring_the_file_forward_do_not_count() {
    let (world, weights) = model();
    world.server.fault("GET", FILE, &[const { Fault::Cut(20_000) }; 10]);
    assert_downloaded(&world, &HubConfig { retries: 1, ..world.config() }, &weights);
    assert_eq!(transfers(&world.server).len(), 11);
}

#[test]
fn a_server_that_always_cuts_is_given_up() {
    let (world, _) = model();
    // Each answer gets no further than the one before: only failures in a row count, and these are in a row.
    let faults = [Fault::Cut(1000), Fault::Cut(0), Fault::Cut(0), Fault::Cut(0), Fault::Cut(0)];
    world.server.fault("GET", FILE, &faults);
    let error = download("org/name", &world.config(), &Silent).expect_err("given up");
    assert!(matches!(&error, HubError::Network { attempts: 4, .. }), "{error}");
    assert_eq!(transfers(&world.server).len(), 4);
    assert_no_pointer(&world);
}

#[test]
fn a_silent_server_counts_as_cut() {
    let (world, weights) = model();
    world.server.fault("GET", FILE, &[Fault::Stall]);
    let config = HubConfig { timeout: Duration::from_millis(200), retries: 20, ..world.config() };
    assert_downloaded(&world, &config, &weights);
    assert!(transfers(&world.server).len() >= 2);
}

#[test]
fn wrong_bytes_are_refused_by_sha256_and_removed() {
    let (world, weights) = model();
    world.server.fault("GET", FILE, &[Fault::WrongBytes]);
    let error = download("org/name", &world.config(), &Silent).expect_err("damaged");
    match &error {
        HubError::HashMismatch { file, algorithm, expected, found, .. } => {
            assert_eq!((file.as_str(), *algorithm), (FILE, "sha256"));
            assert_eq!(*expected, sha256(&weights));
            let wrong: Vec<u8> = weights.iter().map(|byte| byte ^ 1).collect();
            assert_eq!(*found, sha256(&wrong));
        }
        other => panic!("{other}"),
    }
    assert_eq!(world.blobs("org/name"), [git_sha1(b"{}")], "something is left");
    assert_no_pointer(&world);
    assert_downloaded(&world, &world.config(), &weights);
}

#[test]
fn wrong_bytes_in_the_resumed_part_are_refused_too() {
    let (world, _) = model();
    world.server.fault("GET", FILE, &[Fault::Cut(100_000), Fault::WrongBytes]);
    let error = download("org/name", &world.config(), &Silent).expect_err("damaged");
    assert!(matches!(error, HubError::HashMismatch { .. }), "{error}");
    assert_eq!(world.blobs("org/name"), [git_sha1(b"{}")]);
}

#[test]
fn wrong_bytes_of_a_small_file_are_refused_by_git_sha1() {
    let (world, _) = model();
    world.server.fault("GET", "config.json", &[Fault::WrongBytes]);
    let error = download("org/name", &world.config(), &Silent).expect_err("damaged");
    let algorithm = match &error {
        HubError::HashMismatch { algorithm, expected, .. } if *expected == git_sha1(b"{}") => *algorithm,
        other => panic!("{other}"),
    };
    assert_eq!(algorithm, "git sha1");
    assert!(world.blobs("org/name").is_empty());
}

#[test]
fn wrong_lengths_are_refused_and_removed() {
    for fault in [Fault::TooLong, Fault::TooLongInChunks] {
        let (world, weights) = model();
        world.server.fault("GET", FILE, std::slice::from_ref(&fault));
        let error = download("org/name", &world.config(), &Silent).expect_err("too long");
        match &error {
            HubError::SizeMismatch { expected, found, .. } => {
                assert_eq!(*expected, LEN as u64, "{fault:?}");
                // Content-Length tells the excess at once; in chunks it shows with the first piece too many.
                let whole = matches!(fault, Fault::TooLong);
                assert_eq!(*found == (LEN + EXCESS) as u64, whole, "{fault:?}: {found}");
            }
            other => panic!("{fault:?}: {other}"),
        }
        assert_eq!(world.blobs("org/name"), [git_sha1(b"{}")], "{fault:?}");
        assert_downloaded(&world, &world.config(), &weights);
    }
}

#[test]
fn a_busy_server_is_asked_again() {
    let (world, weights) = model();
    world.server.fault("LIST", "", &[Fault::Status(429, "Retry-After: 0"), Fault::Status(503, "")]);
    world.server.fault("HEAD", FILE, &[Fault::Status(500, "")]);
    world.server.fault("GET", FILE, &[Fault::Status(502, ""), Fault::Cut(10), Fault::Status(504, "")]);
    assert_downloaded(&world, &world.config(), &weights);
}

#[test]
fn a_server_that_stays_busy_is_given_up() {
    let (world, _) = model();
    world.server.fault("LIST", "", &[const { Fault::Status(500, "") }; 9]);
    let error = download("org/name", &world.config(), &Silent).expect_err("given up");
    assert!(matches!(error, HubError::Status { status: 500, attempts: 4, .. }), "{error}");
    assert_eq!(world.server.take_seen().len(), 4);
}

#[test]
fn what_is_not_there_is_told_apart() {
    let (world, _) = model();
    let error = |model: &str| download(model, &world.config(), &Silent).expect_err(model);
    assert!(matches!(error("org/other"), HubError::RepoNotFound { .. }));
    assert!(matches!(error("org/name@gone"), HubError::RevisionNotFound { revision, .. } if revision == "gone"));
    assert!(matches!(error("org/name:x.gguf"), HubError::FileNotFound { file, .. } if file == "x.gguf"));
    world.server.publish("org/none", "main", &[("tf_model.h5", b"x")]);
    assert!(matches!(error("org/none"), HubError::NoWeights { found, .. } if found == ["tf_model.h5"]));
    world.server.publish("org/two", "main", &[("a.gguf", b"x"), ("b.gguf", b"y")]);
    assert!(matches!(error("org/two"), HubError::ChooseFile { options, .. } if options == ["a.gguf", "b.gguf"]));
    // Listed, and then not there.
    world.server.fault("HEAD", FILE, &[Fault::Status(404, "X-Error-Code: EntryNotFound")]);
    assert!(matches!(error("org/name"), HubError::FileNotFound { file, .. } if file == FILE));
}

#[test]
fn a_gated_model_says_what_to_do_and_never_shows_the_token() {
    let (world, _) = model();
    world.server.require_token("hf_right");
    let error = download("org/name", &world.config(), &Silent).expect_err("no token");
    assert!(matches!(error, HubError::AccessDenied { status: 401, with_token: false, .. }), "{error}");
    assert!(error.to_string().contains("HF_TOKEN"));
    let wrong = HubConfig { token: Token::new("hf_wrong_secret"), ..world.config() };
    let error = download("org/name", &wrong, &Silent).expect_err("wrong token");
    assert!(matches!(error, HubError::AccessDenied { status: 403, with_token: true, .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("secret"));
}

#[test]
fn errors_do_not_show_signed_addresses() {
    let (world, _) = model();
    world.server.fault("GET", FILE, &[const { Fault::Status(500, "") }; 9]);
    let error = download("org/name", &world.config(), &Silent).expect_err("given up");
    let text = format!("{error} {error:?}");
    assert!(text.contains("/blob/") && !text.contains("Signature"), "{text}");
}

#[test]
fn redirects_are_bounded_and_need_an_address() {
    let (world, _) = model();
    let error = |header: &'static str, count: usize| {
        world.server.fault("GET", "config.json", &vec![Fault::Status(302, header); count]);
        download("org/name", &world.config(), &Silent).expect_err("refused")
    };
    assert!(matches!(error("Location: /org/name/resolve/main/config.json", 11), HubError::BadAnswer { .. }));
    assert!(matches!(error("X-None: 1", 1), HubError::BadAnswer { .. }));
    assert!(matches!(error("Location: ftp://127.0.0.1/x", 1), HubError::BadAnswer { .. }));
    assert!(matches!(error("Location: file:///etc/passwd", 1), HubError::BadAnswer { .. }));
}
