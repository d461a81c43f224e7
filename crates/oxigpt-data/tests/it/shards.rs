//! Shards in every layout: read as they were written, and refused with a reason when they are not what they claim.

use crate::common::{assert_error, headerless, llmc, llmc_wide, npy, npy16, put};
use fs_err as fs;
use oxigpt_data::{Shard, TokenWidth, Tokens, write_shard};
use proptest::prelude::*;
use tempfile::{TempDir, tempdir};

fn open(dir: &TempDir, name: &str, bytes: Vec<u8>) -> oxigpt_data::Result<Shard> {
    put(dir.path(), &[(name, bytes)]);
    Shard::open(&dir.path().join(name))
}

fn all(shard: &Shard) -> Vec<u32> {
    let mut tokens = vec![0; shard.len() as usize];
    shard.read(0, &mut tokens);
    tokens
}

#[test]
fn every_layout_gives_its_tokens() {
    let dir = tempdir().unwrap();
    let tokens = [7u16, 0, 65_535, 300];
    let wide = [1u32, 70_000, u32::MAX, 0];
    let wide_bytes: Vec<u8> = wide.iter().flat_map(|token| token.to_le_bytes()).collect();
    let cases = [
        ("a.bin", llmc(&tokens), tokens.map(u32::from)),
        ("train.bin", headerless(&tokens), tokens.map(u32::from)),
        ("b.npy", npy16(&tokens), tokens.map(u32::from)),
        ("c.bin", llmc_wide(&wide), wide),
        ("d.npy", npy("<u4", "(4,)", &wide_bytes), wide),
    ];
    for (name, bytes, expected) in cases {
        let shard = open(&dir, name, bytes).unwrap();
        assert_eq!(all(&shard), expected, "{name}");
        let mut middle = [0; 2];
        shard.read(1, &mut middle);
        assert_eq!(middle, expected[1..3], "{name}");
    }
}

/// A header that is a number of bytes which is odd makes the tokens unaligned.
#[test]
fn unaligned_tokens_are_read() {
    let dir = tempdir().unwrap();
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    let header = "{'descr': '<u2', 'fortran_order': False, 'shape': (2,)}  ";
    assert_eq!(header.len() % 2, 1);
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(headerless(&[513, 1027]));
    assert_eq!(all(&open(&dir, "x.npy", bytes).unwrap()), [513, 1027]);
}

#[test]
fn what_is_written_is_llm_c_s_layout_and_is_read_back() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("train_000000.bin");
    let info = write_shard(&path, &[5, 6, 50_256], TokenWidth::U16).unwrap();
    assert_eq!(fs::read(&path).unwrap(), llmc(&[5, 6, 50_256]));
    assert_eq!((info.file.as_str(), info.tokens), ("train_000000.bin", 3));
    let shard = Shard::open(&path).unwrap();
    assert_eq!(info.sha256, shard.sha256());
    // Over it again, wider: nothing of the old file stays, and no temporary one.
    write_shard(&path, &[5, 100_000], TokenWidth::U32).unwrap();
    assert_eq!(fs::read(&path).unwrap(), llmc_wide(&[5, 100_000]));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_error(write_shard(&path, &[1, 65_536], TokenWidth::U16), "does not fit into two bytes", "");
    assert_eq!(fs::read(&path).unwrap(), llmc_wide(&[5, 100_000]));
    assert_eq!(all(&shard), [5, 6, 50_256], "who has the old file open still sees the old file");
}

#[test]
fn the_checksum_is_sha_256() {
    let dir = tempdir().unwrap();
    let shard = open(&dir, "train.bin", b"ab".to_vec()).unwrap();
    assert_eq!(shard.sha256(), "fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603");
}

#[test]
fn widths_follow_the_vocabulary() {
    assert_eq!([50_257, 65_536, 65_537].map(TokenWidth::for_vocab).map(TokenWidth::bytes), [2, 2, 4]);
}

