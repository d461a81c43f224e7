//! A pool of workers for regions of a few microseconds to milliseconds.
//!
//! A region is a number of tasks and a function of a task's index. Workers take indices from one counter, so the
//! assignment varies, but what a task computes does not: results never depend on the number of threads. Between
//! regions a worker spins for a short while, because the next region of a step comes at once, then parks.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long an idle worker spins before it parks: longer than the gaps inside a step, short beside a step.
const SPIN: Duration = Duration::from_micros(100);

type Job = *const (dyn Fn(usize, usize) + Sync);

struct Shared {
    /// Counts regions; a worker that sees it change has work.
    region: AtomicU32,
    job: UnsafeCell<Option<Job>>,
    n_tasks: AtomicUsize,
    next_task: AtomicUsize,
    /// Workers that have not finished the current region.
    running: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    parked: Vec<AtomicBool>,
}

// SAFETY: `job` is written only by the thread that owns the pool, while `running` is zero, that is while no
// worker reads it; the release store to `region` and the acquire load by workers order the accesses.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is only followed during `Pool::run`, whose caller keeps the closure alive.
unsafe impl Send for Shared {}

/// Worker threads; the thread that calls [`Pool::run`] works along.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    handles: Vec<Thread>,
}

impl Pool {
    /// A pool of `threads` threads in all (at least 1), pinned to distinct cores if `pin`.
    pub(crate) fn new(threads: usize, pin: bool) -> std::io::Result<Pool> {
        let n_workers = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            region: AtomicU32::new(0),
            job: UnsafeCell::new(None),
            n_tasks: AtomicUsize::new(0),
            next_task: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            parked: (0..n_workers).map(|_| AtomicBool::new(false)).collect(),
        });
        let cores = if pin { core_affinity::get_core_ids().unwrap_or_default() } else { Vec::new() };
        let mut pool = Pool { shared, workers: Vec::new(), handles: Vec::new() };
        for worker in 0..n_workers {
            let shared = pool.shared.clone();
            // The calling thread stays free; worker w takes core w + 1, if there are that many.
            let core = cores.get(worker + 1).copied();
            let handle =
                std::thread::Builder::new().name(format!("oxigpt-{}", worker + 1)).spawn(move || {
                    if let Some(core) = core {
                        core_affinity::set_for_current(core);
                    }
                    work(&shared, worker);
                })?;
            pool.handles.push(handle.thread().clone());
            pool.workers.push(handle);
        }
        Ok(pool)
    }

    /// Threads, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(index, thread)` for every index below `n_tasks`, `thread` being below [`Pool::threads`] and
    /// different for calls that run at the same time. Returns when all are done.
    pub(crate) fn run(&mut self, n_tasks: usize, task: impl Fn(usize, usize) + Sync) {
        if n_tasks <= 1 || self.workers.is_empty() {
            return (0..n_tasks).for_each(|index| task(index, 0));
        }
        let shared = &*self.shared;
        let job: &(dyn Fn(usize, usize) + Sync) = &task;
        // SAFETY: the lifetime is lengthened only for the workers, and this function does not return, nor
        // unwind, before all of them have left the region.
        let job: Job = unsafe { std::mem::transmute(job) };
        // SAFETY: no worker reads `job` now: `running` was zero when the last region returned.
        unsafe { *shared.job.get() = Some(job) };
        shared.n_tasks.store(n_tasks, Ordering::Relaxed);
        shared.next_task.store(0, Ordering::Relaxed);
        shared.running.store(self.workers.len(), Ordering::Relaxed);
        shared.region.fetch_add(1, Ordering::SeqCst);
        for (parked, handle) in shared.parked.iter().zip(&self.handles) {
            if parked.load(Ordering::SeqCst) {
                handle.unpark();
            }
        }
        take_tasks(shared, job, 0);
        let mut spins = 0u32;
        while shared.running.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins.is_multiple_of(4096) {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
        assert!(!shared.panicked.load(Ordering::Relaxed), "a task of the worker pool panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.region.fetch_add(1, Ordering::SeqCst);
        for handle in &self.handles {
            handle.unpark();
        }
        for worker in self.workers.drain(..) {
            // A worker catches panics of its tasks, so there is nothing to report here.
            let _ = worker.join();
        }
    }
}

fn take_tasks(shared: &Shared, job: Job, thread: usize) {
    let n_tasks = shared.n_tasks.load(Ordering::Relaxed);
    let result = catch_unwind(AssertUnwindSafe(|| {
        loop {
            let index = shared.next_task.fetch_add(1, Ordering::Relaxed);
            if index >= n_tasks {
                break;
            }
            // SAFETY: `Pool::run` keeps the closure alive until `running` is zero, and this thread is counted.
            unsafe { (*job)(index, thread) };
        }
    }));
    if result.is_err() {
        shared.panicked.store(true, Ordering::Relaxed);
    }
}

fn work(shared: &Shared, worker: usize) {
    let mut seen = 0;
    loop {
        seen = wait_for_region(shared, worker, seen);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: `job` was written before `region` changed and stays until `running` is zero.
        if let Some(job) = unsafe { *shared.job.get() } {
            take_tasks(shared, job, worker + 1);
        }
        shared.running.fetch_sub(1, Ordering::Release);
    }
}

/// Waits until `region` differs from `seen` and returns it.
fn wait_for_region(shared: &Shared, worker: usize, seen: u32) -> u32 {
    let started = Instant::now();
    loop {
        for _ in 0..64 {
            let region = shared.region.load(Ordering::Acquire);
            if region != seen {
                return region;
            }
            std::hint::spin_loop();
        }
        if started.elapsed() > SPIN {
            // Announce, look once more, park: `run` counts first and looks for sleepers second, so one of
            // the two sees the other (both sequentially consistent).
            shared.parked[worker].store(true, Ordering::SeqCst);
            if shared.region.load(Ordering::SeqCst) == seen {
                std::thread::park();
            }
            shared.parked[worker].store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 5] {
            let mut pool = Pool::new(threads, false).expect("threads");
            for n_tasks in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicUsize> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(n_tasks, |index, thread| {
                    assert!(thread < threads);
                    counts[index].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    counts.iter().all(|c| c.load(Ordering::Relaxed) == 1),
                    "{threads} threads, {n_tasks}"
                );
            }
        }
    }

    #[test]
    fn parked_workers_wake() {
        let mut pool = Pool::new(3, false).expect("threads");
        let sum = AtomicUsize::new(0);
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(2));
            pool.run(100, |index, _| {
                sum.fetch_add(index, Ordering::Relaxed);
            });
        }
        assert_eq!(sum.into_inner(), 5 * 4950);
    }

    #[test]
    fn a_panicking_task_reaches_the_caller() {
        let mut pool = Pool::new(2, false).expect("threads");
        let result = catch_unwind(AssertUnwindSafe(|| pool.run(8, |index, _| assert_ne!(index, 3))));
        assert!(result.is_err());
    }
}
