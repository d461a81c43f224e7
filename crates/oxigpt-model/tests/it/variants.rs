//! The model is data: other architectures are other lines of one function, and their gradients follow.
//! Checked by finite differences on the reference backend.

use oxigpt_compute::{Builder, Data, LinearWeights, Plan, Role, Session, TensorId};
use oxigpt_model::{Gelu, Initial, ModelConfig, Site, TensorSource, Trained, Weights, dropout_at, forward};

use crate::support::*;

const BATCH: usize = 2;

type Model = fn(&mut Builder, &ModelConfig, &Weights, TensorId, TensorId) -> TensorId;

fn attention(b: &mut Builder, config: &ModelConfig, qkv_bt3c: TensorId) -> TensorId {
    b.attention(qkv_bt3c, config.n_head, config.attention, None)
}

/// The model as it is, with dropout where the configuration has any.
fn as_published(
    b: &mut Builder,
    config: &ModelConfig,
    weights: &Weights,
    tokens_bt: TensorId,
    rng: TensorId,
) -> TensorId {
    forward(b, config, weights, tokens_bt, None, Some(rng), |b, layer, block, normed_btc| {
        let dropout = dropout_at(Site::AttentionWeights(layer), config, Some(rng));
        oxigpt_model::attention(b, block, normed_btc, |b, qkv_bt3c| {
            b.attention(qkv_bt3c, config.n_head, config.attention, dropout)
        })
    })
}

/// As the first transformer: norm after the residual addition (Vaswani et al. 2017, section 3.1).
fn post_norm(
    b: &mut Builder,
    config: &ModelConfig,
    weights: &Weights,
    tokens_bt: TensorId,
    _: TensorId,
) -> TensorId {
    let mut x_btc = b.embed(tokens_bt, None, weights.wte, weights.wpe);
    for block in &weights.blocks {
        let qkv_bt3c = b.linear(x_btc, block.attn_c_attn.weights);
        let seen_btc = attention(b, config, qkv_bt3c);
        let attn_btc = b.linear(seen_btc, block.attn_c_proj.weights);
        x_btc = b.add(x_btc, attn_btc);
        x_btc = b.layer_norm(x_btc, block.ln_1);

        let wide_bt4c = b.linear(x_btc, block.mlp_c_fc.weights);
        let active_bt4c = b.gelu(wide_bt4c, config.gelu);
        let mlp_btc = b.linear(active_bt4c, block.mlp_c_proj.weights);
        x_btc = b.add(x_btc, mlp_btc);
        x_btc = b.layer_norm(x_btc, block.ln_2);
    }
    x_btc
}

/// A second MLP in each block, beside the first, with weights of its own.
fn second_mlp(
    b: &mut Builder,
    config: &ModelConfig,
    weights: &Weights,
    tokens_bt: TensorId,
    _: TensorId,
) -> TensorId {
    let c = config.n_embd;
    let mut x_btc = b.embed(tokens_bt, None, weights.wte, weights.wpe);
    for (layer, block) in weights.blocks.iter().enumerate() {
        let normed_btc = b.layer_norm(x_btc, block.ln_1);
        let qkv_bt3c = b.linear(normed_btc, block.attn_c_attn.weights);
        let seen_btc = attention(b, config, qkv_bt3c);
        let attn_btc = b.linear(seen_btc, block.attn_c_proj.weights);
        x_btc = b.add(x_btc, attn_btc);

        let normed_btc = b.layer_norm(x_btc, block.ln_2);
        let w = b.parameter(&format!("h.{layer}.mlp_2.c_fc.weight"), &[c, 2 * c]);
        let second_c_fc = LinearWeights { w, bias: None };
        let w = b.parameter(&format!("h.{layer}.mlp_2.c_proj.weight"), &[2 * c, c]);
        let second_c_proj = LinearWeights { w, bias: None };
        for (c_fc, c_proj) in
            [(block.mlp_c_fc.weights, block.mlp_c_proj.weights), (second_c_fc, second_c_proj)]
        {
            let wide = b.linear(normed_btc, c_fc);
            let active = b.gelu(wide, config.gelu);
            let mlp_btc = b.linear(active, c_proj);
            x_btc = b.add(x_btc, mlp_btc);
        }
    }
    b.layer_norm(x_btc, weights.ln_f)
}

