//! Scoring with a cache of keys and values: how unlikely given words are behind given contexts.
//!
//! Several sequences lie side by side. What they share with the sequences scored after them is read once, without a
//! classifier; then every continuation is scored from there, over what the one before it left in the cache.
//!
//! Tokens are fed in pieces of a few fixed lengths. A piece that would reach behind the last position begins earlier;
//! what lies behind the end of a sequence is token 0, whose keys are overwritten before anything attends to them.
//!
//! Where attention depends on the length of the whole text, nothing can be shared: every sequence is then scored from its
//! beginning, at its own length.

use std::iter::once;
use std::ops::Range;

use oxigpt_compute::{Builder, Data, PhaseId, Session, TensorId};

use crate::{Error, ModelConfig, Weights, attention, forward};

/// Lengths of a piece: near enough to each other that little of a piece is padding.
const LENGTHS: [usize; 13] = [4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128];

/// Handles of the phases that score.
#[derive(Clone, Debug)]
pub struct Scorer {
    batch_size: usize,
    positions: usize,
    /// `[batch_size]` U32: tokens that are fed of each sequence, where attention depends on it.
    lengths: Option<TensorId>,
    read: Vec<Piece>,
    score: Vec<Piece>,
}

/// A phase that feeds a piece of every sequence.
#[derive(Clone, Copy, Debug)]
struct Piece {
    len: usize,
    /// `[batch_size, len]` U32.
    tokens: TensorId,
    /// `[1]` U32: where the first column stands.
    position: TensorId,
    /// `[batch_size, len]` U32 targets, and the `[batch_size * len]` losses of these; absent where only the cache is
    /// filled.
    classified: Option<(TensorId, TensorId)>,
    phase: PhaseId,
}

impl Scorer {
    /// Declares caches and phases for `batch_size` sequences of at most `positions` tokens that are fed, which the
    /// model must have.
    pub fn declare(
        b: &mut Builder,
        config: &ModelConfig,
        weights: &Weights,
        batch_size: usize,
        positions: usize,
    ) -> Scorer {
        let shape = [batch_size, positions, config.n_embd];
        let mut cache = |kind: &str, layer: usize| b.cache(&format!("h.{layer}.{kind}_scored"), &shape);
        let caches: Vec<_> = (0..config.n_layer).map(|l| (cache("k", l), cache("v", l))).collect();
        let longest = positions.min(LENGTHS[LENGTHS.len() - 1]);
        let lengths = || LENGTHS.into_iter().filter(|&len| len < longest).chain(once(longest));
        let text_lengths =
            config.attention.depends_on_length().then(|| b.counters("scored_lengths", &[batch_size]));
        let mut piece = |len, classify| {
            let shape = ([batch_size, len], positions);
            Piece::declare(b, config, weights, (&caches, text_lengths), shape, classify)
        };
        let read = lengths().map(|len| piece(len, false)).collect();
        let score = lengths().map(|len| piece(len, true)).collect();
        Scorer { batch_size, positions, lengths: text_lengths, read, score }
    }

    /// Sequences side by side.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Tokens of a sequence that can be fed: all but its last, which is only ever a target.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Puts `columns` of the sequences into the cache, where the columns before must be already.
    ///
    /// # Errors
    /// If a token is none of the model's words.
    ///
    /// # Panics
    /// If there are more sequences than `batch_size`, or columns than `positions`.
    pub fn read<R: AsRef<[u32]>>(
        &self,
        session: &mut Session,
        rows: &[R],
        columns: Range<usize>,
    ) -> Result<(), Error> {
        if self.lengths.is_some() {
            return Ok(());
        }
        self.feed(session, &self.read, rows, columns, &mut |_, _| ())
    }

    /// Losses, in nats, of the tokens at `targets` of each sequence, given all tokens before them; fewer for sequences
    /// that end earlier. The columns up to `targets.start - 1`, exclusive, must be in the cache.
    ///
    /// # Errors
    /// If a token is none of the model's words.
    ///
    /// # Panics
    /// If there are more sequences than `batch_size`, or targets than follow `positions`; if position 0 is a target.
    pub fn score<R: AsRef<[u32]>>(
        &self,
        session: &mut Session,
        rows: &[R],
        targets: Range<usize>,
    ) -> Result<Vec<Vec<f32>>, Error> {
        assert!(targets.start > 0, "nothing stands before the first token");
        let first = targets.start - 1;
        let mut columns = first..targets.end - 1;
        if let Some(lengths) = self.lengths {
            columns.start = 0;
            let fed = |row: &R| row.as_ref().len().min(targets.end).saturating_sub(1).max(1) as u32;
            let mut fed: Vec<u32> = rows.iter().map(fed).collect();
            fed.resize(self.batch_size, 1);
            session.upload(lengths, Data::U32(&fed))?;
        }
        let mut losses = vec![Vec::new(); rows.len()];
        self.feed(session, &self.score, rows, columns, &mut |(row, column), loss| {
            if column >= first {
                losses[row].push(loss);
            }
        })?;
        Ok(losses)
    }

