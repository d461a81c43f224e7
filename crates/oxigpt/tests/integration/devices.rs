//! What the machine can compute on, and the words for what it cannot.

use serde_json::Value;

use crate::support::Place;

/// Whether there is a GPU or not, every library is told of, and what is missing with its remedy.
#[test]
fn everything_is_told_of() {
    let place = Place::new();
    let found: Value = serde_json::from_str(&place.done(&["devices", "--json"])).unwrap();
    assert!(found["cpu"]["threads"].as_u64().unwrap() > 0);
    for library in ["driver", "nvrtc", "cublaslt", "cudnn"].map(|name| &found["libraries"][name]) {
        let is_there = library["path"].is_string() && library["version"].is_string();
        assert!(is_there || (library["error"].is_string() && library["hint"].is_string()), "{library}");
    }
    let table = place.done(&["devices"]);
    for word in ["cpu ", "NVIDIA driver", "NVRTC", "cuBLASLt", "cuDNN", "--device=cuda "] {
        assert!(table.contains(word), "{word}: {table}");
    }
    assert_eq!(found["cuda"] == true, table.contains("--device=cuda computes on the first GPU"), "{table}");
}

/// A GPU that is there and not used is told of, in a line, wherever `auto` is asked for; without a driver there is nothing to tell.
#[test]
fn auto_says_why_it_takes_the_cpu() {
    let place = Place::new();
    place.write("broken/libcuda.so.1", "no library");
    let found: Value = serde_json::from_str(&place.done(&["devices", "--json"])).unwrap();
    let said = |device: &str, broken: bool| {
        let mut command = place.command(&["plan", "--vocab_size=65", &format!("--device={device}")]);
        if broken {
            command.env("OXIGPT_CUDA_PATH", place.path().join("broken"));
        }
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    if found["libraries"]["driver"]["path"].is_string() {
        return;
    }
    assert_eq!(said("auto", false), "");
    assert_eq!(said("cpu", true), "");
    let said = said("auto", true);
    let start = "warning: device = \"auto\" takes the CPU: the NVIDIA driver library cannot be loaded: ";
    assert!(said.starts_with(start) && said.ends_with("; `oxigpt devices` says more\n"), "{said}");
    assert!(said.contains("broken/libcuda.so.1") && said.lines().count() == 1, "{said}");
}

/// A place that is named and not there is no silent reason for anything.
#[test]
fn misnamed_places_are_told() {
    let place = Place::new();
    let named = |args: &[&str]| {
        let mut command = place.command(args);
        let output = command.env("OXIGPT_CUDA_PATH", "/no/such/place").output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let told = "OXIGPT_CUDA_PATH names /no/such/place, which is no directory";
    assert!(named(&["devices"]).contains(&format!("\n{told}\n")), "{}", named(&["devices"]));
    let found: Value = serde_json::from_str(&named(&["devices", "--json"])).unwrap();
    assert_eq!(found["misnamed"], serde_json::json!([told]));
    if found["cuda"] == false && found["libraries"]["driver"]["error"].is_string() {
        let said = named(&["bench", "train", "--device=cuda", "--vocab_size=65"]);
        assert!(said.starts_with("error: no NVIDIA driver was found") && said.contains(told), "{said}");
    }
}
