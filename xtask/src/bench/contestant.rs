//! A program that times cases, as a long-lived process: Fornax's runner on a device, or another library's. It is asked
//! and answers in lines of JSON; see `benches/src/protocol.rs`. A process that dies or hangs ends its case, not the run.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::{Value, json};

use super::results::Contestant as Facts;

/// How to start a contestant.
#[derive(Debug, Clone)]
pub struct Launch {
    /// What the tables call it.
    pub label: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Variables of its environment.
    pub environment: Vec<(String, String)>,
    /// Where what it says beside its answers goes.
    pub log: PathBuf,
}

/// One that was started, and is started again when it ends too early.
#[derive(Debug)]
pub struct Contestant {
    launch: Launch,
    /// What it said of itself.
    pub facts: Facts,
    process: Option<Process>,
    deaths: usize,
}

/// After so many it is not started again.
const MOST_DEATHS: usize = 5;

/// A library may have to be loaded from a slow disk.
const START: Duration = Duration::from_secs(120);

/// Why a contestant cannot take part.
#[derive(Debug, Clone, PartialEq)]
pub struct Absent {
    /// What is missing.
    pub reason: String,
    /// How to get it, where the contestant says so.
    pub install: Option<String>,
}

impl Contestant {
    /// Starts it and asks who it is.
    ///
    /// # Errors
    /// When it does not start, or says that it lacks something.
    pub fn start(launch: Launch) -> Result<Self, Absent> {
        let absent = |reason: String| Absent { reason, install: None };
        let mut process = Process::start(&launch).map_err(|error| absent(format!("{error:#}")))?;
        let answer = process.ask(&json!({"do": "hello"}), START).map_err(|error| absent(format!("{error:#}")))?;
        if let Some(reason) = answer["error"].as_str() {
            let install = answer["install"].as_str().map(str::to_owned);
            return Err(Absent { reason: reason.to_owned(), install });
        }
        let text = |key: &str| answer[key].as_str().unwrap_or("unknown").to_owned();
        let facts = Facts {
            label: launch.label.clone(),
            name: text("name"),
            version: text("version"),
            device: text("device"),
            threads: answer["threads"].as_u64(),
        };
        Ok(Self { launch, facts, process: Some(process), deaths: 0 })
    }

    /// What it answers to `request`. An answer that says `error` is an error.
    ///
    /// # Errors
    /// When it fails, ends, or has no answer within `patience` (it is then ended, and started anew for the next).
    pub fn ask(&mut self, request: &Value, patience: Duration) -> Result<Value> {
        if self.process.is_none() {
            ensure!(self.deaths < MOST_DEATHS, "given up: it ended {} times", self.deaths);
            self.process = Some(Process::start(&self.launch)?);
        }
        let process = self.process.as_mut().context("it was just started")?;
        match process.ask(request, patience) {
            Ok(answer) => match answer["error"].as_str() {
                Some(error) => Err(anyhow!("{error}")),
                None => Ok(answer),
            },
            Err(error) => {
                self.process = None;
                self.deaths += 1;
                Err(error)
            }
        }
    }
}

/// A process with its ends of the pipes.
#[derive(Debug)]
struct Process {
    child: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
    log: PathBuf,
}

