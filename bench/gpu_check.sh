#!/usr/bin/env bash
# Everything to be seen on a machine with a GPU, in one report: what is there, conformance of every operator, golden values,
# compute-sanitizer, the speed of a training step beside PyTorch's in the same run, of attention by cuDNN and by our own
# kernels, of all four sizes, and of decoding, and a whole training where there is a text.
#
#   bench/gpu_check.sh OXIGPT CONFORMANCE GOLDEN [REPORT]
#
# OXIGPT is the binary (cargo build --release); CONFORMANCE and GOLDEN are test binaries, built anywhere with
# `cargo test --release --no-run -p oxigpt-compute -p oxigpt-model`, which prints where they are (tests/conformance/main.rs
# and tests/it/main.rs). Beside these it needs this checkout, python3 with torch, for the comparison and for NVIDIA's
# libraries, and compute-sanitizer, which is left out where it is not installed.
#
# ONLY="machine conformance golden sanitizer speed attention sizes decoding training" does those parts alone, and adds to the report.
# TINYSHAKESPEARE=FILE names the text of the training. STEP_SECONDS (900) is the longest that one command may take.
set -uo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
fi
parts="machine conformance golden sanitizer speed attention sizes decoding training"

# Ends with what is wrong with the call.
refuse() {
    printf 'error: %s\n' "$1" >&2
    exit 2
}

for binary in "$1" "$2" "$3"; do
    [ -f "$binary" ] && [ -x "$binary" ] || refuse "$binary is no program"
done
oxigpt=$(realpath "$1") conformance=$(realpath "$2") golden=$(realpath "$3")
# Test binaries of other crates have the same names, and a filter that finds nothing passes.
"$conformance" --list 2>/dev/null | grep -q '^attention::' || refuse "$2 has no conformance tests"
"$golden" --list 2>/dev/null | grep -q '^golden::' || refuse "$3 has no golden tests"
for part in ${ONLY:-}; do
    [[ " $parts " == *" $part "* ]] || refuse "ONLY: $part is none of: $parts"
done
report=$(realpath -m "${4:-gpu_report.txt}")
touch "$report" || refuse "$report cannot be written"
here=$(cd "$(dirname "$0")" && pwd)
export OXIGPT_TEST_DEVICE=cuda OXIGPT_FIXTURES=$here/../crates/oxigpt-model/tests/fixtures
failures=0
[ -n "${ONLY:-}" ] || : >"$report"

