//! Models of the hub, which here is a small server of the test on this machine.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::support::{Place, place_with_models};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with one model, `gpt2`, whose files stand in a directory.
struct Server {
    endpoint: String,
    /// Method and path of every request.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Sends files no faster than `pause` for each 16 KiB.
    fn start(files: PathBuf, pause: Duration) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (files, noted) = (files.clone(), noted.clone());
                // Whoever hangs up early is part of a test.
                thread::spawn(move || drop(answer(&stream.unwrap(), &files, pause, &noted)));
            }
        });
        Server { endpoint, asked }
    }

    fn command(&self, place: &Place, args: &[&str]) -> assert_cmd::Command {
        let mut command = place.command(args);
        command.env("HF_ENDPOINT", &self.endpoint).env_remove("HF_HUB_OFFLINE").env_remove("HF_TOKEN");
        command
    }

    /// Exit code, and both streams.
    fn run(&self, place: &Place, args: &[&str]) -> (i32, String, String) {
        let output = self.command(place, args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap().replace(&self.endpoint, "[HUB]");
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn asked_for(&self, what: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|request| request.contains(what)).count()
    }
}

fn answer(
    stream: &TcpStream,
    files: &std::path::Path,
    pause: Duration,
    noted: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut from = 0;
    for line in lines {
        let line = line?.to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().unwrap();
        }
    }
    noted.lock().unwrap().push(format!("{first} from {from}"));
    let words: Vec<_> = first.split(' ').collect();
    let (method, path) = (words[0], words[1]);
    let mut out = stream;
    if path == "/api/models/gpt2/revision/main" {
        let names =
            fs_err::read_dir(files)?.map(|entry| json!({ "rfilename": entry.unwrap().file_name().to_str() }));
        let body = json!({ "sha": COMMIT, "siblings": names.collect::<Vec<_>>() }).to_string();
        return write!(
            out,
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
    }
    let prefix = format!("/gpt2/resolve/{COMMIT}/");
    let Some(mut file) =
        path.strip_prefix(&prefix).and_then(|name| fs_err::File::open(files.join(name)).ok())
    else {
        return write!(
            out,
            "HTTP/1.1 404 Not Found\r\nconnection: close\r\nx-error-code: RepoNotFound\r\ncontent-length: 0\r\n\r\n"
        );
    };
    let mut body = Vec::new();
    file.read_to_end(&mut body)?;
    let (len, name) = (body.len(), &path[prefix.len()..]);
    let status = if from > 0 {
        format!("206 Partial Content\r\ncontent-range: bytes {from}-{}/{len}", len - 1)
    } else {
        "200 OK".into()
    };
    let rest = len - from;
    write!(
        out,
        "HTTP/1.1 {status}\r\nconnection: close\r\naccept-ranges: bytes\r\netag: \"{name}\"\r\ncontent-length: {rest}\r\n\r\n"
    )?;
    if method == "GET" {
        for piece in body[from..].chunks(1 << 14) {
            out.write_all(piece)?;
            thread::sleep(pause);
        }
    }
    Ok(())
}

fn at_once(place: &Place) -> Server {
    Server::start(place.path().join("hf"), Duration::ZERO)
}

const EVAL: [&str; 5] = ["eval", "--from=gpt2", "--data=stream", "--block_size=24", "--json"];

