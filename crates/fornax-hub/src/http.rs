//! The hub's protocol: listing a revision's files, asking for a file's hash and length, and opening its bytes.
//! Redirects are followed here and not by the HTTP library, because the token must stay with the hub's own host
//! and because the hub tells a file's hash in the redirecting answer. It writes nothing to disk.

use crate::config::Token;
use crate::name::{check_file, is_commit, is_plain_etag, percent_encode};
use crate::{Event, HubConfig, HubError, Progress};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;
use ureq::http::{HeaderMap, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

const REDIRECTS: usize = 10;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_LISTING: u64 = 64 << 20;

#[derive(Debug)]
pub(crate) struct Client {
    agent: ureq::Agent,
    endpoint: String,
    origin: Origin,
    token: Option<Token>,
    retries: u32,
    backoff: Duration,
}

/// The files of a revision.
#[derive(Debug)]
pub(crate) struct Listing {
    pub commit: String,
    pub files: BTreeSet<String>,
}

/// What the hub states of a file before it is fetched.
#[derive(Debug, Clone)]
pub(crate) struct Metadata {
    pub file: String,
    /// The name of the blob; a sha256 or a git sha1 where it has their form.
    pub etag: String,
    /// Bytes.
    pub size: Option<u64>,
}

/// A server's answer, its body yet to be read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    /// Where it came from, without the query, which may hold a signature.
    pub url: String,
    headers: HeaderMap,
    pub body: ureq::Body,
}

/// Why one attempt failed.
#[derive(Debug)]
pub(crate) enum Failure {
    Final(HubError),
    /// Worth another attempt.
    Again {
        url: String,
        cause: Cause,
        /// The pause that the server asks for.
        pause: Duration,
        /// Whether the attempt fetched more of the file, so that the count of failures is reset.
        progressed: bool,
    },
}

#[derive(Debug)]
pub(crate) enum Cause {
    Status(u16),
    Network(String),
}

/// Scheme, host and port: what has to be equal for a token to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    https: bool,
    host: String,
    port: u16,
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

impl Failure {
    pub fn network(url: &str, reason: String, progressed: bool) -> Self {
        Self::Again { url: url.into(), cause: Cause::Network(reason), pause: Duration::ZERO, progressed }
    }
}

