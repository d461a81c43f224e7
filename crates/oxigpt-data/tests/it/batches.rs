//! Batches: every order draws what it promises, however a batch is cut, and evaluation windows never move.

use std::collections::BTreeSet;
use std::path::Path;

use crate::common::{assert_error, headerless, llmc, put};
use oxigpt_data::{DataOrder, Dataset, Loader, Shard, Split, Tokens, eval_windows, spread_windows};
use proptest::prelude::*;
use tempfile::tempdir;

const ORDERS: [DataOrder; 3] = [DataOrder::Shuffled, DataOrder::Sequential, DataOrder::Random];

/// The tokens 0, 1, 2, ... in two shards, so that a token says where it stands.
fn counting(len: u64) -> Tokens {
    let dir = tempdir().unwrap();
    let tokens: Vec<u16> = (0..len as u16).collect();
    let cut = len as usize / 3 + 1;
    put(dir.path(), &[("a.bin", llmc(&tokens[..cut])), ("b.bin", llmc(&tokens[cut..]))]);
    let shards = ["a.bin", "b.bin"].map(|name| Shard::open(&dir.path().join(name)).unwrap());
    Tokens::new("data/count (train)", shards.into())
}

fn batch(loader: &Loader, cursor: u64, rows: usize) -> (Vec<u32>, Vec<u32>) {
    let mut x = vec![0; rows * loader.block_size()];
    let mut y = x.clone();
    loader.fill(cursor, rows, &mut x, &mut y);
    (x, y)
}

#[test]
fn sequential_walks_through_the_corpus_and_starts_again() {
    let loader = Loader::new(&counting(11), DataOrder::Sequential, 3, 0).unwrap();
    assert_eq!(loader.windows_per_epoch(), 3);
    let (x, y) = batch(&loader, 1, 3);
    assert_eq!(x, [3, 4, 5, 6, 7, 8, 0, 1, 2]);
    assert_eq!(y, [4, 5, 6, 7, 8, 9, 1, 2, 3]);
    assert_eq!([0, 2, 3, 6].map(|cursor| loader.epoch_of(cursor)), [0, 0, 1, 2]);
}

#[test]
fn random_reaches_every_start_and_no_other() {
    let loader = Loader::new(&counting(20), DataOrder::Random, 4, 9).unwrap();
    let starts: BTreeSet<u64> = (0..2000).map(|i| loader.window(i)).collect();
    // nanoGPT draws from [0, len - block_size).
    assert_eq!(starts, (0..16).collect());
}

#[test]
fn shuffled_borders_and_order_differ_between_epochs_and_seeds() {
    let tokens = counting(60_000);
    let loader = Loader::new(&tokens, DataOrder::Shuffled, 64, 1).unwrap();
    let n = loader.windows_per_epoch();
    assert_eq!(n, 60_000 / 64 - 1);
    let phases: BTreeSet<u64> = (0..40).map(|epoch| loader.window(epoch * n) % 64).collect();
    assert!(phases.len() > 20, "{phases:?}");
    let order = |loader: &Loader, epoch: u64| -> Vec<u64> {
        (epoch * n..(epoch + 1) * n).map(|i| loader.window(i) / 64).collect()
    };
    assert_ne!(order(&loader, 0), order(&loader, 1));
    assert_ne!(order(&loader, 0), order(&Loader::new(&tokens, DataOrder::Shuffled, 64, 2).unwrap(), 0));
}

/// A run that was saved must find the same windows under every later version.
#[test]
fn the_windows_of_a_seed_are_pinned() {
    let tokens = counting(60_000);
    let starts = |order| {
        let loader = Loader::new(&tokens, order, 64, 1337).unwrap();
        [0, 1, 2, 935, 936, 1 << 40].map(|i| loader.window(i))
    };
    assert_eq!(starts(DataOrder::Shuffled), PINNED_SHUFFLED);
    assert_eq!(starts(DataOrder::Random), PINNED_RANDOM);
}

const PINNED_SHUFFLED: [u64; 6] = [33360, 48784, 20112, 23696, 54712, 56422];
const PINNED_RANDOM: [u64; 6] = [43764, 15614, 38084, 10763, 14988, 21479];

