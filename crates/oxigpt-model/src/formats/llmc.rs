//! llm.c's model file: 256 numbers of header, then all weights, those of a kind together.
//!
//! The header is magic, version (3 is float32, 5 bfloat16), positions, words, blocks, heads, width, padded words; the
//! rest of it is zero. Linear weights are `[out, in]`; the word embedding has rows of zeros up to a multiple of 128.
//! Such a model always has biases and the GELU by tanh (`train_gpt2.py`, `train_gpt2.cu` of llm.c).

use std::borrow::Cow;
use std::io::{BufWriter, Write};
use std::path::Path;

use fs_err::File;
use half::bf16;
use half::slice::HalfFloatSliceExt;
use oxigpt_compute::{AttentionKind, Gelu};

use super::mapped::{Element, MappedFile, View, for_tiles};
use super::names::WithBiases;
use super::{Format, Pretrained};
use crate::weights::{WTE, is_linear};
use crate::{Error, MappedTensors, ModelConfig, TensorSource, parameter_shapes};

/// What such a file is, for messages.
const WHAT: &str = "llm.c model";
const MAGIC: i32 = 20240326;
const HEADER_BYTES: usize = 256 * size_of::<i32>();
/// llm.c rounds the number of words up to a multiple of this.
const VOCAB_MULTIPLE: usize = 128;

/// Number format of the weights in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As they are.
    Float32,
    /// Rounded to the nearest, to even where two are.
    Bfloat16,
}

impl Precision {
    fn version(self) -> i32 {
        match self {
            Precision::Float32 => 3,
            Precision::Bfloat16 => 5,
        }
    }

    fn element(self) -> Element {
        match self {
            Precision::Float32 => Element::F32,
            Precision::Bfloat16 => Element::Bf16,
        }
    }
}

/// Whether a file begins as a model of llm.c does.
pub(crate) fn is_llmc(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC.to_le_bytes())
}

/// Opens a file that begins with the magic number.
pub(crate) fn open(file: MappedFile) -> Result<Pretrained, Error> {
    let (precision, config, padded_words) = read_header(&file)?;
    config.validate()?;
    let element = precision.element();
    let (mut begin, mut views) = (HEADER_BYTES, Vec::new());
    for (name, shape) in layout(&config, padded_words) {
        let view = View::row_major(begin, element.clone(), &shape);
        // Valid sizes do not overflow.
        begin += shape.iter().product::<usize>() * element.bytes();
        views.push((name, view));
    }
    if begin != file.bytes().len() {
        let found = file.bytes().len();
        return Err(file.malformed(WHAT, format!("its header announces {begin} bytes, but it has {found}")));
    }
    for (_, wte) in views.iter_mut().filter(|(name, _)| name == WTE) {
        wte.shape[0] = config.vocab_size;
    }
    let mut weights = MappedTensors::new(file, WHAT, views)?;
    weights.transpose(is_linear);
    Pretrained::checked(config, weights, Format::LlmC, None)
}

fn read_header(file: &MappedFile) -> Result<(Precision, ModelConfig, usize), Error> {
    let header =
        file.bytes().get(..HEADER_BYTES).ok_or_else(|| file.malformed(WHAT, "its header is cut short"))?;
    let (numbers, _) = header.as_chunks();
    let number = |i: usize| i32::from_le_bytes(numbers[i]);
    let precision = match number(1) {
        3 => Precision::Float32,
        5 => Precision::Bfloat16,
        other => {
            let reason = format!("its version is {other}, but only 3 (float32) and 5 (bfloat16) are known");
            return Err(file.malformed(WHAT, reason));
        }
    };
    let size = |i: usize, what: &str| {
        usize::try_from(number(i)).map_err(|_| file.malformed(WHAT, format!("its {what} is {}", number(i))))
    };
    let config = ModelConfig {
        block_size: size(2, "number of positions")?,
        vocab_size: size(3, "number of words")?,
        n_layer: size(4, "number of blocks")?,
        n_head: size(5, "number of heads")?,
        n_embd: size(6, "width")?,
        bias: true,
        dropout: 0.0,
        gelu: Gelu::Tanh,
        attention: AttentionKind::Softmax,
    };
    let padded_words = size(7, "number of padded words")?;
    if padded_words < config.vocab_size || padded_words - config.vocab_size > 1 << 16 {
        let reason = format!("it pads {} words to {padded_words}", config.vocab_size);
        return Err(file.malformed(WHAT, reason));
    }
    Ok((precision, config, padded_words))
}