impl Client {
    pub fn new(config: &HubConfig) -> Result<Self, HubError> {
        let endpoint = config.endpoint.trim_end_matches('/').to_owned();
        let invalid = |reason| HubError::InvalidEndpoint { endpoint: without_login(&endpoint), reason };
        let uri: Uri = endpoint.parse().map_err(|_| invalid("it is no URL"))?;
        let origin = Origin::of(&uri).map_err(invalid)?;
        if uri.query().is_some() {
            return Err(invalid("it has a query"));
        }
        let roots = config.ca_file.as_deref().map(read_certificates).transpose()?;
        let agent = ureq::Agent::config_builder()
            .tls_config(TlsConfig::builder().root_certs(roots.unwrap_or(RootCerts::WebPki)).build())
            .user_agent(concat!("fornax/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(config.timeout))
            .timeout_recv_response(Some(config.timeout))
            .timeout_per_read(Some(config.timeout))
            .timeout_per_write(Some(config.timeout))
            .build()
            .new_agent();
        let token = config.token.clone();
        Ok(Self { agent, endpoint, origin, token, retries: config.retries, backoff: config.backoff })
    }

    /// Makes attempts until one succeeds or fails for good, or `retries` have failed one after another.
    pub fn retry<T>(
        &self,
        what: &str,
        retries: u32,
        progress: &dyn Progress,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, HubError> {
        let mut failed = 0;
        loop {
            let (url, cause, asked, progressed) = match attempt() {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { url, cause, pause, progressed }) => (url, cause, pause, progressed),
            };
            failed = if progressed { 1 } else { failed + 1 };
            if failed > retries {
                return Err(match cause {
                    Cause::Status(status) => HubError::Status { url, status, attempts: failed },
                    Cause::Network(reason) => HubError::Network { url, attempts: failed, reason },
                });
            }
            let doubled = self.backoff.saturating_mul(1 << (failed - 1).min(16));
            let pause = doubled.max(asked).min(LONGEST_PAUSE);
            let reason = match &cause {
                Cause::Status(status) => format!("status {status}"),
                Cause::Network(reason) => reason.clone(),
            };
            progress.event(&Event::Retrying { what, reason: &reason, pause });
            std::thread::sleep(pause);
        }
    }

    /// How often a failed request is repeated.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// The commit and the files of a revision.
    pub fn listing(&self, repo: &str, revision: &str) -> Result<Listing, Failure> {
        let url = format!("{}/api/models/{repo}/revision/{}", self.endpoint, percent_encode(revision, false));
        let mut answer = self.send(false, &url, 0)?;
        if answer.status != 200 {
            return Err(self.refusal(&answer, repo, revision, None));
        }
        let shown = answer.url.clone();
        let bytes = answer
            .body
            .with_config()
            .limit(LONGEST_LISTING)
            .read_to_vec()
            .map_err(|error| Failure::network(&shown, error.to_string(), false))?;
        let bad = |found: String| HubError::BadAnswer {
            url: shown.clone(),
            expected: "a JSON object with a sha and siblings",
            found,
        };
        let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        let commit = json.get("sha").and_then(|sha| sha.as_str()).filter(|sha| is_commit(sha));
        let commit = commit.ok_or_else(|| bad("no commit hash as its sha".into()))?.to_owned();
        let siblings = json.get("siblings").and_then(|siblings| siblings.as_array());
        let mut files = BTreeSet::new();
        for sibling in siblings.ok_or_else(|| bad("no siblings".into()))? {
            let name = sibling.get("rfilename").and_then(|name| name.as_str());
            let name = name.ok_or_else(|| bad("a sibling without rfilename".into()))?;
            check_file(name).map_err(|reason| HubError::UnsafeName { repo: repo.into(), name: name.into(), reason })?;
            files.insert(name.to_owned());
        }
        Ok(Listing { commit, files })
    }

    /// Hash and length of a file, without its bytes.
    pub fn metadata(&self, repo: &str, commit: &str, file: &str) -> Result<Metadata, Failure> {
        let answer = self.send(true, &self.file_url(repo, commit, file), 0)?;
        if !(200..400).contains(&answer.status) {
            return Err(self.refusal(&answer, repo, commit, Some(file)));
        }
        let bad =
            |expected, found: &str| HubError::BadAnswer { url: answer.url.clone(), expected, found: found.to_owned() };
        let etag = answer.header("x-linked-etag").or_else(|| answer.header("etag"));
        let etag = etag.ok_or_else(|| bad("an ETag header", "none"))?;
        let etag = etag.trim().trim_start_matches("W/").trim_matches('"').to_owned();
        if !is_plain_etag(&etag) {
            return Err(bad("an ETag that is a plain name", &etag).into());
        }
        let size = match (answer.header("x-linked-size"), answer.status) {
            (Some(size), _) => Some(size),
            // A redirect's own length is not the file's.
            (None, 200..300) => answer.header("content-length"),
            _ => None,
        };
        let size = size.map(|text| text.parse().map_err(|_| bad("a length in bytes", text))).transpose()?;
        Ok(Metadata { file: file.into(), etag, size })
    }

    /// The bytes of a file from one position on. The status tells what came: 206 for the rest, 200 for the
    /// whole file, 416 where the position is not in the file.
    pub fn open(&self, repo: &str, commit: &str, file: &str, from: u64) -> Result<Answer, Failure> {
        let answer = self.send(false, &self.file_url(repo, commit, file), from)?;
        match answer.status {
            200 => Ok(answer),
            206 | 416 if from > 0 => Ok(answer),
            _ => Err(self.refusal(&answer, repo, commit, Some(file))),
        }
    }

    fn file_url(&self, repo: &str, commit: &str, file: &str) -> String {
        format!("{}/{repo}/resolve/{commit}/{}", self.endpoint, percent_encode(file, true))
    }

    fn send(&self, head: bool, url: &str, from: u64) -> Result<Answer, Failure> {
        let bad = |url: &str, expected, found: String| HubError::BadAnswer { url: url.into(), expected, found };
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS {
            let uri: Uri =
                url.parse().map_err(|_| bad(&self.endpoint, "a redirect to a URL", "another text".into()))?;
            let shown = show(&uri);
            let origin = Origin::of(&uri).map_err(|found| bad(&shown, "a web address", found.into()))?;
            if self.origin.https && !origin.https {
                return Err(bad(&shown, "a redirect to https", "one to http".into()).into());
            }
            let mut request = if head { self.agent.head(uri) } else { self.agent.get(uri) };
            // The lengths and hashes are those of the file as it is, not of a compressed form.
            request = request.header("accept-encoding", "identity");
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| origin == self.origin) {
                request = request.header("authorization", token.header());
            }
            let answer = request.call().map_err(|error| attempt_failed(&shown, error))?;
            let (parts, body) = answer.into_parts();
            let answer = Answer { status: parts.status.as_u16(), url: shown, headers: parts.headers, body };
            let redirects = matches!(answer.status, 301 | 302 | 303 | 307 | 308);
            if !redirects || (head && answer.header("x-linked-etag").is_some()) {
                return Ok(answer);
            }
            let location = answer.header("location");
            let location = location.ok_or_else(|| bad(&answer.url, "a Location header", "none".into()))?;
            url = join(&url, location);
        }
        Err(bad(&self.endpoint, "at most 10 redirects", "more".into()).into())
    }

    /// What a status other than success means.
    fn refusal(&self, answer: &Answer, repo: &str, revision: &str, file: Option<&str>) -> Failure {
        let repo = repo.to_owned();
        let status = answer.status;
        Failure::Final(match (status, answer.header("x-error-code"), file) {
            (408 | 429 | 500 | 502 | 503 | 504, ..) => {
                let seconds = answer.header("retry-after").and_then(|text| text.trim().parse().ok());
                let pause = Duration::from_secs(seconds.unwrap_or(0));
                let cause = Cause::Status(status);
                return Failure::Again { url: answer.url.clone(), cause, pause, progressed: false };
            }
            (401 | 404, Some("RepoNotFound"), _) => HubError::RepoNotFound { repo, endpoint: self.endpoint.clone() },
            (404, Some("RevisionNotFound"), _) => HubError::RevisionNotFound { repo, revision: revision.into() },
            (404, _, Some(file)) => {
                HubError::FileNotFound { repo, revision: revision.into(), file: file.into(), found: Vec::new() }
            }
            (404, ..) => HubError::RepoNotFound { repo, endpoint: self.endpoint.clone() },
            (401 | 403, ..) => HubError::AccessDenied { repo, status, with_token: self.token.is_some() },
            _ => HubError::Status { url: answer.url.clone(), status, attempts: 1 },
        })
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Start and total of `Content-Range: bytes start-end/total`.
    pub fn content_range(&self) -> Option<(u64, Option<u64>)> {
        let (range, total) = self.header("content-range")?.strip_prefix("bytes ")?.split_once('/')?;
        let start = range.split_once('-')?.0.trim().parse().ok()?;
        Some((start, total.trim().parse().ok()))
    }
}

impl Origin {
    fn of(uri: &Uri) -> Result<Self, &'static str> {
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("it starts neither with https:// nor with http://"),
        };
        let authority = uri.authority().ok_or("it has no host")?;
        if authority.as_str().contains('@') {
            return Err("it has a user name in it");
        }
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        Ok(Self { https, host: authority.host().to_ascii_lowercase(), port })
    }
}