    /// Feeds `columns` piece by piece, and tells the loss of every target within its sequence.
    fn feed<R: AsRef<[u32]>>(
        &self,
        session: &mut Session,
        pieces: &[Piece],
        rows: &[R],
        columns: Range<usize>,
        tell: &mut dyn FnMut((usize, usize), f32),
    ) -> Result<(), Error> {
        assert!(rows.len() <= self.batch_size, "more sequences than lie side by side");
        assert!(columns.end <= self.positions, "more columns than positions");
        let mut fed = columns.start;
        while fed < columns.end {
            let fits = |piece: &&Piece| piece.len >= columns.end - fed;
            let piece = pieces.iter().find(fits).unwrap_or(&pieces[pieces.len() - 1]);
            let start = fed.min(self.positions - piece.len);
            let end = (start + piece.len).min(columns.end);
            let losses = piece.run(session, self.batch_size, rows, start)?;
            for (row, losses) in losses.chunks_exact(piece.len).take(rows.len()).enumerate() {
                let end = end.min(rows[row].as_ref().len().saturating_sub(1));
                (fed..end).for_each(|column| tell((row, column), losses[column - start]));
            }
            fed = end;
        }
        Ok(())
    }
}

impl Piece {
    fn declare(
        b: &mut Builder,
        config: &ModelConfig,
        weights: &Weights,
        (caches, lengths): (&[(TensorId, TensorId)], Option<TensorId>),
        (shape, positions): ([usize; 2], usize),
        classify: bool,
    ) -> Piece {
        let (len, limit) = (shape[1], config.vocab_size as u32);
        let name = format!("{}_{len}", if classify { "score" } else { "read" });
        let phase = b.begin(&name);
        let tokens_bt = b.input_u32(&format!("{name}_tokens"), &shape, limit);
        let position = b.input_u32(&format!("{name}_position"), &[1], (positions - len) as u32 + 1);
        let x_btc =
            forward(b, config, weights, tokens_bt, Some(position), None, |b, layer, block, normed_btc| {
                attention(b, block, normed_btc, |b, qkv_bt3c| {
                    b.cached_attention(
                        qkv_bt3c,
                        caches[layer],
                        (position, lengths),
                        config.n_head,
                        config.attention,
                    )
                })
            });
        let classified = classify.then(|| {
            let targets_bt = b.input_u32(&format!("{name}_targets"), &shape, limit);
            (targets_bt, b.classifier(x_btc, weights.wte, targets_bt, config.vocab_size))
        });
        Piece { len, tokens: tokens_bt, position, classified, phase }
    }

    /// Feeds the columns from `start` on; gives `[batch_size, len]` losses, or none.
    fn run<R: AsRef<[u32]>>(
        &self,
        session: &mut Session,
        batch_size: usize,
        rows: &[R],
        start: usize,
    ) -> Result<Vec<f32>, Error> {
        session.upload(self.tokens, Data::U32(&self.columns(batch_size, rows, start)))?;
        session.upload(self.position, Data::U32(&[start as u32]))?;
        let Some((targets, losses)) = self.classified else {
            session.run(self.phase);
            return Ok(Vec::new());
        };
        session.upload(targets, Data::U32(&self.columns(batch_size, rows, start + 1)))?;
        session.run(self.phase);
        let mut found = vec![0.0; batch_size * self.len];
        session.download(losses, &mut found)?;
        Ok(found)
    }

