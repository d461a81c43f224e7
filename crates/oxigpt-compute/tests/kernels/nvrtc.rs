//! Every kernel through NVIDIA's compiler, which needs no GPU: for the architectures that we run on, without warnings,
//! without registers spilled to memory, and with shared memory that a multiprocessor has.
//!
//! NVRTC is looked for in `OXIGPT_NVRTC` (the directory of libnvrtc.so.13); without it the tests say that they did
//! nothing, and pass. `.ci/run` installs it from Python's package `nvidia-cuda-nvrtc`.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::ptr;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW, Symbol};

use crate::{attention_macros, source};

const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_90a", "sm_100"];

/// Registers of a thread at most.
const MAX_REGISTERS: u32 = 255;

type Handle = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Handle,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int;
type LogSize = unsafe extern "C" fn(Handle, *mut usize) -> c_int;
type Log = unsafe extern "C" fn(Handle, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Handle) -> c_int;

/// The open compiler.
struct Nvrtc(Library);

impl Nvrtc {
    /// `None`, with a word to whoever runs the test, where there is no such library.
    fn open() -> Option<Nvrtc> {
        let Some(dir) = std::env::var_os("OXIGPT_NVRTC").map(PathBuf::from) else {
            eprintln!("skipped: OXIGPT_NVRTC does not name the directory of libnvrtc.so.13");
            return None;
        };
        let open = |name: &str| {
            // SAFETY: the initialisers of NVIDIA's libraries have no conditions.
            unsafe { Library::open(Some(dir.join(name)), RTLD_NOW | RTLD_GLOBAL) }
        };
        // The compiler asks for its builtins by name alone, and finds them because they are open.
        let builtins = dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        for name in builtins.filter(|name| name.starts_with("libnvrtc-builtins.so.")) {
            std::mem::forget(open(&name).unwrap());
        }
        Some(Nvrtc(open("libnvrtc.so.13").unwrap()))
    }

    /// # Safety
    /// `T` is the type of the function.
    unsafe fn function<T>(&self, name: &str) -> Symbol<T> {
        // SAFETY: passed on to the caller.
        unsafe { self.0.get(name.as_bytes()) }.unwrap()
    }

    /// What the compiler says of a source; panics if it does not compile.
    fn compile(&self, source: &str, options: &[String]) -> String {
        let source = CString::new(source).unwrap();
        let owned: Vec<_> = options.iter().map(|option| CString::new(option.as_str()).unwrap()).collect();
        let pointers: Vec<_> = owned.iter().map(|option| option.as_ptr()).collect();
        let (mut program, mut bytes) = (ptr::null_mut(), 0);
        // SAFETY: the signatures are those of NVRTC's documentation; texts end in zero and outlive the calls, and the
        // log is given as many bytes as it says that it needs.
        unsafe {
            let create = self.function::<Create>("nvrtcCreateProgram");
            let status =
                create(&mut program, source.as_ptr(), c"kernels".as_ptr(), 0, ptr::null(), ptr::null());
            assert_eq!(status, 0);
            let status = self.function::<Compile>("nvrtcCompileProgram")(
                program,
                pointers.len() as c_int,
                pointers.as_ptr(),
            );
            assert_eq!(self.function::<LogSize>("nvrtcGetProgramLogSize")(program, &mut bytes), 0);
            let mut log = vec![0u8; bytes + 1];
            assert_eq!(self.function::<Log>("nvrtcGetProgramLog")(program, log.as_mut_ptr().cast()), 0);
            self.function::<Destroy>("nvrtcDestroyProgram")(&mut program);
            let log = CStr::from_bytes_until_nul(&log).unwrap().to_string_lossy().into_owned();
            assert_eq!(status, 0, "{options:?}:\n{log}");
            log
        }
    }
}

/// What the assembler reports of a kernel.
#[derive(Debug, Default)]
struct Report {
    registers: u32,
    spilled_bytes: u32,
    shared_bytes: u32,
}

