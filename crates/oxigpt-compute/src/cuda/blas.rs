//! Matrix products by cuBLASLt: descriptors made once for each shape, and one of its algorithms.
//!
//! That is the one that it proposes first, which is a function of the product, the GPU and the library; or, where sums may be
//! taken in another order each time, the fastest of several: which that is, is measured, and not the same on every day.
//!
//! cuBLASLt thinks in columns: a row-major `[R, C]` is a column-major `[C, R]` to it. So `c = a b` is asked for as
//! `c^T = b^T a^T`, and nothing is ever transposed in memory.

mod product;

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use super::cache::Cache;
use super::driver::{Gpu, Memory};
use super::error::CudaError;
use super::layout::Element;
use super::library::{Found, Library, SearchPath, functions};

use product::Key;
pub(super) use product::{Epilogue, Matrix, Product};

type Handle = *mut c_void;

const REAL_32F: c_int = 0;
const REAL_16BF: c_int = 14;
const COMPUTE_32F: c_int = 68;
const COMPUTE_32F_FAST_TF32: c_int = 77;
const TRANSPOSE_A: c_int = 3;
const TRANSPOSE_B: c_int = 4;
const EPILOGUE: c_int = 7;
const BIAS_POINTER: c_int = 8;
const AUX_POINTER: c_int = 11;
const AUX_LD: c_int = 12;
const MAX_WORKSPACE_BYTES: c_int = 1;
const REDUCTION_SCHEMES: c_int = 3;
/// Parts of a sum are added up in the type that they were computed in, not in that of the result.
const IN_COMPUTE_TYPE: u32 = 2;
const MIN_ALIGNMENT: [c_int; 4] = [5, 6, 7, 8];

/// What cuBLASLt may take for itself; 32 MiB is what NVIDIA recommends for Hopper.
pub(super) const WORKSPACE_BYTES: usize = 32 << 20;

/// Algorithms that are timed for a product, and how often each.
const CANDIDATES: usize = 8;
const TIMED_RUNS: usize = 3;

/// Numbers that operands are filled with, again and again, while they are timed: no power of two, so that no row has them where
/// the row before it does.
const NOISE: usize = (1 << 18) + 8;

/// Products of fewer multiplications than this take cuBLASLt's first proposal: timing would cost more than it gives.
const WORTH_TIMING: usize = 1 << 26;

functions! {
    /// Functions of libcublasLt.
    Api {
        version = cublasLtGetVersion() -> usize;
        status_string = cublasLtGetStatusString(c_int) -> *const c_char;
        create = cublasLtCreate(*mut Handle);
        destroy = cublasLtDestroy(Handle);
        desc_create = cublasLtMatmulDescCreate(*mut Handle, c_int, c_int);
        desc_set = cublasLtMatmulDescSetAttribute(Handle, c_int, *const c_void, usize);
        desc_destroy = cublasLtMatmulDescDestroy(Handle);
        layout_create = cublasLtMatrixLayoutCreate(*mut Handle, c_int, u64, u64, i64);
        layout_destroy = cublasLtMatrixLayoutDestroy(Handle);
        preference_create = cublasLtMatmulPreferenceCreate(*mut Handle);
        preference_set = cublasLtMatmulPreferenceSetAttribute(Handle, c_int, *const c_void, usize);
        preference_destroy = cublasLtMatmulPreferenceDestroy(Handle);
        heuristic = cublasLtMatmulAlgoGetHeuristic(
            Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int, *mut Proposal, *mut c_int,
        );
        matmul = cublasLtMatmul(
            Handle, Handle, *const c_void, *const c_void, Handle, *const c_void, Handle, *const c_void, *const c_void,
            Handle, *mut c_void, Handle, *const Algorithm, *mut c_void, usize, Handle,
        );
    }
}

/// cublasLtMatmulAlgo_t: an algorithm with its settings, meaningful to one version of the library.
type Algorithm = [u64; 8];

/// cublasLtMatmulHeuristicResult_t.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Proposal {
    algorithm: Algorithm,
    workspace_bytes: usize,
    status: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

/// An open cuBLASLt without a GPU.
pub(super) struct CublasLt {
    api: Api,
    /// The library.
    pub(super) found: Found,
    /// `13.1.0`.
    pub(super) version: String,
}

