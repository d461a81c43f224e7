//! What servers refuse, what names are refused, and what people are told about it.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oxigpt_hub::{Error, Hub, Progress, Result, Settings, Stage, Token};

use crate::server::{COMMIT, FakeHub, Reply, Server};
use crate::{blobs, gpt2, hub, names, quiet, settings, snapshot};

/// The error of a snapshot of a hub that gives one answer to all questions.
fn refused(reply: Reply, token: Option<&str>) -> Error {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(move |_| reply.clone());
    let settings = Settings { token: token.map(Token::new), ..settings(&server, dir.path()) };
    let error = snapshot(&Hub::new(settings).unwrap()).unwrap_err();
    assert!(!format!("{error} {error:?} {:?}", error.hint()).contains("hf_secret"));
    assert_eq!(names(dir.path()), [""; 0], "nothing is written");
    error
}

fn told(error: &Error) -> (String, String) {
    (error.to_string(), error.hint().unwrap())
}

#[test]
fn a_repository_that_is_not_there() {
    for reply in
        [Reply::error(401, "RepoNotFound"), Reply::new(401, ""), Reply::error(404, ""), Reply::new(404, "")]
    {
        let (message, hint) = told(&refused(reply, None));
        assert_eq!(message, "the hub has no model `gpt2`, or does not show it");
        assert!(hint.contains("check the spelling") && hint.contains("set HF_TOKEN"), "{hint}");
    }
    let (_, hint) = told(&refused(Reply::error(404, "RepoNotFound"), Some("hf_secret")));
    assert!(hint.contains("check the spelling") && hint.contains("the token in HF_TOKEN is valid"), "{hint}");
}

#[test]
fn a_revision_that_is_not_there() {
    let (message, hint) = told(&refused(Reply::error(404, "RevisionNotFound"), None));
    assert_eq!(message, "model `gpt2` has no revision `main`");
    assert!(hint.contains("use `main`"), "{hint}");
}

#[test]
fn a_file_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::hub(FakeHub::default().small("config.json", "{}"));
    let hub = hub(&server, dir.path());
    let error = hub.file(&gpt2(), "main", "confg.json", &mut quiet).unwrap_err();
    let (message, hint) = told(&error);
    assert_eq!(message, "model `gpt2` has no file `confg.json` at revision `main`");
    assert!(hint.contains("files on the hub"), "{hint}");
    let error = hub.list(&gpt2(), "main", Some("nowhere")).unwrap_err();
    assert!(matches!(error, Error::NoSuchFile { .. }), "{error}");
    let error = hub.snapshot(&gpt2(), "main", &|name| name == "x", &mut quiet).unwrap_err();
    let (message, _) = told(&error);
    assert_eq!(message, "model `gpt2` at revision `main` has none of the files that are needed");
}

#[test]
fn who_is_not_let_in_learns_how_to_be() {
    for status in [401, 403] {
        let (message, hint) = told(&refused(Reply::error(status, "GatedRepo"), None));
        assert_eq!(message, "model `gpt2` is only for those whom its owner lets in");
        assert!(hint.contains("accept its terms") && hint.contains("then set HF_TOKEN"), "{hint}");
        let (_, hint) = told(&refused(Reply::error(status, "GatedRepo"), Some("hf_secret")));
        assert!(hint.contains("the account that HF_TOKEN belongs to"), "{hint}");
        let (message, hint) = told(&refused(Reply::new(status, ""), Some("hf_secret")));
        assert!(message.ends_with(&format!("is not for everybody (status {status})")), "{message}");
        assert!(hint.starts_with("the token in HF_TOKEN") && hint.contains("wrong, expired"), "{hint}");
    }
    let (_, hint) = told(&refused(Reply::new(403, ""), None));
    assert!(hint.starts_with("set HF_TOKEN"), "{hint}");
}

#[test]
fn a_token_that_cannot_be_sent_is_not() {
    let mut settings = Settings::new("/nowhere");
    settings.token = Some(Token::new("hf_secret\nHost: evil"));
    let Err(error) = Hub::new(settings) else { panic!("it was taken") };
    let (message, hint) = told(&error);
    assert!(!message.contains("secret") && !hint.contains("secret"));
    assert!(hint.contains("HF_TOKEN"), "{hint}");
}

#[test]
fn an_endpoint_is_an_address() {
    for endpoint in ["huggingface.co", "ftp://x", "", "https://"] {
        let mut settings = Settings::new("/nowhere");
        settings.endpoint = endpoint.into();
        let Err(error) = Hub::new(settings) else { panic!("{endpoint} was taken") };
        let (message, hint) = told(&error);
        assert!(message.starts_with(&format!("`{endpoint}` is not an address")), "{message}");
        assert!(hint.contains("HF_ENDPOINT"), "{hint}");
    }
}

/// Answers with `replies` in turn to the first questions, and then like a hub. What came of it, how many requests
/// there were, and the pauses.
fn after(replies: Vec<Reply>) -> (Result<()>, usize, Vec<Duration>) {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeHub::default().small("config.json", "{}");
    let count = AtomicUsize::new(0);
    let server = Server::start(move |request| match replies.get(count.fetch_add(1, Ordering::SeqCst)) {
        Some(reply) => reply.clone(),
        None => fake.reply(request),
    });
    let mut waits = Vec::new();
    let mut note = |p: &Progress<'_>| {
        if let Stage::Retry { wait, .. } = p.stage {
            waits.push(wait);
        }
        ControlFlow::Continue(())
    };
    let hub = hub(&server, dir.path());
    let result = hub.snapshot(&gpt2(), "main", &|_| true, &mut note).map(|_| ());
    waits.dedup();
    (result, server.take_log().len(), waits)
}

