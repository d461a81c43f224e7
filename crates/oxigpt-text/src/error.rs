//! What can go wrong: a text that a character vocabulary cannot spell, or tokenizer files that are not ours to read.

/// How many missing characters an error message lists.
const LISTED: usize = 10;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A character vocabulary without a character.
    #[error("the text is empty, so there is no character to make a vocabulary of")]
    EmptyVocabulary,

    /// A character vocabulary that lists a character twice.
    #[error("the vocabulary lists the character {character:?} twice, as ids {first} and {second}")]
    RepeatedCharacter {
        /// The character.
        character: char,
        /// Its lower id.
        first: u32,
        /// Its higher id.
        second: u32,
    },

    /// A text with characters that the vocabulary lacks.
    #[error(
        "the character vocabulary (of {vocab_size}) lacks {} of the text: {}",
        count(missing),
        list(missing)
    )]
    UnknownCharacters {
        /// The missing characters, each once, in order of appearance.
        missing: Vec<char>,
        /// Number of characters in the vocabulary.
        vocab_size: usize,
    },

    /// A tokenizer file that is not JSON of the expected shape.
    #[error("{file}: not the JSON of a tokenizer")]
    Json {
        /// The file's name.
        file: String,
        /// What the parser says.
        source: serde_json::Error,
    },

    /// A tokenizer file that is well formed, but describes a tokenizer of another kind.
    #[error("{file}: an unsupported tokenizer: {reason}")]
    Foreign {
        /// The file's name.
        file: String,
        /// What differs from the tokenizers of this crate.
        reason: String,
    },

    /// A text that the tokenizer of a `tokenizer.json` cannot encode.
    #[error("the tokenizer.json cannot encode the text")]
    Encode(#[source] Box<dyn std::error::Error + Send + Sync>),

    /// A vocabulary to train that is too small for the bytes and the special tokens, or larger than is ever read.
    #[error(
        "a vocabulary of {vocab_size} tokens cannot be trained: with {n_specials} special token{} the smallest has \
         {smallest}, the largest {largest}",
        if *n_specials == 1 { "" } else { "s" }
    )]
    VocabularySize {
        /// The size asked for.
        vocab_size: usize,
        /// 256 bytes and the special tokens.
        smallest: usize,
        /// Number of special tokens.
        n_specials: usize,
        /// The largest size there is.
        largest: usize,
    },

    /// A special token that could not be told from another token.
    #[error("the special token {token:?} {problem}")]
    SpecialToken {
        /// The token.
        token: String,
        /// What is wrong with it.
        problem: &'static str,
    },

    /// Training on no text at all.
    #[error("the text to train the tokenizer on is empty")]
    NoTrainingText,

    /// Training that failed inside the library.
    #[error("the tokenizer cannot be trained")]
    Train(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// One sentence on what to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::EmptyVocabulary => "give a text of at least one character",
            Error::RepeatedCharacter { .. } => "list every character once; its place in the list is its id",
            Error::UnknownCharacters { .. } => {
                "use only characters of the text that the vocabulary was made of, or prepare the data with the gpt2 \
                 tokenizer, which encodes any text"
            }
            Error::Json { .. } => "fetch or write the tokenizer files again; this one is damaged",
            Error::Foreign { .. } => {
                "give a tokenizer.json that the current Python package `tokenizers` opens (AutoTokenizer's save_pretrained \
                 writes one); if the model was trained with plain GPT-2 tokens, remove the tokenizer files from its \
                 directory"
            }
            Error::Encode(_) => {
                "use a tokenizer that encodes any text (gpt2, byte, or one that is trained), or clean the text"
            }
            Error::VocabularySize { vocab_size, smallest, .. } if vocab_size < smallest => {
                return Some(format!(
                    "ask for at least {smallest}; every byte and every special token is one"
                ));
            }
            Error::VocabularySize { .. } => "ask for fewer; common sizes are 8,000 to 65,000",
            Error::SpecialToken { .. } => {
                "list each special token once, with a name that no text has, like <|endoftext|>"
            }
            Error::NoTrainingText => {
                "give text to train on; a few megabytes of the language are enough to begin with"
            }
            Error::Train(_) => "ask for a smaller vocabulary or give less text",
        };
        Some(hint.to_owned())
    }
}

fn count(missing: &[char]) -> String {
    match missing.len() {
        1 => "1 character".to_owned(),
        n => format!("{n} characters"),
    }
}

fn list(missing: &[char]) -> String {
    let listed: Vec<String> = missing.iter().take(LISTED).map(|c| format!("{c:?}")).collect();
    let rest = if missing.len() > LISTED { ", ..." } else { "" };
    listed.join(", ") + rest
}