/// Compares the gradient of the mean loss in every parameter with central differences at a few elements.
fn check_gradients(config: &ModelConfig, model: Model) {
    let mut b = Builder::new();
    let weights = Weights::declare(&mut b, config, Trained::All);
    let phase = b.begin("train");
    let tokens = b.input_u32("tokens", &[BATCH, config.block_size], config.vocab_size as u32);
    let targets = b.input_u32("targets", &[BATCH, config.block_size], config.vocab_size as u32);
    let rng = b.counters("rng", &[4]);
    let x_btc = model(&mut b, config, &weights, tokens, rng);
    let losses = b.classifier(x_btc, weights.wte, targets, config.vocab_size);
    let n = BATCH * config.block_size;
    b.backward(&[(losses, 1.0 / n as f64)]);
    let plan = b.finish();
    let parameters: Vec<(String, TensorId)> = with_role(&plan, Role::Parameter);
    let gradients: Vec<(String, TensorId)> = with_role(&plan, Role::Gradient);

    let mut session = Session::new(plan, reference()).unwrap();
    let ids: Vec<u32> = (0..=n).map(|i| (i * i % config.vocab_size) as u32).collect();
    session.upload(tokens, Data::U32(&ids[..n])).unwrap();
    session.upload(targets, Data::U32(&ids[1..])).unwrap();
    session.upload(rng, Data::U32(&[1, 2, 3, 4])).unwrap();
    let mut values: Vec<Vec<f64>> =
        parameters.iter().map(|(name, id)| start(&session, config, name, *id)).collect();
    for ((_, id), value) in parameters.iter().zip(&values) {
        session.upload(*id, Data::F64(value)).unwrap();
    }
    session.run(phase);
    let found: Vec<Vec<f64>> = gradients.iter().map(|(_, id)| download(&session, *id)).collect();

    for (p, (name, id)) in parameters.iter().enumerate() {
        let largest = found[p].iter().fold(0.0f64, |max, x| max.max(x.abs()));
        assert!(largest > 1e-6, "{name} has no gradient");
        let elements = if name == "wte.weight" { config.vocab_size * config.n_embd } else { found[p].len() };
        for element in [0, elements / 3, elements / 2, elements - 1] {
            let mut loss_at = |shift: f64, values: &mut Vec<Vec<f64>>| {
                let before = values[p][element];
                values[p][element] += shift;
                session.upload(*id, Data::F64(&values[p])).unwrap();
                values[p][element] = before;
                session.run(phase);
                mean(&download(&session, losses))
            };
            let step = 1e-5;
            let slope = (loss_at(step, &mut values) - loss_at(-step, &mut values)) / (2.0 * step);
            let error = (slope - found[p][element]).abs();
            assert!(
                error < 1e-6 * largest + 1e-9,
                "{name}[{element}]: {} but slope {slope}",
                found[p][element]
            );
        }
        session.upload(*id, Data::F64(&values[p])).unwrap();
    }
}

/// Names and ids of all tensors with a role: the model's own parameters and those that a variant has
/// declared, and in the same order their gradients.
fn with_role(plan: &Plan, role: Role) -> Vec<(String, TensorId)> {
    let tensors = plan.tensors().filter(|(_, tensor)| tensor.role == role);
    tensors.map(|(id, tensor)| (tensor.name.clone(), id)).collect()
}

/// Initial weights, the matrices enlarged and all a little uneven, so that every gradient is well above
/// rounding. A variant's own matrices begin as some other does.
fn start(session: &Session, config: &ModelConfig, name: &str, id: TensorId) -> Vec<f64> {
    let tensor = session.plan().tensor(id);
    let scale = if tensor.shape.len() == 2 { 8.0 } else { 1.0 };
    let initial = Initial { config, seed: 8 };
    let data = initial.read(name).or_else(|_| initial.read("h.0.mlp.c_fc.weight")).unwrap();
    let uneven = |(i, &x): (usize, &f32)| f64::from(x) * scale + 0.01 * (i as f64).sin();
    let mut data: Vec<f64> = data.iter().enumerate().map(uneven).collect();
    data.resize(tensor.len(), 0.0);
    data
}

#[test]
fn the_model_passes_the_gradient_check() {
    for (bias, gelu, dropout) in [(true, Gelu::Tanh, 0.0), (false, Gelu::Erf, 0.2)] {
        check_gradients(&ModelConfig { bias, gelu, dropout, ..small() }, as_published);
    }
}

#[test]
fn norm_after_residual_passes_the_gradient_check() {
    check_gradients(&ModelConfig { n_layer: 2, ..small() }, |b, config, weights, tokens, rng| {
        let x_btc = post_norm(b, config, weights, tokens, rng);
        b.layer_norm(x_btc, weights.ln_f)
    });
}

#[test]
fn a_second_mlp_passes_the_gradient_check() {
    check_gradients(&small(), second_mlp);
}
