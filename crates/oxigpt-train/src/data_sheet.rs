//! GPUs by their makers' data sheets: what a plan takes of one that is not here.

use oxigpt_compute::Precision;

/// A GPU on paper: the most that it can do, of dense matrices.
#[derive(Debug, PartialEq)]
pub struct DataSheet {
    /// What a user calls it.
    pub name: &'static str,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Floating-point operations a second in products of bfloat16, TF32 and float32.
    flops: [f64; 3],
    /// Bytes of memory a second.
    pub bytes_per_s: f64,
}

/// Every GPU that can be named; the first is planned for where none is.
pub static DATA_SHEETS: [DataSheet; 9] = [
    sheet("h100", 80, [989.0, 495.0, 67.0], 3350),
    sheet("h200", 141, [989.0, 495.0, 67.0], 4800),
    sheet("b200", 180, [2250.0, 1125.0, 75.0], 7700),
    sheet("a100-40gb", 40, [312.0, 156.0, 19.5], 1555),
    sheet("a100-80gb", 80, [312.0, 156.0, 19.5], 2039),
    sheet("l4", 24, [121.0, 60.0, 30.3], 300),
    sheet("l40s", 48, [362.0, 183.0, 91.6], 864),
    sheet("rtx-3090", 24, [71.0, 35.6, 35.6], 936),
    sheet("rtx-4090", 24, [165.2, 82.6, 82.6], 1008),
];

/// Memory in GB, products in TFLOP/s, memory a second in GB.
const fn sheet(name: &'static str, memory: u64, [bf16, tf32, f32]: [f64; 3], bandwidth: u64) -> DataSheet {
    let flops = [1e12 * bf16, 1e12 * tf32, 1e12 * f32];
    DataSheet { name, memory_bytes: memory * 1_000_000_000, flops, bytes_per_s: 1e9 * bandwidth as f64 }
}

impl DataSheet {
    /// That of a name.
    pub fn of(name: &str) -> Option<&'static DataSheet> {
        DATA_SHEETS.iter().find(|sheet| sheet.name == name)
    }

    /// Floating-point operations a second in products of a precision.
    pub fn flops(&self, precision: Precision, tf32: bool) -> f64 {
        self.flops[match (precision, tf32) {
            (Precision::Bfloat16, _) => 0,
            (Precision::Float32, true) => 1,
            (Precision::Float32, false) => 2,
        }]
    }
}
