//! Graphs as cuDNN is handed them; and the real cuDNN's opinion of them, where a variable names it.

use std::path::Path;
use std::process::Command;

use super::attention::{Task, Work};
use super::descriptors::of_graph;
use super::graph::{Operation, Tensor};
use super::*;
use crate::cuda::attention::Sizes;
use crate::cuda::blas::CublasLt;
use crate::cuda::layout::Layout;
use crate::cuda::nvrtc::Nvrtc;
use crate::{AttentionKind, Builder, LinearWeights, Precision};

const SIZES: Sizes = Sizes { batch: 2, t: 5, heads: 3, d: 8 };

const WORKS: [Work; 3] = [Work::Attention, Work::Adjoint, Work::AdjointInAnyOrder];

fn all(sizes: Sizes) -> [Graph; 3] {
    WORKS.map(|work| Task { sizes, work }.graph())
}

/// Inputs, and the result.
fn operands(operation: &Operation) -> (Vec<usize>, usize) {
    match operation {
        Operation::Matmul { a, b, out } => (vec![*a, *b], *out),
        Operation::Pointwise { inputs, out, .. } => (inputs.clone(), *out),
        Operation::Reduce { x, out, .. } | Operation::Reshape { x, out } => (vec![*x], *out),
    }
}

#[test]
fn what_is_handed_on_is_made_once_and_before() {
    for graph in all(SIZES) {
        let mut made = vec![false; graph.tensors.len()];
        for operation in &graph.operations {
            let (inputs, out) = operands(operation);
            for input in inputs {
                assert!(made[input] || graph.tensors[input].place != Place::Virtual, "{operation:?}");
            }
            assert!(!made[out], "{operation:?} once more");
            made[out] = true;
        }
        for (id, Tensor { place, .. }) in graph.tensors.iter().enumerate() {
            use Operand::{Delta, Dk, Dq, DqSums, Dv, Lse, Out};
            let is_result = matches!(place, Place::Memory(Dq | Dk | Dv | Delta | DqSums));
            let is_forwards = graph.operations.len() == 14 && matches!(place, Place::Memory(Out | Lse));
            assert_eq!(made[id], is_result || is_forwards || *place == Place::Virtual, "{place:?}");
        }
    }
}

/// Queries, keys and values lie in one tensor `[B, T, 3, H, D]`, and keys are given as columns.
#[test]
fn strides_are_those_of_the_packed_tensor() {
    let [forward, backward, in_any_order] = all(SIZES);
    let found = |graph: &Graph, operand| {
        let place = Place::Memory(operand);
        let tensor = graph.tensors.iter().find(|tensor| tensor.place == place).unwrap();
        (tensor.dims, tensor.strides)
    };
    let (row, batch) = (3 * 3 * 8, 5 * 3 * 3 * 8);
    let rows = ([2, 3, 5, 8], [batch, 8, row, 1]);
    let columns = ([2, 3, 8, 5], [batch, 8, 1, row]);
    let of_result = ([2, 3, 5, 8], [batch / 3, 8, row / 3, 1]);
    for graph in [&forward, &backward, &in_any_order] {
        assert_eq!(found(graph, Operand::Q), rows);
        assert_eq!(found(graph, Operand::K), columns);
        assert_eq!(found(graph, Operand::Out), of_result);
        assert_eq!(found(graph, Operand::Lse), ([2, 3, 5, 1], [15, 5, 1, 1]));
    }
    assert_eq!((found(&forward, Operand::V), found(&backward, Operand::V)), (rows, columns));
    assert_eq!(found(&backward, Operand::Dout), of_result);
    for operand in [Operand::Dq, Operand::Dk, Operand::Dv] {
        assert_eq!(found(&backward, operand), rows);
    }
    assert_eq!(found(&in_any_order, Operand::DqSums), ([2, 3, 5, 8], [120, 40, 8, 1]));
    assert_eq!(found(&backward, Operand::Delta), ([2, 3, 5, 1], [15, 5, 1, 1]));
}

/// The second part of a batch begins where the first ends, in every tensor.
#[test]
fn parts_of_a_batch_follow_each_other() {
    let at = |part, operand| attention::offset(SIZES, part, operand);
    let rows = 2 * 5;
    for (operand, in_row, row) in [
        (Operand::Q, 0, 144),
        (Operand::K, 48, 144),
        (Operand::V, 96, 144),
        (Operand::Dq, 0, 144),
        (Operand::Dk, 48, 144),
        (Operand::Dv, 96, 144),
        (Operand::Out, 0, 48),
        (Operand::Dout, 0, 48),
        (Operand::Lse, 0, 12),
    ] {
        assert_eq!([at(0, operand), at(1, operand)], [in_row, in_row + rows * row], "{operand:?}");
    }
}

