//! Python pickles, read as plain data.
//!
//! A pickle is a program for a small stack machine, and Python's own reader lets it call anything. This one builds
//! containers, numbers and strings, and refuses everything else by name. Whatever classes or functions the caller
//! admits, their calls are kept as data ([`Object`]): nothing is ever run.
//!
//! Values live in one table and refer to each other by their place in it. So a pickle that shares or nests its values
//! without end costs no more memory than its bytes warrant, and nothing here recurses.
//!
//! ```
//! let pickle = oxigpt_pickle::read(b"\x80\x02}X\x0a\x00\x00\x00vocab_sizeKAs.", |_, _| false)?;
//! assert_eq!(pickle.root().get("vocab_size").and_then(|size| size.as_int()), Some(65));
//! # Ok::<(), oxigpt_pickle::Error>(())
//! ```

mod error;
mod reader;
mod value;

pub use error::Error;
pub use reader::{MAX_BYTES, MAX_VALUES, read};
pub use value::{Object, Pickle, Value};
