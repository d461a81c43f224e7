//! Checkpoints of nanoGPT (`ckpt.pt`) and build-nanogpt (`model_XXXXX.pt`), and what is no such checkpoint.
//!
//! nanoGPT says what model it is in `model_args`; its GELU is the exact one. build-nanogpt says it in a pickled
//! `GPTConfig`; its GELU is the approximation by tanh, and it always has biases. Both keep linear weights as torch
//! does, `[out, in]`.

use oxigpt_compute::{AttentionKind, AttentionScale, Gelu};
use oxigpt_pickle::Value;

use super::mapped::{MappedFile, View};
use super::names::normalise;
use super::torch::{Archive, GPT_CONFIG, WHAT};
use super::{Format, Pretrained};
use crate::weights::is_linear;
use crate::{Error, MappedTensors, ModelConfig};

/// What a file of torch's turned out to be.
pub(crate) enum Opened {
    /// A checkpoint of one of the two.
    Model(Box<Pretrained>),
    /// Tensors with nothing that says what model they are of.
    StateDict(MappedTensors),
}

/// What a checkpoint says, apart from its tensors' bytes.
struct Checkpoint {
    views: Vec<(String, View)>,
    model: Option<(ModelConfig, Format, Option<String>)>,
}

/// Opens a file of torch's.
pub(crate) fn open(file: MappedFile) -> Result<Opened, Error> {
    let Checkpoint { views, model } = read(&Archive::read(&file)?)?;
    let mut weights = MappedTensors::new(file, WHAT, views)?;
    let Some((config, format, dataset)) = model else { return Ok(Opened::StateDict(weights)) };
    normalise(&mut weights)?;
    weights.transpose(is_linear);
    Ok(Opened::Model(Box::new(Pretrained::checked(config, weights, format, dataset)?)))
}

fn read(archive: &Archive) -> Result<Checkpoint, Error> {
    let pickle = archive.pickle()?;
    let root = pickle.root();
    let Some(model) = root.get("model") else {
        return Ok(Checkpoint { views: archive.state_dict(root)?, model: None });
    };
    let config = root.get("config");
    let model_args = root.get("model_args");
    let gpt_config = config.and_then(Value::as_object).filter(|config| config.name == GPT_CONFIG);
    let described = if let Some(args) = model_args {
        let dataset = config.and_then(|config| config.get("dataset")).and_then(Value::as_str);
        (nano_gpt_config(archive, args)?, Format::NanoGpt, dataset.map(str::to_owned))
    } else if let Some(args) = gpt_config.and_then(|config| config.state) {
        (sizes(archive, args)?, Format::BuildNanoGpt, None)
    } else {
        return Err(archive.malformed("it has `model`, but neither nanoGPT's `model_args` nor a `GPTConfig`"));
    };
    Ok(Checkpoint { views: archive.state_dict(model)?, model: Some(described) })
}

fn nano_gpt_config(archive: &Archive, args: Value) -> Result<ModelConfig, Error> {
    let bias = args.get("bias").and_then(Value::as_bool);
    // The fork that knows other kinds divides pointwise ones by the length.
    let attention = args.get("attn_type").and_then(Value::as_str).unwrap_or("SM");
    let attention = AttentionKind::parse(attention, AttentionScale::Length, false)
        .map_err(|error| archive.unsupported("attn_type", &error.found, &error.expected))?;
    Ok(ModelConfig {
        attention,
        bias: bias.ok_or_else(|| archive.malformed("`bias` in its model_args is missing or no bool"))?,
        dropout: args.get("dropout").and_then(Value::as_float).unwrap_or(0.0),
        gelu: Gelu::Erf,
        ..sizes(archive, args)?
    })
}

/// build-nanogpt's model with the sizes in `args`, which both programs call by the same names.
fn sizes(archive: &Archive, args: Value) -> Result<ModelConfig, Error> {
    let size = |key: &str| {
        let size = args.get(key).and_then(|size| usize::try_from(size.as_int()?).ok());
        size.ok_or_else(|| archive.malformed(format!("`{key}` of its model is missing or no size")))
    };
    Ok(ModelConfig {
        n_layer: size("n_layer")?,
        n_head: size("n_head")?,
        n_embd: size("n_embd")?,
        block_size: size("block_size")?,
        vocab_size: size("vocab_size")?,
        bias: true,
        dropout: 0.0,
        gelu: Gelu::Tanh,
        attention: AttentionKind::Softmax,
    })
}
