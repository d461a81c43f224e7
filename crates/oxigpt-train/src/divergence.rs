//! The report of a run whose numbers are no longer numbers.

use std::fmt;

use serde::Serialize;

/// Tensors that the message lists.
const LISTED: usize = 4;

/// What was not finite, where in the data, and how the gradients look.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// Updates made so far; the one that would have followed was not made.
    pub step: u64,
    /// What was not finite: `the loss`, `the gradient norm`, `the validation loss`, `the weights`.
    pub what: &'static str,
    /// Where in the data, if a batch was being learned from.
    pub data: Option<DataPosition>,
    /// Norms of the gradients by tensor: those that are not finite first, then the largest.
    pub gradients: Vec<GradientNorm>,
    /// Weights that are not finite, by tensor.
    pub bad_weights: Vec<String>,
    /// The last checkpoint from before, with which resuming goes on.
    pub last_checkpoint: Option<String>,
}

/// A stretch of the training data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DataPosition {
    /// First row, counted from the beginning of the run.
    pub first_row: u64,
    /// Rows.
    pub rows: u64,
    /// Epoch of the first row.
    pub epoch: u64,
    /// Tokens of the corpus at which the windows of the first rows begin.
    pub windows: Vec<u64>,
}

/// The gradient of one tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GradientNorm {
    /// Tensor.
    pub name: String,
    /// Its L2 norm; `null` in JSON where it is not finite.
    pub norm: f64,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not finite after {} updates", self.what, self.step)?;
        if let Some(DataPosition { first_row, rows, epoch, windows }) = &self.data {
            let windows: Vec<_> = windows.iter().map(u64::to_string).collect();
            write!(f, "; data: rows {first_row} to {} of the run, epoch {epoch}", first_row + rows - 1)?;
            write!(f, ", windows at tokens {}", windows.join(", "))?;
            if (windows.len() as u64) < *rows {
                f.write_str(", ...")?;
            }
        }
        if !self.gradients.is_empty() {
            let norms = self.gradients.iter().take(LISTED).map(|g| format!("{} {:.3e}", g.name, g.norm));
            write!(f, "; gradient norms: {}", norms.collect::<Vec<_>>().join(", "))?;
        }
        match self.bad_weights.as_slice() {
            [] => f.write_str("; all weights are finite")?,
            bad => write!(f, "; weights that are not finite: {}", listed(bad))?,
        }
        match &self.last_checkpoint {
            Some(name) => write!(f, "; the last good checkpoint is {name}"),
            None => f.write_str("; there is no checkpoint from before"),
        }
    }
}

fn listed(names: &[String]) -> String {
    let rest = names.len().saturating_sub(LISTED);
    let shown = names[..names.len() - rest].join(", ");
    if rest > 0 { format!("{shown} and {rest} more tensors") } else { shown }
}

impl Divergence {
    /// What to do about it.
    pub(crate) fn hint(&self) -> String {
        let cause = "lower learning_rate, lengthen warmup_iters or lower grad_clip";
        match &self.last_checkpoint {
            Some(name) => format!("{cause}, and go on from {name} with --init_from=resume"),
            None => format!("{cause}, and start again with another --out_dir"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_says_what_where_and_what_is_left() {
        let gradient = |name: &str, norm| GradientNorm { name: name.into(), norm };
        let mut report = Divergence {
            step: 12,
            what: "the loss",
            data: Some(DataPosition { first_row: 48, rows: 4, epoch: 1, windows: vec![5, 900] }),
            gradients: vec![gradient("wte.weight", f64::NAN), gradient("ln_f.weight", 12345.0)],
            bad_weights: vec![],
            last_checkpoint: Some("step-00000010".into()),
        };
        assert_eq!(
            report.to_string(),
            "the loss is not finite after 12 updates; data: rows 48 to 51 of the run, epoch 1, windows at tokens 5, \
             900, ...; gradient norms: wte.weight NaN, ln_f.weight 1.234e4; all weights are finite; the last good \
             checkpoint is step-00000010"
        );
        assert!(report.hint().ends_with("go on from step-00000010 with --init_from=resume"));

        report.bad_weights = (0..6).map(|i| format!("h.{i}")).collect();
        report.last_checkpoint = None;
        assert!(
            report.to_string().contains("not finite: h.0, h.1, h.2, h.3 and 2 more tensors; there is no")
        );
        assert!(report.hint().contains("start again"));
    }
}