    /// `[batch_size, len]` tokens from column `start` on, 0 where there are none.
    fn columns<R: AsRef<[u32]>>(&self, batch_size: usize, rows: &[R], start: usize) -> Vec<u32> {
        let mut columns = vec![0; batch_size * self.len];
        for (to, row) in columns.chunks_exact_mut(self.len).zip(rows) {
            let rest = row.as_ref().get(start..).unwrap_or_default();
            let len = rest.len().min(self.len);
            to[..len].copy_from_slice(&rest[..len]);
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use oxigpt_compute::reference::Reference;
    use oxigpt_compute::{AttentionKind, AttentionScale, Gelu};

    use super::*;
    use crate::{Initial, TensorTable, eval_plan, score_plan};

    const VOCAB_SIZE: usize = 31;

    fn config() -> ModelConfig {
        ModelConfig {
            n_layer: 2,
            n_head: 2,
            n_embd: 8,
            block_size: 150,
            vocab_size: VOCAB_SIZE,
            bias: true,
            dropout: 0.0,
            gelu: Gelu::Tanh,
            attention: AttentionKind::Softmax,
        }
    }

    fn session(plan: oxigpt_compute::Plan, table: &TensorTable) -> Session {
        let mut session = Session::new(plan, Box::new(Reference::new())).expect("a small model");
        table.upload(&mut session, &Initial { config: &config(), seed: 3 }).expect("its own weights");
        session
    }

    fn row(len: usize, seed: usize) -> Vec<u32> {
        (0..len).map(|t| ((t * t + seed * t + seed) % VOCAB_SIZE) as u32).collect()
    }

    /// Losses of all tokens but the first, in one pass.
    fn whole(row: &[u32]) -> Vec<f32> {
        whole_with(&config(), row)
    }

    fn whole_with(config: &ModelConfig, row: &[u32]) -> Vec<f32> {
        let (plan, table, pass) = eval_plan(config, 1, row.len() - 1, None).expect("a small model");
        let mut session = session(plan, &table);
        session.upload(pass.tokens, Data::U32(&row[..row.len() - 1])).expect("tokens");
        session.upload(pass.targets, Data::U32(&row[1..])).expect("targets");
        session.run(pass.phase);
        let mut losses = vec![0.0; row.len() - 1];
        session.download(pass.losses, &mut losses).expect("losses");
        losses
    }

    fn assert_close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found / expected - 1.0).abs() < 1e-6, "{found} is not {expected}");
        }
    }

    /// Wherever reading ends and scoring begins, for rows as long as fit and shorter ones beside them.
    #[test]
    fn losses_are_those_of_a_whole_pass() {
        for positions in [1, 3, 8, 37, 128, 150] {
            let rows = [row(positions + 1, 1), row(positions.div_ceil(2) + 1, 2)];
            let expected = rows.each_ref().map(|row| whole(row));
            let (plan, table, scorer) = score_plan(&config(), 3, positions, None).expect("a small model");
            let mut session = session(plan, &table);
            for read in [0, 1, positions / 3, positions / 2, positions - 1] {
                scorer.read(&mut session, &rows, 0..read).expect("its own words");
                let found =
                    scorer.score(&mut session, &rows, read + 1..positions + 1).expect("its own words");
                for (found, expected) in found.iter().zip(&expected) {
                    assert_close(found, &expected[read.min(expected.len())..]);
                }
            }
        }
    }

    /// Sequences side by side that are of different lengths, and whose attention depends on these.
    #[test]
    fn attention_that_depends_on_the_length_has_that_of_each_sequence() {
        let attention = AttentionKind::parse("pointwise-sigmoid", AttentionScale::Length, false);
        let config = ModelConfig { attention: attention.expect("a kind"), ..config() };
        let rows = [row(61, 1), row(20, 2)];
        let (plan, table, scorer) = score_plan(&config, 3, 60, None).expect("a small model");
        let mut session = session(plan, &table);
        scorer.read(&mut session, &rows, 0..9).expect("its own words");
        let found = scorer.score(&mut session, &rows, 10..61).expect("its own words");
        for (found, row) in found.iter().zip(&rows) {
            assert_close(found, &whole_with(&config, row)[9..]);
        }
    }

    /// What was scored behind a context does not change what is scored there next.
    #[test]
    fn a_context_serves_several_continuations() {
        let (plan, table, scorer) = score_plan(&config(), 1, 60, None).expect("a small model");
        let mut session = session(plan, &table);
        let context = row(20, 5);
        scorer.read(&mut session, &[&context], 0..19).expect("its own words");
        for (seed, len) in [(1, 30), (2, 5), (3, 41), (4, 1)] {
            let whole_row = [context.as_slice(), &row(len, seed)].concat();
            let found = scorer.score(&mut session, &[&whole_row], 20..20 + len).expect("its own words");
            assert_close(&found[0], &whole(&whole_row)[19..]);
        }
    }
}
