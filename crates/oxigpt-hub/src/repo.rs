//! The names of things on the hub, checked before they become part of a path or of an address: what a user typed and
//! what a server sent are trusted alike, not at all.

use std::fmt;

use crate::error::{Error, Result};

/// The longest name of a repository that the hub gives.
const MAX_ID: usize = 96;

/// What a repository on the hub holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

impl Kind {
    /// The plural by which both the hub's API and the cache call it.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        }
    }
}

/// The name of a repository on the hub: `owner/name`, or `name` alone for the old ones such as `gpt2`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RepoId {
    kind: Kind,
    name: String,
}

impl RepoId {
    /// A repository of either kind.
    ///
    /// # Errors
    /// [`Error::InvalidId`] if the hub gives no such names.
    pub fn new(kind: Kind, name: &str) -> Result<RepoId> {
        match id_problem(name) {
            None => Ok(RepoId { kind, name: name.into() }),
            Some(problem) => Err(Error::InvalidId { id: name.into(), problem }),
        }
    }

    /// A model, [`RepoId::new`].
    pub fn model(name: &str) -> Result<RepoId> {
        RepoId::new(Kind::Model, name)
    }

    /// A data set, [`RepoId::new`].
    pub fn dataset(name: &str) -> Result<RepoId> {
        RepoId::new(Kind::Dataset, name)
    }

    /// Model or data set.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// `owner/name`, or `name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of its folder in the cache.
    pub(crate) fn folder(&self) -> String {
        format!("{}--{}", self.kind.plural(), self.name.replace('/', "--"))
    }

    /// The path of its pages, below the hub's address.
    pub(crate) fn page(&self) -> String {
        match self.kind {
            Kind::Model => self.name.clone(),
            Kind::Dataset => format!("datasets/{}", self.name),
        }
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Model => "model",
            Kind::Dataset => "data set",
        };
        write!(f, "{kind} `{}`", self.name)
    }
}

fn id_problem(name: &str) -> Option<&'static str> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let is_ragged = |part: &str| part.starts_with(['-', '.']) || part.ends_with(['-', '.']);
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() > MAX_ID {
        Some("it is longer than 96 characters")
    } else if !name.chars().all(is_allowed) {
        Some("only letters, digits, `-`, `_`, `.` and one `/` are allowed")
    } else if name.matches('/').count() > 1 {
        Some("there is more than one `/`")
    } else if name.split('/').any(str::is_empty) {
        Some("there is nothing on one side of the `/`")
    } else if name.contains("..") || name.contains("--") {
        Some("`..` and `--` are not allowed")
    } else if name.split('/').any(is_ragged) {
        Some("a part begins or ends with `-` or `.`")
    } else {
        None
    }
}

/// Whether `name` is a relative path that stays below where it starts, on every system.
pub(crate) fn is_safe_path(name: &str) -> bool {
    let is_safe = |part: &str| !part.is_empty() && part != "." && part != "..";
    let is_harmless = |c: char| !c.is_control() && !matches!(c, '\\' | ':');
    name.len() <= 1024 && name.split('/').all(is_safe) && name.chars().all(is_harmless)
}

/// Whether `name` can be the name of a commit, and of its folder.
pub(crate) fn is_commit(name: &str) -> bool {
    name.len() == 40 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Refuses a revision that could not be part of a path.
pub(crate) fn check_revision(revision: &str) -> Result<()> {
    match is_safe_path(revision) {
        true => Ok(()),
        false => Err(Error::InvalidRevision { revision: revision.into() }),
    }
}

/// Refuses the name of a file that could lead out of the cache.
pub(crate) fn check_file(repo: &RepoId, file: &str) -> Result<()> {
    match is_safe_path(file) {
        true => Ok(()),
        false => Err(Error::UnsafeFileName { repo: repo.clone(), file: file.into() }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_of_the_hub_are_accepted() {
        for name in ["gpt2", "openai-community/gpt2-xl", "HuggingFaceFW/fineweb-edu", "a/b_c.d-1", "0/1"] {
            assert_eq!(RepoId::model(name).unwrap().name(), name);
        }
        let data = RepoId::dataset("HuggingFaceFW/fineweb-edu").unwrap();
        assert_eq!(data.folder(), "datasets--HuggingFaceFW--fineweb-edu");
        assert_eq!(data.page(), "datasets/HuggingFaceFW/fineweb-edu");
        let model = RepoId::model("gpt2").unwrap();
        assert_eq!((model.folder().as_str(), model.page().as_str()), ("models--gpt2", "gpt2"));
    }

    #[test]
    fn what_is_no_id_is_refused_with_the_reason() {
        let long = "x".repeat(97);
        for (name, problem) in [
            ("", "empty"),
            (long.as_str(), "longer than 96"),
            ("a b", "only letters"),
            ("gpt2?x=1", "only letters"),
            ("http://x", "only letters"),
            ("größe", "only letters"),
            ("a\\b", "only letters"),
            ("a/b/c", "more than one"),
            ("/etc", "nothing on one side"),
            ("a/", "nothing on one side"),
            ("a/..", "`..`"),
            ("..", "`..`"),
            ("a--b", "`--`"),
            ("./a", "begins or ends"),
            ("a/-b", "begins or ends"),
            ("a./b", "begins or ends"),
        ] {
            let error = RepoId::model(name).unwrap_err();
            assert!(error.to_string().contains(problem), "{name}: {error}");
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn unsafe_paths_are_seen() {
        for name in ["config.json", "a/b/c.bin", "data/train-00000-of-00001.parquet", "..a", "refs/pr/1"] {
            assert!(is_safe_path(name), "{name}");
        }
        for name in
            ["", "/x", "../x", "a/../../x", "a//b", "a/", ".", "a/./b", "C:\\x", "c:x", "a\0b", "a\nb"]
        {
            assert!(!is_safe_path(name), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn a_safe_path_stays_below(name in "[a./\\\\:]{0,12}") {
            use std::path::{Component, Path};
            if is_safe_path(&name) {
                let mut parts = Path::new(&name).components();
                prop_assert!(parts.all(|part| matches!(part, Component::Normal(_))));
                prop_assert!(Path::new("/base").join(&name).starts_with("/base"));
            }
        }
    }
}
