//! Snapshots, files and lists of a hub that behaves, and the cache that they make.

use std::ops::ControlFlow;

use fs_err as fs;
use oxigpt_hub::{Hub, Progress, RepoId, Stage};

use crate::server::{COMMIT, FakeHub, Reply, Server, sha256};
use crate::{blobs, bytes, gpt2, hub, names, quiet, settings, snapshot};

fn a_model() -> FakeHub {
    FakeHub::default()
        .small("config.json", "{}")
        .large("model.safetensors", bytes(300_000))
        .small("onnx/tokenizer/vocab.json", "[]")
        .small("README.md", "read me")
}

#[test]
fn a_snapshot_has_the_layout_of_the_python_tools() {
    let dir = tempfile::tempdir().unwrap();
    let fake = a_model();
    let server = Server::hub(fake.clone());
    let wanted = |name: &str| !name.ends_with(".md");
    let folder = hub(&server, dir.path()).snapshot(&gpt2(), "main", &wanted, &mut quiet).unwrap();

    let repo = dir.path().join("hub/models--gpt2");
    assert_eq!(folder, repo.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(names(&folder), ["config.json", "model.safetensors", "onnx"]);
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), bytes(300_000));
    assert_eq!(fs::read_to_string(folder.join("onnx/tokenizer/vocab.json")).unwrap(), "[]");
    let mut tags = ["config.json", "model.safetensors", "onnx/tokenizer/vocab.json"].map(|f| fake.tag(f));
    tags.sort();
    assert_eq!(names(&blobs(dir.path())), tags);
    if cfg!(unix) {
        let target = |file: &str| fs::read_link(folder.join(file)).unwrap().to_str().unwrap().to_string();
        assert_eq!(target("config.json"), format!("../../blobs/{}", fake.tag("config.json")));
        let nested = "onnx/tokenizer/vocab.json";
        assert_eq!(target(nested), format!("../../../../blobs/{}", fake.tag(nested)));
    }
    let lock = format!("hub/.locks/models--gpt2/{}.lock", fake.tag("config.json"));
    assert!(dir.path().join(lock).is_file());
}

#[test]
fn what_the_cache_has_is_not_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::hub(a_model());
    let first = snapshot(&hub(&server, dir.path())).unwrap();
    let asked = server.asked();
    assert_eq!(asked.len(), 1 + 4 * 2, "{asked:?}");
    assert_eq!(asked[0], "GET /api/models/gpt2/revision/main");
    assert_eq!(asked[1], format!("HEAD /gpt2/resolve/{COMMIT}/config.json"));

    let mut calls = 0;
    let mut count = |_: &Progress<'_>| {
        calls += 1;
        ControlFlow::Continue(())
    };
    let second = hub(&server, dir.path()).snapshot(&gpt2(), "main", &|_| true, &mut count).unwrap();
    assert_eq!((second, calls), (first, 0));
    assert_eq!(server.asked(), ["GET /api/models/gpt2/revision/main"]);
}

/// A commit that changes one file has the others' blobs already.
#[test]
fn a_new_commit_downloads_what_has_changed() {
    let dir = tempfile::tempdir().unwrap();
    let old = Server::hub(a_model());
    let first = snapshot(&hub(&old, dir.path())).unwrap();

    let next = "1111111111111111111111111111111111111111";
    let fake = FakeHub::default().small("config.json", "{1}").large("model.safetensors", bytes(300_000));
    let new = Server::start(move |request| match request.path.contains("/revision/") {
        true => Reply::new(
            200,
            format!(
                r#"{{"sha":"{next}","siblings":[{{"rfilename":"config.json"}},{{"rfilename":"model.safetensors"}}]}}"#
            ),
        ),
        false => fake.reply(request),
    });
    let second = snapshot(&hub(&new, dir.path())).unwrap();
    assert_ne!(first, second);
    let gets: Vec<String> = new.asked().into_iter().filter(|line| line.contains("GET /gpt2")).collect();
    assert_eq!(gets, [format!("GET /gpt2/resolve/{next}/config.json")]);
    assert_eq!(fs::read(second.join("model.safetensors")).unwrap(), bytes(300_000));
    assert_eq!(fs::read_to_string(first.join("config.json")).unwrap(), "{}");
    assert_eq!(fs::read_to_string(dir.path().join("hub/models--gpt2/refs/main")).unwrap(), next);
}

