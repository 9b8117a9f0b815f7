//! Where the hub and its cache are, and how patient to be. Reads the variables that Python's huggingface_hub
//! reads, so that both use the same cache and the same login; it does not log in, and stores nothing.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The hub that is asked when nothing else is set.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// The branch that is meant when no revision is given.
pub const DEFAULT_REVISION: &str = "main";

/// An access token. Its text appears in no `Debug` output, no error, and no request to another host than the hub.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token of this text, without the line ends that copying leaves; `None` where nothing remains, or
    /// where it holds characters that no HTTP header may hold.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())).then(|| Self(text.to_owned()))
    }

    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Where models are looked for, and how.
///
/// ```
/// use fornax_hub::HubConfig;
///
/// let config = HubConfig { offline: true, ..HubConfig::from_env() };
/// assert!(config.offline && config.endpoint.starts_with("http"));
/// ```
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// The cache: `models--org--name` folders, as Python's huggingface_hub lays them out.
    pub cache_dir: PathBuf,
    /// The hub's address, `https://huggingface.co` or a mirror's.
    pub endpoint: String,
    /// Sent to the endpoint's own host, never to where it redirects.
    pub token: Option<Token>,
    /// A PEM file of the certificates to trust, in place of the built-in ones of the public web: for networks
    /// whose proxy signs for every host.
    pub ca_file: Option<PathBuf>,
    /// Use the cache alone, and make no request.
    pub offline: bool,
    /// The branch, tag or commit that is meant where a model's name has no `@revision`.
    pub revision: String,
    /// How often a failed request is made again before giving up; bytes that come reset the count.
    pub retries: u32,
    /// The pause before the first repetition; it doubles each time, up to 30 s.
    pub backoff: Duration,
    /// The longest silence of a server before the connection counts as lost.
    pub timeout: Duration,
    /// How many files are fetched at the same time.
    pub parallel: usize,
}

impl HubConfig {
    /// The configuration for a cache, with everything else at its default and nothing read from the environment.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            endpoint: DEFAULT_ENDPOINT.into(),
            token: None,
            ca_file: None,
            offline: false,
            revision: DEFAULT_REVISION.into(),
            retries: 3,
            backoff: Duration::from_millis(500),
            timeout: Duration::from_secs(30),
            parallel: 4,
        }
    }

    /// The configuration that the environment describes.
    ///
    /// The cache is `$HF_HUB_CACHE`, or `$HUGGINGFACE_HUB_CACHE`, or `$HF_HOME/hub`, or
    /// `$XDG_CACHE_HOME/huggingface/hub`, or `~/.cache/huggingface/hub`; the endpoint `$HF_ENDPOINT`; the token
    /// `$HF_TOKEN`, or the file `$HF_TOKEN_PATH`, or `$HF_HOME/token` (none where `$HF_HUB_DISABLE_IMPLICIT_TOKEN`
    /// is set); the certificates `$SSL_CERT_FILE` or `$REQUESTS_CA_BUNDLE`; offline where `$HF_HUB_OFFLINE` or `$TRANSFORMERS_OFFLINE` is `1`, `true`, `yes` or `on`.
    pub fn from_env() -> Self {
        Self::from_lookup(&|name| std::env::var(name).ok(), std::env::home_dir())
    }

    fn from_lookup(lookup: &dyn Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Self {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let truthy =
            |name: &str| set(name).is_some_and(|v| ["1", "true", "yes", "on"].contains(&v.to_lowercase().as_str()));
        // A user without a home folder still has a place for temporary files.
        let home = home.unwrap_or_else(std::env::temp_dir);
        let path = |text: String| match text.strip_prefix("~/") {
            Some(rest) => home.join(rest),
            None => PathBuf::from(text),
        };

        let hf_home = set("HF_HOME").map(&path).unwrap_or_else(|| {
            set("XDG_CACHE_HOME").map(&path).unwrap_or_else(|| home.join(".cache")).join("huggingface")
        });
        let cache_dir =
            set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")).map_or_else(|| hf_home.join("hub"), &path);
        let token = if truthy("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else {
            set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")).and_then(|text| Token::new(&text)).or_else(|| {
                let file = set("HF_TOKEN_PATH").map_or_else(|| hf_home.join("token"), &path);
                Token::new(&std::fs::read_to_string(file).ok()?)
            })
        };
        Self {
            endpoint: set("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.into()),
            token,
            ca_file: set("SSL_CERT_FILE").or_else(|| set("REQUESTS_CA_BUNDLE")).map(&path),
            offline: truthy("HF_HUB_OFFLINE") || truthy("TRANSFORMERS_OFFLINE"),
            ..Self::new(cache_dir)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> HubConfig {
        let lookup = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        HubConfig::from_lookup(&lookup, Some(PathBuf::from("/home/ada")))
    }

    #[test]
    fn cache_dir_follows_the_order_of_the_variables() {
        assert_eq!(config(&[]).cache_dir, PathBuf::from("/home/ada/.cache/huggingface/hub"));
        assert_eq!(config(&[("XDG_CACHE_HOME", "/x")]).cache_dir, PathBuf::from("/x/huggingface/hub"));
        let home = [("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/hf")];
        assert_eq!(config(&home).cache_dir, PathBuf::from("/home/ada/hf/hub"));
        let cache = [("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")];
        assert_eq!(config(&cache).cache_dir, PathBuf::from("/c"));
        assert_eq!(config(&[("HF_HUB_CACHE", "")]).cache_dir, config(&[]).cache_dir);
    }

    #[test]
    fn token_comes_from_the_variable_then_the_file_and_is_never_shown() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("token"), "hf_file\n").expect("written");
        let home = folder.path().to_str().expect("a UTF-8 path");
        assert_eq!(config(&[("HF_HOME", home)]).token, Token::new("hf_file"));
        assert_eq!(config(&[("HF_HOME", home), ("HF_TOKEN", "hf_env")]).token, Token::new("hf_env"));
        assert_eq!(config(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token, None);
        assert!(!format!("{:?}", config(&[("HF_TOKEN", "hf_secret")])).contains("secret"));
        assert_eq!(Token::new("two\nlines"), None);
    }

    #[test]
    fn offline_and_endpoint() {
        assert!(!config(&[("HF_HUB_OFFLINE", "0")]).offline);
        assert!(config(&[("HF_HUB_OFFLINE", "TRUE")]).offline);
        assert!(config(&[("TRANSFORMERS_OFFLINE", "1")]).offline);
        assert_eq!(config(&[]).endpoint, DEFAULT_ENDPOINT);
        assert_eq!(config(&[("HF_ENDPOINT", "http://127.0.0.1:8")]).endpoint, "http://127.0.0.1:8");
    }
}
