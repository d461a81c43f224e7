//! The overlay: what wins, what is refused with which words, and that a written configuration reads back.

use proptest::prelude::*;

use super::*;

fn with_flags(flags: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let mut settings = Settings::default();
    for (key, text) in flags {
        settings.apply_flag(key, text)?;
    }
    Ok(settings)
}

fn with_toml(text: &str) -> Result<Settings, SettingsError> {
    let mut settings = Settings::default();
    settings.apply_toml(text, "my.toml")?;
    Ok(settings)
}

/// The message and the hint of an error, as a person sees them.
fn told(result: Result<Settings, SettingsError>) -> String {
    let error = result.unwrap_err();
    format!("{error} | {}", error.hint().unwrap_or_default())
}

#[test]
fn defaults_are_nanogpts_and_valid() {
    let settings = Settings::default().resolve().unwrap();
    assert_eq!(settings.tokens_per_step(), 491_520);
    assert_eq!(settings.total_batch_size, 491_520);
    assert_eq!(settings.lr_decay_iters, 0, "follows max_iters, however a resumed run changes that");
    assert_eq!(settings.eval_tokens, 200 * 12 * 1024);
    assert!(settings.warnings().is_empty());
}

#[test]
fn what_is_said_in_vain_is_told() {
    let warned = |flags: &[(&str, &str)]| with_flags(flags).unwrap().warnings();
    assert!(warned(&[("attn_type", "pointwise-gelu"), ("attn_scale", "length")]).is_empty());
    assert!(warned(&[("hellaswag", "items.jsonl"), ("hellaswag_limit", "9")]).is_empty());
    assert_eq!(
        warned(&[("hellaswag_limit", "9")]),
        ["hellaswag_limit = 9: HellaSwag is not asked for; --hellaswag does that"]
    );
    assert_eq!(
        warned(&[("attn_type", "gaussian"), ("attn_scale", "length")]),
        ["attn_scale = length: gaussian attention is divided by nothing, only pointwise kinds are"]
    );
}

#[test]
fn the_machine_chooses_a_dtype() {
    let asked = with_flags(&[("dtype", "auto")]).unwrap();
    let chosen = asked.clone().resolve().unwrap();
    assert_eq!(chosen.dtype, if asked.machine().has_bfloat16() { "bfloat16" } else { "float32" });
    // What was chosen stays, wherever the run goes on.
    assert_eq!(with_toml(&chosen.to_toml()).unwrap().dtype, chosen.dtype);
    assert_eq!(asked.on_this_machine().unwrap().dtype, chosen.dtype);
}

#[test]
fn flags_are_read_by_the_kind_of_their_key() {
    let settings = with_flags(&[
        ("n-layer", "4"),
        ("max_iters", "1_000"),
        ("learning-rate", "1e-3"),
        ("grad_clip", "0"),
        ("bias", "True"),
        ("decay_lr", "false"),
        ("gelu", "\"tanh\""),
        ("dataset", "'my text'"),
        ("sample_start", "123"),
        ("out_dir", "a=b"),
    ])
    .unwrap();
    assert_eq!((settings.n_layer, settings.max_iters), (4, 1000));
    assert_eq!((settings.learning_rate, settings.grad_clip), (1e-3, 0.0));
    assert!(settings.bias && !settings.decay_lr);
    assert_eq!(settings.gelu, Gelu::Tanh);
    assert_eq!(settings.dataset, "my text");
    assert_eq!((settings.sample_start.as_str(), settings.out_dir.as_str()), ("123", "a=b"));
}

#[test]
fn later_layers_win_and_the_rest_stays() {
    let mut settings = with_toml("n_layer = 2\nlearning_rate = 1\n").unwrap();
    settings.apply_toml("n_layer = 3", "other.toml").unwrap();
    settings.apply_flag("n_head", "2").unwrap();
    assert_eq!((settings.n_layer, settings.n_head, settings.n_embd), (3, 2, 768));
    assert_eq!(settings.learning_rate, 1.0);
}

