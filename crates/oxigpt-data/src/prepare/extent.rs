//! How long the inputs are, and how far in them a pass is.

use std::iter::once;
use std::ops::ControlFlow;

use super::block::Position;
use super::source::Input;
use super::{Progress, Stage, Watch};
use crate::error::{Error, Result};

/// Where each input begins, in bytes of all as they are on the disk; at last, where they end.
pub(crate) struct Extent(Vec<u64>);

impl Extent {
    pub(crate) fn of(inputs: &[Input]) -> Extent {
        let ends = inputs.iter().scan(0, |sum, input| {
            *sum += input.bytes;
            Some(*sum)
        });
        Extent(once(0).chain(ends).collect())
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.last().copied().unwrap_or(0)
    }

    /// Tells how far a stage is: at `next`, with so many bytes of that input's file `read`.
    pub(crate) fn show(&self, watch: Watch<'_>, stage: Stage, next: &Position, read: u64) -> Result<()> {
        let within = if next.offset == 0 { 0 } else { read.min(self.0[next.input + 1] - self.0[next.input]) };
        let done = self.0[next.input] + within;
        match watch(Progress { stage, done, total: self.total() }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        }
    }
}
