//! Requests over HTTP: redirects followed by hand, so that the token goes to the hub's own origin only; failures told
//! apart into those that may pass and those that will not; attempts repeated.

use std::time::Duration;

use ureq::http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, Proxy};

use crate::error::{Error, Result};
use crate::progress::Watch;
use crate::repo::RepoId;
use crate::settings::{Settings, Token};
use crate::url;

/// The largest list of files that is read.
const MAX_LIST: u64 = 64 << 20;

/// Who asks, and how patiently.
pub(crate) struct Client {
    agent: Agent,
    endpoint: Uri,
    token: Option<Token>,
    retries: u32,
    backoff: Duration,
    longest_wait: Duration,
}

/// What a request is for: what a refusal then means.
#[derive(Clone, Copy)]
pub(crate) enum What<'a> {
    /// Any address.
    Plain,
    /// A repository.
    Repo { repo: &'a RepoId, revision: &'a str },
    /// A file of one.
    File { repo: &'a RepoId, revision: &'a str, file: &'a str },
}

/// The last response of a chain of redirects.
pub(crate) struct Answer {
    /// Who gave it.
    pub(crate) uri: Uri,
    pub(crate) response: Response<Body>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header_of(self.response.headers(), name)
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }
}

pub(crate) fn header_of<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Result<Client> {
        let invalid = || Error::InvalidUrl { url: settings.endpoint.clone() };
        let endpoint = url::parse(&settings.endpoint).ok_or_else(invalid)?;
        if settings.token.as_ref().is_some_and(|token| !token.is_sendable()) {
            return Err(Error::InvalidToken);
        }
        Ok(Client {
            agent: agent(settings),
            endpoint,
            token: settings.token.clone(),
            retries: settings.retries,
            backoff: settings.backoff,
            longest_wait: settings.longest_wait,
        })
    }

    /// Sends a request and follows redirects, unless `stop`, which is shown each of them and whether it leads to
    /// another origin, says that it has seen enough.
    ///
    /// # Errors
    /// Whatever keeps an answer from coming; an answer of whatever status is none.
    pub(crate) fn send(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &[(&str, String)],
        stop: &mut dyn FnMut(&HeaderMap, bool) -> bool,
    ) -> Result<Answer> {
        let mut at = uri.clone();
        let mut is_home = true;
        for _ in 0..=url::MAX_REDIRECTS {
            // Whoever redirects away from home does not get to see the token, not even by a redirect back.
            is_home &= url::origin(&at) == url::origin(&self.endpoint);
            let response = self.ask(method, &at, headers, is_home)?;
            let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            let location = header_of(response.headers(), "location");
            let (true, Some(location)) = (is_redirect, location) else {
                return Ok(Answer { uri: at, response });
            };
            let next = follow(&at, location)?;
            if stop(response.headers(), url::origin(&next) != url::origin(&at)) {
                return Ok(Answer { uri: at, response });
            }
            at = next;
        }
        Err(Error::TooManyRedirects { url: url::shown(uri), limit: url::MAX_REDIRECTS })
    }

    fn ask(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &[(&str, String)],
        is_home: bool,
    ) -> Result<Response<Body>> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let (true, Some(token)) = (is_home, &self.token) {
            request = request.header(header::AUTHORIZATION, token.header());
        }
        let request = request.body(()).map_err(|_| Error::InvalidUrl { url: url::shown(uri) })?;
        self.agent.run(request).map_err(|error| failure(uri, error))
    }

    /// The answer's JSON, and the address of the next part if the list has one.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(
        &self,
        address: &str,
        what: What<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<(T, Option<String>)> {
        let uri = url::parse(address).ok_or_else(|| Error::InvalidUrl { url: address.into() })?;
        self.persist(watch, |_| {
            let mut answer = self.send(&Method::GET, &uri, &[], &mut |_, _| false)?;
            if answer.response.status() != StatusCode::OK {
                return Err(self.refusal(&answer, what));
            }
            let next =
                answer.header("link").and_then(next_page).and_then(|next| url::join(&answer.uri, next));
            let body = answer.response.body_mut().with_config().limit(MAX_LIST).read_to_vec();
            let body = body.map_err(|error| match error {
                ureq::Error::BodyExceedsLimit(_) => bad_answer(&uri, &"it is too long"),
                error => failure(&uri, error),
            })?;
            let value = serde_json::from_slice(&body).map_err(|error| bad_answer(&uri, &error))?;
            Ok((value, next.map(|next| next.to_string())))
        })
    }

    /// Repeats what fails for reasons that may pass, pausing longer each time, until it fails too often in a row
    /// without getting any further.
    pub(crate) fn persist<T>(
        &self,
        watch: &mut Watch<'_>,
        mut attempt: impl FnMut(&mut Watch<'_>) -> Result<T>,
    ) -> Result<T> {
        let retries = if watch.has_fallback { self.retries.min(1) } else { self.retries };
        let (mut failures, mut furthest) = (0, watch.done);
        loop {
            let error = match attempt(watch) {
                Err(error) if error.is_transient() => error,
                result => return result,
            };
            if watch.done > furthest {
                (failures, furthest) = (0, watch.done);
            }
            failures += 1;
            let backoff = self.backoff.saturating_mul(1 << (failures - 1).min(16)).min(self.longest_wait);
            let wait = error.retry_after().unwrap_or(backoff);
            if failures > retries || wait > self.longest_wait {
                return Err(error);
            }
            watch.pause(&error, failures, wait)?;
        }
    }

    /// What an answer that is not the one hoped for means.
    pub(crate) fn refusal(&self, answer: &Answer, what: What<'_>) -> Error {
        let status = answer.response.status().as_u16();
        let code = answer.header("x-error-code").unwrap_or_default();
        let is_home = url::origin(&answer.uri) == url::origin(&self.endpoint);
        let with_token = self.token.is_some();
        let no_file = |repo: &RepoId, revision: &str, file: &str| Error::NoSuchFile {
            repo: repo.clone(),
            revision: revision.into(),
            file: file.into(),
        };
        match (what, status, code) {
            // What the places say to which the hub sends us is not about repositories or tokens.
            _ if !is_home => status_error(answer),
            (What::Repo { repo, .. } | What::File { repo, .. }, _, "GatedRepo") => {
                Error::Gated { repo: repo.clone(), with_token }
            }
            (What::Repo { repo, revision } | What::File { repo, revision, .. }, _, "RevisionNotFound") => {
                Error::NoSuchRevision { repo: repo.clone(), revision: revision.into() }
            }
            (What::Repo { repo, .. } | What::File { repo, .. }, _, "RepoNotFound") => {
                Error::NoSuchRepo { repo: repo.clone(), with_token }
            }
            // Without a token, the hub does not tell whether there is such a repository.
            (What::Repo { repo, .. }, 401, _) if !with_token => {
                Error::NoSuchRepo { repo: repo.clone(), with_token }
            }
            (What::File { repo, revision, file }, 404, _) => no_file(repo, revision, file),
            (What::Repo { repo, .. }, 404, _) => Error::NoSuchRepo { repo: repo.clone(), with_token },
            (_, 401 | 403, _) => Error::Unauthorized { url: url::shown(&answer.uri), status, with_token },
            _ => status_error(answer),
        }
    }
}

