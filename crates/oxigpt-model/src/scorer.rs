//! Scoring with a cache of keys and values: how unlikely given words are behind given contexts.
//!
//! Several texts lie side by side. What they share with the texts scored after them is read once, without a classifier;
//! then every continuation is scored from there, over what the one before it left in the cache.
//!
//! The tokens of all texts that are fed, text by text, are the rows of one matrix, cut into pieces of a few fixed lengths.
//! The last piece is filled up with its last row, which changes nothing.
//!
//! Where attention depends on the length of the whole text, nothing can be shared: every text is then scored from its
//! beginning, at its own length.

use std::iter::once;
use std::ops::Range;

use oxigpt_compute::{Builder, Data, PhaseId, Places, Session, TensorId};

use crate::{Error, ModelConfig, Weights, attention, forward};

/// Rows of a piece: near enough to each other that little of a piece is filling; the longest is enough for products to
/// run at full speed.
const LENGTHS: [usize; 15] = [4, 8, 12, 16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 224, 256];

/// Handles of the phases that score.
#[derive(Clone, Debug)]
pub struct Scorer {
    batch_size: usize,
    positions: usize,
    /// `[batch_size]` U32: tokens that are fed of each text, where attention depends on it.
    lengths: Option<TensorId>,
    read: Vec<Piece>,
    score: Vec<Piece>,
}

/// A phase that feeds some tokens.
#[derive(Clone, Copy, Debug)]
struct Piece {
    len: usize,
    /// `[1, len]` U32.
    tokens: TensorId,
    places: Places,
    /// `[1, len]` U32 targets, and the `[len]` losses of these; absent where only the cache is filled.
    classified: Option<(TensorId, TensorId)>,
    phase: PhaseId,
}

/// A token that is fed: its text, and its position there.
#[derive(Clone, Copy)]
struct Place {
    text: usize,
    position: usize,
}

