//! NVRTC: compiles CUDA C++ at run time, straight to machine code of one GPU.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use super::error::CudaError;
use super::library::{Found, Library, SearchPath, functions};

type Handle = *mut c_void;

functions! {
    /// Functions of libnvrtc.
    Api {
        version = nvrtcVersion(*mut c_int, *mut c_int);
        error_string = nvrtcGetErrorString(c_int) -> *const c_char;
        architecture_count = nvrtcGetNumSupportedArchs(*mut c_int);
        architectures = nvrtcGetSupportedArchs(*mut c_int);
        create = nvrtcCreateProgram(
            *mut Handle, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char,
        );
        compile = nvrtcCompileProgram(Handle, c_int, *const *const c_char);
        log_size = nvrtcGetProgramLogSize(Handle, *mut usize);
        log = nvrtcGetProgramLog(Handle, *mut c_char);
        cubin_size = nvrtcGetCUBINSize(Handle, *mut usize);
        cubin = nvrtcGetCUBIN(Handle, *mut c_char);
        destroy = nvrtcDestroyProgram(*mut Handle);
    }
}

/// An open compiler.
pub(super) struct Nvrtc {
    api: Api,
    /// The library.
    pub(super) found: Found,
    /// `13.0`.
    pub(super) version: String,
}

impl Nvrtc {
    /// Opens the compiler that fits a driver of this CUDA version.
    pub(super) fn open(search_path: &SearchPath, driver_major: i32) -> Result<Nvrtc, CudaError> {
        let ((api, version), found) = search_path.open(Library::Nvrtc, driver_major, |library| {
            let api = Api::load(library)?;
            let (mut major, mut minor) = (0, 0);
            // SAFETY: writes two integers.
            api.check("nvrtcVersion", unsafe { (api.version)(&mut major, &mut minor) })?;
            let version = format!("{major}.{minor}");
            // Asked for by name alone, at the first kernel.
            let builtins = format!("libnvrtc-builtins.so.{version}");
            let beside = library.open_also(&library.path.with_file_name(&builtins));
            beside.or_else(|missing| library.open_also(Path::new(&builtins)).map_err(|_| missing))?;
            Ok((api, version))
        })?;
        Ok(Nvrtc { api, found, version })
    }

    /// What to compile for: the newest architecture that it knows and the GPU can run, with the GPU's own
    /// instructions (`a`) where it knows just that one.
    pub(super) fn architecture(&self, capability: (i32, i32)) -> Result<String, CudaError> {
        let mut count = 0;
        // SAFETY: writes one integer.
        let status = unsafe { (self.api.architecture_count)(&mut count) };
        self.api.check("nvrtcGetNumSupportedArchs", status)?;
        let mut known = vec![0; count.max(0) as usize];
        // SAFETY: writes as many integers as it has just said.
        let status = unsafe { (self.api.architectures)(known.as_mut_ptr()) };
        self.api.check("nvrtcGetSupportedArchs", status)?;
        architecture(capability, &known).ok_or_else(|| CudaError::Compile {
            file: "the kernels",
            architecture: format!("compute capability {}.{}", capability.0, capability.1),
            log: format!("NVRTC {} ({}) knows only {known:?}", self.version, self.found.path.display()),
        })
    }

    /// Compiles a source, called `file` in messages, to a cubin.
    pub(super) fn compile(
        &self,
        file: &'static str,
        source: &str,
        options: &[String],
    ) -> Result<Vec<u8>, CudaError> {
        let c_string = |text: &str| CString::new(text).expect("a text without zeros");
        let (source, name) = (c_string(source), c_string(file));
        let owned: Vec<CString> = options.iter().map(|option| c_string(option)).collect();
        let pointers: Vec<_> = owned.iter().map(|option| option.as_ptr()).collect();
        let mut program = ptr::null_mut();
        let (none, n_options) = (ptr::null(), pointers.len() as c_int);
        // SAFETY: texts end in zero and outlive the call; there are no headers.
        let status =
            unsafe { (self.api.create)(&mut program, source.as_ptr(), name.as_ptr(), 0, none, none) };
        self.api.check("nvrtcCreateProgram", status)?;
        // SAFETY: as many options as are said.
        let status = unsafe { (self.api.compile)(program, n_options, pointers.as_ptr()) };
        let cubin = if status == 0 {
            self.output(program, "nvrtcGetCUBIN", self.api.cubin_size, self.api.cubin)
        } else {
            let log = self.output(program, "nvrtcGetProgramLog", self.api.log_size, self.api.log);
            log.and_then(|log| {
                let log = format!("{}\n{}", self.api.reason(status), String::from_utf8_lossy(&log));
                let log = log.trim_end_matches(['\0', '\n']).to_owned();
                Err(CudaError::Compile { file, architecture: options.join(" "), log })
            })
        };
        // SAFETY: created above, and no longer used.
        unsafe { (self.api.destroy)(&mut program) };
        cubin
    }

    /// Bytes that a program has for us.
    fn output(
        &self,
        program: Handle,
        call: &'static str,
        size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
        get: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>, CudaError> {
        let mut bytes = 0;
        // SAFETY: writes one integer.
        self.api.check(call, unsafe { size(program, &mut bytes) })?;
        let mut output = vec![0u8; bytes];
        // SAFETY: writes as many bytes as it has just said.
        self.api.check(call, unsafe { get(program, output.as_mut_ptr().cast()) })?;
        Ok(output)
    }
}

impl Api {
    fn check(&self, call: &'static str, status: c_int) -> Result<(), CudaError> {
        if status == 0 {
            return Ok(());
        }
        Err(CudaError::Call { call, code: status, reason: self.reason(status), operator: None })
    }

    fn reason(&self, status: c_int) -> String {
        // SAFETY: gives a text for every status, which is never freed.
        let text = unsafe { (self.error_string)(status) };
        // SAFETY: as above, checked.
        if text.is_null() { String::new() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy().into() }
    }
}

fn architecture((major, minor): (i32, i32), known: &[i32]) -> Option<String> {
    let own = 10 * major + minor;
    // Machine code runs on later minor versions of its own major version.
    let newest = known.iter().copied().filter(|&known| known / 10 == major && known <= own).max()?;
    let suffix = if newest == own && major >= 9 { "a" } else { "" };
    Some(format!("sm_{newest}{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_architecture_is_compiled_for() {
        let known = [75, 80, 86, 89, 90, 100, 120];
        let of = |capability| architecture(capability, &known);
        assert_eq!(of((8, 0)).as_deref(), Some("sm_80"));
        assert_eq!(of((8, 7)).as_deref(), Some("sm_86"));
        assert_eq!(of((9, 0)).as_deref(), Some("sm_90a"));
        assert_eq!(of((10, 3)).as_deref(), Some("sm_100"));
        assert_eq!(of((11, 0)), None);
    }
}
