//! Times training steps of a model on random tokens, and says where the time goes, operator by operator.
//!
//! ```text
//! cargo run --release -p oxigpt-model --example profile -- LAYERS HEADS WIDTH BLOCK VOCAB BATCH THREADS STEPS
//! ```

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Instant;

use oxigpt_compute::cpu::{Cpu, CpuOptions};
use oxigpt_compute::{AdamWConfig, AttentionKind, Cost, Data, Gelu, Session};
use oxigpt_model::{Initial, ModelConfig, TrainPlan, TrainShape};

/// Steps before the clock counts: they fetch the arena's memory.
const WARM_UP: usize = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let numbers: Vec<usize> = std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let [n_layer, n_head, n_embd, block_size, vocab_size, batch_size, threads, steps] = numbers[..] else {
        return Err("expected LAYERS HEADS WIDTH BLOCK VOCAB BATCH THREADS STEPS".into());
    };
    let config = ModelConfig {
        n_layer,
        n_head,
        n_embd,
        block_size,
        vocab_size,
        bias: false,
        dropout: 0.0,
        gelu: Gelu::Erf,
        attention: AttentionKind::Softmax,
    };
    let shape = TrainShape {
        batch_size,
        block_size,
        targets_per_step: batch_size * block_size,
        optimizer: AdamWConfig { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, grad_clip: 1.0 },
        eval_batch_size: 1,
        decode: false,
    };
    let (plan, handles) = TrainPlan::build(&config, &shape)?;
    let mut session = Session::new(plan, Box::new(Cpu::new(CpuOptions { threads, pin: true })?))?;
    handles.parameters.upload(&mut session, &Initial { config: &config, seed: 1337 })?;
    let tokens: Vec<u32> = (0..batch_size * block_size).map(|i| (i * 7919 % vocab_size) as u32).collect();
    session.upload(handles.tokens, Data::U32(&tokens))?;
    session.upload(handles.targets, Data::U32(&tokens))?;

    let mut times_ms = Vec::new();
    for step in 0..WARM_UP + steps.max(1) {
        if step == WARM_UP {
            session.start_profile();
        }
        let start = Instant::now();
        session.run(handles.phases.first);
        session.run(handles.phases.norm);
        handles.set_schedule(&mut session, 1e-3, step as u64)?;
        session.run(handles.phases.update);
        if step >= WARM_UP {
            times_ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    report(&session, &handles, &mut times_ms);
    Ok(())
}

fn report(session: &Session, handles: &TrainPlan, times_ms: &mut [f64]) {
    times_ms.sort_by(f64::total_cmp);
    let (median, fastest) = (times_ms[times_ms.len() / 2], times_ms[0]);
    let plan = session.plan();
    let flops = plan.cost(handles.phases.first).flops;
    println!(
        "step: median {median:.2} ms, fastest {fastest:.2} ms; {:.1} GFLOP in matrix products, {:.0} GFLOP/s; arena {} MiB",
        flops / 1e9,
        flops / median / 1e6,
        plan.arena_bytes() >> 20
    );
    let mut by_name: BTreeMap<&str, (f64, Cost)> = BTreeMap::new();
    for phase in [handles.phases.first, handles.phases.norm, handles.phases.update] {
        let times = session.profile(phase).unwrap_or_default();
        for (op, time) in plan.phase(phase).ops.iter().zip(times) {
            let entry = by_name.entry(op.name()).or_default();
            entry.0 += time.time.as_secs_f64() * 1e3 / f64::from(time.runs);
            entry.1 = entry.1 + op.cost(plan);
        }
    }
    println!("{:24}{:>10}{:>12}{:>10}", "operator", "ms", "GFLOP/s", "GB/s");
    for (name, (ms, cost)) in by_name {
        println!("{name:24}{ms:>10.3}{:>12.1}{:>10.1}", cost.flops / ms / 1e6, cost.bytes / ms / 1e6);
    }
}
