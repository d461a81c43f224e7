//! The header of a NumPy `.npy` file, versions 1 to 3, as far as a flat array of unsigned integers needs it: magic,
//! version, the header's length, then a Python dictionary literal with `descr`, `fortran_order` and `shape`.

use crate::shard::TokenWidth;

/// The bytes every `.npy` file starts with.
pub(crate) const MAGIC: &[u8] = b"\x93NUMPY";

/// What the header says about the array behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NpyHeader {
    /// Bytes before the first element.
    pub(crate) data_offset: u64,
    pub(crate) width: TokenWidth,
    pub(crate) len: u64,
}

/// Reads the header at the start of `bytes`, or says what is wrong with it.
pub(crate) fn parse(bytes: &[u8]) -> Result<NpyHeader, String> {
    const CUT: &str = "the file ends within its header";
    let rest = bytes.strip_prefix(MAGIC).ok_or("it does not start with NumPy's magic bytes")?;
    let (&[major, _minor], rest) = rest.split_first_chunk::<2>().ok_or(CUT)?;
    let (header_len, rest) = match major {
        1 => rest.split_first_chunk().map(|(len, rest)| (u32::from(u16::from_le_bytes(*len)), rest)),
        2 | 3 => rest.split_first_chunk().map(|(len, rest)| (u32::from_le_bytes(*len), rest)),
        other => return Err(format!("format version {other} is not known")),
    }
    .ok_or(CUT)?;
    let header = rest.get(..header_len as usize).ok_or(CUT)?;
    let header = std::str::from_utf8(header).map_err(|_| "the header is not text")?;

    let width = match quoted(value_of(header, "descr")?)? {
        "<u2" => TokenWidth::U16,
        "<u4" => TokenWidth::U32,
        other => return Err(format!("its type is {other}, expected <u2 or <u4")),
    };
    if !value_of(header, "fortran_order")?.starts_with("False") {
        return Err("it is in Fortran order".into());
    }
    let len = flat_length(value_of(header, "shape")?)?;
    let data_offset = (bytes.len() - rest.len()) as u64 + u64::from(header_len);
    Ok(NpyHeader { data_offset, width, len })
}

/// The text behind `'key':`, without leading blanks.
fn value_of<'a>(header: &'a str, key: &str) -> Result<&'a str, String> {
    let missing = || format!("its header has no `{key}`");
    let after = [format!("'{key}'"), format!("\"{key}\"")]
        .iter()
        .find_map(|name| header.split_once(name.as_str()))
        .ok_or_else(missing)?
        .1;
    Ok(after.trim_start().strip_prefix(':').ok_or_else(missing)?.trim_start())
}

fn quoted(value: &str) -> Result<&str, String> {
    let mut parts = value.split(['\'', '"']);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(""), Some(inner), Some(_)) => Ok(inner),
        _ => Err("its type is not a plain one".into()),
    }
}

/// The N of a shape `(N,)`.
fn flat_length(value: &str) -> Result<u64, String> {
    let shape = value.strip_prefix('(').and_then(|rest| rest.split_once(')')).map(|(shape, _)| shape);
    let shape = shape.ok_or("its shape is not a tuple")?;
    let flat = shape.strip_suffix(',').map(str::trim).filter(|n| !n.contains(','));
    let n = flat.ok_or_else(|| format!("its shape is ({shape}), expected one dimension"))?;
    n.parse().map_err(|_| format!("its shape is ({shape}), expected one dimension"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_header(major: u8, dictionary: &str) -> Vec<u8> {
        let mut bytes = [MAGIC, &[major, 0]].concat();
        match major {
            1 => bytes.extend((dictionary.len() as u16).to_le_bytes()),
            _ => bytes.extend((dictionary.len() as u32).to_le_bytes()),
        }
        bytes.extend(dictionary.as_bytes());
        bytes
    }

    #[test]
    fn what_numpy_writes_is_understood() {
        let header = "{'descr': '<u2', 'fortran_order': False, 'shape': (100,), }        \n";
        let expected = NpyHeader { data_offset: 10 + header.len() as u64, width: TokenWidth::U16, len: 100 };
        assert_eq!(parse(&with_header(1, header)), Ok(expected));
        let expected = NpyHeader { data_offset: 12 + header.len() as u64, width: TokenWidth::U32, len: 100 };
        assert_eq!(parse(&with_header(2, &header.replace("u2", "u4"))), Ok(expected));
    }

    #[test]
    fn everything_else_is_refused_with_the_reason() {
        let good = "{'descr': '<u2', 'fortran_order': False, 'shape': (100,), }";
        let cases = [
            (good.replace("<u2", "<i8"), "its type is <i8"),
            (good.replace("<u2", ">u2"), "its type is >u2"),
            (good.replace("'<u2'", "[('a', '<u2')]"), "not a plain one"),
            (good.replace("False", "True"), "Fortran order"),
            (good.replace("(100,)", "(10, 10)"), "its shape is (10, 10)"),
            (good.replace("(100,)", "(10, 10,)"), "its shape is (10, 10,)"),
            (good.replace("(100,)", "()"), "its shape is ()"),
            (good.replace("(100,)", "(-3,)"), "its shape is (-3,)"),
            (good.replace("(100,)", "(99999999999999999999999,)"), "its shape is (9999"),
            (good.replace("(100,)", "100"), "its shape is not a tuple"),
            (good.replace("shape", "shap"), "no `shape`"),
            (good.replace("'descr':", "'descr'"), "no `descr`"),
        ];
        for (header, expected) in cases {
            let problem = parse(&with_header(1, &header)).unwrap_err();
            assert!(problem.contains(expected), "{header}: {problem}");
        }
        assert!(parse(&with_header(9, good)).unwrap_err().contains("version 9"));
        let whole = with_header(1, good);
        for len in 0..whole.len() {
            parse(&whole[..len]).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(major in 0u8..4, header in "[ '\"(),:{}a-z0-9<>\\[\\]]{0,60}", tail: Vec<u8>) {
            let _ = parse(&[with_header(major, &header), tail.clone()].concat());
            let _ = parse(&[MAGIC, &tail].concat());
            let with_keys = format!("{{'descr':{header}, 'fortran_order':{header}, 'shape':{header}");
            let _ = parse(&with_header(1, &with_keys));
        }
    }
}
