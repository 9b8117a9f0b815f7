//! The other libraries: a runner each in `benches/peers/`. How they compute is the runners' matter; here is only how
//! they are started.

use std::path::{Path, PathBuf};

use super::build;
use super::contestant::{Absent, Contestant, Launch};
use crate::workspace::Workspace;

/// Another library.
#[derive(Debug)]
pub struct Peer {
    /// What `--peers` calls it.
    pub name: &'static str,
    /// What its runner is.
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A script for Python.
    Python(&'static str),
    /// A cargo project of its own.
    Rust(&'static str),
}

/// Every library there is a runner for. To add one, write its runner and add a line.
pub const PEERS: &[Peer] = &[
    Peer { name: "llama.cpp", kind: Kind::Python("llama_cpp_peer.py") },
    Peer { name: "torch", kind: Kind::Python("torch_peer.py") },
    Peer { name: "candle", kind: Kind::Rust("candle") },
];

/// Where the runners are, seen from the workspace's root.
const FOLDER: &str = "benches/peers";

/// How peers are started.
#[derive(Debug)]
pub struct Options<'a> {
    /// The interpreter for those that are scripts.
    pub python: &'a Path,
    /// How many threads they may have.
    pub threads: usize,
    /// Where what they say is written.
    pub logs: &'a Path,
    /// Where made-up models are kept.
    pub models: &'a Path,
}

/// Starts the peer called `name`.
///
/// # Errors
/// What it lacks, with how to get it.
pub fn start(workspace: &Workspace, name: &str, options: &Options) -> Result<Contestant, Absent> {
    let Some(peer) = PEERS.iter().find(|peer| peer.name == name) else {
        return Err(Absent { reason: format!("no such peer; there are {}", names().join(", ")), install: None });
    };
    let folder = workspace.root.join(FOLDER);
    let threads = options.threads.to_string();
    let (program, arguments) = match peer.kind {
        Kind::Python(script) => (options.python.to_owned(), vec![folder.join(script).display().to_string(), threads]),
        Kind::Rust(source) => {
            let target = workspace.target.join("bench").join(source);
            let built = build::outside(&folder.join(source), &target, &format!("fornax-peer-{source}"), options.logs);
            match built {
                Ok(program) => (program, vec![threads]),
                Err(error) => return Err(Absent { reason: format!("it does not build: {error:#}"), install: None }),
            }
        }
    };
    Contestant::start(Launch {
        label: name.to_owned(),
        program,
        arguments,
        environment: environment(options),
        log: options.logs.join(format!("{name}.log")),
    })
}

/// The variables by which the libraries are told how many threads to use; each reads some of them at its start.
fn environment(options: &Options) -> Vec<(String, String)> {
    let threads = options.threads.to_string();
    let mut environment: Vec<(String, String)> =
        ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"]
            .map(|name| (name.to_owned(), threads.clone()))
            .to_vec();
    environment.push(("FORNAX_BENCH_MODELS".into(), options.models.display().to_string()));
    environment.push(("PYTHONUNBUFFERED".into(), "1".into()));
    environment
}

/// The interpreter of the environment that is active, or the system's.
pub fn default_python() -> PathBuf {
    let active = std::env::var_os("VIRTUAL_ENV").map(|folder| {
        let program = if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" };
        PathBuf::from(folder).join(program)
    });
    active.filter(|python| python.exists()).unwrap_or_else(|| "python3".into())
}

/// What `--peers` takes.
pub fn names() -> Vec<&'static str> {
    PEERS.iter().map(|peer| peer.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_has_its_runner() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(FOLDER);
        for peer in PEERS {
            let path = match peer.kind {
                Kind::Python(script) => folder.join(script),
                Kind::Rust(source) => folder.join(source).join("Cargo.toml"),
            };
            assert!(path.exists(), "{}: {}", peer.name, path.display());
        }
    }

    #[test]
    fn a_peer_without_an_interpreter_is_absent() {
        let workspace = Workspace::read().expect("this workspace");
        let folder = tempfile::tempdir().expect("a folder");
        let python = folder.path().join("no-python");
        let options = Options { python: &python, threads: 2, logs: folder.path(), models: folder.path() };
        let absent = start(&workspace, "torch", &options).expect_err("absent");
        assert!(absent.reason.contains("no-python does not start"), "{}", absent.reason);
        assert!(start(&workspace, "jax", &options).expect_err("unknown").reason.contains("llama.cpp, torch, candle"));
    }
}
