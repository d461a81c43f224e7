//! What a machine has of what the CUDA backend needs.

use std::path::PathBuf;
use std::sync::Arc;

use super::blas::CublasLt;
use super::cudnn::{Attentions, CudnnLibrary};
use super::driver::{Driver, Gpu, GpuInfo};
use super::error::CudaError;
use super::library::{Library, Places};
use super::nvrtc::Nvrtc;

/// A library that was found.
#[derive(Clone, Debug)]
pub struct LibraryReport {
    /// Where.
    pub path: PathBuf,
    /// Its version, as people write it.
    pub version: String,
}

/// What was found, piece by piece.
pub struct Report {
    /// Each library that the backend opens if it is there, and the CUDA version that the driver supports.
    pub libraries: Vec<(Library, Result<LibraryReport, CudaError>)>,
    /// Every GPU that the driver shows; `None` without a driver.
    pub gpus: Option<Result<Vec<GpuInfo>, CudaError>>,
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
    let gpus = Driver::open(&Places::of_environment())?.gpus()?;
    let count = gpus.len();
    gpus.into_iter().nth(index).ok_or(CudaError::NoSuchDevice { index, count })
}

/// Who would do the attention of a GPT-2 in bfloat16 on a GPU, and why.
///
/// # Errors
/// Where there is no such GPU, or not all that using one takes.
pub fn attention(index: usize) -> Result<String, CudaError> {
    let places = Places::of_environment();
    let driver = Driver::open(&places)?;
    let cublaslt = CublasLt::open(&places, driver.major())?;
    let gpu = Gpu::open(driver, index)?;
    Ok(match CudnnLibrary::open(&places, cublaslt.cuda_major()) {
        Ok(library) => Attentions::of_gpt2(&gpu, &Arc::new(library)).said(),
        Err(error) => format!("{} ({error})", Attentions::default().said()),
    })
}

/// Looks for everything that the backend needs, in the places where it would.
pub fn report() -> Report {
    of_places(&Places::of_environment())
}

pub(super) fn of_places(places: &Places) -> Report {
    let driver = Driver::open(places);
    // Without a driver, the newest versions are looked for.
    let major = driver.as_ref().map_or(i32::MAX, Driver::major);
    let gpus = driver.as_ref().ok().map(Driver::gpus);
    let cublaslt = CublasLt::open(places, major);
    // It needs that one, of its own version.
    let cudnn = cublaslt.as_ref().map_err(CudaError::clone);
    let cudnn = cudnn.and_then(|cublaslt| CudnnLibrary::open(places, cublaslt.cuda_major()));
    let libraries = vec![
        (
            Library::Driver,
            driver.map(|driver| LibraryReport {
                version: format!("CUDA {}.{}", driver.version / 1000, driver.version % 1000 / 10),
                path: driver.path,
            }),
        ),
        (
            Library::Nvrtc,
            Nvrtc::open(places, major)
                .map(|found| LibraryReport { path: found.path, version: found.version }),
        ),
        (Library::CublasLt, cublaslt.map(|found| LibraryReport { path: found.path, version: found.version })),
        (Library::Cudnn, cudnn.map(|found| LibraryReport { path: found.path, version: found.version })),
    ];
    Report { libraries, gpus }
}