#[test]
fn a_corpus_of_one_window_serves() {
    let tokens = counting(9);
    for order in ORDERS {
        let loader = Loader::new(&tokens, order, 8, 3).unwrap();
        assert_eq!(loader.windows_per_epoch(), 1);
        assert!((0..50).all(|i| loader.window(i) == 0));
        assert_eq!(batch(&loader, 7, 1).1, [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}

#[test]
fn a_corpus_that_is_too_short_says_how_long_it_must_be() {
    let tokens = counting(8);
    for order in ORDERS {
        assert_error(
            Loader::new(&tokens, order, 8, 0),
            "data/count (train) is too short: it holds 8 tokens, and one window of block_size 8 needs 9",
            "more text, or a smaller block_size",
        );
    }
    assert_error(eval_windows(&tokens, 8, None), "holds 8 tokens", "smaller block_size");
    assert_error(
        Loader::new(&tokens, DataOrder::Random, 0, 0),
        "block_size must be at least 1",
        "block_size",
    );
    assert_error(
        Loader::new(&Tokens::new("none", vec![]), DataOrder::Random, 1, 0),
        "holds 0 tokens",
        "more text",
    );
    assert_error(eval_windows(&tokens, 4, Some(3)), "3 tokens does not hold one window", "raise");
    let dir = tempdir().unwrap();
    put(dir.path(), &[("a.bin", llmc(&[0]))]);
    let one = Tokens::new("one", vec![Shard::open(&dir.path().join("a.bin")).unwrap()]);
    assert_error(eval_windows(&one, 4, None), "holds 1 token, and one window", "more text");
    assert_error(eval_windows(&tokens, 4, Some(1)), "of 1 token does not hold one window", "raise");
}

#[test]
fn orders_have_the_names_of_the_key() {
    for (order, name) in ORDERS.iter().zip(["shuffled", "sequential", "random"]) {
        assert_eq!((name.parse::<DataOrder>().unwrap(), order.to_string()), (*order, name.to_string()));
    }
    assert_error(
        "shufled".parse::<DataOrder>(),
        "unknown data_order `shufled`",
        "shuffled, sequential, random",
    );
    assert_eq!(DataOrder::default(), DataOrder::Shuffled);
}

#[test]
fn evaluation_windows_are_whole_in_order_and_counted_in_tokens() {
    let tokens = counting(100);
    let starts = |windows: &oxigpt_data::EvalWindows| -> Vec<u64> {
        (0..windows.len()).map(|i| windows.window(i)).collect()
    };
    let all = eval_windows(&tokens, 24, None).unwrap();
    assert_eq!((starts(&all), all.target_tokens()), (vec![0, 24, 48, 72], 96));
    assert_eq!(starts(&eval_windows(&tokens, 24, Some(71)).unwrap()), [0, 24]);
    assert_eq!(starts(&eval_windows(&tokens, 24, Some(10_000)).unwrap()).len(), 4);
    assert_eq!(starts(&spread_windows(&tokens, 24, Some(50)).unwrap()), [0, 48]);
    assert_eq!(starts(&spread_windows(&tokens, 24, None).unwrap()), starts(&all));
    let (mut x, mut y) = (vec![0; 48], vec![0; 48]);
    all.fill(2, 2, &mut x, &mut y);
    assert_eq!((x, y), ((48..96).collect(), (49..97).collect()));
}

/// The fixture's golden losses are means over the 12 windows of 24 tokens that its split holds.
#[test]
fn the_fixture_has_its_twelve_windows() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nanogpt");
    let dataset = Dataset::open(&dir).unwrap();
    assert_eq!(eval_windows(dataset.split(Split::Val), 24, None).unwrap().len(), 12);
}

#[test]
#[should_panic(expected = "x and y must be (rows, T)")]
fn a_batch_of_the_wrong_size_is_a_bug() {
    let loader = Loader::new(&counting(50), DataOrder::Random, 4, 0).unwrap();
    loader.fill(0, 2, &mut [0; 7], &mut [0; 8]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_batch_is_the_same_however_it_is_cut(
        len in 20u64..400, block_size in 1usize..19, seed: u64, cursor in 0u64..1 << 50,
        cuts in prop::collection::vec(1usize..5, 1..5), which in 0usize..3,
    ) {
        let loader = Loader::new(&counting(len), ORDERS[which], block_size, seed).unwrap();
        let rows = cuts.iter().sum();
        let whole = batch(&loader, cursor, rows);
        let (mut x, mut y, mut next) = (Vec::new(), Vec::new(), cursor);
        for &cut in &cuts {
            let part = batch(&loader, next, cut);
            x.extend(part.0);
            y.extend(part.1);
            next += cut as u64;
        }
        prop_assert_eq!((&x, &y), (&whole.0, &whole.1));
        // The corpus counts, so a target is its input plus one.
        prop_assert!(x.iter().zip(&y).all(|(x, y)| x + 1 == *y));
    }

    #[test]
    fn an_epoch_draws_every_window_once(
        len in 2u64..600, block_size in 1usize..40, seed: u64, epoch in 0u64..1 << 40, sequential: bool,
    ) {
        prop_assume!(len > block_size as u64);
        let order = if sequential { DataOrder::Sequential } else { DataOrder::Shuffled };
        let loader = Loader::new(&counting(len), order, block_size, seed).unwrap();
        let n = loader.windows_per_epoch();
        let t = block_size as u64;
        let mut starts: Vec<u64> = (epoch * n..(epoch + 1) * n).map(|i| loader.window(i)).collect();
        starts.sort_unstable();
        prop_assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == t), "{starts:?}");
        prop_assert!(starts[starts.len() - 1] + t < len);
        // What an epoch leaves out is less than two windows, at the ends.
        prop_assert!(len - 1 - n * t < 2 * t);
        prop_assert_eq!((loader.epoch_of(epoch * n), loader.epoch_of((epoch + 1) * n - 1)), (epoch, epoch));
    }
}

#[test]
fn headerless_and_headed_corpora_give_the_same_batches() {
    let dir = tempdir().unwrap();
    let tokens: Vec<u16> = (0..500).collect();
    put(dir.path(), &[("train.bin", headerless(&tokens))]);
    let plain = Dataset::open(dir.path()).unwrap();
    let [one, two] = [plain.split(Split::Train), &counting(500)]
        .map(|tokens| batch(&Loader::new(tokens, DataOrder::Shuffled, 16, 5).unwrap(), 3, 8));
    assert_eq!(one, two);
}
