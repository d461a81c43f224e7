//! Our kernels: their sources, the variants that they are compiled in, and the modules loaded so far.

use std::collections::HashMap;
use std::sync::Arc;

use super::cache::Cache;
use super::driver::{Gpu, Kernel, Module};
use super::error::CudaError;
use super::layout::Element;
use super::nvrtc::Nvrtc;

const COMMON: &str = include_str!("kernels/common.cuh");
const ATTENTION: &str = include_str!("kernels/attention.cuh");

/// A file of kernels; what is in it, and how each is launched, stands at its top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum File {
    Attention,
    AttentionGeneral,
    Classifier,
    Decode,
    Elementwise,
    Embed,
    FewRows,
    Norm,
    Update,
}

impl File {
    /// Its name, and the parts of its source in their order.
    fn source(self) -> (&'static str, Vec<&'static str>) {
        macro_rules! file {
            ($name:literal $(after $header:ident)?) => {
                ($name, vec![COMMON, $($header,)? include_str!(concat!("kernels/", $name))])
            };
        }
        match self {
            File::Attention => file!("attention.cu" after ATTENTION),
            File::AttentionGeneral => file!("attention_general.cu" after ATTENTION),
            File::Classifier => file!("classifier.cu"),
            File::Decode => file!("decode.cu" after ATTENTION),
            File::Elementwise => file!("elementwise.cu"),
            File::Embed => file!("embed.cu"),
            File::FewRows => file!("few_rows.cu"),
            File::Norm => file!("norm.cu"),
            File::Update => file!("update.cu"),
        }
    }
}

/// What an attention kernel is compiled for; see `kernels/attention.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct AttentionVariant {
    /// Width of a head.
    pub(super) head: usize,
    /// Number of the kind.
    pub(super) kind: u32,
    /// Squarings of a polynomial.
    pub(super) poly: u32,
    /// Whether a polynomial is 0 below its range.
    pub(super) clamp: bool,
    /// Whether the weights of a query are divided by its keys.
    pub(super) by_position: bool,
    /// Whether weights are dropped.
    pub(super) dropout: bool,
}

/// A file as it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Variant {
    /// The file.
    pub(super) file: File,
    /// Its attention, if that is what is in it.
    pub(super) attention: Option<AttentionVariant>,
    /// Of the weights that decoding reads, where the file has such.
    pub(super) weights: Element,
}

impl From<File> for Variant {
    fn from(file: File) -> Variant {
        Variant { file, attention: None, weights: Element::F32 }
    }
}

impl Variant {
    /// Options of the compiler.
    fn options(&self, architecture: &str, bf16: bool) -> Vec<String> {
        let weights = match self.weights {
            Element::F32 | Element::U32 => 0,
            Element::Bf16 => 1,
            Element::I8 => 2,
        };
        let mut defines = vec![("ACT_BF16", u32::from(bf16)), ("WGT", weights)];
        if let Some(AttentionVariant { head, kind, poly, clamp, by_position, dropout }) = self.attention {
            let flags = [("CLAMP", clamp), ("BY_POSITION", by_position), ("DROPOUT", dropout)]
                .map(|(name, flag)| (name, u32::from(flag)));
            defines.extend([("HEAD", head as u32), ("KIND", kind), ("POLY", poly)].into_iter().chain(flags));
        }
        let target = [format!("--gpu-architecture={architecture}"), "--std=c++17".into()];
        let defines = defines.iter().map(|(name, value)| format!("-D{name}={value}"));
        target.into_iter().chain(defines).collect()
    }
}

/// Kernels of one plan's precision on one GPU, compiled when they are first asked for.
pub(super) struct Kernels {
    gpu: Arc<Gpu>,
    nvrtc: Nvrtc,
    architecture: String,
    bf16: bool,
    modules: HashMap<Variant, Module>,
    kernels: HashMap<(Variant, &'static str), Kernel>,
}

impl Kernels {
    pub(super) fn new(gpu: Arc<Gpu>, nvrtc: Nvrtc) -> Result<Kernels, CudaError> {
        let architecture = nvrtc.architecture(gpu.info.capability)?;
        let (modules, kernels) = (HashMap::new(), HashMap::new());
        Ok(Kernels { gpu, nvrtc, architecture, bf16: false, modules, kernels })
    }

    /// From here on with activations in bfloat16, or in float32.
    pub(super) fn set_bf16(&mut self, bf16: bool) {
        if self.bf16 != bf16 {
            self.bf16 = bf16;
            self.kernels.clear();
            self.modules.clear();
        }
    }

    /// A kernel.
    pub(super) fn get(
        &mut self,
        variant: Variant,
        name: &'static str,
        cache: &Cache,
    ) -> Result<Kernel, CudaError> {
        if let Some(kernel) = self.kernels.get(&(variant, name)) {
            return Ok(*kernel);
        }
        if !self.modules.contains_key(&variant) {
            let module = self.gpu.load(&self.compile(variant, cache)?)?;
            self.modules.insert(variant, module);
        }
        let kernel = self.modules[&variant].kernel(name)?;
        self.kernels.insert((variant, name), kernel);
        Ok(kernel)
    }

    fn compile(&self, variant: Variant, cache: &Cache) -> Result<Vec<u8>, CudaError> {
        let (name, parts) = variant.file.source();
        let (source, options) = (parts.concat(), variant.options(&self.architecture, self.bf16));
        let key = ["cubin", &self.nvrtc.version, &options.join(" "), &source];
        cache.get_or_make(&key, || self.nvrtc.compile(name, &source, &options))
    }
}

/// Compiles every file for an architecture, with both types of activations.
#[cfg(test)]
pub(super) fn compile_all(nvrtc: &Nvrtc, architecture: &str) -> Result<(), CudaError> {
    let plain = [File::Classifier, File::Elementwise, File::Embed, File::FewRows, File::Norm, File::Update];
    let attention =
        AttentionVariant { head: 64, kind: 0, poly: 0, clamp: false, by_position: false, dropout: true };
    let mut variants: Vec<(Variant, bool)> =
        plain.iter().flat_map(|&file| [(file.into(), false), (file.into(), true)]).collect();
    for file in [File::Embed, File::FewRows] {
        for weights in [Element::Bf16, Element::I8] {
            variants.extend([false, true].map(|bf16| (Variant { weights, ..file.into() }, bf16)));
        }
    }
    for (file, bf16) in [
        (File::Attention, true),
        (File::AttentionGeneral, true),
        (File::AttentionGeneral, false),
        (File::Decode, true),
        (File::Decode, false),
    ] {
        let dropout = file != File::Decode;
        let attention = Some(AttentionVariant { dropout, ..attention });
        variants.push((Variant { attention, ..file.into() }, bf16));
    }
    for (variant, bf16) in variants {
        let (name, parts) = variant.file.source();
        nvrtc.compile(name, &parts.concat(), &variant.options(architecture, bf16))?;
    }
    Ok(())
}
