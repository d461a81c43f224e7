//! Attention by a simulated cuDNN, which interprets the graphs that it is handed: that they are the oracle's attention and its
//! adjoint, with every stride and address, and that a graph which is refused is done by our own kernels.
//!
//! Needs a C++ compiler, as `tests/simulator` does.

use oxigpt_compute::AttentionKind;
use oxigpt_compute::cuda::{Cuda, CudaOptions};

use crate::attention::attention;
use crate::{Make, cuda, gpu, simulator};

/// Whether the simulated GPU can be had: a real one would be looked for in the same places.
fn is_installed() -> bool {
    let may_be = crate::device().is_none() || crate::is_simulated();
    if may_be {
        simulator::install();
    }
    may_be
}

#[test]
fn graphs_are_attention_and_its_adjoint() {
    if !is_installed() {
        return;
    }
    for (shape, by) in [
        ((1, 1, 1, 8), "cuDNN 9.19.0"),
        ((3, 7, 2, 16), "cuDNN 9.19.0"),
        ((2, 65, 3, 64), "cuDNN 9.19.0"),
        ((1, 33, 2, 128), "cuDNN 9.19.0"),
        // Not a multiple of 8; and what the simulator refuses.
        ((2, 9, 1, 12), "kernels of our own"),
        (
            (2, 9, 1, 40),
            "kernels of our own (cudnnBackendFinalize failed: NOT_SUPPORTED: the simulator refuses it (3000))",
        ),
    ] {
        let case = attention(AttentionKind::Softmax, shape, 0.0, 1.0).in_bfloat16();
        let session = case.session(|| cuda(0));
        assert_eq!(session.attention().as_deref(), Some(by), "{shape:?}");
        case.check_on(&[gpu(vec![("cuda, simulated", || cuda(0))])]);
    }
}

/// Where the order does not matter, cuDNN is asked for the other adjoint.
#[test]
fn sums_in_any_order_are_the_same_sums() {
    if !is_installed() {
        return;
    }
    let make: Make =
        || Box::new(Cuda::new(CudaOptions { in_any_order: true, ..CudaOptions::default() }).unwrap());
    let case = attention(AttentionKind::Softmax, (2, 33, 3, 16), 0.0, 1.0).in_bfloat16();
    assert_eq!(case.session(make).attention().as_deref(), Some("cuDNN 9.19.0, sums in any order"));
    case.check_on(&[gpu(vec![("cuda, simulated", make)])]);
}

/// What it cannot do, or would do otherwise, is not asked of it.
#[test]
fn what_is_not_plain_softmax_in_bfloat16_is_ours() {
    if !is_installed() {
        return;
    }
    let shape = (1, 9, 2, 16);
    for case in [
        attention(AttentionKind::Softmax, shape, 0.0, 1.0),
        attention(AttentionKind::Softmax, shape, 0.2, 1.0).in_bfloat16(),
        attention(AttentionKind::Gaussian, shape, 0.0, 1.0).in_bfloat16(),
    ] {
        assert_eq!(
            case.session(|| cuda(0)).attention().as_deref(),
            Some("kernels of our own"),
            "{}",
            case.label
        );
    }
}
