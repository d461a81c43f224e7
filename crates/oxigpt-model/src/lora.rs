//! Low-rank adapters (Hu et al. 2021, section 4.1): `y = x W + bias + (alpha / rank) (x A) B` with W frozen.
//!
//! A begins uniform as Kaiming et al. have it with `a = sqrt 5`, which is `U(-1/sqrt in, 1/sqrt in)`, and B as zeros, so
//! that the adapted model begins as the base. Here A is `[in, rank]` and B `[rank, out]`, as all matrices of linear
//! layers are.

use std::borrow::Cow;
use std::fmt;

use oxigpt_compute::philox::Stream;

use crate::init::fnv1a;
use crate::tensors::missing;
use crate::weights::WPE;
use crate::{Error, ModelConfig, TensorSource};

/// Linear layers of a block, with their inputs and outputs in multiples of the width.
pub(crate) const LINEARS: [(&str, usize, usize); 4] =
    [("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1)];

/// Which linear layers of every block have an adapter, in the order in which a block has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoraTargets([bool; 4]);

/// What adapters there are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lora {
    /// Columns of A and rows of B.
    pub rank: usize,
    /// The change is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Where.
    pub targets: LoraTargets,
}

impl LoraTargets {
    /// Whether a layer of the attention is among them.
    pub fn reach_attention(&self) -> bool {
        self.0.iter().zip(&LINEARS).any(|(&is_target, (layer, ..))| is_target && layer.starts_with("attn."))
    }

    /// Reads names that commas or blanks separate. `c_attn` and `c_fc` need not say where they are; `c_proj`, which is
    /// in both halves of a block, stands for both.
    ///
    /// # Errors
    /// [`Error::LoraTarget`] for a name that no layer has, or where there is no name.
    pub fn parse(names: &str) -> Result<LoraTargets, Error> {
        let words = names.split([',', ' ']).filter(|name| !name.is_empty());
        let mut targets = [false; 4];
        let mut any = false;
        for name in words {
            let is_meant = |&(layer, ..): &(&str, usize, usize)| {
                layer == name || layer.split_once('.').is_some_and(|(_, short)| short == name)
            };
            if !LINEARS.iter().any(is_meant) {
                return Err(Error::LoraTarget { name: name.into() });
            }
            for (target, layer) in targets.iter_mut().zip(&LINEARS) {
                *target |= is_meant(layer);
            }
            any = true;
        }
        if any { Ok(LoraTargets(targets)) } else { Err(Error::LoraTarget { name: String::new() }) }
    }

    /// Names of the layers within their block.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.layers().map(|(name, ..)| name)
    }

    fn layers(&self) -> impl Iterator<Item = (&'static str, usize, usize)> {
        LINEARS.into_iter().zip(self.0).filter_map(|(layer, is_target)| is_target.then_some(layer))
    }
}

impl fmt::Display for LoraTargets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(","))
    }
}

impl Lora {
    /// Factor of the change.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Whether such adapters can be in a model: their rank is at least 1, and at most its width, above which an adapter is
    /// larger than what it adapts.
    pub fn validate(&self, config: &ModelConfig) -> Result<(), Error> {
        let Lora { rank, alpha, .. } = *self;
        if rank == 0 || rank > config.n_embd {
            return Err(Error::LoraRank { rank, n_embd: config.n_embd });
        }
        if alpha.is_finite() && alpha > 0.0 { Ok(()) } else { Err(Error::LoraAlpha { alpha }) }
    }

    /// Names and shapes of the adapters' tensors, in a fixed order.
    pub fn shapes(&self, config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
        let (rank, c) = (self.rank, config.n_embd);
        let of_block = |block: usize| {
            self.targets.layers().flat_map(move |(layer, n_in, n_out)| {
                let [a, b] = tensor_names(&format!("h.{block}.{layer}"));
                [(a, vec![n_in * c, rank]), (b, vec![rank, n_out * c])]
            })
        };
        (0..config.n_layer).flat_map(of_block).collect()
    }
}

