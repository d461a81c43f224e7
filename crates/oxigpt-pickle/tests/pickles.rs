//! Pickles of plain data, calls as data, and every way in which one is refused.

// Allowed in tests, and their helpers are no less so.
#![allow(clippy::unwrap_used)]

use oxigpt_pickle::{Error, MAX_BYTES, MAX_VALUES, Pickle, Value, read};
use proptest::prelude::*;

fn plain(bytes: &[u8]) -> Result<Pickle<'_>, Error> {
    read(bytes, |_, _| false)
}

fn error(bytes: &[u8]) -> Error {
    plain(bytes).unwrap_err()
}

/// Written by nanoGPT's `prepare.py` (Python's protocol 4).
#[test]
fn a_vocabulary_of_nano_gpt_is_read() {
    let bytes = include_bytes!("fixtures/meta.pkl");
    let pickle = plain(bytes).unwrap();
    let root = pickle.root();
    assert_eq!(root.get("vocab_size").and_then(Value::as_int), Some(65));
    let (stoi, itos) = (root.get("stoi").unwrap(), root.get("itos").unwrap());
    assert_eq!((stoi.entries().len(), itos.entries().len()), (65, 65));
    for (i, ((char, number), (key, value))) in stoi.entries().zip(itos.entries()).enumerate() {
        assert_eq!(number.as_int(), Some(i as i64));
        assert_eq!((char.as_str(), number.as_int()), (value.as_str(), key.as_int()));
    }
    assert_eq!(stoi.get("\n").and_then(Value::as_int), Some(0));
    assert_eq!(stoi.get("z").and_then(Value::as_int), Some(64));
}

/// `pickle.dumps` of one value of each kind, in protocols 2 and 5.
#[test]
fn every_kind_of_plain_data_is_read() {
    // {'n': None, 'b': [True, False], 'i': (0, 255, 65535, -2, 2**31, -2**63, 0), 'f': 1.5, 'y': b'\xff', 'u': 'é'}
    let two: &[u8] = b"\x80\x02}q\x00(X\x01\x00\x00\x00nq\x01NX\x01\x00\x00\x00bq\x02]q\x03(\x88\x89eX\x01\x00\x00\x00iq\
        \x04(K\x00K\xffM\xff\xffJ\xfe\xff\xff\xff\x8a\x05\x00\x00\x00\x80\x00\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80\
        \x8a\x00tq\x05X\x01\x00\x00\x00fq\x06G?\xf8\x00\x00\x00\x00\x00\x00X\x01\x00\x00\x00yq\x07C\x01\xffX\x01\x00\
        \x00\x00uq\x08X\x02\x00\x00\x00\xc3\xa9q\x09u.";
    let five: &[u8] = b"\x80\x05\x95\x00\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01n\x94N\x8c\x01b\x94]\x94(\x88\x89e\x8c\
        \x01i\x94(K\x00K\xffM\xff\xffJ\xfe\xff\xff\xff\x8a\x05\x00\x00\x00\x80\x00\x8b\x08\x00\x00\x00\x00\x00\x00\x00\
        \x00\x00\x00\x80\x8a\x00t\x94\x8c\x01f\x94G?\xf8\x00\x00\x00\x00\x00\x00\x8c\x01y\x94B\x01\x00\x00\x00\xff\x8c\
        \x01u\x94\x8d\x02\x00\x00\x00\x00\x00\x00\x00\xc3\xa9u.";
    for bytes in [two, five] {
        let pickle = plain(bytes).unwrap();
        let get = |key| pickle.root().get(key).unwrap();
        assert!(get("n").is_none());
        assert_eq!(get("b").items().map(Value::as_bool).collect::<Vec<_>>(), [Some(true), Some(false)]);
        let numbers: Vec<i64> = get("i").items().filter_map(Value::as_int).collect();
        assert_eq!(numbers, [0, 255, 65535, -2, 1 << 31, i64::MIN, 0]);
        assert_eq!((get("f").as_float(), get("y").as_bytes()), (Some(1.5), Some(&b"\xff"[..])));
        assert_eq!(get("u").as_str(), Some("é"));
        let kinds: Vec<_> = pickle.root().entries().map(|(_, value)| value.kind()).collect();
        assert_eq!(kinds, ["None", "list", "tuple", "float", "bytes", "str"]);
    }
}

