//! Data directories in all three layouts, and what is refused.

use std::path::Path;

use crate::common::{assert_error, headerless, llmc, npy16, put};
use fs_err as fs;
use oxigpt_data::{Dataset, PrepareOptions, Split, TokenizerKind, prepare_text, resolve};
use tempfile::{TempDir, tempdir};

fn tokens(dataset: &Dataset, split: Split) -> Vec<u32> {
    let mut out = vec![0; dataset.split(split).len() as usize];
    dataset.split(split).read(0, &mut out);
    out
}

/// A small dataset of ours.
fn prepared(tokenizer: TokenizerKind) -> TempDir {
    let dir = tempdir().unwrap();
    let input = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/shakespeare.txt");
    let options = PrepareOptions { tokenizer, shard_tokens: 3000, ..PrepareOptions::default() };
    prepare_text(&[input], dir.path(), &options, &mut |_| ()).unwrap();
    dir
}

fn edit(dir: &Path, from: &str, to: &str) {
    let path = dir.join("dataset.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn ours_knows_everything_about_itself() {
    let dir = prepared(TokenizerKind::Char);
    let dataset = Dataset::open(dir.path()).unwrap();
    let manifest = dataset.manifest().unwrap();
    assert_eq!((manifest.source.as_slice(), manifest.documents), (&["shakespeare.txt".to_string()][..], 1));
    assert_eq!(manifest.train.shards.len(), 4);
    assert_eq!((manifest.train.tokens, manifest.val.tokens), (10_800, 1200));
    assert_eq!(dataset.vocab_size(), Some(manifest.vocab_size));
    let tokenizer = dataset.tokenizer().unwrap().unwrap();
    assert_eq!((tokenizer.name(), tokenizer.vocab_size()), ("char", manifest.vocab_size));
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/shakespeare.txt"));
    let both = Split::BOTH.map(|split| tokenizer.decode(&tokens(&dataset, split))).concat();
    assert_eq!(both, text.unwrap());
    assert_eq!(dataset.bytes_per_token(Split::Val), Some(1.0));
    dataset.verify().unwrap();
    dataset.validate(manifest.vocab_size).unwrap();
    assert_error(dataset.validate(10), "is not in the vocabulary of 10", "vocab_size");

    let gpt2 = prepared(TokenizerKind::Gpt2);
    let dataset = Dataset::open(gpt2.path()).unwrap();
    assert_eq!(dataset.tokenizer().unwrap().unwrap().name(), "gpt2");
    assert_eq!(dataset.vocab_size(), Some(50_257));
    assert!(dataset.bytes_per_token(Split::Val).unwrap() > 2.0);
    assert!(!gpt2.path().join("tokenizer.json").exists());
}

#[test]
fn nanogpt_s_directory_is_read_as_it_is() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nanogpt");
    let dataset = Dataset::open(&dir).unwrap();
    assert_eq!((dataset.split(Split::Train).len(), dataset.split(Split::Val).len()), (289, 289));
    let expected: Vec<u32> = fs::read(dir.join("val.bin"))
        .unwrap()
        .chunks(2)
        .map(|pair| u32::from(pair[0]) + 256 * u32::from(pair[1]))
        .collect();
    assert_eq!(tokens(&dataset, Split::Val), expected);
    assert_eq!((dataset.vocab_size(), dataset.bytes_per_token(Split::Val)), (None, None));
    assert!(dataset.manifest().is_none() && dataset.tokenizer().unwrap().is_none());
    dataset.verify().unwrap();
}

#[test]
fn named_shards_are_read_in_the_order_of_their_names() {
    for (extension, make) in [("npy", npy16 as fn(&[u16]) -> Vec<u8>), ("bin", llmc)] {
        let dir = tempdir().unwrap();
        let name = |stem: &str| format!("edufineweb_{stem}.{extension}");
        // Not in the order in which a directory is likely to list them.
        for i in (0..30u16).map(|i| i * 7 % 30) {
            put(dir.path(), &[(&name(&format!("train_{i:06}")), make(&[i, 100 + i]))]);
        }
        put(dir.path(), &[(&name("val_000000"), make(&[1, 2]))]);
        put(dir.path(), &[("README.md", b"train and val".to_vec()), (".train.bin.tmp", vec![1])]);
        let dataset = Dataset::open(dir.path()).unwrap();
        let expected: Vec<u32> = (0..30).flat_map(|i| [i, 100 + i]).collect();
        assert_eq!(tokens(&dataset, Split::Train), expected);
        assert_eq!(tokens(&dataset, Split::Val), [1, 2]);
    }
}

