//! Records in, a data directory out, and what is said of it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use insta::assert_snapshot;

use crate::support::{Place, fixture, program};

const LINES: &str = "{\"id\": 1, \"text\": \"the cat sat\"}\n{\"text\": \"\"}\n{\"text\": \"on the mat\"}\n";

/// A place with `data/lines`, of two files in a folder.
fn place_with_lines() -> Place {
    let place = Place::new();
    place.write("shards/a.jsonl", LINES);
    let dogs = (0..40).map(|i| format!("{{\"text\": \"dog {i} sat on the mat\"}}\n"));
    place.write("shards/sub/b.jsonl", dogs.collect::<String>());
    place
}

const PREPARE: [&str; 6] = ["prepare", "jsonl", "--input", "shards", "--val-seed=3", "--out=data/lines"];

#[test]
fn records_of_a_folder_and_what_is_said_of_them() {
    let place = place_with_lines();
    assert_snapshot!(place.run(&PREPARE), @"
    exit 0
    --- stdout
    data/lines: 253 training tokens, 35 validation tokens, a vocabulary of 50,257
    --- stderr
    encoding 1.39 KiB
    writing 1.39 KiB
    empty documents left out: 1
    ");
    assert_snapshot!(place.run(&["data", "lines", "--verify"]), @r#"
    exit 0
    --- stdout
    data/lines
      tokenizer  gpt2
      vocabulary 50,257
      documents  42, and 1 empty ones left out
      source     a.jsonl to sub/b.jsonl, 2 files
      train      253 tokens of 2 bytes in 1 shard, from 747 B of text (2.95 bytes per token)
      val        35 tokens of 2 bytes in 1 shard, from 104 B of text (2.97 bytes per token)
      hash       e82e23c9b8b6b6d6
      checked    every token, and the checksum of every shard
      train:     "<|endoftext|>the cat sat<|endoftext|>on the mat<|endoftext|>dog 0 sat on the mat<|endoftext|>dog 1 sat on the mat<|endoftext|>dog 3 sat on the mat<|endoftext|>dog 4 sat on the mat<|endoftext|>dog 5 sat"
      train:     "<|endoftext|>dog 15 sat on the mat<|endoftext|>dog 16 sat on the mat<|endoftext|>dog 17 sat on the mat<|endoftext|>dog 18 sat on the mat<|endoftext|>dog 19 sat on the mat<|endoftext|>dog 21 sat on"
      train:     " 34 sat on the mat<|endoftext|>dog 35 sat on the mat<|endoftext|>dog 36 sat on the mat<|endoftext|>dog 37 sat on the mat<|endoftext|>dog 38 sat on the mat<|endoftext|>dog 39 sat on the mat"
      val:       "<|endoftext|>dog 2 sat on the mat<|endoftext|>dog 20 sat on the mat<|endoftext|>dog 29 sat on the mat<|endoftext|>dog 30 sat on the mat<|endoftext|>dog 33 sat on the mat"
    --- stderr
    "#);
    let told: serde_json::Value = serde_json::from_str(&place.done(&["data", "lines", "--json"])).unwrap();
    assert_eq!(told["dataset"]["inputs"][1]["file"], "sub/b.jsonl");
    assert_eq!(told["dataset"]["inputs"][1]["sha256"].as_str().unwrap().len(), 64);
    assert_eq!((told["verified"].as_bool(), told["tokenizer"]["name"].as_str()), (Some(false), Some("gpt2")));

    let path = "data/lines/train_000000.bin";
    let mut bytes = place.read(path);
    bytes[1030] ^= 1;
    place.write(path, bytes);
    let failed = place.failed(&["data", "lines", "--verify"]);
    assert!(failed.contains("train_000000.bin is damaged: its SHA-256 is"), "{failed}");
    assert_snapshot!(place.failed(&["data", "nothing"]), @"
    error: there is no dataset at data/nothing
    hint: give the path of a data directory, or its name under data/; `oxigpt prepare` makes one
    ");
}

/// A folder of text does not stand before the data of its name.
#[test]
fn data_are_found_beside_their_text() {
    let place = Place::new();
    place.write("notes/a.txt", "the cat sat on the mat\n".repeat(20));
    place.write("cat", "a file");
    let prepare = ["prepare", "text", "--input=notes", "--tokenizer=char"];
    place.done(&[&prepare[..], &["--out=data/notes"]].concat());
    place.done(&[&prepare[..], &["--out=data/cat"]].concat());
    assert!(place.done(&["data", "notes"]).starts_with("data/notes\n"));
    assert!(place.done(&["data", "cat"]).starts_with("data/cat\n"));
    // What a path says is meant where there is no such name, or where it holds data itself.
    assert!(place.failed(&["data", "data"]).starts_with("error: data holds no dataset"));
    place.done(&[&prepare[..], &["--out=notes", "--force"]].concat());
    assert!(place.done(&["data", "notes"]).starts_with("notes\n"));
}

#[test]
fn what_is_piped_is_read() {
    let place = Place::new();
    let args =
        ["prepare", "jsonl", "--input=-", "--tokenizer=byte", "--val-fraction=0.5", "--out=d", "--json"];
    let mut child = std::process::Command::new(program())
        .current_dir(place.path())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(LINES.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["source"], serde_json::json!(["standard input"]));
    assert_eq!((told["vocab_size"].as_u64(), told["documents"].as_u64()), (Some(257), Some(2)));
    assert!(!place.path().join("d/.partial").exists());
}

#[test]
fn records_that_cannot_be_prepared() {
    let place = place_with_lines();
    place.write("broken.jsonl", "{\"text\": \"a\"}\n{\"text\": 7}\n");
    place.write("not.parquet", LINES);
    let prepare = |args: &[&str]| place.failed(&[&["prepare"], args, &["--out=d"]].concat());
    assert_snapshot!(prepare(&["jsonl", "--input", "broken.jsonl"]), @"
    error: broken.jsonl, line 2, column 10: invalid type: integer `7`, expected a string
    hint: each line must be one JSON object; repair it or remove it, then run the same command again
    ");
    assert_snapshot!(prepare(&["jsonl", "--input", "shards", "--field=body"]), @"
    error: shards/a.jsonl, line 1: there is no field `body`; there is `id`, `text`
    hint: name the field that holds the text with --field
    ");
    assert_snapshot!(prepare(&["parquet", "--input", "not.parquet"]), @"
    error: not.parquet cannot be read as Parquet: Invalid Parquet file. Corrupt footer
    hint: the file was cut off or damaged; copy or fetch it again
    ");
    assert_snapshot!(prepare(&["parquet", "--input", "shards"]), @"
    error: there is no .parquet file in shards
    hint: name the files themselves, or a pattern such as 'DIR/*'
    ");
    assert_snapshot!(prepare(&["jsonl", "--input", "no*.jsonl"]), @"
    error: no file matches no*.jsonl
    hint: check the pattern; `*` is any part of a name, `**` any folders
    ");
    assert_snapshot!(prepare(&["jsonl", "--input", "broken.jsonl", "./broken.jsonl"]), @"
    error: ./broken.jsonl is given twice
    hint: name each input once
    ");
    assert_snapshot!(prepare(&["jsonl", "--input", "shards", "--tokenizer", "bpe"]), @"
    error: invalid value 'bpe' for '--tokenizer <gpt2|char|byte|PATH>': use gpt2, char, byte, or the path of a tokenizer
    hint: add --help to see what can be written here
    ");
    assert_snapshot!(prepare(&["jsonl", "--input", "shards", "--val-shard", "--val-seed=1"]), @"
    error: the argument '--val-shard' cannot be used with '--val-seed <N>'

    Usage: oxigpt prepare jsonl --input <FILE>... --out <DIR> --val-shard
    hint: add --help to see what can be written here
    ");
    assert!(!place.path().join("d").exists());
}

#[test]
fn sets_by_name() {
    let place = Place::new();
    // Without a network, and nothing in the cache.
    assert_snapshot!(place.failed(&["prepare", "shakespeare"]), @"
    error: HF_HUB_OFFLINE forbids to download https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt
    hint: unset HF_HUB_OFFLINE to download it, or point HF_HOME at the cache that has it
    ");
    assert_snapshot!(place.failed(&["prepare", "fineweb-edu"]).replace(&place.path().display().to_string(), "[PLACE]"), @"
    error: data set `HuggingFaceFW/fineweb-edu` is not in the cache [PLACE]/hub/hub, and HF_HUB_OFFLINE forbids to download it
    hint: unset HF_HUB_OFFLINE to download it, or point HF_HOME at the cache that has it
    ");
    // nanoGPT's file, where nanoGPT has it.
    place.write("data/shakespeare-char/input.txt", "To be, or not to be\n".repeat(50));
    place.done(&["prepare", "shakespeare-char"]);
    let told: serde_json::Value =
        serde_json::from_str(&place.done(&["data", "shakespeare-char", "--json"])).unwrap();
    assert_eq!((told["train"]["tokens"].as_u64(), told["val"]["tokens"].as_u64()), (Some(900), Some(100)));
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with two data sets of Parquet files; each file is sent as often as it is asked for, and noted.
fn hub() -> (String, Arc<Mutex<Vec<String>>>) {
    let fixture = |name: &str| fs_err::read(fixture("oxigpt-data", name)).unwrap();
    let (train, val) = (fixture("train.parquet"), fixture("validation.parquet"));
    let files: Vec<(&str, &str, Vec<u8>)> = vec![
        ("roneneldan/TinyStories", "data/train-00000-of-00002-ab.parquet", train.clone()),
        ("roneneldan/TinyStories", "data/train-00001-of-00002-cd.parquet", val.clone()),
        ("roneneldan/TinyStories", "data/validation-00000-of-00001.parquet", val.clone()),
        ("roneneldan/TinyStories", "TinyStories-train.txt", b"not wanted".to_vec()),
        ("HuggingFaceFW/fineweb-edu", "sample/10BT/000_00000.parquet", train.clone()),
        ("HuggingFaceFW/fineweb-edu", "sample/10BT/001_00000.parquet", val),
        ("HuggingFaceFW/fineweb-edu", "sample/100BT/000_00000.parquet", train),
    ];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = asked.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // Whoever hangs up early is no failure.
            drop(answer(&stream.unwrap(), &files, &noted));
        }
    });
    (endpoint, asked)
}

fn answer(
    stream: &TcpStream,
    files: &[(&str, &str, Vec<u8>)],
    noted: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    lines.for_each(drop);
    let (method, path) = first.split_once(' ').unwrap_or_default();
    let path = path.split([' ', '?']).next().unwrap_or_default();
    let found = files.iter().find(|(repo, file, _)| {
        path == format!("/datasets/{repo}/resolve/main/{file}")
            || path == format!("/datasets/{repo}/resolve/{COMMIT}/{file}")
    });
    let listed = files.iter().find_map(|(repo, ..)| {
        path.strip_prefix(&format!("/api/datasets/{repo}/tree/main"))
            .map(|under| (*repo, under.trim_start_matches('/')))
    });
    let (status, body, etag) = match (found, listed) {
        (Some((_, file, bytes)), _) => {
            if method == "GET" {
                noted.lock().unwrap().push((*file).to_owned());
            }
            ("200 OK", bytes.clone(), file.replace('/', "-"))
        }
        (None, Some((repo, under))) => {
            let entries = files.iter().filter(|(of, file, _)| *of == repo && file.starts_with(under));
            let entries: Vec<_> = entries
                .map(|(_, file, bytes)| serde_json::json!({ "type": "file", "path": file, "size": bytes.len(), "oid": "0" }))
                .collect();
            ("200 OK", serde_json::to_vec(&entries).unwrap(), "list".into())
        }
        _ => ("404 Not Found", Vec::new(), "none".into()),
    };
    let mut out = stream;
    write!(
        out,
        "HTTP/1.1 {status}\r\nconnection: close\r\netag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )?;
    if method == "GET" { out.write_all(&body) } else { Ok(()) }
}

#[test]
fn sets_are_fetched_file_by_file() {
    let place = Place::new();
    let (endpoint, asked) = hub();
    let run = |args: &[&str]| {
        let mut command = place.command(args);
        command.env("HF_ENDPOINT", &endpoint).env_remove("HF_HUB_OFFLINE").env_remove("HF_TOKEN");
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, out, told) = run(&["prepare", "tinystories", "--json"]);
    assert_eq!(code, 0, "{told}");
    assert_snapshot!(told, @"
    fetching data/train-00000-of-00002-ab.parquet 3.69 KiB
    encoding 6.49 KiB
    fetching data/train-00001-of-00002-cd.parquet 1.40 KiB
    fetching data/validation-00000-of-00001.parquet 1.40 KiB
    writing 6.49 KiB
    ");
    let manifest: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(manifest["source"].as_array().unwrap().len(), 3);
    assert_eq!(manifest["documents"], 80);
    assert_eq!(asked.lock().unwrap().len(), 3, "only what is wanted, and once");
    let val = place.read("data/tinystories/val_000000.bin");
    assert_eq!(val[1024..1026], 50256u16.to_le_bytes());

    asked.lock().unwrap().clear();
    let args = ["prepare", "fineweb-edu", "--shard-tokens=500", "--discard", "--json"];
    let (code, out, told) = run(&args);
    assert_eq!(code, 0, "{told}");
    let manifest: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(manifest["val"]["tokens"], 500);
    assert_eq!(manifest["inputs"][0]["file"], "sample/10BT/000_00000.parquet");
    assert_eq!(*asked.lock().unwrap(), ["sample/10BT/000_00000.parquet", "sample/10BT/001_00000.parquet"]);
    let kept = place.path().join("hub/hub/datasets--HuggingFaceFW--fineweb-edu/blobs");
    assert_eq!(fs_err::read_dir(kept).unwrap().count(), 0, "nothing is kept");

    let (code, _, told) = run(&["prepare", "openwebtext"]);
    assert_snapshot!(format!("exit {code}\n{told}").replace(&endpoint, "[HUB]"), @"
    exit 1
    error: the hub has no data set `Skylion007/openwebtext`, or does not show it
    hint: check the spelling; if it is private, set HF_TOKEN to a token that may read it
    ");
}

/// The first has its place until it ends; its input comes through a pipe that is not closed.
#[test]
fn two_preparations_into_one_folder() {
    let place = place_with_lines();
    let mut first = std::process::Command::new(program())
        .current_dir(place.path())
        .args(["prepare", "text", "--input=-", "--tokenizer=byte", "--out=data/one"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let staging = place.path().join("data/one/.partial");
    while !staging.exists() {
        thread::sleep(Duration::from_millis(10));
    }
    place.write("other.txt", "another text\n".repeat(20));
    let second = ["prepare", "text", "--input=other.txt", "--tokenizer=byte", "--out=data/one"];
    assert_snapshot!(place.run(&second), @"
    exit 1
    --- stdout
    --- stderr
    error: another process is preparing a dataset in data/one
    hint: let it end, or choose another directory
    ");
    let mut pipe = first.stdin.take().unwrap();
    pipe.write_all(&b"one text\n".repeat(20)).unwrap();
    drop(pipe);
    assert!(first.wait().unwrap().success());
    assert!(place.done(&["data", "data/one"]).contains("source     standard input\n"));
    assert!(place.failed(&second).contains("data/one already holds a dataset (dataset.json)"));
}

/// Inputs that are no files of text, and an output that is in use.
#[test]
fn what_is_no_source_and_no_place() {
    let place = place_with_lines();
    let of = |args: &[&str]| place.failed(&[&["prepare", "jsonl"], args].concat());
    assert_snapshot!(of(&["--input", "-", "-", "--out=d"]), @"
    error: - is given twice
    hint: name each input once
    ");
    let many = of(&["--input", "shards", "--out=d", "--threads=9999999"]);
    assert!(many.starts_with("error: cannot start 9999999 worker threads: with "), "{many}");
    assert!(many.ends_with("hint: ask for fewer with --threads=N\n"), "{many}");
    place.write("other.txt", "");
    assert_snapshot!(of(&["--input", "shards", "--out=."]), @"
    error: . holds other things (other.txt) and no dataset
    hint: choose a directory of its own, or put the dataset there all the same with --force
    ");
    let directory = fs_err::File::open(place.path()).unwrap().into_parts().0;
    let output = std::process::Command::new(program())
        .current_dir(place.path())
        .args(["prepare", "jsonl", "--input=-", "--out=d"])
        .stdin(directory)
        .output()
        .unwrap();
    assert_snapshot!(String::from_utf8(output.stderr).unwrap(), @"
    reading
    error: standard input is a directory, not a text file
    hint: name the text files themselves, e.g. --input DIR/*.txt
    ");
    let piped = |args: &[&str], text: &str| {
        let output = place.command(args).write_stdin(text).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    assert_snapshot!(piped(&["prepare", "jsonl", "--input=-", "--out=d"], "{\"text\": 7}\n"), @"
    reading
    error: standard input, line 1, column 10: invalid type: integer `7`, expected a string
    hint: each line must be one JSON object; repair it or remove it, then run the same command again
    ");
    assert_snapshot!(piped(&["prepare", "parquet", "--input=-", "--out=d"], "PAR1"), @"
    reading
    error: standard input cannot be read as Parquet: Parquet file too small. Size is 4 but need 8
    hint: the file was cut off or damaged; copy or fetch it again
    ");
    let learn = ["tokenizer", "train", "--vocab-size=300", "--out=t.json"];
    assert_snapshot!(piped(&[&learn[..], &["--input=-", "--column=text"]].concat(), "PAR1"), @"
    error: standard input is a pipe, and Parquet can only be read from a file
    hint: save it to a file first
    ");
    let parquet = fixture("oxigpt-data", "validation.parquet").display().to_string();
    let refused = place.failed(&[&learn[..], &["--input", &parquet]].concat());
    assert!(refused.contains("validation.parquet is not text: it is Parquet"), "{refused}");
    assert!(refused.contains("name its --column"), "{refused}");
    let refused =
        place.failed(&[&learn[..], &["--input=shards", "--field=text", "--threads=9999999"]].concat());
    assert!(refused.starts_with("error: cannot start 9999999 worker threads: with "), "{refused}");
    assert!(!place.path().join("d").exists());
}

/// `<(command)`, as a shell has it: a pipe without a place, which can be read once.
#[cfg(target_os = "linux")]
#[test]
fn what_other_commands_write_is_an_input() {
    let place = Place::new();
    place.write("a.txt", "the cat sat on the mat\n".repeat(20));
    let shell = |script: &str| {
        let script = script.replace("oxigpt", &program().display().to_string());
        let mut command = std::process::Command::new("bash");
        let output = command.current_dir(place.path()).args(["-c", &script]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let told = shell("oxigpt prepare text --input a.txt <(tr a b < a.txt) --tokenizer byte --out d --json");
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["documents"], &told["source"][0]), (&2.into(), &"a.txt".into()));
    assert!(told["source"][1].as_str().unwrap().starts_with("/dev/fd/"), "{told}");
    shell("oxigpt tokenizer train --input <(cat a.txt) --vocab-size 260 --out t.json");
}

/// Interrupted where it waits for a pipe, and in the middle of a block with many shards.
#[cfg(unix)]
#[test]
fn an_interruption_is_heard_at_once() {
    let place = Place::new();
    place.write("a.txt", "the cat sat on the mat\n".repeat(40_000));
    let interrupted = |args: &[&str], until: &dyn Fn() -> bool| {
        let mut child = std::process::Command::new(program())
            .current_dir(place.path())
            .args(args)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Not closed before the end.
        let pipe = child.stdin.take();
        while !until() {
            thread::sleep(Duration::from_millis(10));
        }
        let pid = child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        drop(pipe);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let told = "error: interrupted; what is done is kept\nhint: run the same command again to go on\n";
    let piped = ["prepare", "text", "--input=-", "--tokenizer=byte", "--out=p"];
    let (code, stderr) = interrupted(&piped, &|| place.path().join("p/.partial/.input_0").exists());
    assert_eq!((code, stderr.ends_with(told)), (Some(130), true), "{stderr}");
    let tiny = ["prepare", "text", "--input=a.txt", "--tokenizer=byte", "--shard-tokens=1", "--out=s"];
    let (code, stderr) = interrupted(&tiny, &|| place.path().join("s/.partial/train_000003.bin").exists());
    assert_eq!((code, stderr.ends_with(told)), (Some(130), true), "{stderr}");
    assert!(!place.path().join("s").exists() && !place.path().join("p").exists());
}
