//! What the program says of itself.

use crate::support::{Place, run};
use insta::assert_snapshot;

#[test]
fn version() {
    assert_snapshot!(run(&["--version"]), @"
    exit 0
    --- stdout
    oxigpt [VERSION]
    --- stderr
    ");
}

#[test]
fn overview() {
    assert_snapshot!(run(&["--help"]), @r#"
    exit 0
    --- stdout
    Train, fine-tune, evaluate and sample GPT-2-class language models

    Usage: oxigpt <COMMAND>

    Commands:
      train        Train a model, or go on training one
      prepare      Turn text into the token shards that training reads
      data         Say what a data set holds, and check it
      tokenizer    Make a tokenizer
      sample       Generate text with a model
      eval         Measure a model: its loss on a data set, HellaSwag, LAMBADA, WikiText
      convert      Write a model in the format of another program
      compare      Show the losses of runs side by side, and what differs between their settings
      bench        Measure how fast this machine trains and samples a model, or encodes text
      plan         Say what a run will take: memory, work and time
      devices      Say what this machine can compute on, and what a GPU still takes
      recipes      List the built-in recipes, or print one
      completions  Print the completion script for a shell

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Examples:
      oxigpt train                                 a small GPT learns to tell stories
      oxigpt prepare text --input *.txt --tokenizer gpt2 --out data/mine
      oxigpt plan gpt2-124m --batch_size=8         a recipe, but for this key
      oxigpt train --from gpt2 --dataset=data/mine a model that is there learns from your own text
      oxigpt eval --from gpt2 --data data/mine     loss, perplexity, bits per byte
      oxigpt sample --from gpt2 --start "Once"     a model of the Hugging Face hub, or any other, speaks
      oxigpt bench train gpt2-124m --batch_size=4  how fast this machine trains
      oxigpt recipes demo > mine.toml              a recipe to start from
    --- stderr
    "#);
}

#[test]
fn sample() {
    assert_snapshot!(run(&["sample", "--help"]), @"
    exit 0
    --- stdout
    Generate text with a model

    Usage: oxigpt sample [OPTIONS] --from <MODEL>

    Options:
          --from <MODEL>                   The model that speaks
          --start <TEXT | FILE:path>       The text to continue; FILE:path takes it from a file
          --num-samples <N>                How many samples [default: 1]
          --max-new-tokens <N>             Tokens to generate in each, at most [default: 500]
          --temperature <X>                0 always takes the likeliest token; 1 follows the model's
                                           probabilities [default: 0.8]
          --top-k <N>                      Choose among so many likeliest tokens; 0 = all [default: 200]
          --seed <N>                       The same seed gives the same text; sample i uses seed + i
                                           [default: 1337]
          --dtype <float32|bfloat16|int8>  How weights are kept: bfloat16 takes half the bytes, int8 a
                                           quarter, and fewer bytes are faster [default: float32]
          --stop                           Stop at the end of the text, where the model says that it
                                           ends
          --device <DEVICE>                Where to compute: cpu, cuda, cuda:N, or auto [default: cpu]
          --threads <N>                    Worker threads; 0 = one per core [default: 0]
          --json                           Print all samples at the end, as one JSON object
      -h, --help                           Print help

    Model:
          --attn_type <TEXT>     how attention scores become weights: softmax, gaussian,
                                 gaussian-poly-N, pointwise-F [default: the model's]
          --attn_scale <TEXT>    what pointwise weights are divided by: block (block_size), position
                                 (keys seen), length (of the text) [default: the model's]
          --attn_clamp [<BOOL>]  whether weights of gaussian-poly-N are zero below its range, where they
                                 would grow again [default: the model's]

    A MODEL is one of, as its content shows:
      a run directory (its best checkpoint, or else its latest), or a checkpoint of one
      a Hugging Face GPT-2 directory
      nanoGPT's ckpt.pt, build-nanogpt's model_NNNNN.pt, llm.c's model .bin
      gpt2, gpt2-medium, gpt2-large, gpt2-xl, or OWNER/NAME on the Hugging Face hub
    --- stderr
    ");
}

#[test]
fn every_key_of_a_configuration() {
    assert_snapshot!(run(&["plan", "--help"]), @r#"
    exit 0
    --- stdout
    Say what a run will take: memory, work and time

    Usage: oxigpt plan [OPTIONS] [RECIPE | FILE.toml]...

    Arguments:
      [RECIPE | FILE.toml]...  Built-in recipes or files of settings; later ones override earlier ones
                               [default: demo, or finetune with a MODEL]

    Options:
          --gpu <NAME>    Plan for a GPU that is not here, by its data sheet; h100 where --device=cuda
                          finds none [possible values: h100, h200, b200, a100-40gb, a100-80gb, l4, l40s,
                          rtx-3090, rtx-4090]
          --json          Print the numbers as one JSON object
          --from <MODEL>  The model to begin a new run with: short for --init_from=MODEL
      -h, --help          Print help

    Run:
          --out_dir <TEXT>
              run directory: configuration, metrics, checkpoints [default: "out"]
          --init_from <TEXT>
              scratch; resume: go on with the run in out_dir; a MODEL to begin a new run with; or
              layerwise:MODEL [default: "scratch"]
          --seed <N>
              seed of initialisation, batches, dropout and samples [default: 1337]
          --device <TEXT>
              where the run computes: cpu, cuda, cuda:N, or auto [default: "cpu"]
          --dtype <TEXT>
              operands of matrix products: float32, bfloat16, auto; not to train, int8 [default:
              "float32"]
          --float32_matmul_precision <TEXT>
              float32 products on a GPU: highest, or high (TF32) [default: "highest"]
          --deterministic [<BOOL>]
              the same bits at every rerun; false lets a GPU add in any order where that is faster
              [default: true]
          --threads <N>
              worker threads; 0 = one per core [default: 0]

    Data:
          --dataset <TEXT>
              data directory, or its name under data/ [default: "openwebtext"]
          --data_order <shuffled|sequential|random>
              windows: each once an epoch, one after the other, or drawn with replacement [default:
              "shuffled"]
          --batch_size <N|auto>
              sequences in a micro-batch; auto = as many of total_batch_size as fit into memory
              [default: 12]
          --block_size <N>
              tokens in a sequence: the longest context [default: 1024]
          --total_batch_size <N>
              tokens in a step; 0 = gradient_accumulation_steps x batch_size x block_size [default: 0]
          --gradient_accumulation_steps <N>
              micro-batches in a step; follows from total_batch_size where that is set [default: 40]
          --recompute <auto|none|gelu|block>
              what the backward pass makes again to save memory: none, gelu (and layer norms), block, or
              auto; the same bits, except gelu's in bfloat16 on a GPU [default: "auto"]

    Model:
          --n_layer <N>          transformer blocks [default: 12]
          --n_head <N>           attention heads in a block; divides n_embd [default: 12]
          --n_embd <N>           width of the residual stream [default: 768]
          --vocab_size <N>       tokens in the vocabulary; 0 = the data set's [default: 0]
          --dropout <X>          probability of dropping an activation while training [default: 0.0]
          --bias [<BOOL>]        biases in the linear layers and layer norms [default: false]
          --gelu <tanh|erf>      by the tanh approximation (GPT-2), or exact (nanoGPT) [default: "erf"]
          --attn_type <TEXT>     how attention scores become weights: softmax, gaussian,
                                 gaussian-poly-N, pointwise-F [default: "softmax"]
          --attn_scale <TEXT>    what pointwise weights are divided by: block (block_size), position
                                 (keys seen), length (of the text) [default: "block"]
          --attn_clamp [<BOOL>]  whether weights of gaussian-poly-N are zero below its range, where they
                                 would grow again [default: false]

    Tuning:
          --lora_rank <N>        rank of low-rank adapters that are trained instead of the weights
                                 (LoRA); 0 = none [default: 0]
          --lora_alpha <X>       what the adapters change is scaled by lora_alpha / lora_rank [default:
                                 16.0]
          --lora_targets <TEXT>  linear layers with adapters, of attn.c_attn, attn.c_proj, mlp.c_fc,
                                 mlp.c_proj [default: "c_attn,attn.c_proj"]
          --distill_mix <X>      share of the loss on the text in what a layer-wise distillation
                                 minimises [default: 0.0]

    Optimizer:
          --learning_rate <X>   highest learning rate [default: 0.0006]
          --max_iters <N>       steps (optimizer updates) in the run [default: 600000]
          --weight_decay <X>    AdamW's decay of matrices and embeddings, and of adapters [default: 0.1]
          --beta1 <X>           AdamW's first-moment decay rate [default: 0.9]
          --beta2 <X>           AdamW's second-moment decay rate [default: 0.95]
          --grad_clip <X>       largest global gradient norm; 0 = no clipping [default: 1.0]
          --decay_lr [<BOOL>]   whether the learning rate falls along a cosine after the warm-up
                                [default: true]
          --warmup_iters <N>    steps of linear warm-up [default: 2000]
          --lr_decay_iters <N>  step at which the learning rate reaches min_lr; 0 = max_iters [default:
                                0]
          --min_lr <X>          lowest learning rate [default: 6e-5]

    Evaluation and checkpoints:
          --eval_only [<BOOL>]
              evaluate once instead of training [default: false]
          --eval_interval <N>
              steps between evaluations [default: 2000]
          --eval_iters <N>
              batches in an evaluation, where eval_tokens is 0 [default: 200]
          --eval_tokens <N>
              tokens of the fixed validation windows; 0 = eval_iters x batch_size (if auto, 12) x
              block_size [default: 0]
          --hellaswag [<true|PATH>]
              HellaSwag at every evaluation: true for the published file, or the path of a
              hellaswag_*.jsonl [default: false]
          --hellaswag_limit <N>
              items of it, from the first on; 0 = all [default: 0]
          --always_save_checkpoint [<BOOL>]
              save at every evaluation, not only at a better one [default: true]
          --save_interval <N>
              steps between checkpoints; 0 = at evaluations only [default: 0]
          --keep_checkpoints <N>
              newest checkpoints to keep, beside the best [default: 2]

    Reports:
          --log_interval <N>     steps between log lines [default: 1]
          --sample_interval <N>  steps between samples; 0 = none [default: 0]
          --sample_start <TEXT>  text that a sample continues [default: "\n"]
          --sample_tokens <N>    tokens in a sample [default: 200]

    Defaults are those of a file that does not set the key; `oxigpt recipes NAME` prints what a recipe
    sets.
    --- stderr
    "#);
}

/// The keys are those of `plan`.
#[test]
fn train() {
    let help = run(&["train", "--help"]);
    let keys = |text: &str| {
        let (begin, end) = (text.find("\nRun:\n").unwrap(), text.find("\nDefaults are").unwrap());
        (begin, end, text[begin..end].to_owned())
    };
    let (begin, end, train_keys) = keys(&help);
    assert_eq!(train_keys, keys(&run(&["plan", "--help"])).2);
    assert_snapshot!(format!("{}[KEYS]\n{}", &help[..begin], &help[end..]), @"
    exit 0
    --- stdout
    Train a model, or go on training one

    Usage: oxigpt train [OPTIONS] [RECIPE | FILE.toml]...

    Arguments:
      [RECIPE | FILE.toml]...  Built-in recipes or files of settings; later ones override earlier ones
                               [default: demo, or finetune with a MODEL]

    Options:
          --json          Print how the run ended, as one JSON object
          --from <MODEL>  The model to begin a new run with: short for --init_from=MODEL
      -h, --help          Print help
    [KEYS]

    Defaults are those of a file that does not set the key; `oxigpt recipes NAME` prints what a recipe
    sets.

    Examples:
      oxigpt train                                          the recipe demo: a small GPT tells stories
      oxigpt train shakespeare-char-cpu --max_iters=500     a recipe, but for this key
      oxigpt train ./mine.toml --dataset=data/mine          a file of your own
      oxigpt train --init_from=resume --out_dir=out/demo    go on with a run as if it had not stopped
      oxigpt train --from gpt2 --dataset=data/mine          a new run with the weights of a model
      oxigpt train --from gpt2 --lora_rank=16               the same, by low-rank adapters alone

    Ways to start:
      --init_from=scratch     random weights
      --init_from=resume      the run in out_dir goes on: weights, moments, step, place in the same data
      --init_from=MODEL       a new run, from step 0, with the weights of a model, on other data
      --from=MODEL            short for it; --init_from=finetune --from=MODEL is the same
      --init_from=layerwise:MODEL   the same; attention alone learns, layer by layer, from the model's
    The model brings its shape and its vocabulary; --dropout is free, --block_size can be lowered.

    A MODEL is one of, as its content shows:
      a run directory (its best checkpoint, or else its latest), or a checkpoint of one
      a Hugging Face GPT-2 directory
      nanoGPT's ckpt.pt, build-nanogpt's model_NNNNN.pt, llm.c's model .bin
      gpt2, gpt2-medium, gpt2-large, gpt2-xl, or OWNER/NAME on the Hugging Face hub
    --- stderr
    ");
}

#[test]
fn nothing_typed_is_answered_with_the_overview_and_code_2() {
    let place = Place::new();
    let output = place.output(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8(output.stderr).unwrap().contains("Usage: oxigpt <COMMAND>"));
}

#[test]
fn unknown_command() {
    assert_snapshot!(run(&["trian"]), @"
    exit 2
    --- stdout
    --- stderr
    error: unrecognized subcommand 'trian'

      tip: a similar subcommand exists: 'train'

    Usage: oxigpt <COMMAND>
    hint: add --help to see what can be written here
    ");
}

#[test]
fn completions_for_each_shell_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = Place::new().output(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("oxigpt") && script.contains("weight_decay"), "{shell}");
    }
}

#[test]
fn completions_for_an_unknown_shell() {
    assert_snapshot!(run(&["completions", "tcsh"]), @"
    exit 2
    --- stdout
    --- stderr
    error: invalid value 'tcsh' for '<SHELL>'
      [possible values: bash, elvish, fish, powershell, zsh]

      tip: a similar value exists: 'zsh'
    hint: add --help to see what can be written here
    ");
}

#[test]
fn eval() {
    assert_snapshot!(run(&["eval", "--help"]), @r#"
    exit 0
    --- stdout
    Measure a model: its loss on a data set, HellaSwag, LAMBADA, WikiText

    Usage: oxigpt eval [OPTIONS] [RECIPE | FILE.toml]...

    Arguments:
      [RECIPE | FILE.toml]...  Recipes or files of settings that say what the options do not: model,
                               data and batch

    Options:
          --from <MODEL>       The model to measure
          --data <DIR>         Data directory, or its name under data/; for a run, its own data where
                               neither this nor a task is given
          --split <val|train>  Which part of the data [default: val]
          --limit-windows <N>  The first N windows only
          --task <TASK>        A task with a published protocol, hellaswag, lambada or wikitext; may be
                               repeated
          --file <FILE>        The file of a task: the first is for the first task, and so on;
                               HellaSwag's is fetched where none is given
          --limit <N>          The first N items of each task only: questions, passages, or lines that
                               are not blank
          --definition <NAME>  One definition of HellaSwag alone, build-nanogpt or lm-eval, in half the
                               time of both
          --json               Print the numbers as one JSON object
      -h, --help               Print help

    Run:
          --device <TEXT>  where the run computes: cpu, cuda, cuda:N, or auto [default: "cpu"]
          --dtype <TEXT>   operands of matrix products: float32, bfloat16, auto; not to train, int8
                           [default: "float32"]
          --threads <N>    worker threads; 0 = one per core [default: 0]

    Data:
          --batch_size <N|auto>  windows at once; auto = as many as make sense [default: 12]
          --block_size <N>       tokens in a window [default: the model's]

    Model:
          --attn_type <TEXT>     how attention scores become weights: softmax, gaussian,
                                 gaussian-poly-N, pointwise-F [default: the model's]
          --attn_scale <TEXT>    what pointwise weights are divided by: block (block_size), position
                                 (keys seen), length (of the text) [default: the model's]
          --attn_clamp [<BOOL>]  whether weights of gaussian-poly-N are zero below its range, where they
                                 would grow again [default: the model's]

    A MODEL is one of, as its content shows:
      a run directory (its best checkpoint, or else its latest), or a checkpoint of one
      a Hugging Face GPT-2 directory
      nanoGPT's ckpt.pt, build-nanogpt's model_NNNNN.pt, llm.c's model .bin
      gpt2, gpt2-medium, gpt2-large, gpt2-xl, or OWNER/NAME on the Hugging Face hub

    Examples:
      oxigpt eval --from out/demo               on all validation tokens of the run
      oxigpt eval --from gpt2 --data data/mine --split train --json
      oxigpt eval --from gpt2 --task hellaswag  its published items, fetched once
      oxigpt eval --from gpt2 --task lambada --file lambada_test.jsonl
      oxigpt eval eval-gpt2                     model, data and batch of a recipe
    --- stderr
    "#);
}

#[test]
fn convert() {
    assert_snapshot!(run(&["convert", "--help"]), @r#"
    exit 0
    --- stdout
    Write a model in the format of another program

    Usage: oxigpt convert [OPTIONS] --to <hf|llmc> <MODEL> <DIR>

    Arguments:
      <MODEL>  The model to write
      <DIR>    What to make: a directory, or for llmc a file (in a directory, model.bin)

    Options:
          --to <hf|llmc>              A Hugging Face directory with its tokenizer, or llm.c's model file
          --dtype <float32|bfloat16>  Number format of the weights; bfloat16 for llmc alone [default:
                                      float32]
          --json                      Print what was written, as one JSON object
      -h, --help                      Print help

    A MODEL is one of, as its content shows:
      a run directory (its best checkpoint, or else its latest), or a checkpoint of one
      a Hugging Face GPT-2 directory
      nanoGPT's ckpt.pt, build-nanogpt's model_NNNNN.pt, llm.c's model .bin
      gpt2, gpt2-medium, gpt2-large, gpt2-xl, or OWNER/NAME on the Hugging Face hub

    Examples:
      oxigpt convert out/demo demo-hf --to hf   GPT2LMHeadModel.from_pretrained("demo-hf") loads it
      oxigpt convert gpt2 gpt2_124M_bf16.bin --to llmc --dtype bfloat16
    --- stderr
    "#);
}
