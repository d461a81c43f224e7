//! Published accuracies on the 10,042 items of the validation set, to set a result beside.

use super::Protocol;

/// A published result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reference {
    /// The model, with its size where its name does not say it.
    pub model: &'static str,
    /// By which definition; none of the two for GPT-3, whose paper has its own.
    pub protocol: Option<Protocol>,
    /// By the summed losses.
    pub acc: Option<f64>,
    /// By the losses over the lengths.
    pub acc_norm: f64,
    /// Who published it.
    pub source: &'static str,
}

const BUILD: Option<Protocol> = Some(Protocol::BuildNanoGpt);
const LM_EVAL: Option<Protocol> = Some(Protocol::LmEval);

const fn published(
    model: &'static str,
    protocol: Option<Protocol>,
    acc: Option<f64>,
    acc_norm: f64,
    source: &'static str,
) -> Reference {
    Reference { model, protocol, acc, acc_norm, source }
}

/// Results of GPT-2 and GPT-3.
pub const REFERENCES: [Reference; 12] = [
    published("gpt2", BUILD, Some(0.2859), 0.2955, "build-nanogpt"),
    published("gpt2-xl", BUILD, Some(0.3842), 0.4893, "build-nanogpt"),
    published("gpt2", BUILD, None, 0.294_463, "llm.c"),
    published("gpt2-medium", BUILD, None, 0.375_224, "llm.c"),
    published("gpt2-large", BUILD, None, 0.431_986, "llm.c"),
    published("gpt2-xl", BUILD, None, 0.488_946, "llm.c"),
    published("gpt2", LM_EVAL, Some(0.2892), 0.3114, "lm-evaluation-harness"),
    published("gpt2-xl", LM_EVAL, Some(0.4004), 0.5089, "lm-evaluation-harness"),
    published("GPT-3 125M", None, None, 0.337, "Brown et al. 2020"),
    published("GPT-3 350M", None, None, 0.436, "Brown et al. 2020"),
    published("GPT-3 760M", None, None, 0.510, "Brown et al. 2020"),
    published("GPT-3 1.3B", None, None, 0.547, "Brown et al. 2020"),
];