#[test]
fn the_later_of_step_size_and_accumulation_holds() {
    let shape = "batch_size = 4\nblock_size = 8\n";
    let total = with_toml(&format!("{shape}total_batch_size = 320\n")).unwrap();
    assert_eq!(total.clone().resolve().unwrap().gradient_accumulation_steps, 10);

    let mut accumulation = total.clone();
    accumulation.apply_flag("gradient_accumulation_steps", "3").unwrap();
    assert_eq!(accumulation.resolve().unwrap().total_batch_size, 96);

    // A resolved file states both; another micro-batch then keeps the size of the step.
    let mut again = with_toml(&total.resolve().unwrap().to_toml()).unwrap();
    again.apply_flag("batch_size", "8").unwrap();
    let again = again.resolve().unwrap();
    assert_eq!((again.gradient_accumulation_steps, again.total_batch_size), (5, 320));
}

/// Also where a word leaves the machine to the program.
#[test]
fn what_is_recomputed_depends_on_the_machine() {
    for (device, n_embd) in [("cpu", "768"), ("cpu", "384"), ("auto", "768"), ("cuda", "768")] {
        let settings = with_flags(&[("device", device), ("n_embd", n_embd)]).unwrap();
        let suits =
            if settings.machine().is_cpu() && n_embd == "768" { Recompute::Gelu } else { Recompute::None };
        assert_eq!(settings.recompute(), suits, "{device}, {n_embd}");
    }
}

#[test]
fn what_is_left_to_the_program_reads_back() {
    let settings =
        with_toml("batch_size = \"auto\"\nrecompute = \"auto\"\ntotal_batch_size = 2048\n").unwrap();
    assert_eq!((settings.batch_size, settings.recompute), (BatchSize::Auto, None));
    assert_eq!(with_toml(&settings.to_toml()).unwrap(), settings);
    let mut number = settings.clone();
    number.apply_flag("batch-size", "3").unwrap();
    assert_eq!(number.batch_size, BatchSize::Rows(3));
    number.apply_flag("batch_size", "auto").unwrap();
    assert_eq!(number, settings);
}

#[test]
fn the_later_of_evaluated_tokens_and_batches_holds() {
    let shape = "batch_size = 4\nblock_size = 8\neval_iters = 2\n";
    let tokens = with_toml(&format!("{shape}eval_tokens = 96\n")).unwrap();
    assert_eq!(tokens.clone().resolve().unwrap().eval_tokens, 96);
    let mut again = with_toml(&tokens.resolve().unwrap().to_toml()).unwrap();
    again.apply_flag("eval_iters", "5").unwrap();
    assert_eq!(again.resolve().unwrap().eval_tokens, 160);
}

