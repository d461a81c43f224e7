//! Plain files of the web.

use std::path::Path;

use fs_err as fs;
use oxigpt_hub::{Error, Hub, Result};

use crate::server::{Reply, Server, serve_range, sha256};
use crate::{bytes, hub, names, quiet, settings};

const LEN: usize = 100_000;

/// Downloads `input.txt` into `dir`.
fn download(hub: &Hub, server: &Server, dir: &Path, hash: Option<&str>) -> Result<()> {
    hub.download(&format!("{}/raw/input.txt", server.url()), &dir.join("input.txt"), hash, &mut quiet)
}

/// The `Range` headers of the downloads.
fn ranges(server: &Server) -> Vec<Option<String>> {
    let gets = server.take_log().into_iter().filter(|request| request.method == "GET");
    gets.map(|request| request.header("range").map(String::from)).collect()
}

#[test]
fn a_file_is_downloaded_where_it_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|request| serve_range(&bytes(LEN), "v1", request));
    let hash = sha256(&bytes(LEN));
    let to = dir.path().join("data/shakespeare");
    let hub = hub(&server, dir.path());
    download(&hub, &server, &to, Some(&hash)).unwrap();
    assert_eq!(fs::read(to.join("input.txt")).unwrap(), bytes(LEN));
    assert_eq!(names(&to), ["input.txt"]);
    server.take_log();
    // With the right checksum, it is not asked for again; whatever else is there is replaced.
    download(&hub, &server, &to, Some(&hash.to_uppercase())).unwrap();
    assert!(server.asked().is_empty());
    fs::write(to.join("input.txt"), "old").unwrap();
    download(&hub, &server, &to, Some(&hash)).unwrap();
    assert_eq!(fs::read(to.join("input.txt")).unwrap(), bytes(LEN));
}

#[test]
fn a_wrong_checksum_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|request| serve_range(&bytes(LEN), "v1", request));
    fs::write(dir.path().join("input.txt"), "old").unwrap();
    let hub = hub(&server, dir.path());
    let error = download(&hub, &server, dir.path(), Some(&"0".repeat(64))).unwrap_err();
    assert!(error.to_string().contains(&sha256(&bytes(LEN))), "{error}");
    assert_eq!(fs::read_to_string(dir.path().join("input.txt")).unwrap(), "old");
    assert_eq!(names(dir.path()), ["hub", "input.txt"]);
}

/// By its checksum, or by its tag; without either, it begins anew.
#[test]
fn a_file_that_is_known_to_be_the_same_is_continued() {
    let hash = sha256(&bytes(LEN));
    for (tag, hash, resumes) in [
        (None, Some(hash.as_str()), true),
        (Some("\"v1\""), None, true),
        (Some("W/\"v1\""), None, false),
        (None, None, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let count = std::sync::atomic::AtomicUsize::new(0);
        let server = Server::start(move |request| {
            let reply = serve_range(&bytes(LEN), "v1", request).without("ETag");
            let reply = tag.map_or(reply.clone(), |tag| reply.with("ETag", tag));
            match request.method == "GET" && count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 2 {
                true => reply.cut(40_000),
                false => reply,
            }
        });
        let mut settings = settings(&server, dir.path());
        settings.retries = 0;
        let hub = Hub::new(settings.clone()).unwrap();
        download(&hub, &server, dir.path(), hash).unwrap_err();
        assert!(!dir.path().join("input.txt").exists());
        settings.retries = 1;
        download(&Hub::new(settings).unwrap(), &server, dir.path(), hash).unwrap();
        assert_eq!(fs::read(dir.path().join("input.txt")).unwrap(), bytes(LEN));
        let expected = [None, Some("bytes=40000-"), Some("bytes=80000-")];
        let expected = expected.map(|range| range.filter(|_| resumes).map(String::from));
        assert_eq!(ranges(&server), expected);
        assert_eq!(names(dir.path()), ["hub", "input.txt"]);
    }
}

/// Bytes of two versions are never put together.
#[test]
fn a_file_that_has_changed_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicUsize::new(0);
    let server = Server::start(move |request| {
        let is_first = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 2;
        match is_first {
            true => serve_range(&[b'a'; LEN], "v1", request).cut(40_000),
            false => serve_range(&[b'b'; LEN], "v2", request),
        }
    });
    download(&hub(&server, dir.path()), &server, dir.path(), None).unwrap();
    assert_eq!(fs::read(dir.path().join("input.txt")).unwrap(), [b'b'; LEN]);
    assert_eq!(ranges(&server), [None, Some("bytes=40000-".into())]);
}

#[test]
fn a_server_that_answers_no_questions_may_still_send() {
    for status in [403, 404, 405, 501] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(move |request| match request.method.as_str() {
            "HEAD" => Reply::new(status, ""),
            _ => serve_range(&bytes(LEN), "v1", request),
        });
        download(&hub(&server, dir.path()), &server, dir.path(), None).unwrap();
        assert_eq!(server.take_log().len(), 2);
    }
}

#[test]
fn what_is_not_there_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|_| Reply::new(404, ""));
    let hub = hub(&server, dir.path());
    let error = download(&hub, &server, dir.path(), None).unwrap_err();
    assert!(error.to_string().ends_with("/raw/input.txt: the server answered with status 404"), "{error}");
    assert_eq!(error.hint().unwrap(), "check the address");
    let error = hub.download("input.txt", &dir.path().join("x"), None, &mut quiet).unwrap_err();
    assert_eq!(error.to_string(), "`input.txt` is not an address that begins with http:// or https://");
    assert!(!dir.path().join("input.txt").exists());
}

#[test]
fn offline_a_file_that_is_there_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|_| Reply::new(500, ""));
    let mut settings = settings(&server, dir.path());
    settings.offline = true;
    let hub = Hub::new(settings).unwrap();
    let error = download(&hub, &server, dir.path(), None).unwrap_err();
    assert!(matches!(error, Error::Offline { .. }));
    fs::write(dir.path().join("input.txt"), "text").unwrap();
    download(&hub, &server, dir.path(), None).unwrap();
    download(&hub, &server, dir.path(), Some(&sha256(b"text"))).unwrap();
    download(&hub, &server, dir.path(), Some(&sha256(b"other"))).unwrap_err();
    assert!(server.asked().is_empty());
}
