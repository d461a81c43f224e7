//! Checksums of a checkpoint's tensors, which find what a disk or a copy has damaged. They are CRC-32: no guard against
//! intent, and hardly longer in the making than reading the file.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use fs_err as fs;

use crate::error::Error;

/// Checksums in hexadecimal, by the names of files.
pub(crate) type Checksums = BTreeMap<String, String>;

/// Those of all files of tensors in a directory.
pub(crate) fn of_tensors(dir: &Path) -> Result<Checksums, Error> {
    let mut found = Checksums::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found.insert(name, of_file(&path)?);
        }
    }
    Ok(found)
}

/// That the files of a directory have these still.
pub(crate) fn check(dir: &Path, checksums: &Checksums) -> Result<(), Error> {
    for (name, was) in checksums {
        let path = dir.join(name);
        let now = of_file(&path)?;
        if now != *was {
            let reason = format!("its checksum is {now}, and was {was} when it was saved");
            return Err(Error::bad_checkpoint(&path, &reason));
        }
    }
    Ok(())
}

fn of_file(path: &Path) -> io::Result<String> {
    let (mut file, mut hash) = (fs::File::open(path)?, crc32fast::Hasher::new());
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("{:08x}", hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}
