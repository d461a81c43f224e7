//! The machine that a run computes on: its backend, how fast it is at best, and how much memory it has left.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use fs_err as fs;
use oxigpt_compute::cpu::{Cpu, CpuOptions, has_bfloat16, threads};
use oxigpt_compute::cuda::{self, Cuda, CudaError, CudaOptions, Library};
use oxigpt_compute::{
    Backend, Builder, Cost, Data, Error, LinearWeights, Plan, Precision, Role, Session, TensorId,
};

use crate::data_sheet::DataSheet;
use crate::words::count;

/// How long a measurement repeats itself, and how often at least: the first run also fetches memory.
const MEASURE_FOR: Duration = Duration::from_millis(200);
const MEASURE_RUNS: usize = 3;

/// Where a run computes: what the keys `device`, `threads`, `float32_matmul_precision` and `deterministic` say.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// Number of the GPU; `None` is the CPU.
    gpu: Option<usize>,
    /// Threads asked for; 0 means one per core.
    threads: usize,
    tf32: bool,
    in_any_order: bool,
    /// What is believed of it where nothing is measured.
    data_sheet: Option<&'static DataSheet>,
}

/// Whether a word names a device: `cpu`, `cuda`, `cuda:N` or `auto`.
pub fn is_device(word: &str) -> bool {
    ["cpu", "auto"].contains(&word) || gpu_number(word).is_some()
}

fn gpu_number(word: &str) -> Option<usize> {
    let rest = word.strip_prefix("cuda")?;
    if rest.is_empty() { Some(0) } else { rest.strip_prefix(':')?.parse().ok() }
}

/// Why a GPU cannot be used, if it cannot; looked for once.
fn obstacle() -> Option<&'static CudaError> {
    static OBSTACLE: OnceLock<Option<CudaError>> = OnceLock::new();
    OBSTACLE.get_or_init(|| cuda::report().obstacle()).as_ref()
}

/// Why `device` is the CPU although it is `auto`, in a line. There is nothing to tell where there is no NVIDIA driver, nor
/// of any other word.
pub fn passed_over(device: &str) -> Option<String> {
    let why = match obstacle().filter(|_| device == "auto")? {
        CudaError::Missing { library: Library::Driver, .. } => return None,
        CudaError::Missing { library, names, .. } => format!("no {library} was found ({names})"),
        error => error.to_string(),
    };
    Some(format!("device = \"auto\" takes the CPU: {why}; `oxigpt devices` says more"))
}

impl Machine {
    /// The machine that `device` names: under `auto` the first GPU where all that one takes is found, and the CPU
    /// anywhere else.
    pub fn new(device: &str, threads: usize, tf32: bool) -> Machine {
        let gpu = match device {
            "auto" => obstacle().is_none().then_some(0),
            word => gpu_number(word),
        };
        Machine { gpu, threads, tf32, in_any_order: false, data_sheet: None }
    }

    /// The same, with sums in another order each time where that is faster.
    pub fn in_any_order(self, in_any_order: bool) -> Machine {
        Machine { in_any_order, ..self }
    }

    /// The same on paper: nothing of it is opened or measured, only read off.
    pub fn on_paper(self, data_sheet: &'static DataSheet) -> Machine {
        Machine { data_sheet: Some(data_sheet), ..self }
    }