impl Scorer {
    /// Declares caches and phases for `batch_size` texts of at most `positions` tokens that are fed, which the model must
    /// have.
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
        let longest = LENGTHS[LENGTHS.len() - 1].min(batch_size * positions);
        let lengths = || LENGTHS.into_iter().filter(|&len| len < longest).chain(once(longest));
        let text_lengths =
            config.attention.depends_on_length().then(|| b.counters("scored_lengths", &[batch_size]));
        let mut piece =
            |len, classify| Piece::declare(b, config, weights, (&caches, text_lengths), len, classify);
        let read = lengths().map(|len| piece(len, false)).collect();
        let score = lengths().map(|len| piece(len, true)).collect();
        Scorer { batch_size, positions, lengths: text_lengths, read, score }
    }

    /// Texts side by side.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Tokens of a text that can be fed: all but its last, which is only ever a target.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Puts a range of each text into the cache, where what is before it must be already.
    ///
    /// # Errors
    /// If a token is none of the model's words.
    ///
    /// # Panics
    /// If there are more texts than `batch_size`, if a range reaches behind its text or behind `positions`.
    pub fn read<R: AsRef<[u32]>>(
        &self,
        session: &mut Session,
        texts: &[R],
        ranges: &[Range<usize>],
    ) -> Result<(), Error> {
        if self.lengths.is_none() {
            self.feed(session, &self.read, texts, ranges, &mut |_, _| ())?;
        }
        Ok(())
    }

    /// Losses, in nats, of a range of each text, given all tokens before them. What is before the last of these must be in
    /// the cache.
    ///
    /// # Errors
    /// If a token is none of the model's words.
    ///
    /// # Panics
    /// If there are more texts than `batch_size`, if a range reaches behind its text or more than one behind `positions`;
    /// if position 0 is a target.
    pub fn score<R: AsRef<[u32]>>(
        &self,
        session: &mut Session,
        texts: &[R],
        targets: &[Range<usize>],
    ) -> Result<Vec<Vec<f32>>, Error> {
        assert!(targets.iter().all(|targets| targets.start > 0), "nothing stands before the first token");
        let fed = |targets: &Range<usize>| targets.start - 1..targets.end - 1;
        let mut fed: Vec<_> = targets.iter().map(fed).collect();
        if let Some(lengths) = self.lengths {
            fed.iter_mut().for_each(|fed| fed.start = 0);
            let mut of_texts: Vec<_> = fed.iter().map(|fed| fed.end.max(1) as u32).collect();
            of_texts.resize(self.batch_size, 1);
            session.upload(lengths, Data::U32(&of_texts))?;
        }
        let mut losses = vec![Vec::new(); texts.len()];
        self.feed(session, &self.score, texts, &fed, &mut |place, loss| {
            if place.position + 1 >= targets[place.text].start {
                losses[place.text].push(loss);
            }
        })?;
        Ok(losses)
    }

    /// Feeds a range of each text piece by piece, and tells every loss.
    fn feed<R: AsRef<[u32]>>(
        &self,
        session: &mut Session,
        pieces: &[Piece],
        texts: &[R],
        ranges: &[Range<usize>],
        tell: &mut dyn FnMut(Place, f32),
    ) -> Result<(), Error> {
        assert!(texts.len() <= self.batch_size, "more texts than lie side by side");
        assert!(ranges.iter().all(|range| range.end <= self.positions), "a text longer than the cache");
        let places = ranges.iter().enumerate();
        let places =
            places.flat_map(|(text, range)| range.clone().map(move |position| Place { text, position }));
        let places: Vec<_> = places.collect();
        let longest = &pieces[pieces.len() - 1];
        for part in places.chunks(longest.len) {
            let piece = pieces.iter().find(|piece| piece.len >= part.len()).unwrap_or(longest);
            let losses = piece.run(session, texts, part)?;
            part.iter().zip(losses).for_each(|(&place, loss)| tell(place, loss));
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
        len: usize,
        classify: bool,
    ) -> Piece {
        let limit = config.vocab_size as u32;
        let name = format!("{}_{len}", if classify { "score" } else { "read" });
        let phase = b.begin(&name);
        let tokens_bt = b.input_u32(&format!("{name}_tokens"), &[1, len], limit);
        let places = b.places(&name, [1, len], caches[0].0);
        let positions = Some(places.positions);
        let x_btc = forward(b, config, weights, tokens_bt, positions, None, |b, layer, block, normed_btc| {
            attention(b, block, normed_btc, |b, qkv_bt3c| {
                let (cache, kind) = (caches[layer], config.attention);
                b.cached_attention(qkv_bt3c, cache, (places, lengths), config.n_head, kind)
            })
        });
        let classified = classify.then(|| {
            let targets_bt = b.input_u32(&format!("{name}_targets"), &[1, len], limit);
            (targets_bt, b.classifier(x_btc, weights.wte, targets_bt, config.vocab_size))
        });
        Piece { len, tokens: tokens_bt, places, classified, phase }
    }

    /// Feeds the tokens at `places`; gives their losses, and maybe more, or none.
    fn run<R: AsRef<[u32]>>(
        &self,
        session: &mut Session,
        texts: &[R],
        places: &[Place],
    ) -> Result<Vec<f32>, Error> {
        let filled = |of: &dyn Fn(&Place) -> u32| {
            let mut values: Vec<_> = places.iter().map(of).collect();
            values.resize(self.len, values[places.len() - 1]);
            values
        };
        let token = |place: &Place, ahead: usize| texts[place.text].as_ref()[place.position + ahead];
        session.upload(self.tokens, Data::U32(&filled(&|place| token(place, 0))))?;
        session.upload(self.places.texts, Data::U32(&filled(&|place| place.text as u32)))?;
        session.upload(self.places.positions, Data::U32(&filled(&|place| place.position as u32)))?;
        let Some((targets, losses)) = self.classified else {
            session.run(self.phase);
            return Ok(Vec::new());
        };
        session.upload(targets, Data::U32(&filled(&|place| token(place, 1))))?;
        session.run(self.phase);
        let mut found = vec![0.0; self.len];
        session.download(losses, &mut found)?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

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
                let read = rows.each_ref().map(|row| read.min(row.len() - 1));
                scorer.read(&mut session, &rows, &read.map(|read| 0..read)).expect("its own words");
                let targets = [0, 1].map(|i| read[i] + 1..rows[i].len());
                let found = scorer.score(&mut session, &rows, &targets).expect("its own words");
                for ((found, expected), read) in found.iter().zip(&expected).zip(read) {
                    assert_close(found, &expected[read..]);
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
        scorer.read(&mut session, &rows, &[0..9, 0..9]).expect("its own words");
        let found = scorer.score(&mut session, &rows, &[10..61, 10..20]).expect("its own words");
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
        scorer.read(&mut session, &[&context], from_ref(&(0..19))).expect("its own words");
        for (seed, len) in [(1, 30), (2, 5), (3, 41), (4, 1)] {
            let whole_row = [context.as_slice(), &row(len, seed)].concat();
            let targets = 20..20 + len;
            let found = scorer.score(&mut session, &[&whole_row], &[targets]).expect("its own words");
            assert_close(&found[0], &whole(&whole_row)[19..]);
        }
    }
}
