//! Runs the binary in a folder of its own and writes down what came of it.

use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use tempfile::TempDir;

/// A folder of its own for one test, in which it runs the program.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().unwrap())
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
        command
    }

    pub(crate) fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
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