impl Process {
    fn start(launch: &Launch) -> Result<Self> {
        if let Some(folder) = launch.log.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("no folder {}", folder.display()))?;
        }
        let log = File::options().create(true).append(true).open(&launch.log);
        let log = log.with_context(|| format!("{} cannot be written", launch.log.display()))?;
        let mut child = Command::new(&launch.program)
            .args(&launch.arguments)
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} does not start", launch.program.display()))?;
        let requests = child.stdin.take().context("its input is a pipe")?;
        let output = child.stdout.take().context("its output is a pipe")?;
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { break };
                // Some libraries print on standard output; an answer is an object.
                if line.starts_with('{') && sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, requests, answers, log: launch.log.clone() })
    }

    fn ask(&mut self, request: &Value, patience: Duration) -> Result<Value> {
        // One that ended already cannot be written to; but it may have said why, so it is listened to all the same.
        let _ = writeln!(self.requests, "{request}").and_then(|()| self.requests.flush());
        match self.answers.recv_timeout(patience) {
            Ok(line) => parse(&line),
            Err(RecvTimeoutError::Timeout) => bail!("no answer in {} s", patience.as_secs()),
            Err(RecvTimeoutError::Disconnected) => bail!("{}", self.ended()),
        }
    }

    /// How it ended, with the last line that it said.
    fn ended(&mut self) -> String {
        let how = match self.child.wait() {
            Ok(status) => describe(status),
            Err(error) => error.to_string(),
        };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        match log.lines().rev().find(|line| !line.trim().is_empty()) {
            Some(last) => format!("it ended with {how}: {} (see {})", last.trim(), self.log.display()),
            None => format!("it ended with {how}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that still works on something would go on, and disturb whoever is measured next.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse(line: &str) -> Result<Value> {
    serde_json::from_str(line).with_context(|| format!("its answer is not JSON: {line}"))
}

fn describe(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let name = match signal {
            4 => " (illegal instruction)",
            9 => " (killed; perhaps memory ran out)",
            11 => " (segmentation fault)",
            _ => "",
        };
        return format!("signal {signal}{name}");
    }
    status.to_string()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// A shell as a contestant, which answers line by line as `script` says.
    fn shell(folder: &tempfile::TempDir, script: &str) -> Launch {
        Launch {
            label: "shell".into(),
            program: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: Vec::new(),
            log: folder.path().join("logs/shell.log"),
        }
    }

    const HELLO: &str = r#"read line; echo '{"name":"sh","version":"1","device":"cpu","threads":2}';"#;

    #[test]
    fn it_says_who_it_is_and_answers() {
        let folder = tempfile::tempdir().expect("a folder");
        let script = format!("{HELLO} read line; echo noise; echo '{{\"samples\":[1]}}'; read line");
        let mut contestant = Contestant::start(shell(&folder, &script)).expect("a shell");
        assert_eq!((contestant.facts.name.as_str(), contestant.facts.threads), ("sh", Some(2)));
        let answer = contestant.ask(&json!({"do": "time"}), Duration::from_secs(10)).expect("an answer");
        assert_eq!(answer["samples"][0], 1);
    }

    #[test]
    fn one_that_lacks_something_says_how_to_get_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let script = r#"echo '{"error":"no module torch","install":"pip install torch"}'"#;
        let absent = Contestant::start(shell(&folder, script)).expect_err("absent");
        assert_eq!(absent.reason, "no module torch");
        assert_eq!(absent.install.as_deref(), Some("pip install torch"));
        let nowhere = Launch { program: folder.path().join("nowhere"), ..shell(&folder, "") };
        assert!(Contestant::start(nowhere).expect_err("absent").reason.contains("does not start"));
    }

    #[test]
    fn one_that_dies_is_told_from_and_started_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let script = format!("{HELLO} read line; echo 'out of luck' >&2; kill -4 $$");
        let mut contestant = Contestant::start(shell(&folder, &script)).expect("a shell");
        let patience = Duration::from_secs(10);
        let error = contestant.ask(&json!({"do": "time"}), patience).expect_err("dead").to_string();
        assert!(error.contains("signal 4 (illegal instruction): out of luck"), "{error}");
        // The next process answers its first line.
        assert_eq!(contestant.ask(&json!({"do": "hello"}), patience).expect("anew")["name"], "sh");
    }

    #[test]
    fn one_that_hangs_is_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut contestant =
            Contestant::start(shell(&folder, &format!("{HELLO} read line; read line"))).expect("a shell");
        let error = contestant.ask(&json!({"do": "time"}), Duration::from_millis(1)).expect_err("hangs").to_string();
        assert!(error.contains("no answer"), "{error}");
        assert!(contestant.process.is_none());
    }

    #[test]
    fn one_that_always_dies_is_given_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut contestant = Contestant::start(shell(&folder, &format!("{HELLO} exit 1"))).expect("a shell");
        let mut ask = || contestant.ask(&json!({"do": "time"}), Duration::from_secs(10)).map(|_| ());
        // The first after each start is answered; the second finds it ended.
        let errors: Vec<String> =
            (0..2 * MOST_DEATHS + 2).filter_map(|_| ask().err()).map(|error| error.to_string()).collect();
        assert!(errors.last().expect("errors").contains("given up"), "{errors:?}");
    }
}
