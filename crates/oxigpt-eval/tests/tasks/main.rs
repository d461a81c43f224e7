//! The tasks: readers, protocols, and scores beside those of plain passes over whole rows in float64.

// Allowed in tests, and their helpers are no less so.
#![allow(clippy::unwrap_used)]

mod files;
mod hellaswag;
mod lambada;
mod published;
mod support;
mod wikitext;