    /// What it is read off, where it is a machine on paper.
    pub fn data_sheet(&self) -> Option<&'static DataSheet> {
        self.data_sheet
    }

    /// Why it cannot be used, if it is a GPU where none can be.
    pub fn obstacle(&self) -> Option<String> {
        self.gpu.and_then(|_| obstacle()).map(ToString::to_string)
    }

    /// Threads that the CPU computes with.
    pub fn threads(&self) -> usize {
        if self.threads > 0 { self.threads } else { CpuOptions::all_cores().threads }
    }

    /// What it is called in reports: a GPU by its own name too, where the driver tells it.
    pub fn name(&self) -> String {
        match self.gpu {
            Some(index) => cuda::gpu(index)
                .map_or_else(|_| format!("cuda:{index}"), |gpu| format!("cuda:{index}, {}", gpu.name)),
            None => format!("cpu, {}", count(self.threads() as u64, "thread")),
        }
    }

    /// Whether products of bfloat16 operands are faster on it than others.
    pub(crate) fn has_bfloat16(&self) -> bool {
        self.gpu.is_some() || has_bfloat16()
    }

    /// Its backend.
    ///
    /// # Errors
    /// If there is no such GPU or not all that it takes, or threads cannot be started or are so many that they would
    /// only wait for each other.
    pub fn backend(&self) -> Result<Box<dyn Backend>, Error> {
        if let Some(index) = self.gpu {
            let Machine { tf32, in_any_order, .. } = *self;
            return Ok(Box::new(Cuda::new(CudaOptions {
                index,
                tf32,
                in_any_order,
                cache: kernel_cache(),
            })?));
        }
        let options = CpuOptions { threads: threads(self.threads)?, ..CpuOptions::all_cores() };
        Ok(Box::new(Cpu::new(options)?))
    }

    /// A session of a plan that fits into memory.
    ///
    /// # Errors
    /// If it does not, or there is no backend.
    pub fn session(&self, plan: Plan) -> Result<Session, crate::Error> {
        // A GPU says itself how much it has.
        if self.gpu.is_none() {
            check_memory(self.memory(&plan).values().sum())?;
        }
        Ok(Session::new(plan, self.backend()?)?)
    }

    /// Whether it computes in the computer's own memory.
    pub(crate) fn is_cpu(&self) -> bool {
        self.gpu.is_none()
    }

    /// Bytes of memory that plans can take, where the system says.
    ///
    /// # Errors
    /// If there is no such GPU.
    pub fn free_memory(&self) -> Result<Option<u64>, Error> {
        if let Some(sheet) = self.data_sheet {
            return Ok(Some(sheet.memory_bytes));
        }
        let Some(index) = self.gpu else { return Ok(available_memory()) };
        let gpu = Cuda::new(CudaOptions { index, ..CudaOptions::default() })?;
        Ok(Some(gpu.free_bytes()? as u64))
    }

    /// Bytes that a plan takes on it, by role; what the backend takes for itself is [`Role::Workspace`].
    pub fn memory(&self, plan: &Plan) -> BTreeMap<Role, usize> {
        match self.gpu {
            Some(_) => cuda::memory_by_role(plan, self.in_any_order),
            None => plan.memory_by_role(),
        }
    }

    /// Refuses a run that takes more of the computer's own memory than there is.
    pub(crate) fn check_memory(&self, plan_bytes: usize, buffer_bytes: usize) -> Result<(), crate::Error> {
        check_memory(if self.gpu.is_some() { buffer_bytes } else { plan_bytes + buffer_bytes })
    }

    /// Floating-point operations a second that matrix products in a precision reach at best, measured: what model-FLOPs
    /// utilisation is relative to. Takes a fraction of a second.
    ///
    /// # Errors
    /// If there is no backend or no memory for it.
    pub fn measure_flops(&self, precision: Precision) -> Result<f64, Error> {
        if let Some(sheet) = self.data_sheet {
            return Ok(sheet.flops(precision, self.tf32));
        }
        let n = if self.gpu.is_some() { 4096 } else { 1024 };
        let (cost, seconds) = self.fastest(precision, |b| {
            let x = b.input("x", &[1, n, n]);
            let w = b.parameter("w", &[n, n]);
            vec![x, w, b.linear(x, LinearWeights { w, bias: None })]
        })?;
        Ok(cost.flops / seconds)
    }

    /// Bytes of memory a second that it reads and writes at best, measured. Takes a fraction of a second.
    ///
    /// # Errors
    /// If there is no backend or no memory for it.
    pub fn measure_bandwidth(&self) -> Result<f64, Error> {
        if let Some(sheet) = self.data_sheet {
            return Ok(sheet.bytes_per_s);
        }
        // Larger than any cache.
        let n = if self.gpu.is_some() { 16384 } else { 4096 };
        let (cost, seconds) = self.fastest(Precision::Float32, |b| {
            let (x, y) = (b.input("x", &[1, n, 4096]), b.input("y", &[1, n, 4096]));
            vec![x, y, b.add(x, y)]
        })?;
        Ok(cost.bytes / seconds)
    }

    /// What one operator costs, and its seconds at best; `declare` gives its operands and then its result.
    fn fastest(
        &self,
        precision: Precision,
        declare: impl Fn(&mut Builder) -> Vec<TensorId>,
    ) -> Result<(Cost, f64), Error> {
        let mut b = Builder::new();
        let phase = b.begin("measurement");
        let mut operands = declare(&mut b);
        operands.pop().into_iter().for_each(|result| b.mark_output(result));
        let mut session = Session::new(b.finish().with_precision(precision), self.backend()?)?;
        // Memory that was never written is not really there, and reads faster; and products of equal numbers take less
        // power than others, which lets a GPU run faster.
        for operand in operands {
            let scattered = |i: usize| (i as u32).wrapping_mul(2_654_435_761) as f32 / u32::MAX as f32 - 0.5;
            let values: Vec<f32> = (0..session.plan().tensor(operand).len()).map(scattered).collect();
            session.upload(operand, Data::F32(&values))?;
        }
        session.wait()?;
        let (began, mut runs, mut best) = (Instant::now(), 0, f64::INFINITY);
        while runs < MEASURE_RUNS || began.elapsed() < MEASURE_FOR {
            let start = Instant::now();
            session.run(phase);
            session.wait()?;
            best = best.min(start.elapsed().as_secs_f64());
            runs += 1;
        }
        Ok((session.plan().cost(phase), best))
    }
}