#[test]
fn a_server_in_trouble_is_asked_again() {
    let trouble =
        vec![Reply::new(500, ""), Reply::new(503, ""), Reply::new(200, "{").with("Content-Length", 9)];
    let (result, asked, waits) = after(trouble);
    result.unwrap();
    assert_eq!((asked, waits), (3 + 3, [1, 2, 4].map(Duration::from_millis).to_vec()));
}

#[test]
fn retries_end() {
    let (result, asked, _) = after(vec![Reply::new(502, "").with("X-Error-Message", "so\trry"); 9]);
    let error = result.unwrap_err();
    assert_eq!(asked, 1 + 3);
    let (message, hint) = told(&error);
    assert!(message.ends_with("the server answered with status 502 (sorry)"), "{message}");
    assert!(hint.contains("try the same command again later"), "{hint}");
    // What will not pass is not tried again.
    assert_eq!(after(vec![Reply::new(418, ""); 9]).1, 1);
}

#[test]
fn a_server_may_say_when_to_come_back() {
    let start = Instant::now();
    let (result, asked, waits) = after(vec![Reply::new(429, "").with("Retry-After", 1)]);
    result.unwrap();
    assert_eq!((asked, waits), (4, vec![Duration::from_secs(1)]));
    assert!(start.elapsed() >= Duration::from_secs(1));

    let (result, _, waits) =
        after(vec![Reply::new(429, "").with("RateLimit", "\"api\";r=0;t=0"), Reply::new(429, "")]);
    result.unwrap();
    assert_eq!(waits, [Duration::ZERO, Duration::from_millis(2)]);

    let (result, asked, _) = after(vec![Reply::new(429, "").with("Retry-After", 3600)]);
    let (message, hint) = told(&result.unwrap_err());
    assert_eq!(asked, 1);
    assert!(message.ends_with("status 429"), "{message}");
    assert!(hint.contains("wait some minutes") && hint.contains("HF_TOKEN"), "{hint}");
}

#[test]
fn what_is_no_hub_is_told_to_be_none() {
    let no_commit = format!(r#"{{"sha":"../../{}","siblings":[]}}"#, &COMMIT[6..]);
    for body in ["<html>please log in</html>", "[]", r#"{"sha":"main"}"#, &no_commit] {
        let error = refused(Reply::new(200, body), None);
        let (message, hint) = told(&error);
        assert!(message.contains("the answer is not a hub's"), "{message}");
        assert!(hint.contains("HF_ENDPOINT"), "{hint}");
    }
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeHub::default().small("a", "x");
    let server = Server::start(move |request| fake.reply(request).without("ETag"));
    let (message, _) = told(&snapshot(&hub(&server, dir.path())).unwrap_err());
    assert!(message.ends_with("it has no ETag"), "{message}");
    let server = Server::start(|_| Reply::new(200, "x").with("ETag", "\"x\""));
    let error = hub(&server, dir.path()).file(&gpt2(), "main", "a", &mut quiet).unwrap_err();
    assert!(error.to_string().ends_with("it names no commit"), "{error}");
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    for name in ["../../evil", "/etc/evil", "a/../../../evil", "..\\evil", "C:evil", "a//b", "evil\n"] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::hub(FakeHub::default().small("config.json", "{}").small(name, "x"));
        let hub = hub(&server, dir.path());
        let (message, hint) = told(&snapshot(&hub).unwrap_err());
        assert_eq!(
            message,
            format!("model `gpt2` has a file named {name:?}, which is not a path below its folder")
        );
        assert!(hint.contains("nothing of it was written"), "{hint}");
        assert_eq!(names(dir.path()), [""; 0]);
        // If nobody wants it, it harms nobody.
        assert!(hub.snapshot(&gpt2(), "main", &|file| file == "config.json", &mut quiet).is_ok());
        let error = hub.file(&gpt2(), "main", name, &mut quiet).unwrap_err();
        assert!(matches!(error, Error::UnsafeFileName { .. }), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|_| Reply::new(200, r#"[{"type":"file","path":"../x","size":1}]"#));
    let error = hub(&server, dir.path()).list(&gpt2(), "main", None).unwrap_err();
    assert!(matches!(error, Error::UnsafeFileName { .. }), "{error}");
    for revision in ["../main", "", "/main", "a\\b"] {
        let (message, hint) = told(&hub(&server, dir.path()).list(&gpt2(), revision, None).unwrap_err());
        assert_eq!(message, format!("`{revision}` is not the name of a revision"));
        assert!(hint.contains("`main`"), "{hint}");
    }
}

/// A tag becomes the name of a file; one that is none is replaced by one.
#[test]
fn tags_that_lead_out_of_the_cache_are_replaced() {
    for tag in ["../../evil", "/etc/evil", "a.lock", "W/\"x/y\"", &"x".repeat(300)] {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeHub::default().small("a", "x");
        let value = tag.to_string();
        let server = Server::start(move |request| fake.reply(request).with("ETag", &value));
        let folder = snapshot(&hub(&server, dir.path())).unwrap();
        assert_eq!(fs_err::read_to_string(folder.join("a")).unwrap(), "x");
        let blob = &names(&blobs(dir.path()))[0];
        assert!(blob.starts_with("tag-") && blob.len() == 68, "{blob}");
    }
}