/// An adjoint whose workspace would be too large in any part is left to others, and why is said.
#[test]
fn a_workspace_that_is_too_large_is_a_reason() {
    let mut b = Builder::new();
    b.begin("train");
    let (x, w) = (b.input("x", &[2, 8192, 8]), b.parameter("w", &[8, 3 * 768]));
    let qkv = b.linear(x, LinearWeights { w, bias: None });
    let out = b.attention(qkv, 12, AttentionKind::Softmax, None);
    let target = b.input("target", &[2, 8192, 768]);
    let losses = b.squared_error(out, target);
    b.backward(&[(losses, 1.0)]);
    let plan = b.finish().with_precision(Precision::Bfloat16);
    let layout = Layout::of(&plan);
    let refusals = |in_any_order| -> Vec<String> {
        let ops = plan.phases().flat_map(|(_, phase)| &phase.ops);
        let tasks = ops.filter_map(|op| Task::of(&plan, &layout, in_any_order, op).err());
        tasks.map(|error| error.to_string()).collect()
    };
    assert_eq!(
        refusals(false),
        ["cuDNN does not suit: its workspace would be over 256 MiB for texts of 8192 tokens"]
    );
    assert_eq!(refusals(true), [""; 0]);
}

/// The adjoint of a large batch takes turns, each of them aligned, or is left to others.
#[test]
fn an_older_version_reads_beyond_texts_of_some_lengths() {
    let reads = |version| [1, 64, 127, 128, 1024].map(|t| reads_beyond(version, t));
    assert_eq!(reads(91_002), [true, true, true, false, false]);
    assert_eq!(reads(91_501), [false; 5]);
}

#[test]
fn an_adjoint_is_cut_into_parts_that_fit() {
    let parts = |batch, t, heads, work| {
        let sizes = Sizes { batch, t, heads, d: 64 };
        Task { sizes, work }.in_parts().map(|(task, parts)| (task.sizes.batch, parts))
    };
    assert_eq!(parts(64, 1024, 12, Work::Attention), Some((64, 1)));
    assert_eq!(parts(64, 1024, 12, Work::Adjoint), Some((8, 8)));
    assert_eq!(parts(64, 1024, 12, Work::AdjointInAnyOrder), Some((64, 1)));
    assert_eq!(parts(7, 1024, 25, Work::Adjoint), Some((1, 7)));
    assert_eq!(parts(3, 33, 1, Work::Adjoint), Some((3, 1)));
    // Sums of rows that do not begin at multiples of 16 bytes; and pairs beyond the workspace, even of one text.
    assert_eq!(parts(3, 5001, 5, Work::Adjoint), None);
    assert_eq!(parts(4, 16384, 12, Work::Adjoint), None);
}

#[test]
fn descriptors_have_names_of_their_own_and_refer_back() {
    for (graph, operations) in all(SIZES).iter().zip([14, 21, 22]) {
        let list = of_graph(graph);
        let names: Vec<_> = list.iter().flat_map(|d| &d.attributes).filter(|(key, _)| *key == 906).collect();
        let expected: Vec<_> =
            (1..=graph.tensors.len() as i64).map(|uid| (906, Value::Integers(vec![uid]))).collect();
        assert_eq!(names, expected.iter().collect::<Vec<_>>());
        assert_eq!(list.iter().filter(|descriptor| descriptor.is_operation).count(), operations);
        for (at, descriptor) in list.iter().enumerate() {
            for (_, value) in &descriptor.attributes {
                assert!(!matches!(value, Value::Descriptor(to) if *to >= at), "{descriptor:?}");
            }
        }
        let given = bound(graph).len();
        let handed_on = graph.tensors.iter().filter(|tensor| tensor.place == Place::Virtual).count();
        assert_eq!(given + handed_on, graph.tensors.len());
    }
}

/// A driver that has no GPU but answers what cuDNN asks while it plans.
const DRIVER: &str = r#"
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #define ANSWERS(name, status) int name(void) { return status; }
    #define GIVES(name, type, value) int name(type *out) { *out = value; return 0; }
    static int some;
    ANSWERS(cuInit, 100) ANSWERS(cuDeviceGetCount, 100) ANSWERS(cuDeviceGet, 100)
    ANSWERS(cuCtxGetCurrent, 100) ANSWERS(cuCtxGetLimit, 100) ANSWERS(cuCtxPopCurrent, 100)
    ANSWERS(cuCtxPushCurrent, 100) ANSWERS(cuStreamGetCtx, 100) ANSWERS(cuLibraryLoadFromFile, 100)
    ANSWERS(cuLinkCreate, 100) ANSWERS(cuLinkAddData, 100) ANSWERS(cuLinkComplete, 100)
    ANSWERS(cuLinkDestroy, 100) ANSWERS(cuLaunchKernel, 100) ANSWERS(cuLaunchKernelEx, 100)
    ANSWERS(cuLaunchCooperativeKernel, 100) ANSWERS(cuOccupancyMaxPotentialClusterSize, 100)
    ANSWERS(cuLibraryUnload, 0) ANSWERS(cuModuleUnload, 0)
    ANSWERS(cuKernelSetAttribute, 0) ANSWERS(cuFuncSetAttribute, 0)
    GIVES(cuDriverGetVersion, int, 13000) GIVES(cuOccupancyMaxActiveBlocksPerMultiprocessor, int, 1)
    GIVES(cuKernelGetAttribute, int, 0) GIVES(cuFuncGetAttribute, int, 0)
    GIVES(cuLibraryLoadData, void *, &some) GIVES(cuLibraryGetKernel, void *, &some)
    GIVES(cuLibraryGetModule, void *, &some) GIVES(cuKernelGetFunction, void *, &some)
    GIVES(cuModuleLoadData, void *, &some) GIVES(cuModuleGetFunction, void *, &some)
    int cuGetErrorString(int status, const char **text) { *text = "none"; return 0; }
    int cuGetErrorName(int status, const char **text) { *text = "none"; return 0; }
    int cuGetProcAddress(const char *name, void **out) {
        *out = dlsym(RTLD_DEFAULT, name);
        if (!*out) *out = cuInit;
        return 0;
    }
    int cuGetProcAddress_v2(const char *name, void **out, int version, unsigned long long flags, int *status) {
        if (status) *status = 0;
        return cuGetProcAddress(name, out);
    }