#[test]
fn errors_say_where_what_and_what_to_do() {
    let cases = [
        (
            told(with_flags(&[("weight-decya", "0")])),
            "command line: unknown key `weight_decya` | did you mean `weight_decay`?",
        ),
        (
            told(with_flags(&[("compile", "False")])),
            "command line: unknown key `compile` | leave it out: there is nothing to compile",
        ),
        (
            told(with_flags(&[("zzzzzzzzzzzz", "1")])),
            "command line: unknown key `zzzzzzzzzzzz` | `oxigpt train --help` lists every key",
        ),
        (
            told(with_flags(&[("n_layer", "-1")])),
            "command line: `n_layer` must be a whole number, 0 or more, not -1 | for example `n_layer = 12`, the default",
        ),
        (
            told(with_flags(&[("seed", "9223372036854775808")])),
            "command line: `seed` must be a whole number, 0 or more, not 9223372036854775808 | the largest number is \
             9223372036854775807",
        ),
        (
            told(with_flags(&[("learning_rate", "fast")])),
            "command line: `learning_rate` must be a number, not fast | for example `learning_rate = 0.0006`, the default",
        ),
        (
            told(with_flags(&[("bias", "yes")])),
            "command line: `bias` must be true or false, not yes | for example `bias = false`, the default",
        ),
        (
            told(with_toml("# one\nn_layer = 2\nn_layr = 3\n")),
            "my.toml:3: unknown key `n_layr` | did you mean `n_layer`?",
        ),
        (
            told(with_toml("\nn_layer = 2.5\n")),
            "my.toml:2: `n_layer` must be a whole number, 0 or more, not 2.5 | for example `n_layer = 12`, the default",
        ),
        (
            told(with_toml("gelu = \"relu\"")),
            "my.toml:1: `gelu` must be one of tanh, erf, not \"relu\" | for example `gelu = \"erf\"`, the default",
        ),
        (
            told(with_flags(&[("recompute", "all")])),
            "command line: `recompute` must be one of auto, none, gelu, block, not \"all\" | for example \
             `recompute = \"auto\"`, the default",
        ),
        (
            told(with_toml("n_layer = 2\nbias = True\n")),
            "my.toml:2: not a recipe: invalid boolean, expected `true` | a recipe has lines such as `n_layer = 12`, \
             `bias = true` and `dataset = \"stories\"`",
        ),
        (
            told(with_toml("n_layer = 2\n[model]\nn_head = 2\n")),
            "my.toml:2: not a recipe: `model` is a section, and settings have none | a recipe has lines such as \
             `n_layer = 12`, `bias = true` and `dataset = \"stories\"`",
        ),
    ];
    for (got, expected) in cases {
        assert_eq!(got, expected);
    }
}

#[test]
fn impossible_settings_are_refused_with_what_would_be_possible() {
    let refused = |flags| told(with_flags(flags).and_then(Settings::resolve));
    let cases = [
        (
            refused(&[("n_embd", "100"), ("n_head", "7")]),
            "n_embd = 100 cannot be cut into n_head = 7 equal heads | the nearest width that can is --n_embd=98",
        ),
        (
            refused(&[("sample_start", ""), ("sample_interval", "5")]),
            "`sample_start` is empty | a sample continues at least one character, such as the default, a line break",
        ),
        (refused(&[("out_dir", "")]), "`out_dir` is empty | name a directory, such as --out_dir=out/mine"),
        (refused(&[("block_size", "0")]), "`block_size` is 0 | it must be at least 1"),
        (
            refused(&[("learning_rate", "-1")]),
            "`learning_rate` is -1 | it must be a finite number, 0 or more",
        ),
        (refused(&[("min_lr", "nan")]), "`min_lr` is NaN | it must be a finite number, 0 or more"),
        (refused(&[("dropout", "1")]), "`dropout` is 1 | it must be at least 0 and below 1"),
        (
            refused(&[("batch_size", "4"), ("block_size", "8"), ("total_batch_size", "100")]),
            "total_batch_size = 100 is not a whole number of micro-batches of batch_size x block_size = 4 x 8 = 32 \
             tokens | the nearest size that is: --total_batch_size=96",
        ),
        (
            refused(&[("device", "gpu")]),
            "`device` must be one of cpu, cuda, cuda:N, auto, not \"gpu\" | use `device = \"cpu\"`, or \"auto\"; `oxigpt \
             devices` lists the GPUs",
        ),
        (
            refused(&[("dtype", "float16")]),
            "`dtype` = \"float16\" is not available yet in this version | use `dtype = \"float32\"`",
        ),
        (
            refused(&[("dtype", "foo")]),
            "`dtype` must be one of float32, bfloat16, auto, int8, not \"foo\" | use `dtype = \"float32\"`",
        ),
        (
            refused(&[("attn_type", "sotfmax")]),
            "`attn_type` must be one of softmax, gaussian, gaussian-poly-N (N = 1 to 16), pointwise-gelu, \
             pointwise-relu, pointwise-sigmoid, pointwise-square, pointwise-relu-square, not \"sotfmax\" | `softmax` \
             is what GPT-2 and most others have",
        ),
        (
            refused(&[("attn_type", "gaussian-poly-99")]),
            "`attn_type` must be gaussian-poly-N with a whole number N from 1 to 16, which is how often it squares, \
             not \"gaussian-poly-99\" | `softmax` is what GPT-2 and most others have",
        ),
        (
            refused(&[("attn_type", "pointwise-relu"), ("attn_scale", "1024")]),
            "`attn_scale` must be length, position, block, or block-N with a whole number N from 1, not \"1024\" | \
             `block`, the default, is what a model was trained with at its whole context",
        ),
        (
            refused(&[("attn_type", "gaussian"), ("attn_clamp", "true")]),
            "`attn_clamp` must be false for gaussian: only gaussian-poly-N has a range to keep to, not true | leave \
             attn_clamp out",
        ),
    ];
    for (got, expected) in cases {
        assert_eq!(got, expected);
    }
}

