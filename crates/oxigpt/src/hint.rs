//! What an error means to the program: the hint it carries, and the exit code it leads to.

use std::io;
use std::process::ExitCode;

use oxigpt_train::settings::SettingsError;

/// An error of the program itself.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct CliError {
    message: String,
    hint: String,
    exit_code: u8,
}

impl CliError {
    /// A request that cannot be meant.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into(), exit_code: 2 }
    }

    /// A request that cannot be carried out with what there is.
    pub(crate) fn failure(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into(), exit_code: 1 }
    }

    fn hint(&self) -> Option<String> {
        Some(self.hint.clone())
    }
}

/// What to do about the error, where one of its causes knows.
pub(crate) fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        macro_rules! hint_of {
            ($($type:ty)+) => { None$(.or_else(|| cause.downcast_ref::<$type>()?.hint()))+ };
        }
        hint_of! {
            CliError
            SettingsError
            oxigpt_compute::Error
            oxigpt_data::Error
            oxigpt_eval::tasks::TaskError
            oxigpt_hub::Error
            oxigpt_model::Error
            oxigpt_text::Error
            oxigpt_train::Error
        }
        .or_else(|| io_hint(cause.downcast_ref::<io::Error>()?))
    })
}

fn io_hint(error: &io::Error) -> Option<String> {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::IsADirectory => "that is a directory: name a file",
        io::ErrorKind::NotADirectory => "what the path takes for a folder is a file: check the path",
        io::ErrorKind::PermissionDenied => "check whose file it is, and what it allows",
        io::ErrorKind::InvalidData => "the file must be text in UTF-8",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "make room on the disk"
        }
        io::ErrorKind::ReadOnlyFilesystem => "write elsewhere: nothing can be written there",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// 2 where the request was wrong, 1 where carrying it out failed.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    let own = error.chain().find_map(|cause| match cause.downcast_ref::<CliError>() {
        Some(own) => Some(own.exit_code),
        None if is_interruption(cause) => Some(130),
        None => cause.is::<SettingsError>().then_some(2),
    });
    ExitCode::from(own.unwrap_or(1))
}

fn is_interruption(cause: &(dyn std::error::Error + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(oxigpt_data::Error::Interrupted))
        || matches!(cause.downcast_ref(), Some(oxigpt_hub::Error::Interrupted { .. }))
}

/// Whether the error is only that nobody reads our output any more.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let is_pipe = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(is_pipe))
}