"#;

/// An H200, as cuDNN writes down a GPU.
const H200: &str = r#"{"cudaDeviceId":0,"deviceVer":900,"driverVer":13000,"maxGridSize":[2147483647,65535,65535],
    "maxBlockSize":[1024,1024,64],"regsPerBlock":65536,"multiProcessorCount":132,"warpSize":32,
    "maxSharedMemoryPerBlock":49152,"maxSharedMemoryPerBlockOptin":232448,"reservedSharedMemoryPerBlock":1024,
    "maxRegistersPerSM":65536,"maxCtasPerSM":32,"maxThreadsPerBlock":1024,"maxThreadsPerSM":2048,"pciDeviceId":0,
    "isTccDriver":0,"supportCoopLaunch":1,"smClockRateKHz":1980000,"memClockRateKHz":3201000,
    "l2CacheSize":62914560,"deviceName":"NVIDIA H200","totalGlobalMem":150754820096}"#;

/// Opens cuDNN and what it needs, below the `nvidia` packages of a Python environment, on a machine without a GPU.
fn real(packages: &Path) -> (Arc<CudnnLibrary>, Target) {
    let dir = tempfile::tempdir().unwrap();
    let (source, driver) = (dir.path().join("driver.c"), dir.path().join("libcuda.so.1"));
    fs_err::write(&source, DRIVER).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o"]).arg(&driver).arg(&source);
    assert!(compiler.status().unwrap().success());
    let search_path =
        SearchPath::new(vec![dir.path().into(), packages.join("cudnn/lib"), packages.join("cu13/lib")]);
    search_path.open(Library::Driver, 13, |_| Ok(())).map(drop).unwrap_or_else(|error| panic!("{error}"));
    let _ = Nvrtc::open(&search_path, 13).unwrap_or_else(|error| panic!("{error}"));
    let cublaslt = CublasLt::open(&search_path, 13).unwrap_or_else(|error| panic!("{error}"));
    // One that is refused is closed, and does no harm by that.
    let refused = CudnnLibrary::open(&search_path, cublaslt.cuda_major() - 1);
    assert!(matches!(refused, Err(CudaError::OtherCuda { .. })));
    let library =
        CudnnLibrary::open(&search_path, cublaslt.cuda_major()).unwrap_or_else(|error| panic!("{error}"));
    let library = Arc::new(library);
    let device = library.create(38).unwrap();
    device.set(2702, 24, H200.as_bytes()).unwrap();
    device.finalize().unwrap();
    (library, Target::Described(device))
}

/// cuDNN plans every graph for an H200 that it is not near to, and takes no larger a workspace than is counted for it.
#[test]
#[ignore = "needs cuDNN and a C compiler: OXIGPT_TEST_CUDNN=site-packages/nvidia"]
fn the_real_planner_takes_the_graphs() {
    let packages = env::var_os("OXIGPT_TEST_CUDNN").expect("OXIGPT_TEST_CUDNN names a directory");
    let (library, target) = real(Path::new(&packages));
    for (batch, heads, t, d) in [
        (64, 12, 1024, 64),
        (8, 12, 1024, 64),
        (1, 25, 1024, 64),
        (12, 6, 256, 64),
        (3, 1, 33, 8),
        (2, 5, 1, 40),
        (1, 2, 1023, 96),
        (2, 4, 4096, 128),
    ] {
        let sizes = Sizes { batch, t, heads, d };
        for work in WORKS {
            let task = Task { sizes, work };
            let plan =
                target.plan(&library, &task.graph()).unwrap_or_else(|error| panic!("{task:?}: {error}"));
            let (found, counted) = (plan.workspace_bytes, task.workspace_bytes());
            assert!(found <= counted, "{task:?}: a workspace of {found} bytes, {counted} are counted");
        }
    }
    // Heads that no part of cuDNN does.
    let task = Task { sizes: Sizes { batch: 1, t: 64, heads: 1, d: 7 }, work: Work::Adjoint };
    assert!(target.plan(&library, &task.graph()).is_err());
}