impl CublasLt {
    /// Opens the library that fits a driver of this CUDA version.
    pub(super) fn open(search_path: &SearchPath, driver_major: i32) -> Result<CublasLt, CudaError> {
        let (api, found) = search_path.open(Library::CublasLt, driver_major, |library| Api::load(library))?;
        // SAFETY: no conditions.
        let number = unsafe { (api.version)() };
        let version = format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100);
        Ok(CublasLt { api, found, version })
    }

    /// Major version of the CUDA that it belongs to.
    pub(super) fn cuda_major(&self) -> i32 {
        self.version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default()
    }

    fn check(&self, call: &'static str, status: c_int) -> Result<(), CudaError> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: gives a text for every status, which is never freed.
        let text = unsafe { (self.api.status_string)(status) };
        // SAFETY: as above, checked.
        let reason =
            (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned());
        let reason = reason.unwrap_or_default();
        Err(CudaError::Call { call, code: status, reason, operator: None })
    }
}

/// The i-th of numbers without a pattern, between -0.5 and 0.5.
fn noise(i: usize) -> f32 {
    let scattered = (i as u32 ^ 0x9e37_79b9).wrapping_mul(0x85eb_ca6b);
    let scattered = (scattered ^ scattered >> 15).wrapping_mul(0xc2b2_ae35);
    (scattered ^ scattered >> 13) as f32 / u32::MAX as f32 - 0.5
}

/// Descriptors of a kind of product, and its algorithm.
struct Prepared {
    desc: Handle,
    /// Of `b`, `a` and `c`, in cuBLASLt's order.
    layouts: [Handle; 3],
    algorithm: Algorithm,
}

/// cuBLASLt at work on one GPU.
pub(super) struct Blas {
    gpu: Arc<Gpu>,
    library: CublasLt,
    handle: Handle,
    compute: c_int,
    /// Whether algorithms are timed.
    is_timed: bool,
    workspace: Memory,
    /// `None`: cuBLASLt cannot do it.
    prepared: HashMap<Key, Option<Prepared>>,
}

// SAFETY: a handle may be used by one thread at a time, whichever it is.
unsafe impl Send for Blas {}

impl Blas {
    /// With `tf32`, products of float32 round their operands to 10 bits of significand. `is_timed`: whether to take the
    /// fastest algorithm, whichever it turns out to be.
    pub(super) fn new(
        gpu: Arc<Gpu>,
        library: CublasLt,
        tf32: bool,
        is_timed: bool,
    ) -> Result<Blas, CudaError> {
        gpu.make_current()?;
        let mut handle = ptr::null_mut();
        // SAFETY: writes one handle.
        library.check("cublasLtCreate", unsafe { (library.api.create)(&mut handle) })?;
        let workspace = gpu.allocate(WORKSPACE_BYTES)?;
        let compute = if tf32 { COMPUTE_32F_FAST_TF32 } else { COMPUTE_32F };
        Ok(Blas { gpu, library, handle, compute, is_timed, workspace, prepared: HashMap::new() })
    }

    /// Chooses the algorithm of a product, unless that has been done. May time candidates, which overwrites the operands
    /// and the result, and leaves zeros in the operands: nothing in them may be needed. Says whether cuBLASLt can do it at all.
    pub(super) fn prepare(&mut self, product: &Product, cache: &Cache) -> Result<bool, CudaError> {
        let key = Key::of(product);
        if !self.prepared.contains_key(&key) {
            self.gpu.make_current()?;
            let prepared = self.choose(&key, product, cache)?;
            self.prepared.insert(key, prepared);
        }
        Ok(self.prepared[&key].is_some())
    }

    /// Puts a product on the stream.
    ///
    /// # Safety
    /// The matrices are in device memory, apart from each other, and as large as they say.
    pub(super) unsafe fn run(&self, product: &Product) -> Result<(), CudaError> {
        let key = Key::of(product);
        let Some(Some(prepared)) = self.prepared.get(&key) else {
            return Err(CudaError::NoAlgorithm { product: format!("{key:?}") });
        };
        self.gpu.make_current()?;
        // SAFETY: passed on to the caller.
        unsafe { self.multiply(product, prepared, &prepared.algorithm) }
    }

