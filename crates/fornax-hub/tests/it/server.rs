//! A stand-in for the hub and its CDN: two ports of this machine, each answering HTTP/1.1 as the real ones do, with
//! faults to order. It is no web server: one request a connection, and no more of HTTP than the clients use.

use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// How many bytes too many the faults send.
pub const EXCESS: usize = 1 << 20;

/// One way to misbehave, once.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Announce everything, send this many bytes, close.
    Cut(usize),
    /// Send nothing until the client gives up.
    Stall,
    /// This status, with this header and no content.
    Status(u16, &'static str),
    /// The whole file, whatever range was asked for.
    IgnoreRange,
    /// `206` with another range than the requested one, as its Content-Range says.
    OtherRange,
    /// Other bytes of the same length.
    WrongBytes,
    /// More bytes than the hub states, with a Content-Length that says so.
    TooLong,
    /// More bytes than the hub states, in chunks, so that only counting them shows it.
    TooLongInChunks,
    /// `416 Range Not Satisfiable`.
    RefuseRange,
    /// Wait with the answer until this many HEAD requests for the file have come.
    AwaitHeads(usize),
}

/// One request, as it came, and what it was given.
#[derive(Debug, Clone)]
pub struct Seen {
    pub cdn: bool,
    pub method: String,
    pub path: String,
    /// The file that is meant, or empty for the listing.
    pub file: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
    /// Bytes of content sent.
    pub sent: usize,
}

#[derive(Debug, Clone)]
struct Entry {
    bytes: Vec<u8>,
    /// In large file storage: redirected to the CDN, and named by sha256.
    large: bool,
}

#[derive(Debug, Clone, Default)]
struct Revision {
    commit: String,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, Default)]
struct State {
    hub: String,
    cdn: String,
    /// By repository, then by branch.
    repos: HashMap<String, HashMap<String, Revision>>,
    token: Option<String>,
    faults: HashMap<String, VecDeque<Fault>>,
    seen: Vec<Seen>,
}

pub struct Server {
    state: Arc<(Mutex<State>, Condvar)>,
    pub url: String,
}

impl Server {
    /// Starts both ports; they answer until the process ends.
    pub fn start() -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (hub, cdn) = (listen(), listen());
        let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().expect("bound"));
        let state = State { hub: url(&hub), cdn: url(&cdn), ..State::default() };
        let url = state.hub.clone();
        let state = Arc::new((Mutex::new(state), Condvar::new()));
        for (listener, is_cdn) in [(hub, false), (cdn, true)] {
            let state = state.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = state.clone();
                    // A client that hangs up early is part of the tests.
                    std::thread::spawn(move || serve(&state, is_cdn, stream).ok());
                }
            });
        }
        Self { state, url }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().expect("no handler panics with the lock")
    }

    /// Sets a branch's files. Names that end in `.safetensors`, `.bin` or `.gguf` are in large file storage.
    /// Returns the commit.
    pub fn publish(&self, repo: &str, branch: &str, files: &[(&str, &[u8])]) -> String {
        let mut hash = Sha1::new();
        let mut revision = Revision::default();
        for (name, bytes) in files {
            hash.update(name);
            hash.update(bytes);
            let large = [".safetensors", ".bin", ".gguf"].iter().any(|end| name.ends_with(end));
            revision.files.insert((*name).into(), Entry { bytes: bytes.to_vec(), large });
        }
        revision.commit = hex(&hash.finalize());
        let commit = revision.commit.clone();
        self.state().repos.entry(repo.into()).or_default().insert(branch.into(), revision);
        commit
    }

    /// From now on a request to the hub needs this token.
    pub fn require_token(&self, token: &str) {
        self.state().token = Some(token.into());
    }

    /// Orders faults for the next requests of this kind (`HEAD`, `GET`, or `LIST` with an empty file).
    pub fn fault(&self, kind: &str, file: &str, faults: &[Fault]) {
        self.state().faults.entry(format!("{kind} {file}")).or_default().extend(faults.iter().cloned());
    }

    /// The requests since the last call.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state().seen)
    }
}