#[test]
fn tokenizer_files_beside_headerless_shards_are_used() {
    let dir = prepared(TokenizerKind::Char);
    let vocab_size = Dataset::open(dir.path()).unwrap().vocab_size();
    for entry in fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".bin") || name == "dataset.json" {
            fs::remove_file(path).unwrap();
        }
    }
    put(dir.path(), &[("train.bin", headerless(&[1, 2, 3]))]);
    let dataset = Dataset::open(dir.path()).unwrap();
    assert_eq!(dataset.vocab_size(), vocab_size);
    assert_eq!(dataset.tokenizer().unwrap().unwrap().name(), "char");
    assert!(dataset.split(Split::Val).is_empty());
}

#[test]
fn the_hash_tells_data_apart_and_stays_when_they_move() {
    let hash_of = |train: &[u16], val: &[u16]| {
        let dir = tempdir().unwrap();
        put(dir.path(), &[("train.bin", headerless(train)), ("val.bin", headerless(val))]);
        let hash = Dataset::open(dir.path()).unwrap().hash();
        assert_eq!(hash.len(), 16);
        hash
    };
    let long: Vec<u16> = (0..5000).map(|i| i % 97).collect();
    let base = hash_of(&long, &[1, 2]);
    assert_eq!(base, hash_of(&long, &[1, 2]));
    let mut changed = long.clone();
    changed[4999] += 1;
    for (train, val) in
        [(&changed[..], &[1u16, 2][..]), (&long[..4999], &[1, 2]), (&long, &[2, 1]), (&long, &[1, 2, 3])]
    {
        assert_ne!(base, hash_of(train, val));
    }
    assert_ne!(hash_of(&[1, 2], &long), base);
    let [one, two] = [prepared(TokenizerKind::Char), prepared(TokenizerKind::Char)];
    let [one, two] = [one, two].map(|dir| Dataset::open(dir.path()).unwrap().hash());
    assert_eq!(one, two);
}

#[test]
fn directories_that_are_no_datasets_are_refused() {
    let dir = tempdir().unwrap();
    let root = dir.path();
    assert_error(Dataset::open(&root.join("none")), "there is no dataset at", "under data/");
    assert_error(Dataset::open(root), "there is no dataset at", "`oxigpt prepare` makes one");
    put(root, &[("train.txt", b"x".to_vec())]);
    assert_error(Dataset::open(root), "holds no dataset: neither dataset.json nor", "oxigpt prepare text");
    put(root, &[("train.bin", vec![0, 1, 2])]);
    assert_error(Dataset::open(&root.join("train.txt")), "is a file", "give the directory");
    assert_error(Dataset::open(root), "train.bin holds 2-byte tokens", "cut off");
    put(root, &[("train.bin", headerless(&[1])), ("val.npy", npy16(&[1]))]);
    assert_error(Dataset::open(root), "both .bin and .npy", "one kind of shard");
    fs::remove_file(root.join("val.npy")).unwrap();
    put(root, &[("train_val.bin", headerless(&[1]))]);
    assert_error(Dataset::open(root), "`train_val.bin` says both train and val", "either `train` or `val`");
    fs::create_dir(root.join(".partial")).unwrap();
    assert_error(Dataset::open(root), "preparation was interrupted or is still running", "command again");
    fs::rename(root.join(".partial"), root.join(".prepare.lock")).unwrap();
    assert_error(
        Dataset::open(root),
        "preparation was interrupted or is still running",
        "goes on where it stopped",
    );
}