#[test]
fn data_sets_have_folders_and_addresses_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    // The real hub decodes what it is asked for; ours does not.
    let server = Server::hub(FakeHub::default().small("data/a%20b.txt", "x"));
    let data = RepoId::dataset("karpathy/some-data").unwrap();
    let path = hub(&server, dir.path()).file(&data, "refs/pr/1", "data/a b.txt", &mut quiet).unwrap();
    assert_eq!(server.asked()[0], "HEAD /datasets/karpathy/some-data/resolve/refs%2Fpr%2F1/data/a%20b.txt");
    let repo = dir.path().join("hub/datasets--karpathy--some-data");
    assert_eq!(path, repo.join("snapshots").join(COMMIT).join("data/a b.txt"));
    assert_eq!(fs::read_to_string(repo.join("refs/refs/pr/1")).unwrap(), COMMIT);
}

#[test]
fn a_file_of_a_commit_needs_no_question_once_it_is_here() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::hub(a_model());
    let hub = hub(&server, dir.path());
    let file = |revision: &str| hub.file(&gpt2(), revision, "config.json", &mut quiet).unwrap();
    let path = file(COMMIT);
    assert_eq!(server.asked().len(), 2);
    assert_eq!(file(COMMIT), path);
    assert!(server.asked().is_empty());
    assert_eq!(file("main"), path);
    assert_eq!(server.asked(), ["HEAD /gpt2/resolve/main/config.json"]);
}

#[test]
fn progress_counts_files_and_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::hub(a_model());
    let mut seen: Vec<(String, usize, usize, u64, Option<u64>)> = Vec::new();
    let mut note = |p: &Progress<'_>| {
        assert_eq!((p.stage, p.resumed_from), (Stage::Transfer, 0));
        seen.push((p.file.into(), p.file_index, p.files, p.done, p.total));
        ControlFlow::Continue(())
    };
    let wanted = |name: &str| name != "README.md" && name != "config.json";
    hub(&server, dir.path()).snapshot(&gpt2(), "main", &wanted, &mut note).unwrap();
    let of_model: Vec<_> = seen.iter().filter(|line| line.0 == "model.safetensors").collect();
    assert!(of_model.iter().all(|line| (line.1, line.2, line.4) == (0, 2, Some(300_000))));
    assert!(of_model.is_sorted_by_key(|line| line.3));
    assert_eq!((of_model[0].3, of_model.last().unwrap().3), (0, 300_000));
    assert_eq!(seen.last().unwrap(), &("onnx/tokenizer/vocab.json".into(), 1, 2, 2, Some(2)));
}

#[test]
fn a_list_comes_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let hash = sha256(b"");
    let server = Server::start(move |request| {
        if request.path.contains("cursor=2") {
            return Reply::new(200, r#"[{"type":"file","path":"a.txt","size":3,"oid":"x"}]"#);
        }
        let page = format!(
            r#"[{{"type":"directory","path":"data","size":0}},
            {{"type":"file","path":"data/b.bin","size":130,"lfs":{{"oid":"{hash}","size":70000000000,"pointerSize":130}}}}]"#
        );
        let next = format!("<{}&cursor=2>; rel=\"next\"", request.path);
        Reply::new(200, page).with("Link", next)
    });
    let hub = hub(&server, dir.path());
    let data = RepoId::dataset("a/b").unwrap();
    let files = hub.list(&data, "main", None).unwrap();
    let seen: Vec<_> = files.iter().map(|f| (f.path.as_str(), f.size, f.sha256.is_some())).collect();
    assert_eq!(seen, [("a.txt", 3, false), ("data/b.bin", 70_000_000_000, true)]);
    assert_eq!(
        server.asked(),
        [
            "GET /api/datasets/a/b/tree/main?recursive=true",
            "GET /api/datasets/a/b/tree/main?recursive=true&cursor=2"
        ]
    );
    hub.list(&data, "main", Some("data/")).unwrap();
    assert_eq!(server.asked()[0], "GET /api/datasets/a/b/tree/main/data?recursive=true");
}

