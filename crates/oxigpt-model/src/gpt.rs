//! The GPT (Radford et al. 2019, section 2.3): a pre-norm decoder with learned positions. This function is
//! the model: training, evaluation and cached decoding all run it, on every device, and its backward pass
//! follows from it.
//!
//! Legend: b batch, t positions, c width; heads lie side by side within c.

use oxigpt_compute::{Builder, Dropout, TensorId};

use crate::{BlockWeights, Linear, ModelConfig, Weights};

/// Hidden states after the last norm, `[B, T, C]`, for `[B, T]` tokens at `positions` (from 0 on where these are absent).
///
/// `attend` is the attention of a block, [`attention`] with one way of seeing or another: from the normed stream,
/// `[B, T, C]`, to what is added to the stream, `[B, T, C]`.
/// With `rng` (see [`Dropout::rng`]) dropout is applied as the configuration says, without it not at all.
pub fn forward(
    b: &mut Builder,
    config: &ModelConfig,
    weights: &Weights,
    tokens_bt: TensorId,
    positions: Option<TensorId>,
    rng: Option<TensorId>,
    mut attend: impl FnMut(&mut Builder, usize, &BlockWeights, TensorId) -> TensorId,
) -> TensorId {
    let embedded_btc = b.embed(tokens_bt, positions, weights.wte, weights.wpe);
    let mut x_btc = b.dropout(embedded_btc, dropout_at(Site::Embedding, config, rng));

    for (layer, block) in weights.blocks.iter().enumerate() {
        b.keep(x_btc);
        let normed_btc = b.layer_norm(x_btc, block.ln_1);
        let attn_btc = attend(b, layer, block, normed_btc);
        let attn_btc = b.dropout(attn_btc, dropout_at(Site::AttentionOutput(layer), config, rng));
        x_btc = b.add(x_btc, attn_btc);

        let normed_btc = b.layer_norm(x_btc, block.ln_2);
        let wide_bt4c = linear(b, normed_btc, &block.mlp_c_fc);
        let active_bt4c = b.gelu(wide_bt4c, config.gelu);
        let mlp_btc = linear(b, active_bt4c, &block.mlp_c_proj);
        let mlp_btc = b.dropout(mlp_btc, dropout_at(Site::MlpOutput(layer), config, rng));
        x_btc = b.add(x_btc, mlp_btc);
    }
    b.layer_norm(x_btc, weights.ln_f)
}

/// Attention of a block: `see` turns queries, keys and values, `[B, T, 3C]`, into the values seen, `[B, T, C]`.
pub fn attention(
    b: &mut Builder,
    block: &BlockWeights,
    normed_btc: TensorId,
    see: impl FnOnce(&mut Builder, TensorId) -> TensorId,
) -> TensorId {
    let qkv_bt3c = linear(b, normed_btc, &block.attn_c_attn);
    let seen_btc = see(b, qkv_bt3c);
    linear(b, seen_btc, &block.attn_c_proj)
}

/// `x W + bias`, and with an adapter `+ scale (x A) B` (Hu et al. 2021, equation 3).
fn linear(b: &mut Builder, x: TensorId, layer: &Linear) -> TensorId {
    let y = b.linear(x, layer.weights);
    let Some(adapter) = layer.adapter else { return y };
    let low = b.linear(x, adapter.a);
    let low = b.scale(low, adapter.scale);
    let change = b.linear(low, adapter.b);
    b.add(y, change)
}

/// The places where dropout applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// On the sum of the embeddings.
    Embedding,
    /// On the attention weights of a layer.
    AttentionWeights(usize),
    /// On what a layer's attention adds to the residual stream.
    AttentionOutput(usize),
    /// On what a layer's MLP adds to the residual stream.
    MlpOutput(usize),
}

/// Dropout at a place, where there is any.
pub fn dropout_at(site: Site, config: &ModelConfig, rng: Option<TensorId>) -> Option<Dropout> {
    let site = match site {
        Site::Embedding => 0,
        Site::AttentionWeights(layer) => 3 * layer + 1,
        Site::AttentionOutput(layer) => 3 * layer + 2,
        Site::MlpOutput(layer) => 3 * layer + 3,
    };
    let rng = rng.filter(|_| config.dropout > 0.0)?;
    Some(Dropout { p: config.dropout as f32, site: site as u32, rng })
}
