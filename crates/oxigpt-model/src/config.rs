//! What fixes a model: its sizes, and the few choices that differ between GPTs.

use oxigpt_compute::{AttentionKind, Gelu};

use crate::{Error, parameter_shapes};

/// Sizes and choices of a GPT.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Blocks.
    pub n_layer: usize,
    /// Attention heads of a block; divides `n_embd`.
    pub n_head: usize,
    /// Width.
    pub n_embd: usize,
    /// Positions: the longest context.
    pub block_size: usize,
    /// Words, without padding.
    pub vocab_size: usize,
    /// Whether linear layers and layer norms have an offset.
    pub bias: bool,
    /// Probability of dropping, at four places; 0 is none.
    pub dropout: f64,
    /// Activation of the MLP.
    pub gelu: Gelu,
    /// How attention scores become weights.
    pub attention: AttentionKind,
}

/// Numbers of trained weights. `wte` counts once, though it is used at both ends, and without its padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParameterCount {
    /// All.
    pub total: usize,
    /// In tensors of rank 2 and more, to which weight decay applies.
    pub decayed: usize,
    /// In all others.
    pub undecayed: usize,
    /// Tensors of rank 2 and more.
    pub decayed_tensors: usize,
    /// All others.
    pub undecayed_tensors: usize,
    /// Of the word embedding.
    pub token_embedding: usize,
    /// Of the position embedding.
    pub position_embedding: usize,
}

/// Names and `(n_layer, n_head, n_embd)` of the published sizes (Radford et al. 2019, table 2).
const PRESETS: [(&str, (usize, usize, usize)); 4] = [
    ("gpt2", (12, 12, 768)),
    ("gpt2-medium", (24, 16, 1024)),
    ("gpt2-large", (36, 20, 1280)),
    ("gpt2-xl", (48, 25, 1600)),
];

/// The vocabulary is padded to a multiple of this, so that products over it have no ragged edge.
const VOCAB_MULTIPLE: usize = 64;

/// More elements than this in one place (4 PiB of float32) are a slip of the pen, and sizes below it cannot
/// overflow.
const MAX_ELEMENTS: u128 = 1 << 50;

impl ModelConfig {
    /// A published GPT-2: `gpt2`, `gpt2-medium`, `gpt2-large` or `gpt2-xl`, without dropout.
    pub fn preset(name: &str) -> Result<Self, Error> {
        let (_, (n_layer, n_head, n_embd)) = *PRESETS
            .iter()
            .find(|(preset, _)| *preset == name)
            .ok_or_else(|| Error::UnknownPreset { name: name.into() })?;
        Ok(ModelConfig {
            n_layer,
            n_head,
            n_embd,
            block_size: 1024,
            vocab_size: 50257,
            bias: true,
            dropout: 0.0,
            gelu: Gelu::Tanh,
            attention: AttentionKind::Softmax,
        })
    }

