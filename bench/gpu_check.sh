#!/usr/bin/env bash
# Everything to be seen on a machine with a GPU, in parts, all in one report.
#
#   bench/gpu_check.sh [--conformance FILE] [--golden FILE] [--text FILE] [--report FILE] OXIGPT [PART]...
#
# OXIGPT is the binary (cargo build --release). Without a PART, all are done, in this order:
#
#   machine      what is there, and whether it can be used
#   conformance  every operator but attention, against the float64 backend (--conformance)
#   attention    every kind of attention likewise, by cuDNN and by our own kernels (--conformance)
#   golden       PyTorch's values in float64 (--golden, and the fixtures of this checkout)
#   sanitizer    compute-sanitizer over a training step (--conformance)
#   benchmark    a training step of GPT-2 124M beside PyTorch's (python3 with torch)
#   operators    operators of several shapes: attention by cuDNN, in one order and in any, and by our own kernels
#   sizes        a training step of all four sizes of GPT-2
#   decoding     generating text, alone and side by side
#   shakespeare  a whole training of nanoGPT's shakespeare-char (--text)
#
# A part takes at most PART_SECONDS (540): what is not begun by then is left out and said so, what runs then is stopped and
# has failed. So parts can be called one by one where a command may take ten minutes, and again: kernels stay compiled.
# A part without what stands in its brackets is left out. The exit status is 1 where a step has failed, has had no time,
# or was named and left out.
#
# --conformance and --golden are test binaries, built anywhere with `cargo test --release --no-run -p oxigpt-compute -p
# oxigpt-model`, which prints where they are (tests/conformance/main.rs and tests/it/main.rs). NVIDIA's libraries are those
# of python3's packages, unless OXIGPT_CUDA_PATH is set. The report, gpu_report.txt unless named, is begun anew where all
# parts are done, and added to otherwise.
set -uo pipefail

parts="machine conformance attention golden sanitizer benchmark operators sizes decoding shakespeare"

# Ends with what is wrong with the call.
refuse() {
    printf 'error: %s\n' "$1" >&2
    exit 2
}

conformance="" golden="" text="" report=gpu_report.txt positional=()
while [ $# -gt 0 ]; do
    case $1 in
        --*=*)
            set -- "${1%%=*}" "${1#*=}" "${@:2}"
            continue
            ;;
        -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
        --conformance | --golden | --text | --report)
            [ $# -ge 2 ] || refuse "$1 names no file"
            printf -v "${1#--}" %s "$2"
            shift
            ;;
        -*) refuse "$1 is no option; --help tells them all" ;;
        *) positional+=("$1") ;;
    esac
    shift