/// The assembler's verbose lines, by kernel.
fn reports(log: &str) -> BTreeMap<String, Report> {
    let mut reports: BTreeMap<String, Report> = BTreeMap::new();
    let mut kernel = String::new();
    for line in log.lines() {
        let number_before = |what: &str| -> u32 {
            let before = line.split(what).next().filter(|before| before.len() < line.len());
            before.and_then(|before| before.split_whitespace().last()?.parse().ok()).unwrap_or(0)
        };
        if let Some((_, name)) = line.split_once("Function properties for ") {
            kernel = name.trim().to_owned();
        } else if line.contains("spill stores") {
            let report = reports.entry(kernel.clone()).or_default();
            report.spilled_bytes = number_before(" bytes spill stores") + number_before(" bytes spill loads");
        } else if line.contains("Used ") {
            let report = reports.entry(kernel.clone()).or_default();
            report.registers = number_before(" registers");
            report.shared_bytes = number_before(" bytes smem");
        }
    }
    reports
}

/// Compiles a file with macros for all architectures; prints registers, and fails on anything worth a word.
fn check(nvrtc: &Nvrtc, file: &str, macros: &str) {
    let source = source(file);
    for architecture in ARCHITECTURES {
        let mut options = vec![format!("--gpu-architecture={architecture}"), "--ptxas-options=-v".into()];
        options.extend(macros.split_whitespace().map(|macro_| format!("-D{macro_}")));
        let log = nvrtc.compile(&source, &options);
        let what = format!("{file} for {architecture} with {macros}");
        assert!(!log.contains("warning"), "{what}:\n{log}");
        let reports = reports(&log);
        assert_eq!(reports.len(), source.matches("extern \"C\" __global__").count(), "{what}:\n{log}");
        for (kernel, report) in &reports {
            eprintln!("{what}: {kernel} takes {} registers", report.registers);
            assert_eq!(report.spilled_bytes, 0, "{what}: {kernel} spills\n{log}");
            assert!((1..=MAX_REGISTERS).contains(&report.registers), "{what}: {kernel}: {report:?}");
            assert!(report.shared_bytes <= 48 << 10, "{what}: {kernel}: {report:?}");
        }
    }
}

#[test]
fn kernels_of_every_operator() {
    let Some(nvrtc) = Nvrtc::open() else { return };
    for file in ["classifier.cu", "elementwise.cu", "embed.cu", "few_rows.cu", "norm.cu", "update.cu"] {
        for macros in ["ACT_BF16=0", "ACT_BF16=1"] {
            check(&nvrtc, file, macros);
        }
    }
    for file in ["embed.cu", "few_rows.cu"] {
        for macros in ["ACT_BF16=0 WGT=1", "ACT_BF16=0 WGT=2", "ACT_BF16=1 WGT=1", "ACT_BF16=1 WGT=2"] {
            check(&nvrtc, file, macros);
        }
    }
}

/// Heads of GPT-2, the widest, and ones that are not of whole units; every kind.
fn attentions() -> impl Iterator<Item = String> {
    let kinds = (0..8).map(|kind| (kind, kind % 2, [64, 128, 20, 64][kind % 4]));
    let more = [(0, 1, 64), (0, 0, 80), (2, 0, 32), (1, 0, 128)].into_iter();
    kinds.chain(more).map(|(kind, flag, head)| attention_macros(kind, head, flag))
}

#[test]
fn attention_on_tensor_cores() {
    let Some(nvrtc) = Nvrtc::open() else { return };
    for macros in attentions() {
        check(&nvrtc, "attention.cu", &format!("ACT_BF16=1 {macros}"));
    }
}

#[test]
fn attention_in_general_and_over_a_cache() {
    let Some(nvrtc) = Nvrtc::open() else { return };
    for macros in attentions() {
        for file in ["attention_general.cu", "decode.cu"] {
            check(&nvrtc, file, &format!("ACT_BF16=0 {macros}"));
        }
    }
    check(&nvrtc, "attention_general.cu", &format!("ACT_BF16=1 {}", attention_macros(0, 256, 0)));
}

#[test]
fn reports_are_read() {
    let log = "ptxas info    : Compiling entry function 'add' for 'sm_90a'\n\
               ptxas info    : Function properties for add\n\
               ptxas         .     8 bytes stack frame, 12 bytes spill stores, 4 bytes spill loads\n\
               ptxas info    : Used 25 registers, used 1 barriers, 1024 bytes smem\n";
    let reports = reports(log);
    assert_eq!(reports.keys().collect::<Vec<_>>(), ["add"]);
    let Report { registers, spilled_bytes, shared_bytes } = reports["add"];
    assert_eq!((registers, spilled_bytes, shared_bytes), (25, 16, 1024));
}
