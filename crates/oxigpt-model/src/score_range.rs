//! How far the scores of a polynomial attention go: whether they stay where the polynomial resembles its kernel.

use oxigpt_compute::{AttentionKind, Error, Op, PhaseId, Session};
use serde::Serialize;

/// The scores of some passes beside the range of their polynomial, whose lower end is [`AttentionKind::lowest_score`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ScoreRange {
    /// Pairs of a query and a key that it sees, over all heads and layers.
    #[serde(rename = "attn_scores")]
    pub scores: u64,
    /// Those whose score is below the range.
    #[serde(rename = "attn_below")]
    pub below: u64,
    /// The lowest score.
    #[serde(rename = "attn_lowest")]
    pub lowest: f64,
}

impl ScoreRange {
    /// Of the last run of a phase, of its first `rows` sequences. Nothing where attention is no polynomial.
    ///
    /// # Errors
    /// If the session cannot be read.
    pub fn of(session: &Session, phase: PhaseId, rows: usize) -> Result<Option<ScoreRange>, Error> {
        let mut total = None;
        for op in &session.plan().phase(phase).ops {
            if let Op::Attention { range: Some(range), .. } = *op {
                let shape = &session.plan().tensor(range).shape;
                let mut counts = vec![0.0; shape.iter().product()];
                session.download(range, &mut counts)?;
                let (heads, t) = (shape[1], shape[2]);
                let queries = counts.as_chunks().0.iter().take(rows * heads * t);
                let (below, lowest) = queries.fold((0, 0.0), |(sum, least): (u64, f64), &[below, lowest]| {
                    (sum + below as u64, least.min(f64::from(lowest)))
                });
                let scores = (rows * heads * t * (t + 1) / 2) as u64;
                total = ScoreRange::merge(total, Some(ScoreRange { scores, below, lowest }));
            }
        }
        Ok(total)
    }

    /// Both together.
    pub fn merge(one: Option<ScoreRange>, other: Option<ScoreRange>) -> Option<ScoreRange> {
        let (Some(one), Some(other)) = (one, other) else { return one.or(other) };
        Some(ScoreRange {
            scores: one.scores + other.scores,
            below: one.below + other.below,
            lowest: one.lowest.min(other.lowest),
        })
    }

    /// The part of all scores that is below the range.
    pub fn share_below(&self) -> f64 {
        self.below as f64 / self.scores as f64
    }

    /// What to tell of scores that `kind` has no room for, and what to do about them.
    pub fn warning(&self, kind: AttentionKind) -> Option<String> {
        let (limit, share) = (kind.lowest_score().filter(|_| self.below > 0)?, 100.0 * self.share_below());
        let what =
            if kind.clamp() { "is cut off, and learns nothing" } else { "grows again instead of vanishing" };
        let squarings = (-self.lowest).log2().ceil();
        let room = if squarings <= 16.0 { format!("gaussian-poly-{squarings}") } else { "gaussian".into() };
        let clamp = if kind.clamp() { "" } else { ", and --attn_clamp=true makes such weights zero" };
        Some(format!(
            "{share:.2} % of the attention scores are below {limit}, where {kind} {what}; the lowest is {:.1}: \
             {room} has room for it{clamp}",
            self.lowest
        ))
    }
}