done
[ ${#positional[@]} -gt 0 ] || refuse "nothing says which binary to check; --help tells more"
set -- "${positional[@]}"
for binary in "$1" ${conformance:+"$conformance"} ${golden:+"$golden"}; do
    [ -f "$binary" ] && [ -x "$binary" ] || refuse "$binary is no program"
done
oxigpt=$(realpath "$1")
shift
# Test binaries of other crates have the same names, and a filter that finds nothing passes.
if [ -n "$conformance" ]; then
    conformance=$(realpath "$conformance")
    "$conformance" --list 2>/dev/null | grep -q '^attention::' || refuse "$conformance has no conformance tests"
fi
if [ -n "$golden" ]; then
    golden=$(realpath "$golden")
    "$golden" --list 2>/dev/null | grep -q '^golden::' || refuse "$golden has no golden tests"
fi
[ -z "$text" ] || [ -f "$text" ] || refuse "$text is no file"
for part; do
    [[ " $parts " == *" $part "* ]] || refuse "$part is none of: $parts"
done
[[ ${PART_SECONDS:=540} =~ ^[1-9][0-9]*$ ]] || refuse "PART_SECONDS is $PART_SECONDS, and must be a number of seconds"
for input in "$oxigpt" "$conformance" "$golden" "$text"; do
    [ ! "$report" -ef "$input" ] || refuse "--report $report would replace what is to be checked"
done
{ [ ! -d "$report" ] && touch "$report"; } 2>/dev/null || refuse "--report: '$report' cannot be written"
report=$(realpath "$report")
[ $# -gt 0 ] || : >"$report"

here=$(cd "$(dirname "$0")" && pwd)
export OXIGPT_TEST_DEVICE=cuda OXIGPT_FIXTURES=$here/../crates/oxigpt-model/tests/fixtures
# Somewhere to keep compiled kernels.
export XDG_CACHE_HOME=${XDG_CACHE_HOME:-${HOME:-${TMPDIR:-/tmp}}/.cache}
# Wherever this python3 keeps the libraries that came with torch.
if [ -z "${OXIGPT_CUDA_PATH:-}" ]; then
    OXIGPT_CUDA_PATH=$(python3 -c 'import glob, nvidia
print(":".join(lib for root in nvidia.__path__ for lib in sorted(glob.glob(root + "/*/lib"))))' 2>/dev/null)
    export OXIGPT_CUDA_PATH
fi
failures=0 part_began=$SECONDS is_named=$# child=""

# An interrupted step ends, and the check with it.
interrupted() {
    [ -z "$child" ] || kill "$child" 2>/dev/null
    echo "INTERRUPTED" | tee -a "$report"
    exit 130
}
trap interrupted INT TERM

# What is not checked, and why. It is a failure where it was asked for by name.
left_out() {
    printf '%s: LEFT OUT, %s\n' "$1" "$2" | tee -a "$report"
    [ "$is_named" -eq 0 ] || failures=$((failures + 1))
}

# A step of a part: its output goes to the report, how it ended to both.
step() {
    local name=$1 began=$SECONDS status=0
    local left=$((PART_SECONDS - (SECONDS - part_began)))
    shift
    if [ $left -le 0 ]; then
        left_out "$name" "its part has had its time"
        [ "$is_named" -gt 0 ] || failures=$((failures + 1))
        return
    fi
    printf '\n== %s ==\n$ %s\n' "$name" "$*" >>"$report"
    # Waited for, so that an interruption is heard at once.
    timeout --kill-after=10 $left "$@" </dev/null >>"$report" 2>&1 &
    child=$!
    wait "$child" || status=$?
    child=""
    [ $status -eq 0 ] || failures=$((failures + 1))
    printf '%s: %s (%d s)\n' "$name" "$([ $status -eq 0 ] && echo passed || echo "FAILED, status $status")" \
        $((SECONDS - began)) | tee -a "$report"
}

machine() {
    step "machine" nvidia-smi
    step "devices" "$oxigpt" devices
    step "devices as JSON" "$oxigpt" devices --json
    step "a GPU that can be used" bash -c '"$1" devices --json | grep -Eq "\"cuda\": *true"' - "$oxigpt"
}

conformance() {
    [ -n "$conformance" ] || { left_out "conformance" "--conformance names no test binary" && return; }
    step "conformance" "$conformance" --test-threads=4 --skip attention
}

# There are hundreds of variants, each compiled once.
attention() {
    [ -n "$conformance" ] || { left_out "attention" "--conformance names no test binary" && return; }
    step "conformance of attention" "$conformance" --test-threads=8 attention
    step "conformance of attention, kernels of our own" env OXIGPT_CUDNN=off "$conformance" --test-threads=8 attention
}

golden() {
    [ -n "$golden" ] || { left_out "golden" "--golden names no test binary" && return; }
    [ -d "$OXIGPT_FIXTURES" ] || { left_out "golden" "there is no $OXIGPT_FIXTURES" && return; }
    step "golden values" "$golden" golden
    step "golden values, kernels of our own" env OXIGPT_CUDNN=off "$golden" golden
}

sanitizer() {
    [ -n "$conformance" ] || { left_out "sanitizer" "--conformance names no test binary" && return; }
    command -v compute-sanitizer >/dev/null || { left_out "sanitizer" "compute-sanitizer is not installed" && return; }
    for tool in memcheck racecheck initcheck; do
        step "compute-sanitizer $tool" compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$conformance" --test-threads=1 training_step
    done
}

# GPT-2 124M.
shape=(--n_layer=12 --n_head=12 --n_embd=768 --block_size=1024 --bias=true)
ours=(--device=cuda --vocab_size=50257 --gelu=tanh --warmup=5 --steps=20)

# Ours and PyTorch's in turn, what matters most first.
benchmark() {
    python3 -c 'import torch' 2>/dev/null || left_out "PyTorch" "python3 has no torch"
    while read -r batch dtype; do
        for deterministic in true false; do
            step "oxigpt, $dtype, batch $batch, deterministic $deterministic" "$oxigpt" bench train "${ours[@]}" \
                "${shape[@]}" --batch_size="$batch" --dtype="$dtype" --float32_matmul_precision=high \
                --deterministic=$deterministic --json
        done
        python3 -c 'import torch' 2>/dev/null || continue
        step "PyTorch, $dtype, batch $batch" python3 "$here/step.py" --device cuda --compile "${shape[@]}" \
            --batch_size "$batch" --dtype "$dtype" --precision high --steps 20 --warmup 5 --json
    done <<'STEPS'
32 bfloat16
64 bfloat16
16 float32
STEPS
    step "operators" "$oxigpt" bench ops "${ours[@]}" "${shape[@]}" --batch_size=32 --dtype=bfloat16
}

# Forward, backward and whole steps: cuDNN's attention where `devices` finds it, in one order of sums and in any, and ours.
operators() {
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
}

sizes() {
    while read -r name n_layer n_head n_embd batch; do
        step "oxigpt, $name, batch $batch" "$oxigpt" bench train "${ours[@]}" --n_layer="$n_layer" --n_head="$n_head" \
            --n_embd="$n_embd" --block_size=1024 --bias=true --batch_size="$batch" --dtype=bfloat16 --json
    done <<'SIZES'
gpt2 12 12 768 32
gpt2-medium 24 16 1024 16
gpt2-large 36 20 1280 8
gpt2-xl 48 25 1600 4
SIZES
}

decoding() {
    for texts in 1 8; do
        step "decoding, $texts side by side" "$oxigpt" bench sample --device=cuda "${shape[@]}" --vocab_size=50257 \
            --gelu=tanh --dtype=bfloat16 --texts="$texts" --json
    done
}

# nanoGPT reports a best validation loss of 1.4697.
shakespeare() {
    [ -n "$text" ] || { left_out "shakespeare" "--text names no text" && return; }
    local place
    place=$(mktemp -d)
    step "text" "$oxigpt" prepare text --input "$text" --tokenizer char --out "$place/data"
    step "training" "$oxigpt" train shakespeare-char --device=cuda --dataset="$place/data" --out_dir="$place/run"
    rm -r "$place"
}

for part in $parts; do
    if [ $# -eq 0 ] || [[ " $* " == *" $part "* ]]; then
        part_began=$SECONDS
        "$part"
    fi
done
echo "report: $report"
exit $((failures > 0))