/// Names and shapes of all tensors in the order of the file.
fn layout(config: &ModelConfig, padded_words: usize) -> Vec<(String, Vec<usize>)> {
    let as_in_file = |name: String, mut shape: Vec<usize>| {
        if name == WTE {
            shape[0] = padded_words;
        } else if is_linear(&name) {
            shape.reverse();
        }
        (name, shape)
    };
    let mut all = parameter_shapes(config);
    // Stable, so that blocks stay in their order within a kind.
    all.sort_by_key(|(name, _)| kind(name));
    all.into_iter().map(|(name, shape)| as_in_file(name, shape)).collect()
}

/// The place of a tensor's kind among the kinds.
fn kind(name: &str) -> usize {
    const KINDS: [&str; 8] =
        ["wte", "wpe", "ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"];
    let layer = name.rsplit_once('.').map_or(name, |(layer, _)| layer);
    let place = KINDS.iter().position(|kind| layer.ends_with(kind)).unwrap_or(KINDS.len());
    2 * place + usize::from(name.ends_with(".bias"))
}

/// Writes a model file of llm.c and syncs it. The source must have exactly the weights of `config`; a model without
/// biases gets zeros for them. One that llm.c would compute otherwise is refused.
pub fn save_llmc(
    path: impl AsRef<Path>,
    config: &ModelConfig,
    weights: &(impl TensorSource + ?Sized),
    precision: Precision,
) -> Result<(), Error> {
    check_representable(config)?;
    let weights = WithBiases::of(config, weights)?;
    let padded_words = config.vocab_size.next_multiple_of(VOCAB_MULTIPLE);
    let header = header(config, padded_words, precision)?;
    let mut file = BufWriter::new(File::create(path.as_ref())?);
    file.write_all(&header)?;
    let with_biases = ModelConfig { bias: true, ..config.clone() };
    for (name, shape) in layout(&with_biases, padded_words) {
        let mut data = weights.read(&name)?;
        if is_linear(&name) {
            data = transposed(&data, shape[1], shape[0]).into();
        }
        write_numbers(&mut file, &data, precision)?;
        let padding = shape.iter().product::<usize>() - data.len();
        write_numbers(&mut file, &vec![0.0; padding], precision)?;
        weights.release(&name);
    }
    file.flush()?;
    Ok(file.get_ref().sync_all()?)
}

/// Refuses what llm.c would compute otherwise.
fn check_representable(config: &ModelConfig) -> Result<(), Error> {
    if config.gelu != Gelu::Tanh {
        return Err(Error::NotForLlmC {
            what: "its GELU is the exact one (erf), and llm.c's the one by tanh",
        });
    }
    if config.attention != AttentionKind::Softmax {
        return Err(Error::NotForLlmC { what: "its attention is no softmax, and llm.c knows no other" });
    }
    Ok(())
}

fn header(config: &ModelConfig, padded_words: usize, precision: Precision) -> Result<Vec<u8>, Error> {
    let sizes =
        [config.block_size, config.vocab_size, config.n_layer, config.n_head, config.n_embd, padded_words];
    let mut numbers = vec![MAGIC, precision.version()];
    for value in sizes {
        let limit = i32::MAX as u128;
        let number = i32::try_from(value);
        let too_large = |_| Error::TooLarge { what: "a size in llm.c's header", value: value as u128, limit };
        numbers.push(number.map_err(too_large)?);
    }
    numbers.resize(HEADER_BYTES / size_of::<i32>(), 0);
    Ok(numbers.into_iter().flat_map(i32::to_le_bytes).collect())
}

/// A matrix `[rows, columns]` with rows and columns exchanged.
fn transposed(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; data.len()];
    for_tiles(rows, columns, |r, c| out[c * rows + r] = data[r * columns + c]);
    out
}

fn write_numbers(file: &mut impl Write, data: &[f32], precision: Precision) -> Result<(), Error> {
    let bytes: Cow<[u8]> = match precision {
        Precision::Float32 => bytemuck::cast_slice(data).into(),
        Precision::Bfloat16 => {
            let mut halves = vec![bf16::ZERO; data.len()];
            halves.convert_from_f32_slice(data);
            bytemuck::cast_slice(&halves).to_vec().into()
        }
    };
    Ok(file.write_all(&bytes)?)
}