#[test]
fn small_containers_have_opcodes_of_their_own() {
    // ((1,), (1, 2), (1, 2, 3), (), [1], {1: 2}) with APPEND and SETITEM; its list and dict twice, from the memo.
    let bytes = b"\x80\x02(K\x01\x85K\x01K\x02\x86K\x01K\x02K\x03\x87)]q\x07K\x01a}r\x08\x00\x00\x00K\x01K\x02sh\x07j\x08\x00\x00\x00t.";
    let pickle = plain(bytes).unwrap();
    let items: Vec<Value> = pickle.root().items().collect();
    assert_eq!(items.iter().map(|item| item.items().len()).collect::<Vec<_>>(), [1, 2, 3, 0, 1, 0, 1, 0]);
    assert_eq!(items.iter().map(|item| item.entries().len()).collect::<Vec<_>>(), [0, 0, 0, 0, 0, 1, 0, 1]);
    assert_eq!(format!("{:?}", items[5]), "Value(dict)");
}

#[test]
fn a_key_that_comes_twice_has_its_last_value() {
    let pickle = plain(b"\x80\x04}(\x8c\x01aK\x01\x8c\x01aK\x02u.").unwrap();
    assert_eq!(pickle.root().get("a").and_then(Value::as_int), Some(2));
    assert!(pickle.root().get("b").is_none());
}

/// What is asked of a value of another kind is not there; a `bool` is no number.
#[test]
fn questions_that_do_not_fit_have_no_answer() {
    let pickle = plain(b"\x80\x02\x88.").unwrap();
    let root = pickle.root();
    assert!(root.as_int().is_none() && root.as_float().is_none() && root.as_str().is_none());
    assert!(root.as_bytes().is_none() && root.as_object().is_none() && root.as_persistent_id().is_none());
    assert!(root.get("a").is_none() && root.as_global().is_none() && !root.is_none());
    assert_eq!((root.items().len(), root.entries().len()), (0, 0));
    assert_eq!(plain(b"\x80\x02K\x07.").unwrap().root().as_float(), Some(7.0));
}

/// Calls of what is admitted become data; an `OrderedDict` is a dict, its attributes are left out.
#[test]
fn calls_are_kept_as_data() {
    let bytes = b"\x80\x02c__main__\nGPTConfig\n)\x81}X\x01\x00\x00\x00nK\x0csb.";
    let pickle = read(bytes, |module, name| (module, name) == ("__main__", "GPTConfig")).unwrap();
    let object = pickle.root().as_object().unwrap();
    assert_eq!((object.module, object.name, object.args.items().len()), ("__main__", "GPTConfig", 0));
    assert_eq!(object.state.and_then(|state| state.get("n")).and_then(Value::as_int), Some(12));

    let bytes = b"\x80\x04\x8c\x01m\x8c\x01f\x93K\x01\x85R.";
    let pickle = read(bytes, |module, name| (module, name) == ("m", "f")).unwrap();
    let object = pickle.root().as_object().unwrap();
    assert_eq!(object.args.items().next().and_then(Value::as_int), Some(1));
    assert!(object.state.is_none());

    let bytes = b"\x80\x02ccollections\nOrderedDict\n)RX\x01\x00\x00\x00aK\x01s}X\x01\x00\x00\x00bK\x02sb.";
    let pickle = plain(bytes).unwrap();
    assert_eq!(pickle.root().entries().len(), 1);
    assert_eq!(pickle.root().get("a").and_then(Value::as_int), Some(1));

    let pickle = plain(b"\x80\x02X\x01\x00\x00\x00sK\x05\x86Q.").unwrap();
    let id = pickle.root().as_persistent_id().unwrap();
    assert_eq!(id.items().next().and_then(Value::as_str), Some("s"));
}

