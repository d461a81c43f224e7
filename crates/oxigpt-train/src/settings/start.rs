//! What a run begins with, and what the settings owe to a model that it begins with.

use oxigpt_model::ModelConfig;

use super::error::impossible;
use super::{Settings, SettingsError};

/// What a run begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start<'a> {
    /// Random weights.
    Scratch,
    /// Where the run in `out_dir` stopped: its weights, moments, step and place in the data.
    Resume,
    /// The weights of a model, and nothing else of it: another run, from step 0.
    Model(&'a str),
    /// The same; and attention learns, layer by layer, what that of the model does.
    Layerwise(&'a str),
}

/// What stands before the name of the model in a layer-wise distillation.
const LAYERWISE: &str = "layerwise:";

impl<'a> Start<'a> {
    /// The model that the run begins with, if it begins with one.
    pub fn model(self) -> Option<&'a str> {
        match self {
            Start::Model(name) | Start::Layerwise(name) => Some(name),
            Start::Scratch | Start::Resume => None,
        }
    }
}

impl Settings {
    /// What `init_from` means.
    pub fn start(&self) -> Start<'_> {
        match self.init_from.as_str() {
            "scratch" => Start::Scratch,
            "resume" => Start::Resume,
            model => model.strip_prefix(LAYERWISE).map_or(Start::Model(model), Start::Layerwise),
        }
    }

    /// Takes over what a run that begins with a model cannot choose, and its context, which it can shorten, and its
    /// attention, which it can exchange.
    pub fn adopt(&mut self, model: &ModelConfig) {
        self.n_layer = model.n_layer;
        self.n_head = model.n_head;
        self.n_embd = model.n_embd;
        self.vocab_size = model.vocab_size;
        self.bias = model.bias;
        self.gelu = model.gelu;
        self.attn_type = model.attention.to_string();
        self.attn_clamp = model.attention.clamp();
        // As a number, which a shorter context does not change.
        self.attn_scale =
            model.attention.scale().map_or(Settings::default().attn_scale, |scale| scale.to_string());
        self.block_size = model.block_size;
    }

    /// Refuses settings that contradict the model, called `name`, that the run begins with. They may lower
    /// `block_size` and choose another attention, and `dropout` is theirs alone.
    ///
    /// # Errors
    /// [`SettingsError::Impossible`] with the first key that differs, and both values.
    pub fn check_against(&self, model: &ModelConfig, name: &str) -> Result<(), SettingsError> {
        let mut adopted = self.clone();
        adopted.adopt(model);
        for key in ["n_layer", "n_head", "n_embd", "vocab_size", "bias", "gelu"] {
            let (own, models) = (self.text_of(key), adopted.text_of(key));
            if own != models {
                let [own, models] = [own, models].map(Option::unwrap_or_default);
                return Err(impossible(
                    format!("{key} = {own}, but the model {name} has {key} = {models}"),
                    &format!("leave {key} out, in recipes too: a run that begins with a model has its shape"),
                ));
            }
        }
        let limit = model.block_size;
        if self.block_size > limit {
            return Err(impossible(
                format!("block_size = {}, but the model {name} knows {limit} positions", self.block_size),
                &format!(
                    "set --block_size={limit} or less, or leave it out: further positions were never learned"
                ),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpt2() -> ModelConfig {
        ModelConfig::preset("gpt2").unwrap()
    }

    fn adopted() -> Settings {
        let mut settings = Settings::default();
        settings.adopt(&gpt2());
        settings
    }

    #[test]
    fn a_model_is_whatever_is_no_word() {
        let start = |word: &str| Settings { init_from: word.into(), ..Settings::default() };
        assert_eq!(start("scratch").start(), Start::Scratch);
        assert_eq!(start("resume").start(), Start::Resume);
        assert_eq!(start("gpt2").start(), Start::Model("gpt2"));
        assert_eq!(start("./resume").start(), Start::Model("./resume"));
        assert_eq!(start("layerwise:out/a").start(), Start::Layerwise("out/a"));
        assert_eq!(start("./layerwise:out/a").start().model(), Some("./layerwise:out/a"));
    }

    #[test]
    fn what_is_adopted_makes_the_same_model() {
        assert_eq!(adopted().model_config(1), gpt2());
    }

    #[test]
    fn dropout_and_a_shorter_context_are_free() {
        adopted().check_against(&gpt2(), "gpt2").unwrap();
        let own = Settings { dropout: 0.1, block_size: 64, ..adopted() };
        own.check_against(&gpt2(), "gpt2").unwrap();
    }

    #[test]
    fn contradictions_name_both_sides() {
        let told = |settings: Settings| {
            let error = settings.check_against(&gpt2(), "gpt2").unwrap_err();
            format!("{error} | {}", error.hint().unwrap())
        };
        let leave_out =
            |key| format!(" | leave {key} out, in recipes too: a run that begins with a model has its shape");
        assert_eq!(
            told(Settings { n_layer: 6, ..adopted() }),
            format!("n_layer = 6, but the model gpt2 has n_layer = 12{}", leave_out("n_layer"))
        );
        assert_eq!(
            told(Settings { bias: false, ..adopted() }),
            format!("bias = false, but the model gpt2 has bias = true{}", leave_out("bias"))
        );
        assert_eq!(
            told(Settings { gelu: oxigpt_model::Gelu::Erf, ..adopted() }),
            format!("gelu = \"erf\", but the model gpt2 has gelu = \"tanh\"{}", leave_out("gelu"))
        );
        assert_eq!(
            told(Settings { block_size: 2048, ..adopted() }),
            "block_size = 2048, but the model gpt2 knows 1024 positions | set --block_size=1024 or less, or leave it \
             out: further positions were never learned"
        );
    }
}