#[test]
fn a_list_without_end_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|r| Reply::new(200, "[]").with("Link", format!("<{}>; rel=\"next\"", r.path)));
    let error = hub(&server, dir.path()).list(&gpt2(), "main", None).unwrap_err();
    assert!(error.to_string().ends_with("the list of files has no end"), "{error}");
}

#[test]
fn offline_the_cache_is_all_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::hub(a_model());
    let folder = snapshot(&hub(&server, dir.path())).unwrap();
    server.take_log();

    let mut settings = settings(&server, dir.path());
    settings.offline = true;
    let hub = Hub::new(settings).unwrap();
    assert_eq!(snapshot(&hub).unwrap(), folder);
    let file = |name: &str| hub.file(&gpt2(), "main", name, &mut quiet);
    assert_eq!(file("config.json").unwrap(), folder.join("config.json"));
    let list = hub.list(&gpt2(), "main", None).unwrap();
    let seen: Vec<_> = list.iter().map(|f| (f.path.as_str(), f.size)).collect();
    assert_eq!(
        seen,
        [
            ("README.md", 7),
            ("config.json", 2),
            ("model.safetensors", 300_000),
            ("onnx/tokenizer/vocab.json", 2)
        ]
    );
    assert_eq!(hub.list(&gpt2(), COMMIT, Some("onnx")).unwrap().len(), 1);

    let other = RepoId::model("distilgpt2").unwrap();
    for error in [
        file("other.json").unwrap_err(),
        hub.snapshot(&gpt2(), "v2", &|_| true, &mut quiet).unwrap_err(),
        hub.snapshot(&gpt2(), "main", &|_| false, &mut quiet).unwrap_err(),
        hub.snapshot(&other, "main", &|_| true, &mut quiet).unwrap_err(),
        hub.list(&other, "main", None).unwrap_err(),
        hub.download("http://x.org/a?key=secret", &dir.path().join("a"), None, &mut quiet).unwrap_err(),
    ] {
        let (message, hint) = (error.to_string(), error.hint().unwrap());
        assert!(message.contains("HF_HUB_OFFLINE forbids"), "{message}");
        assert!(hint.contains("unset HF_HUB_OFFLINE") && !message.contains("secret"), "{hint}");
    }
    assert!(server.asked().is_empty());
}

/// A hub that is down is no reason not to use what it gave us before, nor to wait for it.
#[test]
fn when_the_hub_is_down_the_cache_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let folder = snapshot(&hub(&Server::hub(a_model()), dir.path())).unwrap();

    let down = Server::start(|_| Reply::new(503, ""));
    let mut settings = settings(&down, dir.path());
    for endpoint in [down.url(), "http://127.0.0.1:1".into()] {
        settings.endpoint = endpoint;
        let hub = Hub::new(settings.clone()).unwrap();
        down.take_log();
        assert_eq!(snapshot(&hub).unwrap(), folder);
        assert!(down.take_log().len() <= 2);
        assert!(hub.file(&gpt2(), "main", "config.json", &mut quiet).is_ok());
        assert!(hub.file(&gpt2(), "main", "none.json", &mut quiet).is_err());
        assert!(hub.snapshot(&gpt2(), "v2", &|_| true, &mut quiet).is_err());
    }
    let hub = Hub::new(settings).unwrap();
    let error = hub.snapshot(&RepoId::model("a/b").unwrap(), "main", &|_| true, &mut quiet).unwrap_err();
    assert!(error.to_string().starts_with("http://127.0.0.1:1/api/models/a/b/revision/main: "), "{error}");
    assert!(error.hint().unwrap().contains("HTTPS_PROXY"));
}

/// Until all its files are here, a snapshot is not found by the name of its branch.
#[test]
fn half_a_snapshot_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let fake = a_model();
    let server = Server::start(move |request| match request.path.ends_with("vocab.json") {
        true => Reply::new(404, ""),
        false => fake.reply(request),
    });
    let mut settings = settings(&server, dir.path());
    snapshot(&Hub::new(settings.clone()).unwrap()).unwrap_err();
    settings.offline = true;
    let error = snapshot(&Hub::new(settings).unwrap()).unwrap_err();
    assert!(error.to_string().starts_with("model `gpt2` is not in the cache"), "{error}");
}
