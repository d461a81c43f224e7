//! Redirects, and who gets to see the token.

use oxigpt_hub::{Error, Hub, Settings, Token};

use crate::server::{FakeHub, Reply, Request, Server, serve_range};
use crate::{bytes, settings, snapshot};

fn with_token(settings: Settings) -> Hub {
    Hub::new(Settings { token: Some(Token::new("hf_secret")), ..settings }).unwrap()
}

/// Whether the token came with each of the requests.
fn tokens(log: &[Request]) -> Vec<bool> {
    let is_token = |value: &str| {
        assert_eq!(value, "Bearer hf_secret");
        true
    };
    log.iter().map(|request| request.header("authorization").is_some_and(is_token)).collect()
}

/// As the real hub does it: a large file comes from somewhere else, whose tag for it is another.
#[test]
fn the_token_does_not_go_to_another_server() {
    let dir = tempfile::tempdir().unwrap();
    let broken = std::sync::atomic::AtomicBool::new(false);
    let store = Server::start(move |request| {
        let reply = serve_range(&bytes(1000), "a-tag-of-its-own", request);
        match broken.swap(true, std::sync::atomic::Ordering::SeqCst) {
            true => reply,
            false => reply.cut(300),
        }
    });
    let fake = FakeHub::default().small("config.json", "{}").large("w.bin", bytes(1000));
    let address = format!("{}/store/w?signature=x", store.url());
    let server = Server::start(move |request| match request.path.ends_with("w.bin") {
        true => {
            let [tag, size] = [fake.tag("w.bin"), "1000".into()];
            Reply::redirect(&address).with("X-Linked-Etag", format!("\"{tag}\"")).with("X-Linked-Size", size)
        }
        false => fake.reply(request),
    });
    snapshot(&with_token(settings(&server, dir.path()))).unwrap();
    assert_eq!(tokens(&server.take_log()), [true; 6]);
    let log = store.take_log();
    assert_eq!(tokens(&log), [false; 2]);
    // The part that was missing, though the store's tag is not the hub's.
    assert!(log.iter().all(|request| request.method == "GET" && request.header("if-range").is_none()));
    assert_eq!(log[1].header("range"), Some("bytes=300-"));
}

/// The same server by another name is another server.
#[test]
fn the_token_does_not_go_to_another_name() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeHub::default().small("w.bin", bytes(10));
    let other = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let name = other.clone();
    let server = Server::start(move |request| match request.header("host") {
        Some(host) if host.starts_with("127.") => {
            Reply::redirect(format!("{}{}", name.get().unwrap(), request.path))
        }
        _ => fake.reply(request),
    });
    other.set(server.other_name()).unwrap();
    snapshot(&with_token(settings(&server, dir.path()))).unwrap();
    for request in server.take_log() {
        let is_home = request.header("host").unwrap().starts_with("127.");
        assert_eq!(tokens(std::slice::from_ref(&request)), [is_home], "{request:?}");
    }
}

/// Not even when the other server sends us back.
#[test]
fn the_token_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let home = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let back = home.clone();
    let other = Server::start(move |r| Reply::redirect(format!("{}/back{}", back.get().unwrap(), r.path)));
    let fake = FakeHub::default().small("w.bin", bytes(10));
    let away = other.url();
    let server = Server::start(move |request| match request.path.starts_with("/back") {
        true => fake.reply(request),
        false => Reply::redirect(format!("{away}{}", request.path)),
    });
    home.set(server.url()).unwrap();
    snapshot(&with_token(settings(&server, dir.path()))).unwrap();
    for request in server.take_log() {
        let is_first = !request.path.starts_with("/back");
        assert_eq!(tokens(std::slice::from_ref(&request)), [is_first], "{request:?}");
    }
    assert_eq!(tokens(&other.take_log()), [false; 3]);
}

/// `gpt2` is `openai-community/gpt2` today.
#[test]
fn a_repository_that_moved_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeHub::default().small("config.json", "{}");
    let server = Server::start(move |request| match request.path.contains("openai-community") {
        true => fake.reply(request),
        false => Reply::redirect(request.path.replace("gpt2", "openai-community/gpt2")),
    });
    let folder = snapshot(&with_token(settings(&server, dir.path()))).unwrap();
    assert!(folder.starts_with(dir.path().join("hub/models--gpt2")));
    assert_eq!(tokens(&server.take_log()), [true; 6]);
}

#[test]
fn redirects_that_lead_nowhere_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|request| Reply::redirect(format!("{}x", request.path)));
    let error = snapshot(&with_token(settings(&server, dir.path()))).unwrap_err();
    assert!(matches!(error, Error::TooManyRedirects { .. }));
    assert!(error.to_string().ends_with("/api/models/gpt2/revision/main: more than 10 redirects"), "{error}");
    assert_eq!(server.take_log().len(), 11);

    let server = Server::start(|_| Reply::redirect("ftp://x/y"));
    let error = snapshot(&with_token(settings(&server, dir.path()))).unwrap_err();
    assert!(error.to_string().ends_with("redirects to something that is not an address"), "{error}");
    assert!(error.hint().unwrap().contains("HF_ENDPOINT"));

    let server = Server::start(|_| Reply::new(302, "a redirect to nowhere"));
    let error = snapshot(&with_token(settings(&server, dir.path()))).unwrap_err();
    assert!(matches!(error, Error::Status { status: 302, .. }), "{error}");
}