#[test]
fn a_dataset_json_that_lies_is_refused() {
    let cases = [
        ("\"oxigpt-dataset\"", "\"other\"", "its format is `other`"),
        ("\"version\": 1", "\"version\": 2", "its version is 2, expected 1"),
        ("\"train_000000.bin\"", "\"../train_000000.bin\"", "not a plain file name"),
        ("\"tokens\": 10800", "\"tokens\": 10801", "train do not add up to its 10801 tokens"),
        ("\"train\"", "\"trian\"", "unknown field `trian`"),
        ("\"vocab_size\": ", "\"vocab_size\": -", "invalid value"),
        ("{", "{{", "line 1"),
    ];
    for (from, to, message) in cases {
        let dir = prepared(TokenizerKind::Char);
        edit(dir.path(), from, to);
        assert_error(Dataset::open(dir.path()), message, "prepare the dataset again");
    }
    let dir = prepared(TokenizerKind::Char);
    edit(dir.path(), "\"tokens\": 3000", "\"tokens\": 2999");
    edit(dir.path(), "\"tokens\": 1800", "\"tokens\": 1801");
    assert_error(Dataset::open(dir.path()), "train_000000.bin holds 3000 tokens, 2999 are listed", "again");
    fs::remove_file(dir.path().join("train_000000.bin")).unwrap();
    let message = "train_000000.bin, although dataset.json lists it";
    assert_error(Dataset::open(dir.path()), message, "copy it from where the dataset came from");
    fs::create_dir(dir.path().join("train_000000.bin")).unwrap();
    let message = "train_000000.bin is a directory, but a token shard is a file";
    assert_error(Dataset::open(dir.path()), message, "move it out");
}

#[test]
fn damage_is_found_by_the_checksum() {
    let dir = prepared(TokenizerKind::Char);
    let path = dir.path().join("val_000000.bin");
    let mut bytes = fs::read(&path).unwrap();
    bytes[1500] ^= 1;
    fs::write(&path, bytes).unwrap();
    let dataset = Dataset::open(dir.path()).unwrap();
    assert_error(dataset.verify(), "val_000000.bin is damaged: its SHA-256 is", "copy or prepare it again");
    let vocab_size = dataset.vocab_size().unwrap();
    assert_error(
        dataset.validate(vocab_size),
        "val_000000.bin is damaged: its SHA-256 is",
        "copy or prepare",
    );
    // It is the reason why a token is too large, so it is what is said.
    assert_error(dataset.validate(1), "val_000000.bin is damaged", "copy or prepare");
}

/// Every byte counts: the unused part of the header, and the last token of the last shard.
#[test]
fn validating_finds_damage_that_leaves_tokens_in_the_vocabulary() {
    for (name, from_end) in [("train_000000.bin", 6000 + 500), ("train_000003.bin", 2)] {
        let dir = prepared(TokenizerKind::Char);
        let path = dir.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() - from_end;
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        let dataset = Dataset::open(dir.path()).unwrap();
        assert_error(dataset.validate(256), &format!("{name} is damaged"), "copy or prepare it again");
    }
}

#[test]
fn a_tokenizer_that_is_missing_or_another_one_is_refused() {
    let dir = prepared(TokenizerKind::Char);
    edit(dir.path(), "\"hash\": \"", "\"hash\": \"0");
    let dataset = Dataset::open(dir.path()).unwrap();
    assert_error(dataset.tokenizer(), "made with tokenizer char (0", "put the tokenizer files");
    for entry in fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension != "bin") && !path.ends_with("dataset.json") {
            fs::remove_file(path).unwrap();
        }
    }
    assert_error(dataset.tokenizer(), "but its files are missing", "put the tokenizer files");
}

#[test]
fn a_dataset_is_a_path_or_a_name_under_data() {
    let dir = tempdir().unwrap();
    assert_eq!(resolve(dir.path().to_str().unwrap()), dir.path());
    assert_eq!(resolve("stories-that-are-not-here"), Path::new("data/stories-that-are-not-here"));
}

#[test]
fn a_tokenizer_that_cannot_be_read_is_not_absent() {
    let dir = prepared(TokenizerKind::Char);
    let path = dir.path().join("tokenizer.json");
    fs::write(&path, "{").unwrap();
    let named =
        format!("the tokenizer in {} cannot be read: tokenizer.json: not the JSON", dir.path().display());
    let dataset = Dataset::open(dir.path()).unwrap();
    assert_error(dataset.tokenizer(), &named, "this one is damaged");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_error(dataset.tokenizer(), &path.display().to_string(), "");
    let nanogpt = tempdir().unwrap();
    put(nanogpt.path(), &[("train.bin", headerless(&[1]))]);
    fs::create_dir(nanogpt.path().join("tokenizer.json")).unwrap();
    assert_error(Dataset::open(nanogpt.path()), "tokenizer.json", "");
}