#[test]
fn doubtful_schedules_are_warned_about() {
    let settings = with_flags(&[("max_iters", "10"), ("learning_rate", "1e-6")]).unwrap();
    let warnings = settings.warnings();
    assert!(warnings[0].starts_with("warmup_iters = 2000 is more than max_iters = 10"), "{warnings:?}");
    assert!(
        warnings[1].starts_with("min_lr = 0.00006 is more than learning_rate = 0.000001"),
        "{warnings:?}"
    );
}

#[test]
fn a_schedule_that_ends_before_a_prolonged_run_is_warned_about() {
    let prolonged = |init_from, decay| {
        let flags = [("init_from", init_from), ("max_iters", "3000"), ("lr_decay_iters", decay)];
        with_flags(&flags).unwrap().warnings()
    };
    assert_eq!(
        prolonged("resume", "2500"),
        [
            "lr_decay_iters = 2500 is less than max_iters = 3000: the learning rate stays at min_lr = 0.00006 from there \
          on; --lr_decay_iters=0 lets it fall until the end"
        ]
    );
    for (init_from, decay) in [("scratch", "2500"), ("resume", "0"), ("resume", "3000")] {
        assert!(prolonged(init_from, decay).is_empty(), "{init_from} {decay}");
    }
}

#[test]
fn every_key_can_be_set_from_its_own_text() {
    for key in KEYS {
        let text = Settings::default().text_of(key.name).unwrap();
        assert_eq!(with_flags(&[(key.name, &text.replace("\\n", "\n"))]).unwrap(), Settings::default());
        assert!(!key.doc.is_empty() && kind_of(key.name).is_some());
    }
}

#[test]
fn numbers_too_large_for_any_run_do_not_overflow() {
    let huge = i64::MAX.to_string();
    for key in ["batch_size", "gradient_accumulation_steps", "total_batch_size", "eval_iters", "n_embd"] {
        // Refused or not, it must not panic.
        let _ = with_flags(&[(key, &huge)]).unwrap().resolve();
    }
}

proptest! {
    #[test]
    fn a_written_configuration_reads_back_as_itself(
        counts in prop::collection::vec(1_usize..1 << 40, 4),
        seed in 0..=i64::MAX as u64,
        rate in 0.0..1e30_f64,
        beta in 0.0..1.0_f64,
        flags in any::<[bool; 3]>(),
        text in any::<String>(),
    ) {
        let mut settings = Settings {
            n_layer: counts[0],
            max_iters: counts[1],
            eval_tokens: counts[2],
            lr_decay_iters: counts[3],
            seed,
            learning_rate: rate,
            beta2: beta,
            bias: flags[0],
            gelu: if flags[1] { Gelu::Tanh } else { Gelu::Erf },
            data_order: if flags[2] { DataOrder::Random } else { DataOrder::Sequential },
            sample_start: text,
            ..Settings::default()
        };
        settings = settings.resolve().unwrap();
        let read = with_toml(&settings.to_toml()).unwrap();
        prop_assert_eq!(&read, &settings);
        prop_assert_eq!(read.resolve().unwrap(), settings);
    }
}