/// Where compiled kernels are kept: `oxigpt/kernels` in the user's cache directory, if there is one.
fn kernel_cache() -> Option<PathBuf> {
    let directory = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = directory("XDG_CACHE_HOME").or_else(|| Some(directory("HOME")?.join(".cache")))?;
    Some(cache.join("oxigpt/kernels"))
}

/// Bytes of memory that this process can still get without pushing others out, where the system says.
pub fn available_memory() -> Option<u64> {
    let limit =
        fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    let free = fs::read_to_string("/proc/meminfo").ok().and_then(|text| kibibytes(&text, "MemAvailable"));
    [limit, free].into_iter().flatten().min()
}

/// Bytes of memory that this process has held at most, where the system says.
pub fn peak_memory() -> Option<u64> {
    kibibytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM")
}

/// Refuses what takes more memory than there is.
fn check_memory(bytes: usize) -> Result<(), crate::Error> {
    let needed = bytes as u64;
    match available_memory().filter(|&available| available < needed) {
        Some(available) => Err(crate::Error::Memory { needed, available }),
        None => Ok(()),
    }
}

/// The processor's name, where the system says.
pub(crate) fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Bytes of memory in the machine, where the system says.
pub(crate) fn total_memory() -> Option<u64> {
    kibibytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal")
}

/// The line `key:   123 kB` of a text, in bytes.
fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(threads: usize) -> Machine {
        Machine::new("cpu", threads, false)
    }

    #[test]
    fn devices_have_names() {
        for word in ["cpu", "auto", "cuda", "cuda:0", "cuda:12"] {
            assert!(is_device(word), "{word}");
        }
        for word in ["", "gpu", "cuda:", "cuda:x", "cuda0", "cuda:-1"] {
            assert!(!is_device(word), "{word}");
        }
        assert_eq!(Machine::new("cuda", 0, false), Machine::new("cuda:0", 0, false));
        assert_eq!(Machine::new("cuda:99", 0, false).name(), "cuda:99");
        assert_eq!(cpu(1).name(), "cpu, 1 thread");
    }

    #[test]
    fn memory_lines_are_read() {
        let text = "MemTotal:       24561212 kB\nMemAvailable:   123 kB\nHugePages:  0\n";
        assert_eq!(kibibytes(text, "MemAvailable"), Some(123 * 1024));
        assert_eq!(kibibytes(text, "MemTotal"), Some(24_561_212 * 1024));
        assert_eq!(kibibytes(text, "Mem"), None);
        assert_eq!(kibibytes(text, "HugePages"), None);
    }

    #[test]
    fn threads_beyond_reason_are_refused() {
        for threads in [100_000, usize::MAX] {
            let error = cpu(threads).backend().err().unwrap();
            let message = error.to_string();
            assert!(
                message.starts_with(&format!("cannot start {threads} worker threads: with ")),
                "{message}"
            );
            assert_eq!(error.hint().unwrap(), "ask for fewer with --threads=N");
        }
        assert_eq!(cpu(3).backend().unwrap().name(), cpu(0).backend().unwrap().name());
    }

    #[test]
    fn a_product_is_faster_than_nothing() {
        for precision in [Precision::Float32, Precision::Bfloat16] {
            let flops = cpu(1).measure_flops(precision).unwrap();
            assert!(flops > 1e8, "{precision:?}: {flops}");
        }
    }
}