/// Names of A and B of a layer, such as `h.0.attn.c_attn`.
pub(crate) fn tensor_names(layer: &str) -> [String; 2] {
    [format!("{layer}.lora_A.weight"), format!("{layer}.lora_B.weight")]
}

/// Adapters that have learned nothing, each tensor made when it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct InitialLora<'a> {
    /// The model.
    pub config: &'a ModelConfig,
    /// Its adapters.
    pub lora: &'a Lora,
    /// Another seed, other weights.
    pub seed: u64,
}

impl TensorSource for InitialLora<'_> {
    fn origin(&self) -> String {
        "initial adapters".into()
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.lora.shapes(self.config)
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [f32]>, Error> {
        let shapes = self.shapes();
        let (_, shape) = shapes.iter().find(|(own, _)| own == name).ok_or_else(|| missing(self, name))?;
        let len = shape.iter().product();
        if name.ends_with(".lora_B.weight") {
            return Ok(vec![0.0; len].into());
        }
        let (mut stream, bound) = (Stream::new(self.seed, fnv1a(name)), (shape[0] as f64).sqrt().recip());
        Ok((0..len).map(|_| (bound * (2.0 * stream.uniform() - 1.0)) as f32).collect())
    }
}

/// A base with its adapters merged in: exactly the tensors of the base, an adapted matrix being `W + (alpha / rank) A B`,
/// summed in float64. Positions that the adapted model has given up are left out. The base itself is only read.
#[derive(Debug)]
pub struct Merged<B, A> {
    /// The model that was adapted.
    pub base: B,
    /// What adapters there are.
    pub lora: Lora,
    /// Their tensors.
    pub adapters: A,
    /// Positions of the adapted model, at most those of the base.
    pub block_size: usize,
}

