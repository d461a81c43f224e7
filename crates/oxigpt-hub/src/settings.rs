//! Where the hub and the cache are, who asks, and how patient we are. The environment variables are those of the
//! Python tools, and mean what they mean there.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;

use crate::error::{Error, Result};

const ENDPOINT: &str = "https://huggingface.co";

/// Where to download from and to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The hub's address, without a slash at its end.
    pub endpoint: String,
    /// The folder that holds `models--owner--name` and its like.
    pub cache: PathBuf,
    /// Who asks, for gated and private repositories.
    pub token: Option<Token>,
    /// Use what the cache has, ask nobody.
    pub offline: bool,
    /// Obey `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    pub use_proxy: bool,
    /// A server that sends nothing for so long has failed.
    pub stall: Duration,
    /// How often in a row something may fail before we give up; getting further starts the count anew.
    pub retries: u32,
    /// The pause after the first failure; each further one is twice as long.
    pub backoff: Duration,
    /// The longest pause; a server that asks for more has failed.
    pub longest_wait: Duration,
}

impl Settings {
    /// The public hub, nobody's token, a cache of one's own.
    pub fn new(cache: impl Into<PathBuf>) -> Settings {
        Settings {
            endpoint: ENDPOINT.into(),
            cache: cache.into(),
            token: None,
            offline: false,
            use_proxy: false,
            stall: Duration::from_secs(15),
            retries: 5,
            backoff: Duration::from_millis(500),
            longest_wait: Duration::from_secs(300),
        }
    }

    /// What the environment says: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `HF_TOKEN`, `HF_TOKEN_PATH`,
    /// `HF_HUB_OFFLINE`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HUB_DOWNLOAD_TIMEOUT` (seconds), and the proxies'.
    ///
    /// # Errors
    /// A token's file that is there cannot be read; a home directory is needed and unknown.
    pub fn from_env() -> Result<Settings> {
        let home = std::env::home_dir();
        Settings::from_vars(&|name| std::env::var(name).ok(), home.as_deref())
    }

    /// [`Settings::from_env`] with an environment of one's own.
    pub fn from_vars(var: &dyn Fn(&str) -> Option<String>, home: Option<&Path>) -> Result<Settings> {
        let var = |name: &str| var(name).filter(|value| !value.trim().is_empty());
        let path = |name: &str| var(name).map(|value| expand(&value, home));
        let is_set = |name: &str| {
            var(name).is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.to_uppercase().as_str()))
        };
        let hf_home = path("HF_HOME")
            .or_else(|| Some(path("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(home?.join(".cache/huggingface")));
        let below_home = |name: &str| hf_home.as_ref().map(|home| home.join(name)).ok_or(Error::NoHome);

        let cache = match path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")) {
            Some(cache) => cache,
            None => below_home("hub")?,
        };
        let token = match var("HF_TOKEN").or_else(|| var("HUGGING_FACE_HUB_TOKEN")) {
            _ if is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN") => None,
            Some(token) => Some(Token::new(&token)),
            None => match path("HF_TOKEN_PATH").or_else(|| below_home("token").ok()) {
                Some(path) => Token::read(&path)?,
                None => None,
            },
        };
        let mut settings = Settings::new(cache);
        settings.token = token;
        settings.offline = is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE");
        settings.use_proxy = true;
        if let Some(endpoint) = var("HF_ENDPOINT") {
            settings.endpoint = endpoint.trim().trim_end_matches('/').into();
        }
        if let Some(seconds) = var("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|v| v.trim().parse().ok()) {
            settings.stall = Duration::from_secs(u64::max(seconds, 1));
        }
        Ok(settings)
    }
}

/// `~` at the start of a path is the home directory.
fn expand(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home.into(),
        (Some(rest), Some(home)) if rest.starts_with('/') => home.join(&rest[1..]),
        _ => path.into(),
    }
}

/// What says who asks. It shows itself to nobody but the hub.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// White space around it is dropped.
    pub fn new(token: &str) -> Token {
        Token(token.trim().into())
    }

    /// The token in a file; `None` if there is no file or nothing in it.
    fn read(path: &Path) -> Result<Option<Token>> {
        match fs::read_to_string(path) {
            Ok(token) if token.trim().is_empty() => Ok(None),
            Ok(token) => Ok(Some(Token::new(&token))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it can be sent at all.
    pub(crate) fn is_sendable(&self) -> bool {
        !self.0.is_empty() && self.0.bytes().all(|b| b.is_ascii_graphic())
    }

    /// The value of the header `Authorization`.
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(vars: &[(&str, &str)]) -> Settings {
        let var = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, v)| v.to_string());
        Settings::from_vars(&var, Some(Path::new("/home/ann"))).unwrap()
    }

    #[test]
    fn the_environment_means_what_it_means_to_python() {
        let plain = settings(&[]);
        assert_eq!(plain.cache, Path::new("/home/ann/.cache/huggingface/hub"));
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert!(plain.token.is_none() && !plain.offline && plain.use_proxy);

        assert_eq!(settings(&[("HF_HOME", "/hf")]).cache, Path::new("/hf/hub"));
        assert_eq!(settings(&[("HF_HOME", "~/hf")]).cache, Path::new("/home/ann/hf/hub"));
        assert_eq!(settings(&[("XDG_CACHE_HOME", "/c")]).cache, Path::new("/c/huggingface/hub"));
        assert_eq!(settings(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/x")]).cache, Path::new("/x"));
        assert_eq!(settings(&[("HF_ENDPOINT", "https://mirror/ ")]).endpoint, "https://mirror");
        assert_eq!(settings(&[("HF_HUB_DOWNLOAD_TIMEOUT", "7")]).stall, Duration::from_secs(7));
        for on in ["1", "true", "ON", "yes"] {
            assert!(settings(&[("HF_HUB_OFFLINE", on)]).offline);
        }
        for off in ["0", "false", ""] {
            assert!(!settings(&[("HF_HUB_OFFLINE", off)]).offline);
        }
    }

    #[test]
    fn the_token_is_found_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        let token = |vars: &[(&str, &str)]| settings(vars).token;
        assert_eq!(token(&[("HF_HOME", home)]), None);
        fs::write(dir.path().join("token"), "hf_filed\n").unwrap();
        assert_eq!(token(&[("HF_HOME", home)]), Some(Token::new("hf_filed")));
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", " hf_given ")]), Some(Token::new("hf_given")));
        let path = dir.path().join("other");
        fs::write(&path, "hf_other").unwrap();
        assert_eq!(token(&[("HF_TOKEN_PATH", path.to_str().unwrap())]), Some(Token::new("hf_other")));
        assert_eq!(token(&[("HF_TOKEN", "hf_x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);

        let shown = format!("{:?}", settings(&[("HF_TOKEN", "hf_secret")]));
        assert!(!shown.contains("secret"), "{shown}");
        assert!(!Token::new("hf_a\nb").is_sendable() && !Token::new("").is_sendable());
    }

    #[test]
    fn without_a_home_the_cache_must_be_named() {
        let error = Settings::from_vars(&|_| None, None).unwrap_err();
        assert!(error.hint().unwrap().contains("HF_HOME"));
        let cache = |name: &str| (name == "HF_HUB_CACHE").then(|| "/x".to_string());
        assert_eq!(Settings::from_vars(&cache, None).unwrap().cache, Path::new("/x"));
    }
}
