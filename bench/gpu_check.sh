#!/usr/bin/env bash
# Everything to be seen on a machine with a GPU, in one report: what is there, conformance of every operator, golden values,
# compute-sanitizer, and the speed of a training step beside PyTorch's in the same run.
#
#   bench/gpu_check.sh OXIGPT CONFORMANCE GOLDEN [REPORT]
#
# OXIGPT is the binary (cargo build --release); CONFORMANCE and GOLDEN are test binaries, built anywhere with
# `cargo test --release --no-run -p oxigpt-compute -p oxigpt-model`, which prints where they are (tests/conformance/main.rs
# and tests/it/main.rs). Beside these it needs this checkout, python3 with torch, for the comparison, and compute-sanitizer,
# which is left out where it is not installed.
set -uo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
fi
oxigpt=$(realpath "$1") conformance=$(realpath "$2") golden=$(realpath "$3")
report=$(realpath -m "${4:-gpu_report.txt}")
here=$(cd "$(dirname "$0")" && pwd)
export OXIGPT_TEST_DEVICE=cuda OXIGPT_FIXTURES=$here/../crates/oxigpt-model/tests/fixtures
failures=0
: >"$report"

# A step of the check: its output goes to the report, how it ended to both.
step() {
    local name=$1 began=$SECONDS status=0
    shift
    printf '\n== %s ==\n$ %s\n' "$name" "$*" >>"$report"
    timeout "${STEP_SECONDS:-600}" "$@" >>"$report" 2>&1 || status=$?
    [ $status -eq 0 ] || failures=$((failures + 1))
    printf '%s: %s (%d s)\n' "$name" "$([ $status -eq 0 ] && echo passed || echo "FAILED, status $status")" \
        $((SECONDS - began)) | tee -a "$report"
}

step "machine" nvidia-smi
step "devices" "$oxigpt" devices
step "devices as JSON" "$oxigpt" devices --json
step "conformance" "$conformance" --test-threads=2
step "golden values" "$golden"
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck; do
        step "compute-sanitizer $tool" compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$conformance" --test-threads=1 training_step
    done
fi

# GPT-2 124M: our step and PyTorch's, in turn.
shape=(--n_layer=12 --n_head=12 --n_embd=768 --block_size=1024 --bias=true)
for batch in 16 32 64; do
    for dtype in bfloat16 float32; do
        [ "$dtype" = float32 ] && [ "$batch" -gt 16 ] && continue
        step "oxigpt, $dtype, batch $batch" "$oxigpt" bench train --device=cuda "${shape[@]}" --vocab_size=50257 \
            --gelu=tanh --batch_size="$batch" --dtype="$dtype" --float32_matmul_precision=high --steps=20 --warmup=5 --json
        step "PyTorch, $dtype, batch $batch" python3 "$here/step.py" --device cuda --compile "${shape[@]}" \
            --batch_size "$batch" --dtype "$dtype" --precision high --steps 20 --warmup 5 --json
    done
done
step "operators" "$oxigpt" bench ops --device=cuda "${shape[@]}" --vocab_size=50257 --gelu=tanh --batch_size=32 \
    --dtype=bfloat16 --steps=10

echo "report: $report"
exit $((failures > 0))
