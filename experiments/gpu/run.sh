#!/usr/bin/env bash
# Everything to measure on a machine with a GPU, in 25 minutes: parity, speed in turns with PyTorch, profile, comparison.
#
#   experiments/gpu/run.sh OUT
#   SIZE=pico DEVICES="flex tch:cpu" experiments/gpu/run.sh OUT     # a rehearsal without a GPU, a few minutes
#
# OUT gets a record for each step, and a table, README.md. Steps that have theirs are skipped, so the script goes on where it was
# stopped. No step begins after LIMIT_S seconds. It needs a binary with the devices, the libraries that those open, and Python
# with PyTorch and transformers. Environment, with defaults:
#
#   DEEPWIDE=target/release/deepwide   DEVICES="cuda tch:cuda"   SIZE=full or pico   DTYPE=bfloat16
#   PYTHON=python3   COMPILE=0 (1: torch.compile too)   MODELS=OUT.models (random weights, 2.5 GB)   LIMIT_S=1500
#   PRETRAIN=target/release/examples/pretrain_pico (makes the base of the study; without it, that is the built-in base)
set -euo pipefail
[ $# = 1 ] || { sed -n '2,/^set/{/^#/p}' "$0"; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
out=$1
DEEPWIDE=${DEEPWIDE:-$repository/target/release/deepwide}
PRETRAIN=${PRETRAIN:-$repository/target/release/examples/pretrain_pico}
DEVICES=${DEVICES:-cuda tch:cuda}
SIZE=${SIZE:-full}
DTYPE=${DTYPE:-bfloat16}
PYTHON=${PYTHON:-python3}
MODELS=${MODELS:-$out.models}
LIMIT_S=${LIMIT_S:-1500}
mkdir -p "$out" "$MODELS"

case $SIZE in
    full)
        shapes="135m 1.1b"
        prefill=512,4096 decode="-n 64 --sequences 1,8,64" train=8x2048
        compare=(--seeds 3)
        of_pretraining=(--large)
        of_base=(--seeds 3 --flops 5e14 --lr 3e-4 --batch-size 64 --micro-batch-size 64)
        ;;
    pico)
        shapes="pico"
        prefill=64,128 decode="-n 8 --sequences 1,2" train=2x64
        compare=(--quick)
        of_pretraining=(--steps 40)
        of_base=(--quick)
        ;;
    *) echo "SIZE is $SIZE, expected full or pico" >&2; exit 2 ;;
esac

# step NAME COMMAND…: the output is the record OUT/NAME, which is there only if the command succeeded.
step() {
    local record="$out/$1"
    shift
    [ ! -s "$record" ] || return 0
    if [ "$SECONDS" -ge "$LIMIT_S" ]; then
        echo "left out after $SECONDS s: $record"
        return 0
    fi
    local left=$((LIMIT_S - SECONDS + 60)) start=$SECONDS
    if timeout "$left" "$@" >"$record.part" 2>"$record.log"; then
        mv "$record.part" "$record"
        echo "$((SECONDS - start)) s: $record"
    else
        echo "failed after $((SECONDS - start)) s: $record: $(tail -n 1 "$record.log")"
    fi
}

# growth_of CHILD SHAPE: the options that grow it.
growth_of() {
    case $1 in
        dense) ;;
        deep) echo "--dus $(($("$PYTHON" "$here/peer.py" layers "$2") / 4))" ;;
        wide) echo "--moe 8 --top-k 2 --noise 0.1" ;;
    esac
}

if nvidia-smi -L >/dev/null 2>&1; then
    nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm --format=csv >"$out/gpu.csv"
    nvidia-smi --query-gpu=timestamp,power.draw,memory.used,utilization.gpu,clocks.sm --format=csv --loop=1 >>"$out/power.csv" &
    sampler=$!
    trap 'kill "$sampler" 2>/dev/null || true' EXIT
    on=cuda
else
    on=cpu
fi

# 1. Parity: every device is opened, which compares its operations with those of the CPU; then the losses of whole models are
# compared: of the smallest size all children, of a larger one the dense model.
step doctor.json "$DEEPWIDE" doctor --json
for shape in $shapes; do
    step "made.$shape" "$PYTHON" "$here/peer.py" make "$shape" "$MODELS/$shape"
    children=dense
    [ "$shape" = "${shapes%% *}" ] && children="dense deep wide"
    for child in $children; do
        read -r -a growth <<<"$(growth_of "$child" "$shape")"
        for device in flex $DEVICES; do
            step "parity.$shape.$child.${device//:/-}.json" "$DEEPWIDE" perplexity "$MODELS/$shape" "${growth[@]}" \
                -f "$repository/LICENSE-APACHE" --stride 512 -c 512 --chunks 2 --device "$device" --json
        done
    done
    step "parity.$shape.dense.torch.json" \
        "$PYTHON" "$here/peer.py" nats "$MODELS/$shape" "$repository/LICENSE-APACHE" --device "$on"
done

# 2. Speed: each test on each of our devices, and then in PyTorch.
for shape in $shapes; do
    for child in dense deep wide; do
        read -r -a growth <<<"$(growth_of "$child" "$shape")"
        for test in prefill decode train; do
            case $test in
                prefill) options=(-p "$prefill" -n 0 -r 3 --dtype "$DTYPE") ;;
                # shellcheck disable=SC2206 # a list of words
                decode) options=(-p 0 $decode -r 3 --dtype "$DTYPE") ;;
                train) options=(--train "$train" -r 3 --dtype "$DTYPE") ;;
            esac
            for device in $DEVICES; do
                step "bench.$shape.$child.$test.${device//:/-}.jsonl" \
                    "$DEEPWIDE" bench "$MODELS/$shape" "${growth[@]}" "${options[@]}" --device "$device" -o jsonl
            done
            for mode in eager compiled; do
                [ "$mode" = eager ] || [ "${COMPILE:-0}" = 1 ] || continue
                step "bench.$shape.$child.$test.torch-$mode.jsonl" "$PYTHON" "$here/peer.py" bench "$shape" "$child" \
                    --device "$on" --mode "$mode" "${options[@]}"
            done
        done
    done
done

# 3. Time, FLOPs and bytes by module.
for shape in $shapes; do
    for device in $DEVICES; do
        step "profile.$shape.${device//:/-}.json" \
            "$DEEPWIDE" profile "$MODELS/$shape" --device "$device" --dtype "$DTYPE" -n 16 --json
    done
done

# 4. The study, on the first device: a base of 24 million parameters is pretrained, then grown.
device=${DEVICES%% *}
if [ -x "$PRETRAIN" ]; then
    [ -s "$out/base.txt" ] || rm -rf "$MODELS/base"
    step base.txt "$PRETRAIN" "$MODELS/base" "${of_pretraining[@]}" --device "$device"
    compare=(--base "$MODELS/base" "${of_base[@]}")
fi
step compare.json "$DEEPWIDE" compare "${compare[@]}" --device "$device" --out "$out/compare" --json

"$PYTHON" "$here/peer.py" table "$out" | tee "$out/README.md"