fn attempt_failed(shown: &str, error: ureq::Error) -> Failure {
    use ureq::Error::{BadUri, Http, InvalidProxyUrl, Io, Rustls, Tls};
    let url = shown.to_owned();
    let reason = error.to_string();
    match error {
        // A failed handshake comes as invalid data; it would fail again.
        Io(error) if error.kind() == ErrorKind::InvalidData => HubError::Untrusted { url, reason }.into(),
        Rustls(_) | Tls(_) => HubError::Untrusted { url, reason }.into(),
        BadUri(_) | Http(_) | InvalidProxyUrl => HubError::Network { url, attempts: 1, reason }.into(),
        _ => Failure::network(shown, reason, false),
    }
}

fn read_certificates(path: &Path) -> Result<RootCerts, HubError> {
    let pem = std::fs::read(path).map_err(HubError::io("read", path))?;
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    };
    let certificates: Vec<_> = parse_pem(&pem).filter_map(certificate).collect();
    if certificates.is_empty() {
        return Err(HubError::NoCertificates { path: path.to_owned() });
    }
    Ok(certificates.into())
}

/// A URL for people: no user, no query.
fn show(uri: &Uri) -> String {
    let host = uri.authority().map_or("", |authority| authority.as_str().rsplit('@').next().unwrap_or_default());
    format!("{}://{host}{}", uri.scheme_str().unwrap_or_default(), uri.path())
}

