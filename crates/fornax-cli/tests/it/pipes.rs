//! Readers that leave, and disks that are full.

use std::process::Stdio;

use crate::support::{arg, file, fornax, llama};

#[test]
fn a_closed_pipe_is_a_quiet_end() {
    let model = llama();
    let prompts = file(".jsonl", &"{\"prompt\": \"the\"}\n{\"prompt\": 1}\n".repeat(500));
    for args in [
        &["generate", &model, "--prompt", "the"][..],
        &["generate", &model, "--prompts", arg(prompts.path()), "--max-running", "2"],
        &["score", &model, "--texts", arg(prompts.path())],
        &["generate", &model, "--prompt", "the", "--json"],
        &["inspect", &model],
        &["score", &model, "--text", "the sea"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = fornax().args(args).stdin(Stdio::null()).stdout(writer).output().expect("the command starts");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let output = fornax().args(["inspect", &llama()]).stdout(full).output().expect("the command starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.starts_with("error: cannot write to standard output"), "{error}");
}
