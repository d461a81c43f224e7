//! Sessions on every backend: what they refuse and with which words, and what they report.

use oxigpt_compute::cuda::{Cuda, CudaError, CudaOptions};
use oxigpt_compute::{
    Builder, Data, Error, Gelu, LinearWeights, NormWeights, PhaseId, Plan, Role, Session, TensorId,
};

use crate::{Make, backends};

/// Puts a simulated GPU where no real one is asked for.
#[cfg(unix)]
fn simulate() {
    if crate::device().is_none() || crate::is_simulated() {
        crate::simulator::install();
    }
}

/// Products whose algorithm is measured, where the same one need not be taken every time, are products all the same; and
/// where it must be, nothing is measured and kept.
#[cfg(unix)]
#[test]
fn products_are_measured_only_where_their_order_may_change() {
    simulate();
    for in_any_order in [false, true] {
        let mut b = Builder::new();
        let phase = b.begin("forward");
        let (x, w) = (b.input("x", &[1, 512, 256]), b.parameter("w", &[256, 512]));
        let y = b.linear(x, LinearWeights { w, bias: None });
        b.mark_output(y);
        let cache = tempfile::tempdir().unwrap();
        let options =
            CudaOptions { in_any_order, cache: Some(cache.path().into()), ..CudaOptions::default() };
        let mut session = Session::new(b.finish(), Box::new(Cuda::new(options).unwrap())).unwrap();
        assert_eq!(cache.path().read_dir().unwrap().count(), usize::from(in_any_order));
        // Row r of x times column c of w: 256 numbers r + 1, and c - 100.
        let x_of: Vec<f32> = (0..512 * 256).map(|i| (i / 256 + 1) as f32 / 512.0).collect();
        let w_of: Vec<f32> = (0..256 * 512).map(|i| (i % 512) as f32 - 100.0).collect();
        session.upload(x, Data::F32(&x_of)).unwrap();
        session.upload(w, Data::F32(&w_of)).unwrap();
        session.run(phase);
        let mut found = vec![0.0; 512 * 512];
        session.download(y, &mut found).unwrap();
        for (i, &found) in found.iter().enumerate() {
            let expected = 256.0 * (i / 512 + 1) as f32 / 512.0 * ((i % 512) as f32 - 100.0);
            assert!((found - expected).abs() <= 1e-4 * expected.abs(), "{i}: {found} {expected}");
        }
    }
}

/// What a block has no room for is said before anything runs: no GPU has more shared memory than 228 KiB for one.
#[cfg(unix)]
#[test]
fn launches_that_no_block_has_room_for_are_refused() {
    simulate();
    let mut b = Builder::new();
    b.begin("forward");
    let c = 60_000;
    let (x, weight) = (b.input("x", &[1, 1, c]), b.parameter("weight", &[c]));
    let norm = b.layer_norm(x, NormWeights { weight, bias: None });
    b.mark_output(norm);
    let error = Session::new(b.finish(), crate::cuda(0)).err().unwrap();
    assert!(error.to_string().starts_with("layer_norm needs 240000 bytes of shared memory a block, and "));
    assert_eq!(error.hint().unwrap(), "use a narrower model (n_embd), or --device=cpu");
}

struct Small {
    plan: Plan,
    phase: PhaseId,
    x: TensorId,
    words: TensorId,
    y: TensorId,
}

fn small() -> Small {
    let mut b = Builder::new();
    let phase = b.begin("forward");
    let (x, words) = (b.input("x", &[2, 3]), b.input_u32("words", &[4], 10));
    let y = b.gelu(x, Gelu::Tanh);
    b.mark_output(y);
    Small { plan: b.finish(), phase, x, words, y }
}

fn makes() -> impl Iterator<Item = (&'static str, Make)> {
    backends().into_iter().flat_map(|row| row.variants)
}

