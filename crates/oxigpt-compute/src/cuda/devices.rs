//! What a machine has of what the CUDA backend needs.

use std::path::PathBuf;
use std::sync::Arc;

use super::blas::CublasLt;
use super::cudnn::{Attentions, CudnnLibrary};
use super::driver::{Driver, Gpu, GpuInfo};
use super::error::CudaError;
use super::library::{Found, Library, SearchPath};
use super::nvrtc::Nvrtc;

/// A library that was found.
#[derive(Clone, Debug)]
pub struct LibraryReport {
    /// Where.
    pub path: PathBuf,
    /// Its version, as people write it.
    pub version: String,
    /// What came before it and did not do.
    pub passed_over: Vec<CudaError>,
}

impl LibraryReport {
    fn of(found: Found, version: String) -> LibraryReport {
        let Found { path, passed_over } = found;
        LibraryReport { path, version, passed_over }
    }
}

/// What was found, piece by piece.
pub struct Report {
    /// Each library that the backend opens if it is there, and the CUDA version that the driver supports.
    pub libraries: Vec<(Library, Result<LibraryReport, CudaError>)>,
    /// Every GPU that the driver shows; `None` without a driver.
    pub gpus: Option<Result<Vec<GpuInfo>, CudaError>>,
    /// What is amiss with the places that `OXIGPT_CUDA_PATH` names.
    pub misnamed: Vec<CudaError>,
}

impl Report {
    /// Whether the backend can be used with the first GPU.
    pub fn is_complete(&self) -> bool {
        self.obstacle().is_none()
    }

    /// Why it cannot: the first thing that is amiss.
    pub fn obstacle(&self) -> Option<CudaError> {
        let driver = self.libraries.iter().find_map(|(library, found)| match library {
            Library::Driver => found.as_ref().err().cloned(),
            _ => None,
        });
        let of_gpu = || match self.gpus.as_ref()? {
            Ok(gpus) => gpus.first()?.check().err(),
            Err(error) => Some(error.clone()),
        };
        let needed = || self.libraries.iter().filter(|(library, _)| !library.is_optional());
        driver.or_else(of_gpu).or_else(|| needed().find_map(|(_, found)| found.as_ref().err().cloned()))
    }
}

/// The GPU of a number.
///
/// # Errors
/// Where there is none, or no driver.
pub fn gpu(index: usize) -> Result<GpuInfo, CudaError> {
    let gpus = Driver::open(&SearchPath::of_environment())?.gpus()?;
    let count = gpus.len();
    gpus.into_iter().nth(index).ok_or(CudaError::NoSuchDevice { index, count })
}

/// Who would do the attention of a GPT-2 in bfloat16 on a GPU, and why.
///
/// # Errors
/// Where there is no such GPU, or not all that using one takes.
pub fn attention(index: usize) -> Result<String, CudaError> {
    let search_path = SearchPath::of_environment();
    let driver = Driver::open(&search_path)?;
    let cublaslt = CublasLt::open(&search_path, driver.major())?;
    let gpu = Gpu::open(driver, index)?;
    Ok(match CudnnLibrary::open(&search_path, cublaslt.cuda_major()) {
        Ok(library) => Attentions::of_gpt2(&gpu, &Arc::new(library)).said(),
        Err(error) => format!("{} ({error})", Attentions::default().said()),
    })
}

/// Looks for everything that the backend needs, in the places where it would.
pub fn report() -> Report {
    of_search_path(&SearchPath::of_environment())
}

pub(super) fn of_search_path(search_path: &SearchPath) -> Report {
    let driver = Driver::open(search_path);
    // Without a driver, the newest versions are looked for.
    let major = driver.as_ref().map_or(i32::MAX, Driver::major);
    let gpus = driver.as_ref().ok().map(Driver::gpus);
    let nvrtc = Nvrtc::open(search_path, major);
    let cublaslt = CublasLt::open(search_path, major);
    // It needs that one, of its own version.
    let cudnn = cublaslt.as_ref().map_err(CudaError::clone);
    let cudnn = cudnn.and_then(|cublaslt| CudnnLibrary::open(search_path, cublaslt.cuda_major()));
    let cuda = |version: i32| format!("CUDA {}.{}", version / 1000, version % 1000 / 10);
    let libraries = vec![
        (Library::Driver, driver.map(|driver| LibraryReport::of(driver.found, cuda(driver.version)))),
        (Library::Nvrtc, nvrtc.map(|nvrtc| LibraryReport::of(nvrtc.found, nvrtc.version))),
        (Library::CublasLt, cublaslt.map(|cublaslt| LibraryReport::of(cublaslt.found, cublaslt.version))),
        (Library::Cudnn, cudnn.map(|cudnn| LibraryReport::of(cudnn.found, cudnn.version))),
    ];
    Report { libraries, gpus, misnamed: search_path.absent() }
}