#[test]
fn a_model_is_fetched_once() {
    let place = place_with_models();
    let server = at_once(&place);
    let (code, out, told) = server.run(&place, &EVAL);
    assert_eq!(code, 0, "{told}");
    assert_snapshot!(told, @"
    fetching model.safetensors 125.04 KiB
    fetching config.json 815 B
    fetching generation_config.json 199 B
    gpt2 on data/stream (val): 12 windows of 24 tokens
    ");
    let found: Value = serde_json::from_str(&out).unwrap();
    assert!((found["loss"].as_f64().unwrap() / 5.087_684_002_306_194 - 1.0).abs() < 1e-6);
    assert!(
        place.path().join("hub/hub/models--gpt2/snapshots").join(COMMIT).join("model.safetensors").exists()
    );

    let (code, _, told) = server.run(&place, &EVAL);
    assert_eq!((code, told.lines().count()), (0, 1), "{told}");
    assert_eq!(server.asked_for("GET /gpt2/resolve"), 3, "one for each file");
    // Nor is the network needed any more.
    place.done(&EVAL);
}

#[test]
fn a_run_begins_with_a_model_of_the_hub() {
    let place = place_with_models();
    let server = at_once(&place);
    let args = [
        "train",
        "--from=gpt2",
        "--dataset=stream",
        "--gradient_accumulation_steps=1",
        "--max_iters=1",
        "--eval_tokens=48",
    ];
    let (code, _, told) = server.run(&place, &args);
    assert_eq!(code, 0, "{told}");
    assert!(place.read_text("out/finetune/config.toml").contains("init_from = \"gpt2\""));
    assert!(told.contains("begun with   the weights of gpt2\n"), "{told}");
    // What is resumed has its own weights.
    place.done(&["train", "--init_from=resume", "--out_dir=out/finetune", "--max_iters=2"]);
    assert_eq!(server.asked_for("/api/"), 1);
}

#[test]
fn what_is_here_goes_before_what_is_there() {
    let place = place_with_models();
    let server = at_once(&place);
    fs_err::rename(place.path().join("nano"), place.path().join("gpt2")).unwrap();
    let (code, _, told) = server.run(&place, &["eval", "--from=gpt2", "--data=shakespeare_char"]);
    assert_eq!(code, 0, "{told}");
    assert_eq!(server.asked_for(""), 0);
}

#[test]
fn what_was_interrupted_goes_on_where_it_stopped() {
    let place = place_with_models();
    let slow = Server::start(place.path().join("hf"), Duration::from_millis(100));
    let mut child = std::process::Command::new(crate::support::program())
        .args(EVAL)
        .current_dir(place.path())
        .env("HF_HOME", place.path().join("hub"))
        .env("HF_ENDPOINT", &slow.endpoint)
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let partial = || {
        let blobs = place.path().join("hub/hub/models--gpt2/blobs");
        let mut files = fs_err::read_dir(blobs).into_iter().flatten().map(Result::unwrap);
        files.any(|file| {
            file.file_name().to_string_lossy().ends_with(".incomplete")
                && file.metadata().unwrap().len() > 40_000
        })
    };
    while !partial() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it had anything");
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let server = at_once(&place);
    let (code, _, told) = server.run(&place, &EVAL);
    assert_eq!(code, 0, "{told}");
    assert_eq!(
        server.asked_for("model.safetensors HTTP/1.1 from 0"),
        1,
        "the HEAD alone: {:?}",
        server.asked
    );
}

#[test]
fn what_cannot_be_fetched() {
    let place = place_with_models();
    let server = at_once(&place);
    let refused = |from: &str| {
        let (code, out, told) = server.run(&place, &["eval", "--from", from, "--data=stream"]);
        assert_eq!(out, "");
        format!("exit {code}\n{told}")
    };
    assert_snapshot!(refused("someone/something"), @"
    exit 1
    error: someone/something is no path here; from the hub: the hub has no model `someone/something`, or does not show it
    hint: check the spelling; if it is private, set HF_TOKEN to a token that may read it
    ");
    assert_snapshot!(refused("gpt2-xl"), @"
    exit 1
    error: gpt2-xl is no path here; from the hub: the hub has no model `gpt2-xl`, or does not show it
    hint: check the spelling; if it is private, set HF_TOKEN to a token that may read it
    ");
    let empty = Server::start(place.path().join("data"), Duration::ZERO);
    let (_, _, told) = empty.run(&place, &["eval", "--from=gpt2", "--data=stream"]);
    assert_snapshot!(told, @"
    error: gpt2 is no path here; from the hub: model `gpt2` at revision `main` has none of the files that are needed
    hint: check that it is the right repository; look at its files on the hub
    ");
    let weightless = Place::new();
    weightless.write("files/config.json", place.read("hf/config.json"));
    let weightless_hub = Server::start(weightless.path().join("files"), Duration::ZERO);
    let (code, _, told) = weightless_hub.run(&weightless, &["sample", "--from=gpt2"]);
    assert_snapshot!(format!("exit {code}\n{told}").replace(&weightless.path().display().to_string(), "[PLACE]"), @"
    exit 1
    fetching config.json 815 B
    error: [PLACE]/hub/hub/models--gpt2/snapshots/0123456789abcdef0123456789abcdef01234567 has a config.json, but no model.safetensors beside it
    hint: the weights must be model.safetensors, model.safetensors.index.json with its files, or pytorch_model.bin
    ");
}