# Wherever this python3 keeps the libraries that came with torch.
if [ -z "${OXIGPT_CUDA_PATH:-}" ]; then
    OXIGPT_CUDA_PATH=$(python3 -c 'import glob, nvidia
print(":".join(lib for root in nvidia.__path__ for lib in sorted(glob.glob(root + "/*/lib"))))' 2>/dev/null)
    export OXIGPT_CUDA_PATH
fi

# Whether a part of the check is asked for.
asked() {
    [[ " ${ONLY:-$1} " == *" $1 "* ]]
}

# A step of the check: its output goes to the report, how it ended to both.
step() {
    local name=$1 began=$SECONDS status=0
    shift
    printf '\n== %s ==\n$ %s\n' "$name" "$*" >>"$report"
    timeout "${STEP_SECONDS:-900}" "$@" >>"$report" 2>&1 || status=$?
    [ $status -eq 0 ] || failures=$((failures + 1))
    printf '%s: %s (%d s)\n' "$name" "$([ $status -eq 0 ] && echo passed || echo "FAILED, status $status")" \
        $((SECONDS - began)) | tee -a "$report"
}

# What is not checked, and why.
left_out() {
    printf '%s: LEFT OUT, %s\n' "$1" "$2" | tee -a "$report"
}

if asked machine; then
    step "machine" nvidia-smi
    step "devices" "$oxigpt" devices
    step "devices as JSON" "$oxigpt" devices --json
    step "a GPU that can be used" bash -c '"$1" devices --json | grep -Eq "\"cuda\": *true"' - "$oxigpt"
fi
if asked conformance; then
    # Attention has hundreds of variants, each compiled once.
    step "conformance of attention" "$conformance" --test-threads=4 attention
    step "conformance of attention, kernels of our own" \
        env OXIGPT_CUDNN=off "$conformance" --test-threads=4 attention
    step "conformance of the rest" "$conformance" --test-threads=4 --skip attention
fi
if asked golden; then
    step "golden values" "$golden" golden
    step "golden values, kernels of our own" env OXIGPT_CUDNN=off "$golden" golden
fi
if asked sanitizer && ! command -v compute-sanitizer >/dev/null; then
    left_out "compute-sanitizer" "it is not installed"
elif asked sanitizer; then
    for tool in memcheck racecheck initcheck; do
        step "compute-sanitizer $tool" compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$conformance" --test-threads=1 training_step
    done
fi

# GPT-2 124M: our step and PyTorch's, in turn.
shape=(--n_layer=12 --n_head=12 --n_embd=768 --block_size=1024 --bias=true)
ours=(--device=cuda --vocab_size=50257 --gelu=tanh --warmup=5 --steps=20)
if asked speed; then
    for batch in 16 32 64; do
        for dtype in bfloat16 float32; do
            [ "$dtype" = float32 ] && [ "$batch" -gt 16 ] && continue
            step "oxigpt, $dtype, batch $batch" "$oxigpt" bench train "${ours[@]}" "${shape[@]}" --batch_size="$batch" \
                --dtype="$dtype" --float32_matmul_precision=high --json
            step "PyTorch, $dtype, batch $batch" python3 "$here/step.py" --device cuda --compile "${shape[@]}" \
                --batch_size "$batch" --dtype "$dtype" --precision high --steps 20 --warmup 5 --json
        done
    done
    step "operators" "$oxigpt" bench ops "${ours[@]}" "${shape[@]}" --batch_size=32 --dtype=bfloat16
fi
# Forward, backward and whole steps: cuDNN's attention where `devices` finds it, in one order of sums and in any, and ours.
if asked attention; then
    while read -r n_head n_embd block_size batch; do
        for way in "on true" "on false" "off true"; do
            read -r cudnn deterministic <<<"$way"
            what="cuDNN $cudnn, deterministic $deterministic, $n_head heads of $((n_embd / n_head)), $batch x $block_size tokens"
            step "operators, $what" env OXIGPT_CUDNN="$cudnn" "$oxigpt" bench ops "${ours[@]}" --n_layer=4 \
                --n_head="$n_head" --n_embd="$n_embd" --block_size="$block_size" --bias=true --batch_size="$batch" \
                --dtype=bfloat16 --deterministic="$deterministic"
        done
    done <<'SHAPES'
12 768 1024 32
12 768 1024 64
6 768 1024 32
12 768 4096 8
25 1600 1024 8
SHAPES
fi
if asked sizes; then
    while read -r name n_layer n_head n_embd batch; do
        step "oxigpt, $name, batch $batch" "$oxigpt" bench train "${ours[@]}" --n_layer="$n_layer" --n_head="$n_head" \
            --n_embd="$n_embd" --block_size=1024 --bias=true --batch_size="$batch" --dtype=bfloat16 --json
    done <<'SIZES'
gpt2 12 12 768 32
gpt2-medium 24 16 1024 16
gpt2-large 36 20 1280 8
gpt2-xl 48 25 1600 4
SIZES
fi
if asked decoding; then
    for texts in 1 8; do
        step "decoding, $texts side by side" "$oxigpt" bench sample --device=cuda "${shape[@]}" --vocab_size=50257 \
            --gelu=tanh --dtype=bfloat16 --texts="$texts" --json
    done
fi
# nanoGPT reports a best validation loss of 1.4697.
if asked training && [ -z "${TINYSHAKESPEARE:-}" ]; then
    left_out "training" "TINYSHAKESPEARE names no text"
elif asked training; then
    place=$(mktemp -d)
    step "text" "$oxigpt" prepare text --input "$TINYSHAKESPEARE" --tokenizer char --out "$place/data"
    step "training" "$oxigpt" train shakespeare-char --device=cuda --dataset="$place/data" --out_dir="$place/run"
    rm -r "$place"
fi

echo "report: $report"
exit $((failures > 0))