/// The endpoint as an error may show it, even where it does not parse.
fn without_login(endpoint: &str) -> String {
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("", endpoint));
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://…@{host}"),
        None => endpoint.to_owned(),
    }
}

/// A `Location` relative to the URL that sent it.
fn join(base: &str, location: &str) -> String {
    let location = location.split('#').next().unwrap_or_default();
    let (scheme, rest) = base.split_once("://").unwrap_or(("http", base));
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{host}{location}")
    } else if location.split(['/', '?']).next().is_some_and(|start| start.contains(':')) {
        location.to_owned()
    } else {
        let path = base.split('?').next().unwrap_or_default();
        let folder = if rest.contains('/') { path.rsplit_once('/').map_or(path, |(folder, _)| folder) } else { path };
        format!("{folder}/{location}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(endpoint: &str) -> Result<Client, HubError> {
        Client::new(&HubConfig { endpoint: endpoint.into(), ..HubConfig::new("cache") })
    }

    #[test]
    fn joins_locations() {
        let base = "https://hub.test/a/resolve/main/f?x=1";
        assert_eq!(join(base, "https://cdn.test/b?s=1"), "https://cdn.test/b?s=1");
        assert_eq!(join(base, "//cdn.test/b"), "https://cdn.test/b");
        assert_eq!(join(base, "/c/d?e=http://x"), "https://hub.test/c/d?e=http://x");
        assert_eq!(join(base, "g"), "https://hub.test/a/resolve/main/g");
        assert_eq!(join("https://hub.test", "g"), "https://hub.test/g");
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |text: &str| Origin::of(&text.parse().expect("a URI"));
        assert_eq!(origin("https://Hub.test/a"), origin("https://hub.test:443/b?c"));
        assert_ne!(origin("https://hub.test"), origin("http://hub.test"));
        assert_ne!(origin("http://hub.test:1"), origin("http://hub.test:2"));
        assert_ne!(origin("https://hub.test"), origin("https://hub.test.evil.test"));
        assert!(origin("https://hub.test@evil.test/").is_err());
        assert!(origin("ftp://hub.test/").is_err());
    }

    #[test]
    fn refuses_endpoints_that_are_none_and_hides_logins() {
        for bad in ["", "hub", "ftp://hub.test", "http://", "http://u:secret@hub.test", "https://hub.test?x=1"] {
            let error = client(bad).expect_err(bad);
            assert!(matches!(error, HubError::InvalidEndpoint { .. }), "{bad}: {error}");
            assert!(!error.to_string().contains("secret"));
        }
        client("https://hub.test/prefix/").expect("a valid endpoint");
    }

    #[test]
    fn a_file_of_certificates_has_to_hold_some() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ca_file = folder.path().join("ca.pem");
        let config = HubConfig { ca_file: Some(ca_file.clone()), ..HubConfig::new("cache") };
        assert!(matches!(Client::new(&config), Err(HubError::Io { .. })));
        std::fs::write(&ca_file, "not PEM").expect("written");
        assert!(matches!(Client::new(&config), Err(HubError::NoCertificates { path }) if path == ca_file));
        std::fs::write(&ca_file, "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n").expect("written");
        Client::new(&config).expect("one certificate, read when it is used");
    }

    #[test]
    fn shows_no_query() {
        let uri = "https://cdn.test:8/b?Signature=secret".parse().expect("a URI");
        assert_eq!(show(&uri), "https://cdn.test:8/b");
    }
}