#[test]
fn wrong_data_is_refused() {
    for (label, make) in makes() {
        let Small { plan, x, words, y, .. } = small();
        let mut session = Session::new(plan, make()).unwrap();
        let refused = |result: Result<(), Error>| {
            let error = result.expect_err(label);
            (error.to_string(), error.hint())
        };
        let message = "tensor `x` has 6 elements, but 5 were given".to_owned();
        assert_eq!(refused(session.upload(x, Data::F32(&[0.0; 5]))), (message.clone(), None));
        assert_eq!(refused(session.upload(x, Data::F64(&[0.0; 5]))), (message, None));
        let message = "tensor `x` holds reals, not integers".to_owned();
        assert_eq!(refused(session.upload(x, Data::U32(&[0; 6]))), (message, None));
        let message = "tensor `words` holds integers, not reals".to_owned();
        assert_eq!(refused(session.download(words, &mut [0.0; 4])), (message, None));
        let message = "tensor `gelu` has 6 elements, but 7 were given".to_owned();
        assert_eq!(refused(session.download_f64(y, &mut [0.0; 7])), (message, None));
        let (message, hint) = refused(session.upload(words, Data::U32(&[0, 9, 10, 3])));
        assert_eq!(message, "`words`[2] is 10, but must be below 10");
        assert!(hint.is_some_and(|h| h.contains("larger vocabulary")));
    }
}

#[test]
fn a_plan_larger_than_any_memory_is_refused() {
    for (label, make) in makes() {
        let mut b = Builder::new();
        b.parameter("w", &[1 << 22, 1 << 24]);
        let error = Session::new(b.finish(), make()).err().expect(label);
        let is_memory =
            matches!(error, Error::OutOfMemory { .. } | Error::Cuda(CudaError::OutOfMemory { .. }));
        assert!(is_memory, "{label}: {error}");
        assert!(error.to_string().contains("GiB"), "{error}");
        assert!(error.hint().is_some_and(|h| h.contains("batch_size")));
    }
}

#[test]
fn runs_are_counted_while_profiling_only() {
    for (_, make) in makes() {
        let Small { plan, phase, .. } = small();
        let mut session = Session::new(plan, make()).unwrap();
        session.run(phase);
        assert!(session.profile(phase).is_none());
        session.start_profile();
        session.run(phase);
        session.run(phase);
        let runs: Vec<u32> = session.profile(phase).unwrap().iter().map(|op| op.runs).collect();
        assert_eq!(runs, [2]);
    }
}

/// `x`, `words` and `y` take one line of 64 bytes each, and a session at least the bytes of their elements.
#[test]
fn memory_is_known() {
    let Small { plan, .. } = small();
    assert_eq!(plan.arena_bytes(), 3 * Plan::ALIGNMENT);
    let by_role: Vec<(Role, usize)> = plan.memory_by_role().into_iter().collect();
    assert_eq!(by_role, [(Role::Input, 128), (Role::Output, 64), (Role::Activation, 0)]);
    for (_, make) in makes() {
        let session = Session::new(plan.clone(), make()).unwrap();
        let elements: usize = plan.tensors().map(|(_, tensor)| tensor.len()).sum();
        assert!(session.memory_bytes() >= 4 * elements);
    }
}

/// What is uploaded is read by what runs after it and by nothing before, however much is uploaded while a device works: here
/// up to three batches before the first result is read, of inputs that go ahead of the work and of such that do not.
#[test]
fn inputs_come_in_their_turn() {
    for len in [5, 20_000] {
        let mut b = Builder::new();
        let phase = b.begin("forward");
        let (x, sum_of) = (b.input("x", &[len]), b.input("addend", &[len]));
        let doubled = b.scale(x, 2.0);
        let y = b.add(doubled, sum_of);
        b.mark_output(y);
        let plan = b.finish();
        for (label, make) in makes() {
            let mut session = Session::new(plan.clone(), make()).unwrap();
            let upload = |session: &mut Session, batch: u32| {
                let batch = batch as f32;
                session.upload(x, Data::F32(&vec![batch; len])).unwrap();
                session.upload(sum_of, Data::F32(&vec![100.0 * batch; len])).unwrap();
            };
            upload(&mut session, 0);
            for batch in 0..9 {
                session.run(phase);
                (0..batch % 3 + 1).rev().for_each(|earlier| upload(&mut session, batch + 1 + 10 * earlier));
                if batch % 3 != 2 {
                    let mut found = vec![0.0; len];
                    session.download(y, &mut found).unwrap();
                    let expected = 102.0 * batch as f32;
                    assert!(
                        found.iter().all(|&y| y == expected),
                        "{label}, {len}: batch {batch}, {}",
                        found[0]
                    );
                }
            }
        }
    }
}
