//! What can be wrong with a pickle.

use thiserror::Error;

/// Errors of this crate.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// It asks for a class or function that was not admitted.
    #[error("the pickle asks for `{global}`, which is not plain data")]
    Forbidden {
        /// Its module and name.
        global: String,
    },
    /// It holds something that has no place in plain data.
    #[error("byte {at} of the pickle is opcode 0x{code:02x}, which is not one of plain data")]
    Opcode {
        /// The opcode.
        code: u8,
        /// Its place.
        at: usize,
    },
    /// It breaks the rules of pickles.
    #[error("the pickle is damaged at byte {at}: {reason}")]
    Damaged {
        /// The place.
        at: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// It is larger than anything it should hold.
    #[error("the pickle has more than {limit} {what}")]
    TooLarge {
        /// Bytes or values.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Forbidden { .. } | Error::Opcode { .. } => {
                "take care with this file: only plain containers, numbers, strings and tensors are read here, but \
                 Python would run what else it asks for"
            }
            Error::Damaged { .. } => "the file is cut short or damaged: fetch or save it again",
            Error::TooLarge { .. } => "this is no checkpoint or vocabulary of a GPT",
        };
        Some(hint.into())
    }
}
