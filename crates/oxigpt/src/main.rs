//! The `oxigpt` program: reads what was typed, does it, and says what came of it.

mod cli;
mod commands;
mod configure;
mod fetch;
mod hint;
mod model;
mod plot;
mod recipes;
mod report;
mod watch;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match commands::run(cli) {
        Ok(code) => code,
        // Whoever read our output has seen enough, as in `oxigpt recipes | head -1`.
        Err(error) if hint::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&error);
            hint::exit_code(&error)
        }
    }
}