fn serve(state: &(Mutex<State>, Condvar), cdn: bool, mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let path = decode(target.split('?').next().unwrap_or_default());
    let request = Request { cdn, head: method == "HEAD", path: &path, headers: &headers };

    let mut locked = state.0.lock().expect("no handler panics with the lock");
    let Route { file, answer } = route(&locked, &request);
    let kind = if file.is_empty() { "LIST" } else { &method };
    // A large file's GET goes through both ports; its faults are the CDN's.
    let redirected = !cdn && !request.head && (300..400).contains(&answer.status);
    let fault =
        if redirected { None } else { locked.faults.get_mut(&format!("{kind} {file}")).and_then(VecDeque::pop_front) };
    let at = locked.seen.len();
    locked.seen.push(Seen {
        cdn,
        method: method.clone(),
        path: path.clone(),
        file: file.clone(),
        range: headers.get("range").cloned(),
        authorization: headers.get("authorization").cloned(),
        sent: 0,
    });
    state.1.notify_all();
    if let Some(Fault::AwaitHeads(count)) = fault {
        let heads = |s: &State| s.seen.iter().filter(|seen| seen.method == "HEAD" && seen.file == file).count();
        locked = state.1.wait_while(locked, |s| heads(s) < count).expect("no handler panics with the lock");
    }
    let (head, body) = finish(answer, fault.as_ref(), headers.get("range").map(String::as_str));
    let body = if request.head { Vec::new() } else { body };
    // Counted before it is sent: the client may look as soon as it has the last byte.
    if let Some(seen) = locked.seen.get_mut(at) {
        seen.sent = body.len();
    }
    drop(locked);

    if matches!(fault, Some(Fault::Stall)) {
        reader.read_to_end(&mut Vec::new())?;
        return Ok(());
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)?;
    stream.flush()
}

struct Request<'a> {
    cdn: bool,
    head: bool,
    path: &'a str,
    headers: &'a HashMap<String, String>,
}

struct Route {
    file: String,
    answer: Answer,
}

#[derive(Default)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    ranges: bool,
}

impl Answer {
    fn new(status: u16, headers: &[(&str, &str)], body: Vec<u8>) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Self { status, headers, body, ranges: false }
    }
}

fn route(state: &State, request: &Request<'_>) -> Route {
    if request.cdn {
        return cdn(state, request);
    }
    let refuse = |file: &str, status, code| Route {
        file: file.into(),
        answer: Answer::new(status, &[("X-Error-Code", code)], b"{}".to_vec()),
    };
    let listing = request.path.strip_prefix("/api/models/").map(|rest| match rest.split_once("/revision/") {
        Some((repo, revision)) => (repo, revision, false),
        None => match rest.split_once("/tree/") {
            Some((repo, revision)) => (repo, revision.trim_end_matches('/'), true),
            None => (rest, "main", false),
        },
    });
    let resolve = request.path.split_once("/resolve/").and_then(|(repo, rest)| {
        // Commits and the tests' branches have no slash, but those of pull requests have.
        let at = rest.strip_prefix("refs/pr/").map_or(0, |_| "refs/pr/".len());
        let (revision, file) = rest[at..].split_once('/')?;
        Some((repo.trim_start_matches('/'), &rest[..at + revision.len()], file))
    });
    let (repo, revision, file) = match (listing, resolve) {
        (Some((repo, revision, _)), _) => (repo, revision, ""),
        (None, Some(resolve)) => resolve,
        (None, None) => return refuse("", 404, ""),
    };
    let Some(branches) = state.repos.get(repo) else { return refuse(file, 404, "RepoNotFound") };
    let expected = state.token.as_ref().map(|token| format!("Bearer {token}"));
    if let Some(expected) = expected {
        match request.headers.get("authorization") {
            Some(given) if *given == expected => {}
            Some(_) => return refuse(file, 403, "GatedRepo"),
            None => return refuse(file, 401, "GatedRepo"),
        }
    }
    let found = branches.get(revision).or_else(|| branches.values().find(|r| r.commit == revision));
    let Some(found) = found else { return refuse(file, 404, "RevisionNotFound") };
    if let Some((_, _, tree)) = listing {
        let body = if tree { tree_json(found) } else { revision_json(repo, found) };
        let answer = Answer::new(200, &[("Content-Type", "application/json")], body.into_bytes());
        return Route { file: String::new(), answer };
    }
    let Some(entry) = found.files.get(file) else { return refuse(file, 404, "EntryNotFound") };
    let commit = ("X-Repo-Commit", found.commit.as_str());
    let answer = if entry.large {
        let name = hex(&Sha256::digest(&entry.bytes));
        let location = format!("{}/blob/{repo}/{name}/{file}?Signature=a-secret", state.cdn);
        let etag = format!("\"{name}\"");
        let size = entry.bytes.len().to_string();
        let headers = [
            commit,
            ("X-Linked-Etag", etag.as_str()),
            ("X-Linked-Size", size.as_str()),
            ("Location", location.as_str()),
        ];
        Answer::new(302, &headers, Vec::new())
    } else {
        let etag = format!("\"{}\"", git_sha1(&entry.bytes));
        Answer { ranges: true, ..Answer::new(200, &[commit, ("ETag", etag.as_str())], entry.bytes.clone()) }
    };
    Route { file: file.into(), answer }
}

