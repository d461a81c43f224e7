//! A step allocates nothing: every allocation of the process is counted while steps are made.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use oxigpt_compute::Session;
use oxigpt_data::{DataOrder, Dataset, Loader, PrepareOptions, Split, TokenizerKind, prepare_text};
use oxigpt_model::{Initial, Recompute, TrainPlan};
use oxigpt_train::Trainer;
use oxigpt_train::settings::{BatchSize, Settings};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything on to the system's allocator; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Micro-batches, dropout, biases, clipping, recomputation, two threads, an epoch's end: all that a step can meet.
#[test]
fn a_step_allocates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.txt");
    fs_err::write(&text, "the cat sat on the mat. ".repeat(200)).unwrap();
    let data = dir.path().join("data");
    let options = PrepareOptions { tokenizer: TokenizerKind::Char, ..PrepareOptions::default() };
    prepare_text(&[text], &data, &options, &mut |_| ()).unwrap();
    let dataset = Dataset::open(&data).unwrap();

    let settings = Settings {
        batch_size: BatchSize::Rows(4),
        block_size: 64,
        gradient_accumulation_steps: 3,
        n_layer: 2,
        n_head: 4,
        n_embd: 64,
        dropout: 0.1,
        bias: true,
        threads: 2,
        recompute: Some(Recompute::Block),
        ..Settings::default()
    };
    let config = settings.model_config(dataset.vocab_size().unwrap());
    let (plan, handles) =
        TrainPlan::build(&config, &settings.train_shape(oxigpt_model::AttentionKind::Softmax)).unwrap();
    let session = Session::new(plan, settings.machine().backend().unwrap()).unwrap();
    let loader = Loader::new(dataset.split(Split::Train), DataOrder::Shuffled, 64, 1).unwrap();
    let mut trainer = Trainer::new(&settings, session, handles, loader);
    let initial = Initial { config: &config, seed: 1 };
    trainer.plan.parameters.upload(&mut trainer.session, &initial).unwrap();

    // The first step may fill caches of threads that live on.
    let first = trainer.step(1e-3).unwrap();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let mut last = first;
    for _ in 0..20 {
        last = trainer.step(1e-3).unwrap();
    }
    let during = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert!(last.loss < first.loss, "{first:?} {last:?}");
    assert_eq!(during, 0, "allocations in 20 steps");
}