    /// # Safety
    /// As [`Blas::run`].
    unsafe fn multiply(
        &self,
        product: &Product,
        prepared: &Prepared,
        algorithm: &Algorithm,
    ) -> Result<(), CudaError> {
        let Prepared { desc, layouts: [b_layout, a_layout, c_layout], .. } = *prepared;
        for (attribute, address) in
            [(BIAS_POINTER, product.epilogue.bias()), (AUX_POINTER, product.epilogue.before())]
        {
            if let Some(address) = address {
                self.set(desc, attribute, &address)?;
            }
        }
        let (alpha, beta) = (1f32, if product.accumulate { 1f32 } else { 0f32 });
        let pointer = |address: u64| address as *mut c_void;
        let (a, b, c) = (pointer(product.a.address), pointer(product.b.address), pointer(product.c.address));
        // SAFETY: descriptors are alive; matrices are as the caller promises.
        let status = unsafe {
            (self.library.api.matmul)(
                self.handle,
                desc,
                (&raw const alpha).cast(),
                b,
                b_layout,
                a,
                a_layout,
                (&raw const beta).cast(),
                c,
                c_layout,
                c,
                c_layout,
                algorithm,
                pointer(self.workspace.at(0)),
                self.workspace.bytes(),
                self.gpu.stream(),
            )
        };
        self.library.check("cublasLtMatmul", status)
    }

