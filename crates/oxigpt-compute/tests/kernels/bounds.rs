//! Every kernel on awkward shapes under an address sanitizer, and with its threads in two orders:
//! `tests/simulator/bounds.cpp`, compiled by the C++ compiler at hand (`CXX`, or `c++`). Without one the tests say that
//! they did nothing, and pass.

use std::path::Path;
use std::process::Command;

use crate::{attention_macros, source};

/// The kernels of a source, by name.
fn kernels(source: &str) -> impl Iterator<Item = &str> {
    source.split("extern \"C\" __global__ void").skip(1).map(|text| {
        let text = text.trim_start();
        let text = if text.starts_with("__launch_bounds__") { text.split_once(')').unwrap().1 } else { text };
        text.split_once('(').unwrap().0.trim()
    })
}

fn run(file: &str, macros: &str) {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    if Command::new(&compiler).arg("--version").output().is_err() {
        eprintln!("skipped: there is no C++ compiler `{compiler}`");
        return;
    }
    let simulator = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/simulator");
    let (stem, source) = (file.trim_end_matches(".cu"), source(file));
    let mut text = format!("#include \"machine.h\"\n{source}\n");
    kernels(&source).for_each(|kernel| text += &format!("KERNEL({kernel})\n"));
    text += "#include \"bounds.cpp\"\n";
    let name = format!("{stem}-{}", macros.replace([' ', '='], "-"));
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
    let written = program.with_extension("cpp");
    fs_err::write(&written, text).unwrap();
    let output = Command::new(&compiler)
        .args(["-std=c++17", "-O1", "-g", "-fno-strict-aliasing", "-Wno-unknown-pragmas"])
        .args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"])
        .arg(format!("-DFILE_{stem}"))
        .args(macros.split_whitespace().map(|macro_| format!("-D{macro_}")))
        .arg("-I")
        .arg(&simulator)
        .args([&written, &simulator.join("machine.cpp")])
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap();
    assert!(output.status.success(), "{name}:\n{}", String::from_utf8_lossy(&output.stderr));
    let output = Command::new(&program).output().unwrap();
    assert!(
        output.status.success(),
        "{name}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn kernels_stay_inside_their_tensors() {
    for file in ["classifier.cu", "elementwise.cu", "embed.cu", "few_rows.cu", "norm.cu", "update.cu"] {
        run(file, "ACT_BF16=1 WGT=1");
    }
    for file in ["classifier.cu", "few_rows.cu", "norm.cu"] {
        run(file, "ACT_BF16=0 WGT=0");
    }
    for file in ["embed.cu", "few_rows.cu"] {
        run(file, "ACT_BF16=0 WGT=2");
    }
}

#[test]
fn attention_stays_inside_its_tensors() {
    for (kind, head, flag) in [(0, 64, 0), (0, 80, 1), (1, 5, 1), (2, 24, 1)] {
        run("attention.cu", &format!("ACT_BF16=1 {}", attention_macros(kind, head, flag)));
    }
    for (kind, head, flag) in [(0, 33, 1), (2, 64, 0)] {
        run("attention_general.cu", &format!("ACT_BF16=0 {}", attention_macros(kind, head, flag)));
    }
    for (kind, head) in [(0, 64), (1, 17)] {
        run("decode.cu", &format!("ACT_BF16=1 {}", attention_macros(kind, head, 0)));
    }
}

#[test]
fn names_of_kernels_are_read() {
    let source = "extern \"C\" __global__ void __launch_bounds__(THREADS, 2)\nadd(float* out) {}\n\
                  extern \"C\" __global__ void\nscale(int n) {}";
    assert_eq!(kernels(source).collect::<Vec<_>>(), ["add", "scale"]);
}