fn cdn(state: &State, request: &Request<'_>) -> Route {
    let entry =
        state.repos.values().flat_map(|branches| branches.values()).flat_map(|r| &r.files).find(|(file, entry)| {
            let end = format!("/{}/{file}", hex(&Sha256::digest(&entry.bytes)));
            entry.large && request.path.ends_with(&end)
        });
    let Some((file, entry)) = entry else {
        return Route { file: String::new(), answer: Answer::new(404, &[], vec![]) };
    };
    // Signed storage refuses requests that carry a second authorization.
    let answer = if request.headers.contains_key("authorization") {
        Answer::new(400, &[], Vec::new())
    } else {
        Answer { ranges: true, ..Answer::new(200, &[("ETag", "\"another-etag\"")], entry.bytes.clone()) }
    };
    Route { file: file.clone(), answer }
}

/// Applies range and fault; returns the head of the answer and the bytes after it.
fn finish(mut answer: Answer, fault: Option<&Fault>, range: Option<&str>) -> (String, Vec<u8>) {
    let total = answer.body.len();
    match fault {
        Some(Fault::Status(status, header)) => {
            let (name, value) = header.split_once(": ").unwrap_or(("X-Fault", "1"));
            answer = Answer::new(*status, &[(name, value)], Vec::new());
        }
        Some(Fault::RefuseRange) => {
            answer = Answer::new(416, &[("Content-Range", &format!("bytes */{total}"))], vec![])
        }
        Some(Fault::WrongBytes) => answer.body.iter_mut().for_each(|byte| *byte ^= 1),
        Some(Fault::TooLong | Fault::TooLongInChunks) => answer.body.resize(total + EXCESS, 0),
        _ => {}
    }
    let ignore = matches!(fault, Some(Fault::IgnoreRange | Fault::TooLong | Fault::TooLongInChunks));
    let start = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    if let Some(start) = start.filter(|_| answer.ranges && !ignore) {
        if matches!(fault, Some(Fault::OtherRange)) {
            answer.status = 206;
            answer.headers.push(("Content-Range".into(), format!("bytes 0-{}/{total}", total - 1)));
        } else if start < total {
            answer.status = 206;
            answer.headers.push(("Content-Range".into(), format!("bytes {start}-{}/{total}", total - 1)));
            answer.body.drain(..start);
        } else {
            answer = Answer::new(416, &[("Content-Range", &format!("bytes */{total}"))], vec![]);
        }
    }
    let mut head = format!("HTTP/1.1 {} Answer\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if matches!(fault, Some(Fault::TooLongInChunks)) {
        head += "Transfer-Encoding: chunked\r\n\r\n";
        let mut body = format!("{:x}\r\n", answer.body.len()).into_bytes();
        body.extend(&answer.body);
        body.extend(b"\r\n0\r\n\r\n");
        return (head, body);
    }
    head += &format!("Content-Length: {}\r\n\r\n", answer.body.len());
    if let Some(Fault::Cut(count)) = fault {
        answer.body.truncate(*count);
    }
    (head, answer.body)
}

fn revision_json(repo: &str, revision: &Revision) -> String {
    let siblings: Vec<_> = revision.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
    serde_json::json!({ "id": repo, "modelId": repo, "sha": revision.commit, "siblings": siblings }).to_string()
}

/// What Python's huggingface_hub asks for besides.
fn tree_json(revision: &Revision) -> String {
    let entry = |(name, entry): (&String, &Entry)| {
        let size = entry.bytes.len();
        let mut json = serde_json::json!({ "type": "file", "path": name, "size": size, "oid": git_sha1(&entry.bytes) });
        if entry.large {
            let oid = hex(&Sha256::digest(&entry.bytes));
            json["lfs"] = serde_json::json!({ "oid": oid, "size": size, "pointerSize": 134 });
        }
        json
    };
    serde_json::Value::Array(revision.files.iter().map(entry).collect()).to_string()
}

pub fn git_sha1(bytes: &[u8]) -> String {
    hex(&Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match escaped.filter(|_| byte == b'%') {
            Some(value) => {
                bytes.push(value);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
