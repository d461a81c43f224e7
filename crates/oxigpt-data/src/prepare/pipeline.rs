//! Work on all cores whose results come in order. One thread makes jobs, several do them, and the calling thread takes
//! the results in the order of the jobs. Each job carries a channel of its own for its result, and these channels stand
//! in a bounded queue: that keeps the order, and lets no more than `threads + 2` jobs exist at a time.

use std::sync::Mutex;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use crate::error::{Error, Result};

/// Hands a job over; an error where nobody wants more.
pub(crate) type Emit<'a, J> = &'a mut dyn FnMut(J) -> Result<()>;

/// Does with `work`, on so many threads, what `produce` emits, and gives the results to `consume` in order.
///
/// # Errors
/// The first error in the order of the jobs: all results before it have been consumed.
pub(crate) fn in_order<J: Send, R: Send>(
    threads: usize,
    produce: impl FnOnce(Emit<'_, J>) -> Result<()> + Send,
    work: impl Fn(J) -> Result<R> + Sync,
    mut consume: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let (jobs, queue) = sync_channel::<(J, SyncSender<Result<R>>)>(threads);
    let (promises, results) = sync_channel(threads);
    let (queue, work) = (Mutex::new(queue), &work);
    let next_job = || queue.lock().ok()?.recv().ok();
    thread::scope(|scope| {
        let producer = scope.spawn(move || {
            produce(&mut |job| {
                let (give, take) = sync_channel(1);
                let taken = promises.send(take).is_ok() && jobs.send((job, give)).is_ok();
                if taken { Ok(()) } else { Err(Error::Interrupted) }
            })
        });
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((job, give)) = next_job() {
                    // Where nobody waits any more, nobody misses it.
                    let _ = give.send(work(job));
                }
            });
        }
        // A worker that died gives no result; the scope passes its panic on.
        let mut in_turn = results.iter().map_while(|promise| promise.recv().ok());
        let consumed = in_turn.try_for_each(|result| consume(result?));
        drop(results);
        let produced = producer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        consumed.and(produced)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::InputError;

    fn doubled(threads: usize, jobs: u64, stop_at: Option<u64>) -> (Vec<u64>, Result<()>) {
        let mut seen = Vec::new();
        let result = in_order(
            threads,
            |emit| (0..jobs).try_for_each(emit),
            |job| {
                // Later jobs are done sooner.
                thread::sleep(std::time::Duration::from_micros(200 * (7 - job % 8)));
                if Some(job) == stop_at { Err(InputError::NoInput.into()) } else { Ok(2 * job) }
            },
            |result| {
                seen.push(result);
                Ok(())
            },
        );
        (seen, result)
    }

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        for threads in [1, 3, 8] {
            let (seen, result) = doubled(threads, 100, None);
            result.unwrap();
            assert_eq!(seen, (0..100).map(|job| 2 * job).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_comes_before_an_error_is_consumed() {
        let (seen, result) = doubled(4, 100, Some(41));
        assert!(matches!(result, Err(Error::Input(InputError::NoInput))));
        assert_eq!(seen.len(), 41);
        assert!(doubled(4, 0, None).0.is_empty());
    }
}