#[test]
fn bad_files_are_refused() {
    let dir = tempdir().unwrap();
    let good = llmc(&[1, 2, 3]);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let again = "copy or prepare it again";
    let cases: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        ("a.bin", vec![], "a.bin holds no tokens", again),
        ("a.bin", b"Once upon a time".to_vec(), "a.bin is not a token shard", "named train.bin or val.bin"),
        ("a.bin", b"?".to_vec(), "a.bin is not a token shard", "prepare text"),
        ("a.bin", with(4, 2), "shard version 2, expected 1", "of this version"),
        ("a.bin", with(8, 4), "is 1030 bytes long, but its header promises 1032", again),
        ("a.bin", with(11, 0x80), "its header promises 42949", again),
        ("a.bin", good[..1029].to_vec(), "is 1029 bytes long, but its header promises 1030", again),
        ("a.bin", good[..100].to_vec(), "is 100 bytes long, but its header promises 1024", again),
        ("a.bin", llmc(&[]), "holds no tokens", again),
        ("train.bin", vec![1, 2, 3], "its length of 3 bytes is odd", again),
        ("a.npy", b"junk".to_vec(), "not a usable NumPy shard", "dtype=np.uint16"),
        ("a.npy", npy("<i8", "(1,)", &[0; 8]), "its type is <i8", "dtype=np.uint16"),
        ("a.npy", npy("<u2", "(2, 2)", &[0; 8]), "one dimension", "flat array"),
        ("a.npy", npy("<u2", "(5,)", &[0; 8]), "but its header promises 138", again),
        ("a.npy", npy("<u2", "(18446744073709551615,)", &[0; 8]), "but its header promises", again),
        ("a.npy", npy("<u2", "(0,)", &[]), "holds no tokens", again),
    ];
    for (name, bytes, message, hint) in cases {
        assert_error(open(&dir, name, bytes), message, hint);
    }
    assert_error(Shard::open(&dir.path().join("none.bin")), "none.bin", "check the path");
    assert_error(Shard::open(dir.path()), "is a directory, but a token shard is a file", "move it out");
    #[cfg(unix)]
    assert_error(Shard::open("/dev/zero".as_ref()), "/dev/zero is not a regular file", "move it out");
}

#[test]
fn a_token_outside_the_vocabulary_is_found_wherever_it_is() {
    let dir = tempdir().unwrap();
    let mut tokens = vec![64u16; 200_000];
    let shard = open(&dir, "train.bin", headerless(&tokens)).unwrap();
    shard.validate(65).unwrap();
    assert_error(shard.validate(64), "token 64 at position 0 is not in the vocabulary of 64", "vocab_size");
    for position in [0, 65_535, 65_536, 199_999] {
        tokens.fill(64);
        tokens[position] = 65;
        let message = format!("token 65 at position {position} is not in the vocabulary of 65");
        let shard = open(&dir, "other.npy", npy16(&tokens)).unwrap();
        assert_error(shard.validate(65), &message, "another tokenizer");
        shard.validate(66).unwrap();
    }
    let shard = open(&dir, "wide.bin", llmc_wide(&[1, 100_000])).unwrap();
    shard.validate(100_001).unwrap();
    assert_error(shard.validate(100_000), "token 100000 at position 1", "vocab_size");
    let shard = open(&dir, "val.bin", headerless(&[65_535])).unwrap();
    shard.validate(65_536).unwrap();
    assert_error(shard.validate(65_535), "token 65535", "vocab_size");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_stream_over_shards_reads_like_one_array(
        lengths in prop::collection::vec(1usize..40, 1..6), start in 0usize..200, count in 0usize..200,
    ) {
        let dir = tempdir().unwrap();
        let total: usize = lengths.iter().sum();
        let mut next = 0u16;
        let mut shards = Vec::new();
        for (index, &length) in lengths.iter().enumerate() {
            let tokens: Vec<u16> = (next..next + length as u16).collect();
            next += length as u16;
            let (name, bytes) =
                if index % 2 == 0 { (format!("{index}.bin"), llmc(&tokens)) } else { (format!("{index}.npy"), npy16(&tokens)) };
            shards.push(open(&dir, &name, bytes).unwrap());
        }
        let stream = Tokens::new("test", shards);
        prop_assert_eq!(stream.len(), total as u64);
        let start = start % (total + 1);
        let mut out = vec![0; count % (total - start + 1)];
        stream.read(start as u64, &mut out);
        prop_assert_eq!(out, (start as u32..).take(count % (total - start + 1)).collect::<Vec<_>>());
    }

    #[test]
    fn cut_off_and_garbled_files_never_panic(
        cut in 0usize..1300, flips in prop::collection::vec((0usize..1300, any::<u8>()), 0..6), which in 0usize..4,
    ) {
        let dir = tempdir().unwrap();
        let tokens: Vec<u16> = (0..120).collect();
        let (name, mut bytes) = match which {
            0 => ("x.bin", llmc(&tokens)),
            1 => ("train.bin", headerless(&tokens)),
            2 => ("x.npy", npy16(&tokens)),
            _ => ("x.bin", llmc_wide(&[9; 60])),
        };
        let whole = bytes.len();
        bytes.truncate(cut);
        flips.iter().for_each(|&(at, byte)| if let Some(slot) = bytes.get_mut(at) { *slot = byte });
        let cut_off = bytes.len() < whole;
        match open(&dir, name, bytes) {
            Ok(shard) => {
                all(&shard);
                let _ = shard.validate(100);
                prop_assert!(which == 1 || !flips.is_empty() || !cut_off, "a cut-off file was taken for whole");
            }
            Err(error) => prop_assert!(error.hint().is_some()),
        }
    }
}
