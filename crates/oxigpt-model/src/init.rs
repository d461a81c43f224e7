//! Initial weights: normal with deviation 0.02, and `0.02 / sqrt(2 n_layer)` for the two matrices of each
//! block that write into the residual stream (Radford et al. 2019, section 2.3); biases 0; norms 1.
//!
//! A weight depends on the seed, its tensor's name and its place therein, and on nothing else: neither on the
//! order in which tensors are made nor on the sizes of others.

use std::borrow::Cow;

use oxigpt_compute::philox::Stream;

use crate::tensors::missing;
use crate::{Error, ModelConfig, TensorSource, parameter_shapes};

/// The initial weights of a model, each tensor made when it is asked for.
#[derive(Clone, Debug)]
pub struct Initial<'a> {
    /// The model.
    pub config: &'a ModelConfig,
    /// Another seed, other weights.
    pub seed: u64,
}

impl TensorSource for Initial<'_> {
    fn origin(&self) -> String {
        "initial weights".into()
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        parameter_shapes(self.config)
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [f32]>, Error> {
        let shapes = self.shapes();
        let (_, shape) = shapes.iter().find(|(own, _)| own == name).ok_or_else(|| missing(self, name))?;
        let len = shape.iter().product();
        Ok(match shape.len() {
            1 if name.ends_with(".weight") => vec![1.0; len],
            1 => vec![0.0; len],
            _ => normal(len, self.deviation(name), Stream::new(self.seed, fnv1a(name))),
        }
        .into())
    }
}

impl Initial<'_> {
    fn deviation(&self, name: &str) -> f64 {
        let residual = name.ends_with(".c_proj.weight");
        if residual { 0.02 / (2.0 * self.config.n_layer as f64).sqrt() } else { 0.02 }
    }
}

fn normal(len: usize, deviation: f64, mut stream: Stream) -> Vec<f32> {
    let mut data = Vec::with_capacity(len + 1);
    while data.len() < len {
        let (a, b) = stream.normal_pair();
        data.extend([(a * deviation) as f32, (b * deviation) as f32]);
    }
    data.truncate(len);
    data
}

/// FNV-1a, 64 bits (Fowler, Noll and Vo).
pub(crate) fn fnv1a(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deviation(data: &[f32]) -> f64 {
        (data.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / data.len() as f64).sqrt()
    }

    #[test]
    fn deviations_are_gpt2s() {
        let config = ModelConfig { n_layer: 8, ..ModelConfig::preset("gpt2").unwrap() };
        let initial = Initial { config: &config, seed: 1 };
        let expected = [
            ("wpe.weight", 0.02),
            ("h.3.attn.c_attn.weight", 0.02),
            ("h.3.attn.c_proj.weight", 0.005),
            ("h.7.mlp.c_proj.weight", 0.005),
        ];
        for (name, expected) in expected {
            let data = initial.read(name).unwrap();
            assert!((deviation(&data) / expected - 1.0).abs() < 0.01, "{name}");
            let mean = data.iter().sum::<f32>() / data.len() as f32;
            assert!(mean.abs() < 1e-4, "{name}: mean {mean}");
        }
        assert!(initial.read("h.0.ln_1.weight").unwrap().iter().all(|&x| x == 1.0));
        assert!(initial.read("h.0.ln_1.bias").unwrap().iter().all(|&x| x == 0.0));
        assert!(initial.read("h.0.mlp.c_fc.bias").unwrap().iter().all(|&x| x == 0.0));
        assert!(
            initial.read("h.8.ln_1.weight").unwrap_err().to_string().contains("`h.8.ln_1.weight` is missing")
        );
    }

    #[test]
    fn weights_depend_on_seed_and_name_alone() {
        let config = ModelConfig { n_layer: 2, ..ModelConfig::preset("gpt2").unwrap() };
        let deeper = ModelConfig { vocab_size: 100, block_size: 2048, ..config.clone() };
        let read = |config: &ModelConfig, seed, name: &str| {
            Initial { config, seed }.read(name).unwrap()[..1000].to_vec()
        };
        let name = "h.1.mlp.c_fc.weight";
        assert_eq!(read(&config, 5, name), read(&deeper, 5, name));
        assert_eq!(read(&config, 5, "wpe.weight"), read(&deeper, 5, "wpe.weight"));
        assert_ne!(read(&config, 5, name), read(&config, 6, name));
        assert_ne!(read(&config, 5, name), read(&config, 5, "h.0.mlp.c_fc.weight"));
    }
}
