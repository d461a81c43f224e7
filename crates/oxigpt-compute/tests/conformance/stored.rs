//! Matrices that are only read, in every storage: linear layers over one row, over few, and over more than a tile; the tied
//! table of words as embedding, as classifier and for logits.

use oxigpt_compute::{Gelu, LinearWeights, Session, Storage, TensorId};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::case::{Case, Draft, download};
use crate::{backends, is_simulated};

const STORAGES: [Storage; 3] = [Storage::Float32, Storage::Bfloat16, Storage::Int8];

/// Beside integers, activations have 16 bits: each is off by up to half of 1/32639 of the largest of its row, evenly spread. The
/// largest of some normal numbers is up to 4.5 times their size, so a product is off by 4.5 / (32639 sqrt(12)) = 4e-5 of its norm;
/// 2.5 times that is allowed.
fn slack(storage: Storage) -> f64 {
    if storage == Storage::Int8 { 50.0 } else { 1.0 }
}

fn draft(label: &str, storage: Storage, sizes: &[usize]) -> Draft {
    let mut d = Draft::new(format!("{label} {storage:?} {sizes:?}"));
    d.slack(slack(storage));
    d
}

fn finish(mut d: Draft, result: TensorId) -> Case {
    d.b.mark_output(result);
    d.finish()
}

fn linear(storage: Storage, rows: usize, c: usize, o: usize, gelu: Option<Gelu>) -> Case {
    let mut d = draft("stored linear", storage, &[rows, c, o]);
    let x_nc = d.normal("x", &[rows, c], 0.0, 1.0);
    let bias = (o % 2 == 1).then(|| d.b.parameter("bias", &[o]));
    let weights = LinearWeights { w: d.b.stored("w", [o, c], storage), bias };
    let mut y_no = d.b.linear(x_nc, weights);
    if let Some(kind) = gelu {
        y_no = d.b.gelu(y_no, kind);
    }
    finish(d, y_no)
}

/// One row, the tallest tiles and one more, several blocks of tiles; widths that fill no step, outputs that fill no panel.
#[test]
fn linear_on_awkward_shapes() {
    for storage in STORAGES {
        for (rows, c, o) in [
            (1, 1, 1),
            (1, 64, 96),
            (1, 67, 65),
            (2, 3, 33),
            (7, 129, 31),
            (8, 130, 64),
            (14, 131, 127),
            (15, 31, 257),
            (33, 768, 40),
            (200, 1030, 35),
        ] {
            linear(storage, rows, c, o, [None, Some(Gelu::Tanh), Some(Gelu::Erf)][c % 3]).check();
        }
    }
}

/// GPT-2's words: as an embedding, and the logits of one row and of eight; a simulated GPU has time for three.
#[test]
fn tied_table_of_gpt2s_words() {
    let some_rows = if is_simulated() { &[3][..] } else { &[1, 8] };
    for storage in STORAGES {
        for &rows in some_rows {
            let mut d = draft("tied table", storage, &[rows]);
            let (wte, wpe) = (d.b.stored("wte", [50304, 12], storage), d.b.parameter("wpe", &[4, 12]));
            let tokens = d.words("tokens", &[rows, 1], 50257);
            let x_btc = d.b.embed(tokens, None, wte, wpe);
            let logits = d.b.unembed(x_btc, wte);
            d.b.mark_output(x_btc);
            finish(d, logits).check();
        }
    }
}

fn classifier(storage: Storage, n: usize, c: usize, (words, padded): (usize, usize)) -> Case {
    let mut d = draft("stored classifier", storage, &[n, c, words, padded]);
    let (x_nc, w) = (d.normal("x", &[n, c], 0.0, 1.0), d.b.stored("w", [padded, c], storage));
    let targets = d.words("targets", &[n], words);
    d.b.classifier(x_nc, w, targets, words);
    d.finish()
}

#[test]
fn classifier_on_awkward_shapes() {
    for storage in STORAGES {
        for (n, c, words) in [
            (1, 1, (1, 1)),
            (3, 5, (11, 16)),
            (29, 64, (65, 128)),
            (70, 33, (127, 128)),
            (327, 2, (50257, 50304)),
        ] {
            classifier(storage, n, c, words).check();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default()
    })]
    #[test]
    fn linear_on_random_shapes(
        storage in proptest::sample::select(&STORAGES[..]), rows in 1..40usize, c in 1..200usize, o in 1..150usize,
    ) {
        linear(storage, rows, c, o, None).check();
    }
}

/// A plan of one product; gives its result for the weights and the rows.
fn product(
    make: crate::Make,
    storage: Storage,
    (w, [o, c]): (&[f32], [usize; 2]),
    x: &[f32],
) -> (Vec<f64>, Vec<f64>) {
    let mut d = Draft::new("one product");
    let (x_nc, stored) = (d.b.input("x", &[x.len() / c, c]), d.b.stored("w", [o, c], storage));
    let y_no = d.b.linear(x_nc, LinearWeights { w: stored, bias: None });
    d.b.mark_output(y_no);
    let mut session = Session::new(d.b.finish(), make()).unwrap();
    session.upload(x_nc, oxigpt_compute::Data::F32(x)).unwrap();
    session.upload(stored, oxigpt_compute::Data::F32(w)).unwrap();
    let phase = session.plan().phases().next().unwrap().0;
    session.run(phase);
    (download(&session, y_no), download(&session, stored))
}

