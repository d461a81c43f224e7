//! Everything that can go wrong with a download: what was asked for, what came instead, and what to do about it.
//! Addresses are shown without their query, and a token never is.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::repo::RepoId;

/// What the functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error about a download, the cache, or the name of what was to be downloaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused; the message names the path.
    #[error(transparent)]
    Io(#[from] io::Error),

    /// The hub gives no such names to repositories.
    #[error("`{id}` is not the name of a repository: {problem}")]
    InvalidId {
        /// What was given.
        id: String,
        /// Why not.
        problem: &'static str,
    },
    /// A revision that cannot be one.
    #[error("`{revision}` is not the name of a revision")]
    InvalidRevision {
        /// What was given.
        revision: String,
    },
    /// The name of a file could lead out of the cache.
    #[error("{repo} has a file named {file:?}, which is not a path below its folder")]
    UnsafeFileName {
        /// The repository.
        repo: RepoId,
        /// The name.
        file: String,
    },
    /// Not an address of the web.
    #[error("`{url}` is not an address that begins with http:// or https://")]
    InvalidUrl {
        /// What was given.
        url: String,
    },
    /// The token has characters that no token has.
    #[error("the Hugging Face token holds characters that cannot be sent")]
    InvalidToken,
    /// There is no home directory to keep the cache in.
    #[error("there is no home directory, so the place of the Hugging Face cache is unknown")]
    NoHome,

    /// There is no such repository, or it is hidden.
    #[error("the hub has no {repo}, or does not show it")]
    NoSuchRepo {
        /// The repository.
        repo: RepoId,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{repo} has no revision `{revision}`")]
    NoSuchRevision {
        /// The repository.
        repo: RepoId,
        /// The revision.
        revision: String,
    },
    /// The repository has no such file.
    #[error("{repo} has no file `{file}` at revision `{revision}`")]
    NoSuchFile {
        /// The repository.
        repo: RepoId,
        /// The revision.
        revision: String,
        /// The file.
        file: String,
    },
    /// No file of the repository was wanted.
    #[error("{repo} at revision `{revision}` has none of the files that are needed")]
    NothingWanted {
        /// The repository.
        repo: RepoId,
        /// The revision.
        revision: String,
    },
    /// The repository's owner wants to know who asks.
    #[error("{repo} is only for those whom its owner lets in")]
    Gated {
        /// The repository.
        repo: RepoId,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The server wants to know who asks, or does not like who does.
    #[error("{url} is not for everybody (status {status})")]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        with_token: bool,
    },

    /// We were told to be offline, and the cache does not have it.
    #[error("{what} is not in the cache {cache}, and HF_HUB_OFFLINE forbids to download it")]
    NotCached {
        /// The repository and, if one was asked for, the file.
        what: String,
        /// The cache.
        cache: PathBuf,
    },
    /// We were told to be offline.
    #[error("HF_HUB_OFFLINE forbids to download {url}")]
    Offline {
        /// What was to be downloaded.
        url: String,
    },
    /// The server was not reached, or the connection broke.
    #[error("{url}: {problem}")]
    Network {
        /// What was asked for.
        url: String,
        /// What happened.
        problem: String,
    },
    /// The server cannot prove that it is who it should be.
    #[error("{url}: no trusted connection: {problem}")]
    Tls {
        /// What was asked for.
        url: String,
        /// What happened.
        problem: String,
    },
    /// The server answered with an error.
    #[error("{url}: the server answered with status {status}{}", in_brackets(message))]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
        /// What the server says about it; may be empty.
        message: String,
        /// How long to wait, if it says so.
        retry_after: Option<Duration>,
    },
    /// Redirects without end.
    #[error("{url}: more than {limit} redirects")]
    TooManyRedirects {
        /// What was asked for.
        url: String,
        /// How many are followed.
        limit: usize,
    },
    /// A redirect that cannot be followed.
    #[error("{url}: the server redirects to {problem}")]
    BadRedirect {
        /// What was asked for.
        url: String,
        /// Where to, and why not.
        problem: String,
    },
    /// The server does not talk like a hub.
    #[error("{url}: the answer is not a hub's: {problem}")]
    BadAnswer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Another number of bytes than was promised.
    #[error("{url}: the file should be {expected} bytes long, but the server sends {found}")]
    WrongLength {
        /// What was asked for.
        url: String,
        /// Bytes that were promised.
        expected: u64,
        /// Bytes that were offered or came, at least.
        found: u64,
    },
    /// The bytes are not those that were promised.
    #[error("{url}: the file's SHA-256 is {found}, expected {expected}; what was downloaded is deleted")]
    WrongChecksum {
        /// What was asked for.
        url: String,
        /// The checksum that was promised.
        expected: String,
        /// The checksum of what came.
        found: String,
    },
    /// The caller wanted to stop.
    #[error("the download of {file} was interrupted")]
    Interrupted {
        /// The file.
        file: String,
    },
}

