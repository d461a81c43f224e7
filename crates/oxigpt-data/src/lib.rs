//! Token shards, datasets, batches, and the preparation of text.
//!
//! Data flows one way: `prepare` turns text into a data directory; `dataset` opens such a directory (or one of
//! nanoGPT's or build-nanogpt's) as two streams of tokens; `loader` says which window of a stream is row `i` of a
//! run and copies it into a batch. Nothing here knows of models, devices or command lines.

mod dataset;
mod dataset_writer;
mod error;
mod loader;
mod lock;
mod manifest;
mod meta;
mod npy;
mod permutation;
mod prepare;
mod shard;
mod shard_writer;
mod stories;
mod tokens;

pub use dataset::{Dataset, Split, resolve, tokenizer_beside};
pub use error::{DatasetError, Error, InputError, PrepareError, Result, ShardError, WindowError};
pub use loader::{DataOrder, EvalWindows, Loader, eval_windows, spread_windows};
pub use manifest::{InputInfo, Manifest, ShardInfo, SplitInfo, TokenizerInfo};
pub use prepare::{
    EndOfText, Fetch, FetchError, Format, Holdout, Input, Learned, Place, PrepareOptions, Progress, Source,
    Stage, TokenizerKind, Watch, prepare, prepare_stories, prepare_text, read_text, tokenizer_paths,
    train_tokenizer, write_tokenizer,
};
pub use shard::{Shard, TokenWidth};
pub use shard_writer::write_shard;
pub use stories::{DEFAULT_STORIES_BYTES, DEFAULT_STORIES_SEED, stories};
pub use tokens::Tokens;
