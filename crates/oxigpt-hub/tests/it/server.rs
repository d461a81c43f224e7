//! A server on this machine that answers as a test tells it, and notes what it was asked; and a small hub for it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn is(&self, method: &str, end: &str) -> bool {
        self.method == method && self.path.ends_with(end)
    }
}

/// What is answered.
#[derive(Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Send no more than so much of the body.
    cut: Option<usize>,
    /// And do nothing for a while before hanging up.
    stall: Duration,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, headers: Vec::new(), body: body.into(), cut: None, stall: Duration::ZERO }
    }

    #[expect(clippy::needless_pass_by_value, reason = "numbers and texts are written in place")]
    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Reply {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self.headers.push((name.into(), value.to_string()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Reply {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self
    }

    /// Breaks off after so much of the body.
    pub(crate) fn cut(mut self, at: usize) -> Reply {
        self.cut = Some(at);
        self
    }

    /// Stops after so much of the body, without hanging up.
    pub(crate) fn stall(mut self, at: usize, time: Duration) -> Reply {
        (self.cut, self.stall) = (Some(at), time);
        self
    }

    pub(crate) fn redirect(to: impl ToString) -> Reply {
        Reply::new(302, "moved").with("Location", to)
    }

    pub(crate) fn error(status: u16, code: &str) -> Reply {
        Reply::new(status, "").with("X-Error-Code", code)
    }

    fn send(&self, head_only: bool, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Whatever\r\nConnection: close\r\n", self.status);
        let says = |name: &str| self.headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
        if !says("content-length") && !says("transfer-encoding") {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all((head + "\r\n").as_bytes())?;
        if !head_only {
            stream.write_all(&self.body[..self.cut.unwrap_or(self.body.len())])?;
            stream.flush()?;
            thread::sleep(self.stall);
        }
        Ok(())
    }
}

/// It runs until the test ends.
pub(crate) struct Server {
    port: u16,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers each request with what `reply` makes of it.
    pub(crate) fn start(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (reply, notes) = (Arc::new(reply), log.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (reply, notes) = (reply.clone(), notes.clone());
                thread::spawn(move || serve(stream, &notes, &*reply));
            }
        });
        Server { port, log }
    }

    /// A hub that answers like one.
    pub(crate) fn hub(fake: FakeHub) -> Server {
        Server::start(move |request| fake.reply(request))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The same server under another name.
    pub(crate) fn other_name(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    /// What was asked since the last time.
    pub(crate) fn take_log(&self) -> Vec<Request> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    /// The same as `METHOD path`.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.take_log().iter().map(|request| format!("{} {}", request.method, request.path)).collect()
    }
}

fn serve(mut stream: TcpStream, log: &Mutex<Vec<Request>>, reply: &dyn Fn(&Request) -> Reply) {
    let Some(request) = read_request(&stream) else { return };
    log.lock().unwrap().push(request.clone());
    let _ = reply(&request).send(request.method == "HEAD", &mut stream);
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.into(), words.next()?.into());
    let headers = lines.take_while(|line| !line.is_empty()).filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.trim().to_lowercase(), value.trim().to_string()))
    });
    Some(Request { method, path, headers: headers.collect() })
}

pub(crate) const COMMIT: &str = "607a30d783dfa663caf39e06633721c8d4cfcd7e";

/// A hub with one repository, which answers to every name.
#[derive(Clone, Default)]
pub(crate) struct FakeHub {
    files: Vec<File>,
}

#[derive(Clone)]
struct File {
    path: String,
    body: Vec<u8>,
    /// Whether it is tagged with its SHA-256.
    is_large: bool,
}

impl File {
    fn tag(&self) -> String {
        let hash = sha256(&self.body);
        if self.is_large { hash } else { hash[..40].into() }
    }
}

pub(crate) fn sha256(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl FakeHub {
    /// Adds a file that is tagged with 40 digits.
    pub(crate) fn small(mut self, path: &str, body: impl Into<Vec<u8>>) -> FakeHub {
        self.files.push(File { path: path.into(), body: body.into(), is_large: false });
        self
    }

    /// Adds a file that is tagged with its SHA-256.
    pub(crate) fn large(mut self, path: &str, body: impl Into<Vec<u8>>) -> FakeHub {
        self.files.push(File { path: path.into(), body: body.into(), is_large: true });
        self
    }

    /// What the real hub would say.
    pub(crate) fn reply(&self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap();
        if path.contains("/revision/") {
            return self.info();
        }
        let name = path.split_once("/resolve/").and_then(|(_, rest)| rest.split_once('/'));
        match name.and_then(|(_, name)| self.files.iter().find(|file| file.path == name)) {
            Some(file) => {
                let reply = serve_range(&file.body, &file.tag(), request).with("X-Repo-Commit", COMMIT);
                if !file.is_large {
                    return reply;
                }
                reply.with("X-Linked-Etag", quoted(&file.tag())).with("X-Linked-Size", file.body.len())
            }
            None => Reply::error(404, "EntryNotFound"),
        }
    }

    fn info(&self) -> Reply {
        let names = self.files.iter().map(|file| serde_json::json!({"rfilename": file.path}));
        let siblings: Vec<_> = names.collect();
        Reply::new(200, serde_json::json!({"sha": COMMIT, "siblings": siblings, "x": 1}).to_string())
    }

    pub(crate) fn tag(&self, path: &str) -> String {
        self.files.iter().find(|file| file.path == path).unwrap().tag()
    }
}

pub(crate) fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// A body, or the part of it that was asked for.
pub(crate) fn serve_range(body: &[u8], tag: &str, request: &Request) -> Reply {
    let is_same = request.header("if-range").is_none_or(|known| known == quoted(tag));
    let range = request.header("range").filter(|_| is_same);
    let start = range.map(|range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
    let len = body.len();
    let reply = match start {
        None => Reply::new(200, body),
        Some(start) if start >= len => Reply::new(416, "").with("Content-Range", format!("bytes */{len}")),
        Some(start) => {
            let range = format!("bytes {start}-{}/{len}", len - 1);
            Reply::new(206, &body[start..]).with("Content-Range", range)
        }
    };
    reply.with("ETag", quoted(tag))
}