    /// Descriptors and the best algorithm; `None` where cuBLASLt proposes none.
    fn choose(&self, key: &Key, product: &Product, cache: &Cache) -> Result<Option<Prepared>, CudaError> {
        let mut prepared = self.describe(key, product)?;
        let proposals = self.proposals(key, &prepared)?;
        let Some(&first) = proposals.first() else { return Ok(None) };
        prepared.algorithm = first;
        if self.is_timed && proposals.len() > 1 && key.m * key.n * key.k >= WORTH_TIMING {
            let what = format!("{key:?} {}", self.compute);
            let id = ["product", &self.gpu.info.name, &self.library.version, &what];
            let bytes = cache.get_or_make(&id, || {
                let fastest = self.fastest(product, &prepared, &proposals)?;
                Ok::<_, CudaError>(fastest.iter().flat_map(|word| word.to_le_bytes()).collect())
            })?;
            for (word, bytes) in prepared.algorithm.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *word = u64::from_le_bytes(*bytes);
            }
        }
        Ok(Some(prepared))
    }

    fn describe(&self, key: &Key, product: &Product) -> Result<Prepared, CudaError> {
        let api = &self.library.api;
        let mut prepared =
            Prepared { desc: ptr::null_mut(), layouts: [ptr::null_mut(); 3], algorithm: [0; 8] };
        // TF32 is a way to multiply float32.
        let compute = if product.a.element == Element::Bf16 { COMPUTE_32F } else { self.compute };
        // SAFETY: writes one handle.
        let status = unsafe { (api.desc_create)(&mut prepared.desc, compute, REAL_32F) };
        self.library.check("cublasLtMatmulDescCreate", status)?;
        let Prepared { desc, .. } = prepared;
        self.set(desc, TRANSPOSE_A, &c_int::from(product.b.transposed))?;
        self.set(desc, TRANSPOSE_B, &c_int::from(product.a.transposed))?;
        self.set(desc, EPILOGUE, &key.epilogue)?;
        for (attribute, address) in
            [(BIAS_POINTER, product.epilogue.bias()), (AUX_POINTER, product.epilogue.before())]
        {
            if let Some(address) = address {
                self.set(desc, attribute, &address)?;
            }
        }
        if product.epilogue.before().is_some() {
            self.set(desc, AUX_LD, &(key.n as i64))?;
        }
        for (layout, matrix) in prepared.layouts.iter_mut().zip([product.b, product.a, product.c]) {
            let kind = if matrix.element == Element::Bf16 { REAL_16BF } else { REAL_32F };
            let (rows, cols) = (matrix.cols as u64, matrix.rows as u64);
            // SAFETY: writes one handle.
            let status = unsafe { (api.layout_create)(layout, kind, rows, cols, matrix.cols as i64) };
            self.library.check("cublasLtMatrixLayoutCreate", status)?;
        }
        Ok(prepared)
    }

    fn set<T: Copy>(&self, desc: Handle, attribute: c_int, value: &T) -> Result<(), CudaError> {
        // SAFETY: the value is as long as said, and is copied.
        let status = unsafe {
            (self.library.api.desc_set)(desc, attribute, ptr::from_ref(value).cast(), size_of::<T>())
        };
        self.library.check("cublasLtMatmulDescSetAttribute", status)
    }

    /// Algorithms that cuBLASLt proposes, the one it expects most of first.
    fn proposals(&self, key: &Key, prepared: &Prepared) -> Result<Vec<Algorithm>, CudaError> {
        let api = &self.library.api;
        let mut preference = ptr::null_mut();
        // SAFETY: writes one handle.
        let status = unsafe { (api.preference_create)(&mut preference) };
        self.library.check("cublasLtMatmulPreferenceCreate", status)?;
        let set = |attribute, value: *const c_void, bytes| {
            // SAFETY: the value is as long as said, and is copied.
            let status = unsafe { (api.preference_set)(preference, attribute, value, bytes) };
            self.library.check("cublasLtMatmulPreferenceSetAttribute", status)
        };
        let workspace = self.workspace.bytes();
        set(MAX_WORKSPACE_BYTES, (&raw const workspace).cast(), size_of::<usize>())?;
        let schemes = IN_COMPUTE_TYPE;
        set(REDUCTION_SCHEMES, (&raw const schemes).cast(), size_of::<u32>())?;
        let [a, b, c] = key.alignment;
        for (attribute, alignment) in MIN_ALIGNMENT.into_iter().zip([b, a, c, c]) {
            set(attribute, (&raw const alignment).cast(), size_of::<u32>())?;
        }
        let mut found = [Proposal::default(); CANDIDATES];
        let mut count = 0;
        let [b, a, c] = prepared.layouts;
        // SAFETY: descriptors are alive; at most as many proposals as are said are written.
        unsafe {
            let (handle, desc, wanted) = (self.handle, prepared.desc, CANDIDATES as c_int);
            // A status other than success says that there are none.
            let status =
                (api.heuristic)(handle, desc, b, a, c, c, preference, wanted, found.as_mut_ptr(), &mut count);
            (api.preference_destroy)(preference);
            if status != 0 {
                count = 0;
            }
        }
        let usable = found[..count.max(0) as usize].iter().filter(|proposal| proposal.status == 0);
        Ok(usable.map(|proposal| proposal.algorithm).collect())
    }

    /// The algorithm that took the least time, at best; the error of the last where none works.
    fn fastest(
        &self,
        product: &Product,
        prepared: &Prepared,
        proposals: &[Algorithm],
    ) -> Result<Algorithm, CudaError> {
        // Zeros take less power than other numbers, which lets a GPU run faster, and one algorithm more than another.
        for operand in [product.a, product.b] {
            let noise: Vec<f32> = (0..NOISE).map(noise).collect();
            self.gpu.write_repeated(
                operand.address,
                operand.bytes(),
                &operand.element.encode(&noise, NOISE),
            )?;
        }
        let (mut best, mut failure) = (None::<(f32, Algorithm)>, None);
        for algorithm in proposals {
            for _ in 0..=TIMED_RUNS {
                // SAFETY: as the caller of `prepare` promises.
                match self.gpu.time(|| unsafe { self.multiply(product, prepared, algorithm) }) {
                    Ok(ms) if best.is_none_or(|(least, _)| ms < least) => best = Some((ms, *algorithm)),
                    Ok(_) => {}
                    // A proposal that does not work is not the fastest; one that broke the GPU shows below.
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                }
            }
        }
        for operand in [product.a, product.b] {
            self.gpu.zero(operand.address, operand.bytes())?;
        }
        self.gpu.synchronize()?;
        match (best, failure) {
            (None, Some(error)) => Err(error),
            (best, _) => Ok(best.map_or(proposals[0], |(_, algorithm)| algorithm)),
        }
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        let api = &self.library.api;
        let _ = self.gpu.synchronize();
        // SAFETY: created by us, and no longer used.
        unsafe {
            for prepared in self.prepared.values().flatten() {
                (api.desc_destroy)(prepared.desc);
                for layout in prepared.layouts {
                    (api.layout_destroy)(layout);
                }
            }
            (api.destroy)(self.handle);
        }
    }
}
