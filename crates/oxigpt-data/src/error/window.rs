//! Batches that cannot be made of a stream of tokens.

use super::tokens;

/// An error about the windows of a stream.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// The corpus does not hold a single window.
    #[error(
        "{corpus} is too short: it holds {}, and one window of block_size {block_size} needs {needed}",
        tokens(*found)
    )]
    TooShort {
        /// Which tokens: directory and split.
        corpus: String,
        /// Tokens in it.
        found: u64,
        /// Tokens that are needed, `block_size + 1`.
        needed: u64,
        /// The length of a window.
        block_size: usize,
    },
    /// A window of no tokens was asked for.
    #[error("block_size must be at least 1")]
    ZeroBlock,
    /// The evaluation is limited to less than one window.
    #[error("an evaluation of {} does not hold one window of block_size {block_size}", tokens(*max_tokens))]
    EvalTooShort {
        /// The limit.
        max_tokens: u64,
        /// The length of a window.
        block_size: usize,
    },
    /// `data_order` is none of the three.
    #[error("unknown data_order `{found}`")]
    UnknownOrder {
        /// What was given.
        found: String,
    },
}

impl WindowError {
    /// One sentence that says what to do about it.
    pub fn hint(&self) -> Option<String> {
        use WindowError as E;
        let hint = match self {
            E::TooShort { .. } => "use more text, or a smaller block_size",
            E::ZeroBlock => "set block_size to the number of tokens that the model shall see at once",
            E::EvalTooShort { .. } => "raise the number of tokens to evaluate, or lower block_size",
            E::UnknownOrder { .. } => "use one of: shuffled, sequential, random",
        };
        Some(hint.to_owned())
    }
}