    /// Whether such a model can be. Everything in this crate that takes a configuration checks it.
    pub fn validate(&self) -> Result<(), Error> {
        let sizes = [
            ("n_layer", self.n_layer),
            ("n_head", self.n_head),
            ("n_embd", self.n_embd),
            ("block_size", self.block_size),
            ("vocab_size", self.vocab_size),
        ];
        if let Some(&(key, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(Error::Zero { key });
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            return Err(Error::Heads { n_embd: self.n_embd, n_head: self.n_head });
        }
        // Judged in float32, where a value just below 1 becomes 1.
        if !(0.0..1.0).contains(&(self.dropout as f32)) {
            return Err(Error::Dropout { value: self.dropout });
        }
        at_most("n_layer", &[self.n_layer], 1 << 16)?;
        at_most("vocab_size", &[self.vocab_size], 1 << 31)?;
        at_most("block_size", &[self.block_size], 1 << 31)?;
        at_most("the weights of all blocks", &[12, self.n_layer, self.n_embd, self.n_embd], MAX_ELEMENTS)?;
        at_most("the word embedding", &[self.vocab_size, self.n_embd], MAX_ELEMENTS)?;
        at_most("the position embedding", &[self.block_size, self.n_embd], MAX_ELEMENTS)
    }

    /// Whether a pass over `batch_size` rows of `block_size` tokens can be.
    pub(crate) fn validate_batch(
        &self,
        key: &'static str,
        batch_size: usize,
        block_size: usize,
    ) -> Result<(), Error> {
        self.validate()?;
        for (key, size) in [(key, batch_size), ("block_size", block_size)] {
            if size == 0 {
                return Err(Error::Zero { key });
            }
        }
        if block_size > self.block_size {
            return Err(Error::BlockSize { block_size, limit: self.block_size });
        }
        at_most("the rows of attention weights", &[batch_size, block_size, self.n_head], 1 << 32)?;
        at_most("the activations", &[64, batch_size, block_size, self.n_layer, self.n_embd], MAX_ELEMENTS)
    }

    /// Rows of the word embedding in memory: `vocab_size` rounded up to a multiple of 64.
    pub fn padded_vocab_size(&self) -> usize {
        self.vocab_size.next_multiple_of(VOCAB_MULTIPLE)
    }

    /// Counts the weights.
    pub fn parameter_count(&self) -> ParameterCount {
        let mut count = ParameterCount {
            token_embedding: self.vocab_size * self.n_embd,
            position_embedding: self.block_size * self.n_embd,
            ..Default::default()
        };
        for (_, shape) in parameter_shapes(self) {
            let len: usize = shape.iter().product();
            let (elements, tensors) = if shape.len() >= 2 {
                (&mut count.decayed, &mut count.decayed_tensors)
            } else {
                (&mut count.undecayed, &mut count.undecayed_tensors)
            };
            *elements += len;
            *tensors += 1;
            count.total += len;
        }
        count
    }

    /// Gives up all positions from `block_size` on. Weights of the longer model can still be uploaded: the
    /// surplus rows of `wpe.weight` are left out.
    pub fn crop_block_size(&mut self, block_size: usize) -> Result<(), Error> {
        if block_size == 0 {
            return Err(Error::Zero { key: "block_size" });
        }
        if block_size > self.block_size {
            return Err(Error::BlockSize { block_size, limit: self.block_size });
        }
        self.block_size = block_size;
        Ok(())
    }
}

fn at_most(what: &'static str, factors: &[usize], limit: u128) -> Result<(), Error> {
    let value = factors.iter().fold(1u128, |product, &factor| product.saturating_mul(factor as u128));
    if value > limit { Err(Error::TooLarge { what, value, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_the_published_ones() {
        let totals = PRESETS.map(|(name, _)| ModelConfig::preset(name).unwrap().parameter_count().total);
        assert_eq!(totals, [124_439_808, 354_823_168, 774_030_080, 1_557_611_200]);

        let padded = ModelConfig { vocab_size: 50304, ..ModelConfig::preset("gpt2").unwrap() };
        let count = padded.parameter_count();
        assert_eq!(count.total, 124_475_904);
        assert_eq!((count.decayed_tensors, count.decayed), (50, 124_354_560));
        assert_eq!((count.undecayed_tensors, count.undecayed), (98, 121_344));
        assert_eq!((count.token_embedding, count.position_embedding), (50304 * 768, 1024 * 768));
    }

    #[test]
    fn vocabulary_is_padded_to_64() {
        let mut config = ModelConfig::preset("gpt2").unwrap();
        for (vocab_size, padded) in [(50257, 50304), (50304, 50304), (65, 128), (1, 64)] {
            config.vocab_size = vocab_size;
            assert_eq!(config.padded_vocab_size(), padded);
        }
    }

    #[test]
    fn impossible_shapes_are_named() {
        let gpt2 = || ModelConfig::preset("gpt2").unwrap();
        let cases: [(ModelConfig, &str, &str); 9] = [
            (ModelConfig { n_layer: 0, ..gpt2() }, "n_layer is 0", "--n_layer"),
            (ModelConfig { n_head: 0, ..gpt2() }, "n_head is 0", "--n_head"),
            (ModelConfig { block_size: 0, ..gpt2() }, "block_size is 0", "--block_size"),
            (ModelConfig { n_head: 5, ..gpt2() }, "n_embd 768 is not divisible by n_head 5", "--n_embd=765"),
            (ModelConfig { n_head: 1000, ..gpt2() }, "not divisible by n_head 1000", "--n_embd=1000"),
            (ModelConfig { dropout: 1.0, ..gpt2() }, "dropout is 1,", "0 switches it off"),
            (ModelConfig { dropout: f64::NAN, ..gpt2() }, "dropout is NaN", "0 switches it off"),
            (ModelConfig { n_embd: usize::MAX / 12 * 12, ..gpt2() }, "all blocks would be", "smaller"),
            (ModelConfig { vocab_size: usize::MAX, ..gpt2() }, "vocab_size would be", "smaller"),
        ];
        for (config, message, hint) in cases {
            let error = config.validate().unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
            assert!(error.hint().unwrap().contains(hint), "{:?}", error.hint());
        }
        assert!(ModelConfig { dropout: 0.999_999_999_999, ..gpt2() }.validate().is_err());
        assert!(gpt2().validate().is_ok());
        assert!(gpt2().validate_batch("batch_size", 64, 1024).is_ok());
        let error = ModelConfig::preset("gpt3").unwrap_err();
        assert!(error.to_string().contains("`gpt3`") && error.hint().unwrap().contains("gpt2-xl"));
        let error = gpt2().validate_batch("batch_size", usize::MAX, 1024).unwrap_err();
        assert!(error.to_string().contains("rows of attention weights"), "{error}");
        let error = gpt2().validate_batch("eval_batch_size", 0, 1024).unwrap_err();
        assert_eq!(error.to_string(), "eval_batch_size is 0, but must be at least 1");
    }

    #[test]
    fn positions_are_cropped_only_downward() {
        let mut config = ModelConfig::preset("gpt2").unwrap();
        config.crop_block_size(256).unwrap();
        assert_eq!(config.block_size, 256);
        let error = config.crop_block_size(512).unwrap_err();
        assert_eq!(error.to_string(), "block_size 512 is more than the 256 positions of the model");
        assert!(error.hint().unwrap().contains("--block_size=256"));
        assert!(config.crop_block_size(0).is_err());
    }
}