impl Error {
    /// One sentence that says what to do about it.
    pub fn hint(&self) -> Option<String> {
        use Error as E;
        let hint = match self {
            E::Io(error) => return io_hint(error),
            E::InvalidId { .. } => "give the name as the hub shows it: `owner/name`, or `gpt2`",
            E::InvalidRevision { .. } => "give a branch such as `main`, a tag, or a commit's full hash",
            E::UnsafeFileName { .. } => "nothing of it was written; do not use this repository",
            E::InvalidUrl { .. } => "write addresses in full, HF_ENDPOINT too: `https://huggingface.co`",
            E::InvalidToken => "copy the token anew into HF_TOKEN; it looks like `hf_...`, in one line",
            E::NoHome => "set HF_HOME to the folder where downloads should be kept",
            E::NoSuchRepo { with_token: false, .. } => {
                "check the spelling; if it is private, set HF_TOKEN to a token that may read it"
            }
            E::NoSuchRepo { with_token: true, .. } => {
                "check the spelling; if it is private, check that the token in HF_TOKEN is valid and may read it"
            }
            E::NoSuchRevision { .. } => "use `main`, or look up its branches and tags on the hub",
            E::NoSuchFile { .. } => "look up the repository's files on the hub",
            E::NothingWanted { .. } => "check that it is the right repository; look at its files on the hub",
            E::Gated { with_token: false, .. } => {
                "accept its terms on the repository's page, then set HF_TOKEN to a token of your account"
            }
            E::Gated { with_token: true, .. } => {
                "accept its terms on the repository's page with the account that HF_TOKEN belongs to, or wait until you are let in"
            }
            E::Unauthorized { with_token: false, .. } => {
                "set HF_TOKEN to a token that may read it, from the settings of your Hugging Face account"
            }
            E::Unauthorized { with_token: true, .. } => {
                "the token in HF_TOKEN (or in the file `token` in HF_HOME) is wrong, expired, or may not read this; make a new one"
            }
            E::NotCached { .. } | E::Offline { .. } => {
                "unset HF_HUB_OFFLINE to download it, or point HF_HOME at the cache that has it"
            }
            E::Network { .. } => {
                "check the network; behind a proxy set HTTPS_PROXY, for a mirror HF_ENDPOINT; the same command goes on where it stopped"
            }
            E::Tls { .. } => {
                "if a proxy of your company signs connections, point SSL_CERT_FILE at its certificates (PEM); check the clock too"
            }
            E::Status { status: 429, .. } => {
                "wait some minutes; a token in HF_TOKEN raises the limit; the same command goes on where it stopped"
            }
            E::Status { status: 500.., .. } => "the server is in trouble; try the same command again later",
            E::Status { .. } => "check the address",
            E::TooManyRedirects { .. } | E::BadRedirect { .. } => {
                "check the address, HF_ENDPOINT, and whether the network wants you to log in first"
            }
            E::BadAnswer { .. } => {
                "check HF_ENDPOINT, and whether the network wants you to log in first; the hub itself is https://huggingface.co"
            }
            E::WrongLength { .. } | E::WrongChecksum { .. } => {
                "run the same command again; if it stays so, the server or a proxy in between changes the file"
            }
            E::Interrupted { .. } => "the same command goes on where it stopped",
        };
        Some(hint.to_string())
    }

    /// Whether it may pass by itself.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Error::Network { .. } => true,
            Error::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502..),
            _ => false,
        }
    }

    /// How long the server asks us to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

fn in_brackets(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

fn io_hint(error: &io::Error) -> Option<String> {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some disk space or point HF_HOME at another disk; the same command goes on where it stopped"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "check the permissions of the file and its directory, or point HF_HOME at one of your own"
        }
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "something else stands in its place: move that away"
        }
        _ => return None,
    };
    Some(hint.to_string())
}