impl<B: TensorSource, A: TensorSource> TensorSource for Merged<B, A> {
    fn origin(&self) -> String {
        format!("{} on {}", self.adapters.origin(), self.base.origin())
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let mut shapes = self.base.shapes();
        for (_, shape) in shapes.iter_mut().filter(|(name, _)| name == WPE) {
            shape[0] = shape[0].min(self.block_size);
        }
        shapes
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [f32]>, Error> {
        let base = self.base.read(name)?;
        if name == WPE {
            let shapes = self.shapes();
            let len =
                shapes.iter().find(|(own, _)| own == WPE).map_or(0, |(_, shape)| shape.iter().product());
            return Ok(base[..len].to_vec().into());
        }
        match name.strip_suffix(".weight") {
            Some(layer) if self.lora.targets.names().any(|target| layer.ends_with(&format!(".{target}"))) => {
                let [a, b] = tensor_names(layer);
                Ok(self.merge(&base, &self.adapters.read(&a)?, &self.adapters.read(&b)?).into())
            }
            _ => Ok(base),
        }
    }

    fn release(&self, name: &str) {
        self.base.release(name);
    }
}

impl<B, A> Merged<B, A> {
    /// `W + scale A B`, row by row.
    fn merge(&self, w_io: &[f32], a_ir: &[f32], b_ro: &[f32]) -> Vec<f32> {
        let (rank, scale) = (self.lora.rank, self.lora.scale());
        let n_out = b_ro.len() / rank;
        let rows = w_io.chunks(n_out).zip(a_ir.chunks(rank));
        let mut merged = Vec::with_capacity(w_io.len());
        let mut change_o = vec![0f64; n_out];
        for (w_o, a_r) in rows {
            change_o.fill(0.0);
            for (a, b_o) in a_r.iter().zip(b_ro.chunks(n_out)) {
                for (change, b) in change_o.iter_mut().zip(b_o) {
                    *change += f64::from(*a) * f64::from(*b);
                }
            }
            merged
                .extend(w_o.iter().zip(&change_o).map(|(w, change)| (f64::from(*w) + scale * change) as f32));
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpt2() -> ModelConfig {
        ModelConfig::preset("gpt2").unwrap()
    }

    /// As many as the adapters of a fork of nanoGPT whose `add_lora` has them at these two layers with rank 16.
    #[test]
    fn gpt2s_attention_has_884736_adapter_weights_at_rank_16() {
        let lora = Lora { rank: 16, alpha: 1.0, targets: LoraTargets::parse("c_attn,attn.c_proj").unwrap() };
        let total: usize =
            lora.shapes(&gpt2()).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        assert_eq!(total, 884_736);
        assert_eq!(lora.scale(), 0.0625);
    }

    #[test]
    fn targets_are_read_by_all_their_names() {
        let names = |text: &str| LoraTargets::parse(text).map(|targets| targets.to_string());
        assert_eq!(names("c_fc, c_attn").unwrap(), "attn.c_attn,mlp.c_fc");
        assert_eq!(names("c_proj").unwrap(), "attn.c_proj,mlp.c_proj");
        assert_eq!(names("mlp.c_proj").unwrap(), "mlp.c_proj");
        for (text, message) in [
            ("c_attn,lm_head", "no linear layer of a block is called `lm_head`"),
            ("attn", "no linear layer of a block is called `attn`"),
            (" ,", "no linear layer is named that could have an adapter"),
        ] {
            let error = names(text).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert!(error.hint().unwrap().contains("attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj"));
        }
    }

    #[test]
    fn ranks_that_cannot_be_are_refused() {
        let lora = Lora { rank: 4, alpha: 4.0, targets: LoraTargets::parse("c_attn").unwrap() };
        assert!(lora.validate(&gpt2()).is_ok());
        let refused = |lora: Lora| lora.validate(&gpt2()).unwrap_err().to_string();
        assert_eq!(
            refused(Lora { rank: 0, ..lora }),
            "lora_rank is 0, but must be between 1 and n_embd = 768"
        );
        assert_eq!(
            refused(Lora { rank: 769, ..lora }),
            "lora_rank is 769, but must be between 1 and n_embd = 768"
        );
        assert_eq!(refused(Lora { alpha: 0.0, ..lora }), "lora_alpha is 0, but must be a number above 0");
    }

    #[test]
    fn initial_adapters_change_nothing() {
        let config = ModelConfig { n_layer: 1, ..gpt2() };
        let lora = Lora { rank: 8, alpha: 16.0, targets: LoraTargets::parse("mlp.c_proj").unwrap() };
        let initial = InitialLora { config: &config, lora: &lora, seed: 3 };
        let a = initial.read("h.0.mlp.c_proj.lora_A.weight").unwrap();
        assert_eq!(a.len(), 4 * 768 * 8);
        let bound = (4.0 * 768f32).sqrt().recip();
        let largest = a.iter().fold(0f32, |largest, a| largest.max(a.abs()));
        assert!((0.999 * bound..=bound).contains(&largest), "{largest} of {bound}");
        let variance = a.iter().map(|a| a * a).sum::<f32>() / a.len() as f32;
        assert!((variance / (bound * bound / 3.0) - 1.0).abs() < 0.03, "that of a uniform distribution");
        assert!(initial.read("h.0.mlp.c_proj.lora_B.weight").unwrap().iter().all(|&b| b == 0.0));
        assert!(initial.read("h.1.mlp.c_proj.lora_A.weight").is_err());
    }

    #[test]
    fn merging_adds_the_scaled_product() {
        let lora = Lora { rank: 1, alpha: 0.5, targets: LoraTargets::parse("c_attn").unwrap() };
        let merged = Merged { base: (), lora, adapters: (), block_size: 1 };
        assert_eq!(
            merged.merge(&[1.0, 2.0, 3.0, 4.0], &[2.0, 4.0], &[10.0, 100.0]),
            [11.0, 102.0, 23.0, 204.0]
        );
    }
}