/// What lies beside a row changes no bit of it: texts that are decoded together are those that are decoded alone.
#[test]
fn rows_do_not_depend_on_their_neighbours() {
    const C: usize = 300;
    let w: Vec<f32> = (0..70 * C).map(|i| (i as f32 * 0.37).sin()).collect();
    let x: Vec<f32> = (0..31 * C).map(|i| (i as f32 * 0.11).cos()).collect();
    for row in backends() {
        let (label, make) = row.variants[0];
        for storage in STORAGES {
            let (all, _) = product(make, storage, (&w, [70, C]), &x);
            for (x, together) in x.chunks(C).zip(all.chunks(70)) {
                let (alone, _) = product(make, storage, (&w, [70, C]), x);
                assert_eq!(alone, together, "{label} {storage:?}");
            }
        }
    }
}

/// Downloaded, a matrix is what its storage has made of it, the same on every backend.
#[test]
fn matrices_come_back_as_they_are_kept() {
    let w: Vec<f32> = (0..45 * 7).map(|i| (i as f32 * 0.37).sin() * (i / 7) as f32).collect();
    for storage in STORAGES {
        let (_, kept) = product(
            || Box::new(oxigpt_compute::reference::Reference::new()),
            storage,
            (&w, [45, 7]),
            &[1.0; 7],
        );
        for row in backends() {
            let (label, make) = row.variants[0];
            let (_, found) = product(make, storage, (&w, [45, 7]), &[1.0; 7]);
            let off =
                found.iter().zip(&kept).map(|(a, b)| (a - b).abs() / b.abs().max(1e-3)).fold(0.0, f64::max);
            assert!(off < 1e-7, "{label} {storage:?}: {off}");
        }
        let step = if storage == Storage::Float32 { 0.0 } else { 0.5 };
        let worst = w.iter().zip(&kept).map(|(&a, b)| (f64::from(a) - b).abs()).fold(0.0, f64::max);
        assert!(worst <= step && (worst > 0.0) == (step > 0.0), "{storage:?}: {worst}");
    }
}

/// Damage shows: what is not finite does not become a number.
#[test]
fn what_is_not_finite_stays_so() {
    let (w, x) = ([0.5f32; 3 * 8], [1.0f32; 2 * 8]);
    for row in backends() {
        let (label, make) = row.variants[0];
        for storage in STORAGES {
            for bad in [f32::NAN, f32::INFINITY] {
                let (mut w, mut x) = (w, x);
                w[2 * 8 + 5] = bad;
                let (y, _) = product(make, storage, (&w, [3, 8]), &x);
                let is_finite: Vec<bool> = y.iter().map(|y| y.is_finite()).collect();
                assert_eq!(is_finite, [true, true, false, true, true, false], "{label} {storage:?} {bad}");
                w[2 * 8 + 5] = 0.5;
                x[3] = bad;
                let (y, _) = product(make, storage, (&w, [3, 8]), &x);
                let is_finite: Vec<bool> = y.iter().map(|y| y.is_finite()).collect();
                assert_eq!(is_finite, [false, false, false, true, true, true], "{label} {storage:?} {bad}");
            }
        }
    }
}

/// Elements far smaller than their row's largest, and rows of nothing.
#[test]
fn rows_of_extremes() {
    let w: Vec<f32> = (0..33 * 9).map(|i| if i % 9 == 4 { 100.0 } else { 1e-3 * (i % 9) as f32 }).collect();
    let mut x = [1e-38f32; 3 * 9];
    x[9..18].fill(0.0);
    x[18..].copy_from_slice(&[1e30, 1.0, -1e30, 1e-30, 0.0, 3.0, 2.0, 1e29, -5.0]);
    for row in backends() {
        let (label, make) = row.variants[0];
        for storage in STORAGES {
            let (y, _) = product(make, storage, (&w, [33, 9]), &x);
            assert!(y[..33].iter().all(|y| y.abs() < 1e-35), "{label} {storage:?}");
            assert!(y[33..66].iter().all(|&y| y == 0.0), "{label} {storage:?}");
            assert!(y[66..].iter().all(|y| y.is_finite()), "{label} {storage:?}");
        }
    }
}

/// A matrix takes the bytes of its storage, and no others beside it: decoding is bound by these bytes.
#[test]
fn memory_is_that_of_the_storage() {
    const O: usize = 1024;
    const C: usize = 512;
    let bytes = |make: crate::Make, storage: Storage| {
        let mut d = Draft::new("memory");
        let (x_nc, w) = (d.b.input("x", &[3, C]), d.b.stored("w", [O, C], storage));
        let y_no = d.b.linear(x_nc, LinearWeights { w, bias: None });
        d.b.mark_output(y_no);
        Session::new(d.b.finish(), make()).unwrap().memory_bytes()
    };
    for row in backends() {
        let (label, make) = row.variants[0];
        if label == "reference" {
            continue;
        }
        let [float32, bfloat16, int8] = STORAGES.map(|storage| bytes(make, storage));
        // Activations are packed beside matrices, or not, and begin at round places.
        let about = |found: usize, expected: usize| found.abs_diff(expected) < 4 * 4 * C + 512;
        assert!(about(float32 - bfloat16, 2 * O * C), "{label}: {float32} {bfloat16}");
        assert!(about(float32 - int8, 3 * O * C - 4 * O), "{label}: {float32} {int8}");
    }
}
