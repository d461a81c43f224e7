//! A model speaks.

use insta::assert_snapshot;
use oxigpt_model::{AttentionKind, Gelu, Initial, ModelConfig, save_pretrained};
use oxigpt_text::Tokenizer;

use crate::support::Place;

const TEXT: &str = "\n abcdefgh";

/// A place with an untrained model of a few characters in `model`.
fn place_with_model() -> Place {
    let place = Place::new();
    let tokenizer = Tokenizer::chars_of(TEXT).unwrap();
    let config = ModelConfig {
        n_layer: 1,
        n_head: 2,
        n_embd: 16,
        block_size: 8,
        vocab_size: tokenizer.vocab_size(),
        bias: true,
        dropout: 0.0,
        gelu: Gelu::Tanh,
        attention: AttentionKind::Softmax,
    };
    let dir = place.path().join("model");
    fs_err::create_dir_all(&dir).unwrap();
    save_pretrained(&dir, &config, &Initial { config: &config, seed: 7 }).unwrap();
    for (name, content) in tokenizer.to_files() {
        fs_err::write(dir.join(name), content).unwrap();
    }
    place
}

/// What is said with the given options, without streams and codes.
fn said(place: &Place, args: &[&str]) -> String {
    let output =
        place.output(&[&["sample", "--from=model", "--start=abc", "--max-new-tokens=20"], args].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn text_is_continued_and_the_seed_decides() {
    let place = place_with_model();
    let text = said(&place, &["--seed=1"]);
    // Three characters, twenty new ones, and the end of the line.
    assert!(text.starts_with("abc") && text.len() == 24, "{text}");
    assert_eq!(text, said(&place, &["--seed=1", "--threads=1"]));
    assert_ne!(text, said(&place, &["--seed=2"]));
    assert_eq!(
        said(&place, &["--temperature=0", "--seed=1"]),
        said(&place, &["--temperature=0", "--seed=2"])
    );
}

#[test]
fn samples_are_ruled_off_and_each_has_a_seed_of_its_own() {
    let place = place_with_model();
    let both = said(&place, &["--seed=1", "--num_samples=2"]);
    let (one, two) = (said(&place, &["--seed=1"]), said(&place, &["--seed=2"]));
    assert_eq!(both, format!("{one}---------------\n{two}"));
}

/// More samples than lie side by side, some of them at a time.
#[test]
fn many_samples_are_those_alone() {
    let place = place_with_model();
    let many = said(&place, &["--seed=5", "--num_samples=35", "--top-k=3", "--dtype=int8"]);
    let texts: Vec<_> = many.split("---------------\n").collect();
    assert_eq!(texts.len(), 35);
    for index in [0, 1, 31, 32, 34] {
        let alone = said(&place, &[&format!("--seed={}", 5 + index), "--top-k=3", "--dtype=int8"]);
        assert_eq!(texts[index], alone, "sample {index}");
    }
}

/// Weights in fewer bits speak too, and take less memory.
#[test]
fn weights_in_every_storage() {
    let place = place_with_model();
    let memory = |dtype: &str| {
        let object: serde_json::Value = serde_json::from_str(&said(&place, &[dtype, "--json"])).unwrap();
        assert_eq!(object["samples"][0]["tokens"], 20, "{dtype}");
        object["memory_bytes"].as_u64().unwrap()
    };
    let of = ["--dtype=float32", "--dtype=bfloat16", "--dtype=int8"].map(memory);
    assert!(of[0] > of[1] && of[1] > of[2], "{of:?}");
    assert_eq!(said(&place, &[]), said(&place, &["--dtype=float32"]));
}

#[test]
fn json() {
    let place = place_with_model();
    let object: serde_json::Value = serde_json::from_str(&said(&place, &["--seed=1", "--json"])).unwrap();
    let sample = &object["samples"][0];
    assert_eq!(sample["start"], "abc");
    assert_eq!(format!("abc{}\n", sample["text"].as_str().unwrap()), said(&place, &["--seed=1"]));
    assert_eq!(object["tokens"], 20);
    assert!(object["tokens_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_start_may_be_a_file() {
    let place = place_with_model();
    place.write("start.txt", "abc");
    let from_file =
        place.output(&["sample", "--from=model", "--start=FILE:start.txt", "--max_new_tokens=20"]);
    assert_eq!(String::from_utf8(from_file.stdout).unwrap(), said(&place, &[]));
}

#[test]
fn a_run_directory_gives_its_best_checkpoint() {
    let place = place_with_model();
    let checkpoints = place.path().join("run/checkpoints");
    fs_err::create_dir_all(&checkpoints).unwrap();
    fs_err::rename(place.path().join("model"), checkpoints.join("step-00000010")).unwrap();
    place.write("run/latest", "step-00000020\n");
    place.write("run/best", "step-00000010\n");
    let output = place.output(&["sample", "--from=run", "--start=abc", "--max-new-tokens=1"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_reader_that_hangs_up_is_no_error() {
    let place = place_with_model();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = std::process::Command::new(assert_cmd::cargo::cargo_bin!("oxigpt"))
        .args(["sample", "--from=model"])
        .current_dir(place.path())
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

/// Nothing is said before there is something to say.
#[test]
fn a_model_that_gives_no_probabilities_says_nothing() {
    let place = place_with_model();
    let nothing_new = ["sample", "--from=model", "--start=abc", "--max-new-tokens=0"];
    assert_eq!(place.done(&nothing_new), "abc\n");
    let mut model = place.read("model/model.safetensors");
    let header = 8 + u64::from_le_bytes(*model.first_chunk().unwrap()) as usize;
    model[header..].chunks_exact_mut(4).for_each(|x| x.copy_from_slice(&f32::NAN.to_le_bytes()));
    place.write("model/model.safetensors", &model);
    assert_snapshot!(place.run(&["sample", "--from=model", "--start=abc"]), @"
    exit 1
    --- stdout
    --- stderr
    error: the logits after 3 tokens are not finite
    hint: the weights are damaged or training has diverged: use an earlier checkpoint
    ");
}

/// GPT-2's tokenizer does not stand in for one that is there.
#[test]
fn a_tokenizer_that_cannot_be_read() {
    let place = place_with_model();
    fs_err::remove_file(place.path().join("model/tokenizer.json")).unwrap();
    place.write("model/tokenizer.json/what", "a folder");
    let told = place.failed(&["sample", "--from=model"]);
    assert!(told.contains("model/tokenizer.json"), "{told}");
}

#[test]
fn what_cannot_be_sampled() {
    let place = place_with_model();
    place.write("empty/readme", "");
    place.write("latin1.txt", b"\xe9");
    let refused = |args: &[&str]| place.run(&[&["sample"], args].concat());
    assert_snapshot!(refused(&[]), @"
    exit 2
    --- stdout
    --- stderr
    error: the following required arguments were not provided:
      --from <MODEL>

    Usage: oxigpt sample --from <MODEL>
    hint: add --help to see what can be written here
    ");
    assert_snapshot!(refused(&["model"]), @"
    exit 2
    --- stdout
    --- stderr
    error: unexpected argument `model`
    hint: a model is named by --from=model, the text to continue by --start
    ");
    assert_snapshot!(refused(&["--from=empty"]), @"
    exit 1
    --- stdout
    --- stderr
    error: empty holds no model: it has neither config.json nor ckpt.pt
    hint: a model is a directory with config.json and model.safetensors, nanoGPT's ckpt.pt, or llm.c's .bin
    ");
    assert_snapshot!(refused(&["--from=model", "--start=Zoe"]), @"
    exit 1
    --- stdout
    --- stderr
    error: the character vocabulary (of 10) lacks 2 characters of the text: 'Z', 'o'
    hint: use only characters of the text that the vocabulary was made of, or prepare the data with the gpt2 tokenizer, which encodes any text
    ");
    assert_snapshot!(refused(&["--from=model", "--start="]), @"
    exit 2
    --- stdout
    --- stderr
    error: --start gives no text to continue
    hint: leave it out to begin with a line break, or give at least one character
    ");
    assert_snapshot!(refused(&["--from=model", "--num-samples=0"]), @"
    exit 2
    --- stdout
    --- stderr
    error: invalid value '0' for '--num-samples <N>': it must be a whole number, 1 or more
    hint: add --help to see what can be written here
    ");
    assert_snapshot!(refused(&["--from=model", "--start=FILE:none.txt"]), @"
    exit 1
    --- stdout
    --- stderr
    error: failed to open file `none.txt`: No such file or directory (os error 2)
    hint: check the path
    ");
    assert_snapshot!(refused(&["--from=model", "--start=FILE:latin1.txt"]), @"
    exit 1
    --- stdout
    --- stderr
    error: failed to read from file `latin1.txt`: stream did not contain valid UTF-8
    hint: the file must be text in UTF-8
    ");
    assert_snapshot!(refused(&["--from=model", "--dtype=int4"]), @"
    exit 2
    --- stdout
    --- stderr
    error: invalid value 'int4' for '--dtype <float32|bfloat16|int8>'
      [possible values: float32, bfloat16, int8]

      tip: a similar value exists: 'int8'
    hint: add --help to see what can be written here
    ");
    assert_snapshot!(refused(&["--from=model", "--temperature=-1"]), @"
    exit 2
    --- stdout
    --- stderr
    error: invalid value '-1' for '--temperature <X>': it must be a number, 0 or more, such as 0.8
    hint: add --help to see what can be written here
    ");
    place.write("model/model.safetensors", "short");
    assert_snapshot!(refused(&["--from=model"]), @"
    exit 1
    --- stdout
    --- stderr
    error: model/model.safetensors is no safetensors file: header too small
    hint: the file is damaged, cut short or of another format: fetch or save it again
    ");
}

/// nanoGPT rounds GPT-2's vocabulary up to 50304; what is beyond the tokenizer's words is never said.
#[test]
fn only_words_of_the_tokenizer_are_said() {
    let place = place_with_model();
    let wide = ModelConfig {
        n_layer: 1,
        n_head: 2,
        n_embd: 16,
        block_size: 8,
        vocab_size: 500,
        bias: true,
        dropout: 0.0,
        gelu: Gelu::Tanh,
        attention: AttentionKind::Softmax,
    };
    save_pretrained(place.path().join("model"), &wide, &Initial { config: &wide, seed: 7 }).unwrap();
    let text = said(&place, &["--temperature=1", "--top-k=0"]);
    assert!(text.trim_end_matches('\n').chars().all(|c| TEXT.contains(c)), "{text}");
}