fn agent(settings: &Settings) -> Agent {
    let native = rustls_native_certs::load_native_certs().certs;
    // What the machine trusts, a company's own included; on one that has no certificates at all, what Mozilla trusts.
    let roots = match native.is_empty() {
        true => RootCerts::WebPki,
        false => RootCerts::from(native.iter().map(|der| Certificate::from_der(der).to_owned())),
    };
    let stall = Some(settings.stall);
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .proxy(if settings.use_proxy { Proxy::try_from_env() } else { None })
        .timeout_resolve(stall)
        .timeout_connect(stall)
        .timeout_per_read(stall)
        .timeout_per_write(stall)
        .user_agent(concat!("oxigpt/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

fn follow(from: &Uri, location: &str) -> Result<Uri> {
    let bad = |problem: String| Error::BadRedirect { url: url::shown(from), problem };
    let next = url::join(from, location).ok_or_else(|| bad("something that is not an address".into()))?;
    match (from.scheme_str(), next.scheme_str()) {
        (Some("https"), Some("http")) => Err(bad(format!("{}, which is not encrypted", url::shown(&next)))),
        _ => Ok(next),
    }
}

/// The address in `<address>; rel="next"`.
fn next_page(link: &str) -> Option<&str> {
    let is_next = |part: &&str| part.contains("rel=\"next\"") || part.contains("rel=next");
    let part = link.split(",").find(is_next)?;
    part.split_once('<')?.1.split_once('>').map(|(address, _)| address)
}

pub(crate) fn bad_answer(uri: &Uri, problem: &dyn std::fmt::Display) -> Error {
    Error::BadAnswer { url: url::shown(uri), problem: problem.to_string() }
}

/// What kept an answer from coming.
pub(crate) fn failure(uri: &Uri, error: ureq::Error) -> Error {
    use ureq::Error as U;
    let url = url::shown(uri);
    match error {
        U::Tls(_) | U::Rustls(_) | U::Pem(_) => Error::Tls { url, problem: error.to_string() },
        // This is how the operating system's errors carry those of a handshake.
        U::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Error::Tls { url, problem: error.to_string() }
        }
        U::Io(error) => Error::Network { url, problem: error.to_string() },
        U::HostNotFound => Error::Network { url, problem: "there is no such host".into() },
        U::Timeout(_) => Error::Network { url, problem: "the server does not answer any more".into() },
        error => Error::Network { url, problem: error.to_string() },
    }
}

fn status_error(answer: &Answer) -> Error {
    let message = answer.header("x-error-message").unwrap_or_default();
    Error::Status {
        url: url::shown(&answer.uri),
        status: answer.response.status().as_u16(),
        message: message.chars().filter(|c| !c.is_control()).take(200).collect(),
        retry_after: retry_after(answer),
    }
}

/// How long the server asks us to wait: `Retry-After: 5`, or the hub's `RateLimit: "api";r=0;t=5`. Dates are not
/// read; without a number, we choose.
fn retry_after(answer: &Answer) -> Option<Duration> {
    let reset = || {
        let limit = answer.header("ratelimit").filter(|_| answer.response.status() == 429)?;
        limit.split(';').find_map(|part| part.trim().strip_prefix("t=")?.parse().ok())
    };
    answer.number("retry-after").or_else(reset).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found() {
        let link = "<https://hub/a?cursor=x>; rel=\"next\", <https://hub/a>; rel=\"first\"";
        assert_eq!(next_page(link), Some("https://hub/a?cursor=x"));
        assert_eq!(next_page("<https://hub/a>; rel=\"prev\""), None);
        assert_eq!(next_page("nonsense"), None);
    }

    #[test]
    fn a_redirect_does_not_lead_out_of_encryption() {
        let from = url::parse("https://hub.co/a").unwrap();
        let error = follow(&from, "http://hub.co/a?secret").unwrap_err().to_string();
        assert!(error.contains("http://hub.co/a, which is not encrypted"), "{error}");
        assert!(follow(&url::parse("http://hub.co/a").unwrap(), "https://hub.co/a").is_ok());
    }
}
