//! Texts that a model writes while it is trained.

use std::ops::ControlFlow;

use oxigpt_compute::philox;
use oxigpt_model::{SampleOptions, generate};
use oxigpt_text::Tokenizer;

use crate::corpus::Corpus;
use crate::error::Error;
use crate::event::Sample;
use crate::settings::Settings;
use crate::trainer::Trainer;

/// Stream of random numbers under the seed of the run (see [`philox::draw`]).
const STREAM: u64 = 0x7361_6d70_6c65;

/// nanoGPT's choices of `sample.py`.
const TEMPERATURE: f64 = 0.8;
const TOP_K: usize = 200;

/// What a sample begins with, and how it is read.
pub(crate) struct Sampler {
    tokenizer: Tokenizer,
    start: String,
    prompt: Vec<u32>,
    tokens: usize,
    seed: u64,
}

impl Sampler {
    /// The sampler that `settings` ask for, if they do. Where there is no tokenizer, a word of it in `warnings`.
    pub(crate) fn new(
        settings: &Settings,
        corpus: &Corpus,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Sampler>, Error> {
        if settings.sample_interval == 0 {
            return Ok(None);
        }
        let Some(tokenizer) = corpus.tokenizer.clone() else {
            let dir = corpus.dataset.dir().display();
            warnings.push(format!("there will be no samples: {dir} has no tokenizer to read them with"));
            return Ok(None);
        };
        let start = settings.sample_start.clone();
        let prompt = tokenizer
            .encode_with_specials(&start)
            .map_err(|source| Error::Text { what: "sample_start", source })?;
        if prompt.is_empty() {
            return Err(oxigpt_model::Error::EmptyPrompt.into());
        }
        Ok(Some(Sampler { tokenizer, start, prompt, tokens: settings.sample_tokens, seed: settings.seed }))
    }

    /// A text, which depends on the weights, the seed of the run and the step alone. `None` where the model gives
    /// no probabilities.
    pub(crate) fn sample(&self, trainer: &mut Trainer) -> Result<Option<Sample>, Error> {
        let Some(decoder) = trainer.plan.decoder.clone() else { return Ok(None) };
        let [low, high, ..] = philox::draw(self.seed, STREAM, trainer.step);
        let options = SampleOptions {
            temperature: TEMPERATURE,
            top_k: Some(TOP_K),
            max_new_tokens: self.tokens,
            seed: u64::from(low) | u64::from(high) << 32,
            stop: self.tokenizer.end_of_text(),
            words: Some(self.tokenizer.vocab_size()),
        };
        let tokens = generate(&mut trainer.session, &decoder, &self.prompt, &options, &mut |_| {
            ControlFlow::Continue(())
        });
        match tokens {
            Err(oxigpt_model::Error::NotFinite { .. }) => Ok(None),
            tokens => Ok(Some(Sample {
                step: trainer.step,
                start: self.start.clone(),
                text: self.tokenizer.decode(&tokens?),
            })),
        }
    }
}
