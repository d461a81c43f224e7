//! The machine that a run computes on: its backend, how fast it is at best, and how much memory it has left.

use std::io;
use std::time::{Duration, Instant};

use fs_err as fs;
use oxigpt_compute::cpu::{Cpu, CpuOptions};
use oxigpt_compute::{
    Backend, Builder, Cost, Data, Error, LinearWeights, Plan, Precision, Session, TensorId,
};

use crate::words::count;

/// Threads beyond so many on each core are refused, unless there are fewer than [`MANY_THREADS`] of them.
const THREADS_PER_CORE: usize = 4;
const MANY_THREADS: usize = 16;

/// How long a measurement repeats itself, and how often at least: the first run also fetches memory.
const MEASURE_FOR: Duration = Duration::from_millis(200);
const MEASURE_RUNS: usize = 3;

/// Threads that a run computes with; `asked` is the setting, whose 0 means one per core.
pub fn threads(asked: usize) -> usize {
    if asked > 0 { asked } else { CpuOptions::all_cores().threads }
}

/// The backend of a run.
///
/// # Errors
/// If its threads cannot be started, or are so many that they would only wait for each other.
pub fn backend(asked_threads: usize) -> Result<Box<dyn Backend>, Error> {
    let cores = CpuOptions::all_cores().threads;
    let limit = cores.saturating_mul(THREADS_PER_CORE).max(MANY_THREADS);
    if asked_threads > limit {
        let reason =
            format!("with {} that is more than the {limit} that make sense", count(cores as u64, "core"));
        return Err(Error::Threads { threads: asked_threads, source: io::Error::other(reason) });
    }
    let options = CpuOptions { threads: threads(asked_threads), ..CpuOptions::all_cores() };
    Ok(Box::new(Cpu::new(options)?))
}

/// Floating-point operations a second that matrix products of this machine in a precision reach at best, measured:
/// what model-FLOPs utilisation is relative to. Takes a fraction of a second.
///
/// # Errors
/// If there are no threads or no memory for it.
pub fn measure_flops(asked_threads: usize, precision: Precision) -> Result<f64, Error> {
    let (cost, seconds) = fastest(asked_threads, precision, |b| {
        let x = b.input("x", &[1, 1024, 1024]);
        let w = b.parameter("w", &[1024, 1024]);
        vec![x, w, b.linear(x, LinearWeights { w, bias: None })]
    })?;
    Ok(cost.flops / seconds)
}

/// Bytes of memory a second that this machine reads and writes at best, measured. Takes a fraction of a second.
///
/// # Errors
/// If there are no threads or no memory for it.
pub fn measure_bandwidth(asked_threads: usize) -> Result<f64, Error> {
    let (cost, seconds) = fastest(asked_threads, Precision::Float32, |b| {
        // Larger than any cache.
        let (x, y) = (b.input("x", &[1, 4096, 4096]), b.input("y", &[1, 4096, 4096]));
        vec![x, y, b.add(x, y)]
    })?;
    Ok(cost.bytes / seconds)
}

/// What one operator costs, and its seconds at best; `declare` gives its operands and then its result.
fn fastest(
    threads: usize,
    precision: Precision,
    declare: impl Fn(&mut Builder) -> Vec<TensorId>,
) -> Result<(Cost, f64), Error> {
    let mut b = Builder::new();
    let phase = b.begin("measurement");
    let mut operands = declare(&mut b);
    operands.pop().into_iter().for_each(|result| b.mark_output(result));
    let mut session = Session::new(b.finish().with_precision(precision), backend(threads)?)?;
    // Memory that was never written is not really there, and reads faster.
    for operand in operands {
        let ones = vec![1.0; session.plan().tensor(operand).len()];
        session.upload(operand, Data::F32(&ones))?;
    }
    let (began, mut runs, mut best) = (Instant::now(), 0, f64::INFINITY);
    while runs < MEASURE_RUNS || began.elapsed() < MEASURE_FOR {
        let start = Instant::now();
        session.run(phase);
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    Ok((session.plan().cost(phase), best))
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
pub(crate) fn check_memory(bytes: usize) -> Result<(), crate::Error> {
    let needed = bytes as u64;
    match available_memory().filter(|&available| available < needed) {
        Some(available) => Err(crate::Error::Memory { needed, available }),
        None => Ok(()),
    }
}

/// A session of a plan that fits into memory.
///
/// # Errors
/// If it does not, or there are no threads.
pub fn session(plan: Plan, asked_threads: usize) -> Result<Session, crate::Error> {
    check_memory(plan.arena_bytes())?;
    Ok(Session::new(plan, backend(asked_threads)?)?)
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
            let error = backend(threads).err().unwrap();
            let message = error.to_string();
            assert!(
                message.starts_with(&format!("cannot start {threads} worker threads: with ")),
                "{message}"
            );
            assert_eq!(error.hint().unwrap(), "ask for fewer with --threads=N");
        }
        assert_eq!(backend(3).unwrap().name(), backend(0).unwrap().name());
    }

    #[test]
    fn a_product_is_faster_than_nothing() {
        for precision in [Precision::Float32, Precision::Bfloat16] {
            let flops = measure_flops(1, precision).unwrap();
            assert!(flops > 1e8, "{precision:?}: {flops}");
        }
    }
}
