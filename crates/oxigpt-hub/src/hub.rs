//! What callers see: lists, files and snapshots of the hub's repositories, and plain downloads. Each asks the hub for
//! what is where, compares with the cache, and has the missing files transferred.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Deserialize;
use ureq::http::{HeaderMap, Method, Uri};

use crate::cache::{Lock, RepoCache};
use crate::client::{Client, What, bad_answer, header_of};
use crate::error::{Error, Result};
use crate::progress::{OnProgress, Progress, Watch};
use crate::repo::{RepoId, check_file, check_revision, is_commit};
use crate::settings::Settings;
use crate::transfer::{Source, sha256_of_file, sha256_of_text, transfer};
use crate::url;

/// The most files that a list may have; no repository comes near it.
const MAX_FILES: usize = 1_000_000;

/// The hub, and the cache of what came from it.
pub struct Hub {
    settings: Settings,
    client: Client,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its path in the repository.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256 in hexadecimal, which the hub knows of large files.
    pub sha256: Option<String>,
}

/// What the hub says about a revision; there is more, which is passed over.
#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// An entry of a list of files.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Hub {
    /// # Errors
    /// The endpoint is no address, or the token cannot be sent.
    pub fn new(settings: Settings) -> Result<Hub> {
        let client = Client::new(&settings)?;
        Ok(Hub { settings, client })
    }

    /// The hub as the environment sets it, [`Settings::from_env`].
    ///
    /// # Errors
    /// Those of [`Settings::from_env`] and [`Hub::new`].
    pub fn from_env() -> Result<Hub> {
        Hub::new(Settings::from_env()?)
    }

    /// The settings that it works with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The files of a repository at `revision` (`main`, a branch, a tag, a commit), or those `under` one of its
    /// folders, by path. Offline, those that the cache has.
    ///
    /// # Errors
    /// No such repository, revision or folder; no right to see it; no network.
    pub fn list(&self, repo: &RepoId, revision: &str, under: Option<&str>) -> Result<Vec<RemoteFile>> {
        check_revision(revision)?;
        let under = under.map(|folder| folder.trim_end_matches('/'));
        under.map_or(Ok(()), |folder| check_file(repo, folder))?;
        if self.settings.offline {
            return self.list_cached(repo, revision, under);
        }
        let mut silent = |_: &Progress<'_>| ControlFlow::Continue(());
        let mut watch = Watch::new(&mut silent, repo.name(), 0);
        let (mut files, mut seen) = (Vec::new(), 0);
        let mut next = Some(self.tree_address(repo, revision, under));
        let what = match under {
            Some(file) => What::File { repo, revision, file },
            None => What::Repo { repo, revision },
        };
        while let Some(address) = next {
            let (page, after): (Vec<Entry>, _) = self.client.json(&address, what, &mut watch)?;
            seen += page.len();
            if seen > MAX_FILES || (page.is_empty() && after.is_some()) {
                return Err(Error::BadAnswer {
                    url: address,
                    problem: "the list of files has no end".into(),
                });
            }
            for entry in page.into_iter().filter(|entry| entry.kind == "file") {
                check_file(repo, &entry.path)?;
                let size = entry.lfs.as_ref().map_or(entry.size, |lfs| lfs.size);
                files.push(RemoteFile { path: entry.path, size, sha256: entry.lfs.map(|lfs| lfs.oid) });
            }
            next = after;
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    fn tree_address(&self, repo: &RepoId, revision: &str, under: Option<&str>) -> String {
        let revision = url::encode(revision, false);
        let folder = under.map_or(String::new(), |folder| format!("/{}", url::encode(folder, true)));
        let path = format!("api/{}/{}/tree/{revision}{folder}", repo.kind().plural(), repo.name());
        self.address(&path) + "?recursive=true"
    }

    fn list_cached(&self, repo: &RepoId, revision: &str, under: Option<&str>) -> Result<Vec<RemoteFile>> {
        let cache = self.cache(repo);
        let commit = cache.commit(revision).ok_or_else(|| self.not_cached(repo, None))?;
        let prefix = under.map_or(String::new(), |folder| format!("{folder}/"));
        let files = cache.files(&commit).into_iter().filter(|path| path.starts_with(&prefix));
        let with_size = |path: String| {
            let size = fs::metadata(cache.snapshot(&commit).join(&path)).map_or(0, |file| file.len());
            RemoteFile { path, size, sha256: None }
        };
        let files: Vec<RemoteFile> = files.map(with_size).collect();
        if files.is_empty() { Err(self.not_cached(repo, under)) } else { Ok(files) }
    }

    /// The folder with the `wanted` files of a repository, by their paths in it; what the cache lacks is downloaded.
    /// Offline, or when the hub cannot be reached, what the cache has of them is what there is.
    ///
    /// # Errors
    /// No such repository or revision, or none of its files is wanted; no right to read it; no network and nothing
    /// in the cache; a download that fails again and again, or whose content is not what was promised.
    pub fn snapshot(
        &self,
        repo: &RepoId,
        revision: &str,
        wanted: &dyn Fn(&str) -> bool,
        on_progress: OnProgress<'_>,
    ) -> Result<PathBuf> {
        check_revision(revision)?;
        let cache = self.cache(repo);
        let cached = || {
            let commit = cache.commit(revision)?;
            cache.files(&commit).iter().any(|file| wanted(file)).then(|| cache.snapshot(&commit))
        };
        if self.settings.offline {
            return cached().ok_or_else(|| self.not_cached(repo, None));
        }
        let mut watch = Watch::new(on_progress, repo.name(), 0);
        watch.has_fallback = cached().is_some();
        let info = match self.info(repo, revision, &mut watch) {
            Err(error) if error.is_transient() => return cached().ok_or(error),
            info => info?,
        };
        watch.has_fallback = false;
        let files: Vec<String> =
            info.siblings.into_iter().map(|sibling| sibling.rfilename).filter(|file| wanted(file)).collect();
        if files.is_empty() {
            return Err(Error::NothingWanted { repo: repo.clone(), revision: revision.into() });
        }
        files.iter().try_for_each(|file| check_file(repo, file))?;
        let missing: Vec<&String> =
            files.iter().filter(|file| cache.file(&info.sha, file).is_none()).collect();
        watch.files = missing.len();
        for (index, file) in missing.into_iter().enumerate() {
            watch.turn_to(file, index);
            let (uri, meta) = self.head_file(repo, &info.sha, file, &mut watch)?;
            self.place(repo, &info.sha, file, &uri, &meta, &mut watch)?;
        }
        // Last of all: what is found by the name of its branch is whole.
        note_commit(&cache, revision, &info.sha)?;
        Ok(cache.snapshot(&info.sha))
    }

    /// One file of a repository; it is downloaded if the cache lacks it. Offline, or when the hub cannot be reached,
    /// the one in the cache.
    ///
    /// # Errors
    /// Those of [`Hub::snapshot`]; no such file.
    pub fn file(
        &self,
        repo: &RepoId,
        revision: &str,
        file: &str,
        on_progress: OnProgress<'_>,
    ) -> Result<PathBuf> {
        check_revision(revision)?;
        check_file(repo, file)?;
        let cache = self.cache(repo);
        let cached = || cache.file(&cache.commit(revision)?, file);
        if self.settings.offline {
            return cached().ok_or_else(|| self.not_cached(repo, Some(file)));
        }
        // A commit never changes.
        if let Some(path) = cached().filter(|_| is_commit(revision)) {
            return Ok(path);
        }
        let mut watch = Watch::new(on_progress, file, 1);
        watch.has_fallback = cached().is_some();
        let (uri, meta) = match self.head_file(repo, revision, file, &mut watch) {
            Err(error) if error.is_transient() => return cached().ok_or(error),
            meta => meta?,
        };
        watch.has_fallback = false;
        let commit = meta.commit.as_ref().ok_or_else(|| bad_answer(&uri, &"it names no commit"))?;
        let path = match cache.file(commit, file) {
            Some(path) => path,
            None => self.place(repo, commit, file, &uri, &meta, &mut watch)?,
        };
        note_commit(&cache, revision, commit)?;
        Ok(path)
    }

    /// Downloads any file of the web `to` a place of the caller's choice. If a file with that checksum is there,
    /// nothing is asked; any other is replaced once the new one is whole.
    ///
    /// # Errors
    /// No such file, no network, a download that fails again and again, another checksum than `sha256`.
    pub fn download(
        &self,
        address: &str,
        to: &Path,
        sha256: Option<&str>,
        on_progress: OnProgress<'_>,
    ) -> Result<()> {
        let uri = url::parse(address).ok_or_else(|| Error::InvalidUrl { url: address.into() })?;
        let sha256 = sha256.map(str::to_lowercase);
        let is_there = || match &sha256 {
            Some(expected) => Ok(to.is_file() && sha256_of_file(to)? == *expected),
            None => Ok::<_, Error>(self.settings.offline && to.is_file()),
        };
        if is_there()? {
            return Ok(());
        }
        if self.settings.offline {
            return Err(Error::Offline { url: url::shown(&uri) });
        }
        let name = to.file_name().and_then(|name| name.to_str()).unwrap_or("download").to_string();
        let mut watch = Watch::new(on_progress, &name, 1);
        let place = std::path::absolute(to)?;
        let lock = format!("{}.lock", sha256_of_text(&place.to_string_lossy()));
        let _lock = Lock::acquire(&self.settings.cache.join(".locks/downloads").join(lock), &mut watch)?;
        if is_there()? {
            return Ok(());
        }
        // Not every server answers such a question; the download itself then tells what is wrong.
        let meta = match self.head(&uri, What::Plain, &mut watch) {
            Err(Error::Status { .. } | Error::Unauthorized { .. }) => Meta::default(),
            meta => meta?,
        };
        let content = sha256.clone().or_else(|| meta.validator.as_deref().map(sha256_of_text));
        let content = content.map_or("new".into(), |content| content.chars().take(16).collect::<String>());
        let partial = place.with_file_name(format!(".{name}.{content}.incomplete"));
        let source = Source { uri, what: What::Plain, size: meta.size, sha256, validator: meta.validator };
        transfer(&self.client, &source, &partial, &place, &mut watch)
    }

    /// Brings one file of a commit into the cache.
    fn place(
        &self,
        repo: &RepoId,
        commit: &str,
        file: &str,
        uri: &Uri,
        meta: &Meta,
        watch: &mut Watch<'_>,
    ) -> Result<PathBuf> {
        let cache = self.cache(repo);
        let tag = meta.tag.as_ref().ok_or_else(|| bad_answer(uri, &"it has no ETag"))?;
        let blob = cache.blob(tag);
        let _lock = Lock::acquire(&cache.blob_lock(tag), watch)?;
        let is_here = fs::metadata(&blob)
            .is_ok_and(|found| found.is_file() && meta.size.is_none_or(|size| size == found.len()));
        if !is_here {
            let source = Source {
                uri: uri.clone(),
                what: What::File { repo, revision: commit, file },
                size: meta.size,
                sha256: meta.sha256.clone(),
                validator: meta.validator.clone(),
            };
            transfer(&self.client, &source, &cache.blob(&format!("{tag}.incomplete")), &blob, watch)?;
        }
        cache.link(commit, file, tag)
    }

    /// Which commit a revision is, and the names of its files.
    fn info(&self, repo: &RepoId, revision: &str, watch: &mut Watch<'_>) -> Result<Info> {
        let kind = repo.kind().plural();
        let path = format!("api/{kind}/{}/revision/{}", repo.name(), url::encode(revision, false));
        let address = self.address(&path);
        let (info, _): (Info, _) = self.client.json(&address, What::Repo { repo, revision }, watch)?;
        match is_commit(&info.sha) {
            true => Ok(info),
            false => Err(Error::BadAnswer { url: address, problem: "it names no commit".into() }),
        }
    }

    /// The address of a file, and what the hub says about it.
    fn head_file(
        &self,
        repo: &RepoId,
        revision: &str,
        file: &str,
        watch: &mut Watch<'_>,
    ) -> Result<(Uri, Meta)> {
        let [encoded_revision, encoded_file] = [url::encode(revision, false), url::encode(file, true)];
        let address = self.address(&format!("{}/resolve/{encoded_revision}/{encoded_file}", repo.page()));
        let uri = url::parse(&address).ok_or(Error::InvalidUrl { url: address })?;
        let meta = self.head(&uri, What::File { repo, revision, file }, watch)?;
        Ok((uri, meta))
    }

    /// What a server says about a file before it sends it.
    fn head(&self, uri: &Uri, what: What<'_>, watch: &mut Watch<'_>) -> Result<Meta> {
        self.client.persist(watch, |_| {
            let mut meta = Meta::default();
            let identity = [("accept-encoding", "identity".to_string())];
            // The place to which the hub sends us for a large file has other tags for it; the hub's own are enough.
            let mut stop = |headers: &HeaderMap, is_leaving: bool| {
                meta.see_links(headers);
                is_leaving && meta.tag.is_some()
            };
            let answer = self.client.send(&Method::HEAD, uri, &identity, &mut stop)?;
            let status = answer.response.status();
            if status.is_success() {
                let is_same_origin = url::origin(&answer.uri) == url::origin(uri);
                meta.see_file(answer.response.headers(), is_same_origin);
            } else if !status.is_redirection() {
                return Err(self.client.refusal(&answer, what));
            }
            Ok(meta)
        })
    }

    fn cache(&self, repo: &RepoId) -> RepoCache {
        RepoCache::new(&self.settings.cache, repo)
    }

    fn address(&self, path: &str) -> String {
        format!("{}/{path}", self.settings.endpoint)
    }

    fn not_cached(&self, repo: &RepoId, file: Option<&str>) -> Error {
        let what = file.map_or_else(|| repo.to_string(), |file| format!("`{file}` of {repo}"));
        Error::NotCached { what, cache: self.settings.cache.clone() }
    }
}

fn note_commit(cache: &RepoCache, revision: &str, commit: &str) -> Result<()> {
    if is_commit(revision) { Ok(()) } else { cache.set_commit(revision, commit) }
}

/// What a server says about a file.
#[derive(Default)]
struct Meta {
    /// The commit that the asked-for revision is.
    commit: Option<String>,
    /// The name of its content, fit for a file's name.
    tag: Option<String>,
    size: Option<u64>,
    sha256: Option<String>,
    /// For `If-Range`.
    validator: Option<String>,
}

impl Meta {
    /// Takes what the hub says while it sends us elsewhere.
    fn see_links(&mut self, headers: &HeaderMap) {
        let commit = header_of(headers, "x-repo-commit").filter(|commit| is_commit(commit));
        self.commit = commit.map(String::from).or(self.commit.take());
        if let Some(tag) = header_of(headers, "x-linked-etag") {
            self.see_tag(tag, true);
        }
        let size = header_of(headers, "x-linked-size").and_then(|size| size.trim().parse().ok());
        self.size = size.or(self.size);
    }

    /// Takes what the server of the file says.
    fn see_file(&mut self, headers: &HeaderMap, is_same_origin: bool) {
        self.see_links(headers);
        if let (None, Some(tag)) = (&self.tag, header_of(headers, "etag")) {
            self.see_tag(tag, is_same_origin);
        }
        let size = header_of(headers, "content-length").and_then(|size| size.trim().parse().ok());
        self.size = self.size.or(size);
    }

    /// The hub tags a large file with its SHA-256, other files with git's hash; others tag as they like.
    fn see_tag(&mut self, tag: &str, is_hubs: bool) {
        let bare = tag.trim().trim_start_matches("W/").trim_matches('"');
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let is_name = !bare.is_empty() && bare.len() <= 128 && bare.bytes().all(is_plain);
        let is_hash = bare.len() == 64 && bare.bytes().all(|b| b.is_ascii_hexdigit());
        self.tag = Some(if is_name { bare.into() } else { format!("tag-{}", sha256_of_text(bare)) });
        self.sha256 = (is_hubs && is_hash).then(|| bare.to_lowercase());
        self.validator = (!tag.trim().starts_with("W/") && !bare.is_empty()).then(|| format!("\"{bare}\""));
    }
}
