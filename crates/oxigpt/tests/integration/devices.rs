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
