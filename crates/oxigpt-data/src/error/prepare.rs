//! Preparations that cannot be meant, or that something is in the way of.

use std::path::PathBuf;

/// An error about the options of a preparation, or its output.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The tokenizer's name is none of those that `prepare` knows.
    #[error("unknown tokenizer `{found}`")]
    UnknownTokenizer {
        /// What was given.
        found: String,
    },
    /// What has been begun in the directory is something else.
    #[error("{dir} holds a preparation that was interrupted, of other inputs or with other options")]
    OtherPreparation {
        /// The output directory.
        dir: PathBuf,
    },
    /// What has been begun cannot be gone on with.
    #[error("{name} has changed since it was used for this preparation")]
    InputChanged {
        /// The input.
        name: String,
    },
    /// What has been made is not what it was.
    #[error("{path} is damaged: it is not what the interrupted preparation wrote")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// All text went to one side.
    #[error("there is nothing for the {split} split")]
    NothingFor {
        /// `train` or `val`.
        split: &'static str,
    },
    /// Documents cannot be cut at the tail of all.
    #[error("only plain text can be cut at its end; records are chosen whole")]
    TailOfRecords,
    /// A shard of no tokens, or of too many.
    #[error("a shard of {found} tokens is impossible")]
    ShardTokens {
        /// What was given.
        found: usize,
    },
    /// The place of the end-of-text token is none of the four.
    #[error("unknown place `{found}` for the end-of-text token")]
    UnknownEndOfText {
        /// What was given.
        found: String,
    },
    /// The output directory holds a dataset already.
    #[error("{dir} already holds a dataset ({found})")]
    OutputExists {
        /// The output directory.
        dir: PathBuf,
        /// The file that shows it.
        found: String,
    },
    /// The output directory holds what is no dataset.
    #[error("{dir} holds other things ({found}) and no dataset")]
    OutputInUse {
        /// The output directory.
        dir: PathBuf,
        /// One of them.
        found: String,
    },
    /// An input has a name that a file of the dataset may take.
    #[error("{path} is an input, and the dataset may have a file of that name in the same directory")]
    OutputIsInput {
        /// The input.
        path: PathBuf,
    },
    /// A file stands where one is to be written.
    #[error("{path} already exists and would be overwritten")]
    OutputFileExists {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else writes a dataset into the same directory.
    #[error("another process is preparing a dataset in {dir}")]
    Busy {
        /// The output directory.
        dir: PathBuf,
    },
    /// The output directory's name is taken by a file or a device.
    #[error("{path} is a file; a dataset needs a directory")]
    OutputIsFile {
        /// The output.
        path: PathBuf,
    },
    /// The output directory's name is taken by a link that leads nowhere.
    #[error("{path} is a link to something that is not there")]
    OutputIsDeadLink {
        /// The output.
        path: PathBuf,
    },
    /// The validation part is no fraction.
    #[error("val_fraction is {value:?}, but must lie between 0 and 1, both excluded")]
    ValFraction {
        /// What was given.
        value: f64,
    },
    /// One of the two parts is empty.
    #[error("val_fraction {value:?} of {} leaves the {split} split empty", characters(*chars))]
    EmptySplit {
        /// The fraction.
        value: f64,
        /// Characters in all inputs.
        chars: u64,
        /// `train` or `val`.
        split: &'static str,
    },
}

impl PrepareError {
    /// One sentence that says what to do about it.
    pub fn hint(&self) -> Option<String> {
        use PrepareError as E;
        let hint = match self {
            E::UnknownTokenizer { .. } => {
                "use one of: gpt2, char, byte, or the path of a tokenizer.json or of its folder"
            }
            E::OtherPreparation { .. } => {
                "repeat the command that began it to go on with it, or begin anew with --force"
            }
            E::InputChanged { .. } => {
                "put the file back as it was, its time included, or begin anew with --force"
            }
            E::Damaged { .. } => "begin anew with --force",
            E::NothingFor { split: "train" } => "use more text, a smaller val_fraction, or smaller shards",
            E::NothingFor { .. } => "use more text, or a larger val_fraction",
            E::TailOfRecords => "use val_fraction with a seed, or the first shard",
            E::ShardTokens { .. } => "use a number from 1 to 2147483647, such as 100000000",
            E::UnknownEndOfText { .. } => "use one of: before, after, between, none",
            E::OutputExists { .. } => "choose another directory, or replace the dataset with --force",
            E::OutputFileExists { .. } => {
                "choose another directory with --out, or overwrite the file with --force"
            }
            E::Busy { .. } => "let it end, or choose another directory",
            E::OutputInUse { .. } => {
                "choose a directory of its own, or put the dataset there all the same with --force"
            }
            E::OutputIsInput { .. } => "choose another directory with --out, or rename the input",
            E::OutputIsFile { .. } => "choose another output directory",
            E::OutputIsDeadLink { .. } => "remove the link, or make the directory that it leads to",
            E::ValFraction { .. } => "use 0.1 to keep a tenth for validation",
            E::EmptySplit { split: "train", .. } => "use more text, or a smaller val_fraction",
            E::EmptySplit { .. } => "use more text, or a larger val_fraction",
        };
        Some(hint.to_owned())
    }
}

fn characters(count: u64) -> String {
    if count == 1 { "1 character".into() } else { format!("{count} characters") }
}
