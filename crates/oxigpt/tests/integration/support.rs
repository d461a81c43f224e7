//! Runs the binary in a folder of its own and writes down what came of it.

use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use assert_cmd::Command;
use tempfile::TempDir;

/// A run of a moment, on the data set that [`Place::for_training`] prepares.
const TINY: &str = r#"
dataset = "cat"
out_dir = "run"
threads = 1
n_layer = 1
n_head = 2
n_embd = 32
block_size = 16
batch_size = 4
gradient_accumulation_steps = 2
dropout = 0.1
learning_rate = 1e-2
min_lr = 1e-3
warmup_iters = 5
max_iters = 40
lr_decay_iters = 40
eval_interval = 20
eval_iters = 2
log_interval = 10
sample_tokens = 20
"#;

/// A folder of its own for one test, in which it runs the program.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// A place where `oxigpt train tiny.toml` works.
    pub(crate) fn for_training() -> Self {
        let place = Self::new();
        place.write("tiny.toml", TINY);
        place.write("cat.txt", "the cat sat on the mat\n".repeat(200));
        place.done(&["prepare", "text", "--input=cat.txt", "--tokenizer=char", "--out=data/cat"]);
        place
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, and the folders on its way.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::cargo_bin("oxigpt").unwrap();
        command.current_dir(self.path()).args(args).env_remove("COLUMNS").env_remove("RUST_BACKTRACE");
        // No test may find what this machine has fetched, nor fetch anything.
        command.env("HF_HOME", self.path().join("hub")).env("HF_HUB_OFFLINE", "1");
        command
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs_err::read(self.path().join(name)).unwrap()
    }

    pub(crate) fn read_text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    pub(crate) fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What a command that must succeed prints to standard output.
    pub(crate) fn done(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command that must fail prints to standard error.
    pub(crate) fn failed(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert_ne!(output.status.code(), Some(0), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// What a command prints to standard error that fails because no file can grow beyond so many half KiB: as on a full
    /// disk, in the middle of the file that is being written.
    #[cfg(unix)]
    pub(crate) fn failed_on_full_disk(&self, blocks: u32, args: &[&str]) -> String {
        let output = std::process::Command::new("sh")
            .args(["-c", &format!(r#"trap '' XFSZ; ulimit -f {blocks}; exec "$@""#), "sh"])
            .arg(program())
            .args(args)
            .current_dir(self.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Starts a command; its standard error can be read while it runs.
    pub(crate) fn start(&self, args: &[&str]) -> Child {
        std::process::Command::new(program())
            .current_dir(self.path())
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Exit code and what was printed, with this folder and the version taken out.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let text = format!(
            "exit {}\n--- stdout\n{}--- stderr\n{}",
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        );
        text.replace(&format!("{}", self.path().display()), "[PLACE]")
            .replace(env!("CARGO_PKG_VERSION"), "[VERSION]")
    }
}

/// A file of the fixtures of a crate.
pub(crate) fn fixture(krate: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(krate).join("tests/fixtures").join(name)
}

/// Where the program is.
pub(crate) fn program() -> PathBuf {
    assert_cmd::cargo::cargo_bin!("oxigpt").to_path_buf()
}

/// Runs the program once, in a folder that holds nothing.
pub(crate) fn run(args: &[&str]) -> String {
    Place::new().run(args)
}

/// Exit code and standard error of a command that must print nothing else.
pub(crate) fn refused(args: &[&str]) -> String {
    let text = run(args);
    let (head, stderr) = text.split_once("--- stdout\n--- stderr\n").unwrap_or_else(|| panic!("{text}"));
    format!("{head}{stderr}")
}

/// A place with each kind of model: `hf` and `llmc.bin`, which have no tokenizer, `nano/ckpt.pt` with its characters in
/// `data/shakespeare_char`, and a few tokens for the first two in `data/stream`.
pub(crate) fn place_with_models() -> Place {
    let place = Place::new();
    for name in ["config.json", "generation_config.json", "model.safetensors"] {
        place.write(
            &format!("hf/{name}"),
            fs_err::read(fixture("oxigpt-model", &format!("hf-gpt2/{name}"))).unwrap(),
        );
    }
    let copies = [
        ("oxigpt-model", "llmc_model.bin", "llmc.bin"),
        ("oxigpt-model", "ckpt.pt", "nano/ckpt.pt"),
        ("oxigpt-data", "meta.pkl", "data/shakespeare_char/meta.pkl"),
        ("oxigpt-eval", "stream/train.bin", "data/stream/train.bin"),
        ("oxigpt-eval", "stream/val.bin", "data/stream/val.bin"),
    ];
    for (krate, from, to) in copies {
        place.write(to, fs_err::read(fixture(krate, from)).unwrap());
    }
    let chars = fs_err::read(fixture("oxigpt-model", "nanogpt_val.bin")).unwrap();
    let tokens: Vec<u8> = chars.iter().flat_map(|&c| u16::from(c).to_le_bytes()).collect();
    place.write("data/shakespeare_char/val.bin", &tokens);
    place.write("data/shakespeare_char/train.bin", &tokens);
    place
}
