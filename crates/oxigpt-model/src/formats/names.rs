//! What all formats with named tensors have in common: prefixes, leftovers, the output layer, absent biases.

use std::borrow::Cow;

use crate::tensors::check;
use crate::weights::{WPE, WTE};
use crate::{Error, MappedTensors, ModelConfig, TensorSource, parameter_shapes};

/// The output layer's name where it is listed beside the word embedding that it is.
const HEAD: &str = "lm_head.weight";

/// What torch.compile, DistributedDataParallel and GPT2LMHeadModel put before names, outermost first.
const PREFIXES: [&str; 3] = ["_orig_mod.", "module.", "transformer."];

/// Gives tensors the names of [`parameter_shapes`], and leaves out what is no weight: the mask of each block, and
/// the output layer, after a check that it is the word embedding.
pub(crate) fn normalise(weights: &mut MappedTensors) -> Result<(), Error> {
    weights.rename(|name| {
        let name = PREFIXES.iter().fold(name, |name, prefix| name.strip_prefix(prefix).unwrap_or(name));
        (!is_mask(name)).then(|| name.into())
    })?;
    untie(weights)
}

/// Whether a tensor is the causal mask that older programs keep among a block's weights.
fn is_mask(name: &str) -> bool {
    let Some((block, rest)) = name.strip_prefix("h.").and_then(|name| name.split_once('.')) else {
        return false;
    };
    block.bytes().all(|b| b.is_ascii_digit()) && matches!(rest, "attn.bias" | "attn.masked_bias")
}

/// Leaves the output layer out, which has to be the word embedding once more.
fn untie(weights: &mut MappedTensors) -> Result<(), Error> {
    let Some(head) = weights.remove(HEAD) else { return Ok(()) };
    match weights.get(WTE) {
        None => weights.insert(WTE, head),
        Some(wte) if *wte == head => {}
        Some(_) => {
            weights.insert(HEAD, head);
            if !equal(weights, HEAD, WTE)? {
                return Err(Error::UntiedHead { origin: weights.origin() });
            }
            weights.remove(HEAD);
        }
    }
    Ok(())
}

/// Whether two tensors are the same bit for bit.
fn equal(weights: &MappedTensors, a: &str, b: &str) -> Result<bool, Error> {
    let shape = |name| weights.get(name).map(|(_, view)| &view.shape);
    if shape(a) != shape(b) {
        return Ok(false);
    }
    let (left, right) = (weights.read(a)?, weights.read(b)?);
    let equal = left.iter().zip(right.iter()).all(|(a, b)| a.to_bits() == b.to_bits());
    weights.release(a);
    weights.release(b);
    Ok(equal)
}

/// Takes the biases off of a model that has none, which are zeros in a file whose format always has them.
pub(crate) fn remove_zero_biases(weights: &mut MappedTensors, config: &ModelConfig) -> Result<(), Error> {
    let with_biases = parameter_shapes(&ModelConfig { bias: true, ..config.clone() });
    for (name, _) in with_biases.iter().filter(|(name, _)| name.ends_with(".bias")) {
        if weights.get(name).is_none() {
            continue;
        }
        if weights.read(name)?.iter().any(|&x| x != 0.0) {
            return Err(Error::NonZeroBias { origin: weights.origin(), name: name.clone() });
        }
        weights.remove(name);
    }
    Ok(())
}

/// A model's weights as GPT2LMHeadModel has them: with zeros for the biases it lacks, and without the positions
/// it has given up.
pub(crate) struct WithBiases<'a, S: ?Sized> {
    weights: &'a S,
    own: Vec<(String, Vec<usize>)>,
    all: Vec<(String, Vec<usize>)>,
}

impl<'a, S: TensorSource + ?Sized> WithBiases<'a, S> {
    /// The source must have exactly the weights of a valid `config`.
    pub(crate) fn of(config: &ModelConfig, weights: &'a S) -> Result<Self, Error> {
        config.validate()?;
        let own = parameter_shapes(config);
        check(weights, &own)?;
        let all = parameter_shapes(&ModelConfig { bias: true, ..config.clone() });
        Ok(WithBiases { weights, own, all })
    }
}

impl<S: TensorSource + ?Sized> TensorSource for WithBiases<'_, S> {
    fn origin(&self) -> String {
        self.weights.origin()
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.all.clone()
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [f32]>, Error> {
        let len_in = |shapes: &[(String, Vec<usize>)]| {
            shapes.iter().find(|(own, _)| own == name).map(|(_, shape)| shape.iter().product::<usize>())
        };
        match (len_in(&self.own), len_in(&self.all)) {
            (None, Some(len)) => Ok(vec![0.0; len].into()),
            (Some(len), _) if name == WPE => Ok(match self.weights.read(name)? {
                Cow::Borrowed(data) => data[..len].into(),
                Cow::Owned(mut data) => {
                    data.truncate(len);
                    data.into()
                }
            }),
            _ => self.weights.read(name),
        }
    }

    fn release(&self, name: &str) {
        self.weights.release(name);
    }
}