/// `os.system("ls")` in the ways in which pickles put it.
#[test]
fn what_would_run_code_is_refused_by_name() {
    let cases: [(&[u8], &str); 5] = [
        (
            b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.",
            "the pickle asks for `os.system`, which is not plain data",
        ),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.", "`os.system`"),
        (b"\x80\x02cbuiltins\neval\n.", "`builtins.eval`"),
        (b"cos\nsystem\n(S'ls'\ntR.", "`os.system`"),
        (b"(S'ls'\nios\nsystem\n.", "byte 1 of the pickle is opcode 0x53, which is not one of plain data"),
    ];
    for (bytes, message) in cases {
        let error = error(bytes);
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.hint().unwrap().contains("take care with this file"));
    }
    // A name as long as the file is not repeated in full.
    let long = [b"\x80\x02c", "m".repeat(10_000).as_bytes(), b"\nf\n."].concat();
    assert!(error(&long).to_string().len() < 200);
}

#[test]
fn damage_is_told_with_its_place() {
    let cases: [(&[u8], &str); 21] = [
        (b"", "damaged at byte 0: it ends early"),
        (b"\x80\x02", "byte 2: it ends early"),
        (b"\x80\x01.", "byte 0: only protocols 2 to 5 are known"),
        (b"\x80\x06.", "only protocols 2 to 5"),
        (b"\x80\x02.", "byte 2: the stack is empty"),
        (b"\x80\x02NN.", "byte 4: values are left over"),
        (b"\x80\x02(N.", "values are left over"),
        (b"\x80\x02X\xff\xff\xff\xffab", "byte 2: it ends early"),
        (b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xffab", "it ends early"),
        (b"\x80\x02X\x01\x00\x00\x00\xff.", "a string is not UTF-8"),
        (b"\x80\x02\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01.", "an integer has more than 64 bits"),
        (b"\x80\x02t.", "a mark is missing"),
        (b"\x80\x02N\x86.", "the stack is too short"),
        (b"\x80\x02N(\x85.", "the stack is too short"),
        (b"\x80\x02NNa.", "elements are appended to what is no list"),
        (b"\x80\x02NNNs.", "keys are set in what is no dict"),
        (b"\x80\x02}(Nu.", "a key has no value"),
        (b"\x80\x02h\x00.", "it recalls what it never remembered"),
        (b"\x80\x02NN\x93.", "a name is no string"),
        (b"\x80\x02N)R.", "it calls what cannot be called"),
        (b"\x80\x02NNb.", "attributes are set on what is no object"),
    ];
    for (bytes, message) in cases {
        let error = error(bytes);
        assert!(error.to_string().contains(message), "{error} instead of {message}");
        assert!(error.hint().unwrap().contains("damaged"));
    }
}

/// Values that are shared, nested or hold themselves cost what their bytes cost.
#[test]
fn bombs_do_not_go_off() {
    // x = [x]
    let pickle = plain(b"\x80\x02]q\x00h\x00a.").unwrap();
    assert_eq!(pickle.root().items().next().unwrap().kind(), "list");
    // Ten thousand tuples around each other, and thirty that hold the one before twice.
    let nested = [b"\x80\x02)".to_vec(), vec![0x85; 10_000], b".".to_vec()].concat();
    assert_eq!(plain(&nested).unwrap().root().items().len(), 1);
    let doubled = [b"\x80\x02)".to_vec(), b"q\x00h\x00\x86".repeat(30), b".".to_vec()].concat();
    assert_eq!(plain(&doubled).unwrap().root().items().len(), 2);

    let error = error(&vec![b'N'; MAX_BYTES + 1]);
    assert_eq!(error.to_string(), format!("the pickle has more than {MAX_BYTES} bytes"));
    assert!(error.hint().unwrap().contains("no checkpoint"));
    for flood in [b'N', b'}', b'('] {
        let error = plain(&vec![flood; MAX_VALUES + 1]).unwrap_err();
        assert_eq!(error.to_string(), format!("the pickle has more than {MAX_VALUES} values"));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(pickle) = read(&bytes, |_, _| true) {
            let _ = pickle.root().kind();
        }
    }

    /// Changing or cutting a good pickle gives a pickle or an error.
    #[test]
    fn damage_is_survived(at in 0usize..703, byte: u8, len in 0usize..=703) {
        let mut bytes = include_bytes!("fixtures/meta.pkl").to_vec();
        bytes[at] = byte;
        if let Ok(pickle) = read(&bytes[..len], |_, _| true) {
            let entries = pickle.root().get("stoi").map(|stoi| stoi.entries().count());
            prop_assert!(entries.unwrap_or(0) <= 703);
        }
    }
}
