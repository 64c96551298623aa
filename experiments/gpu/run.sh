#!/usr/bin/env bash
# Everything to measure on a machine with a GPU, in 25 minutes: parity, speed in turns with PyTorch, comparison, profiles, and
# what the GPU counts in a forward pass, if Nsight Compute's ncu is on PATH.
#
#   experiments/gpu/run.sh OUT
#   SIZE=pico DEVICES="flex tch:cpu" experiments/gpu/run.sh OUT     # a rehearsal without a GPU, a few minutes
#
# OUT gets a record for each step, steps.txt, which says how long they took and why some failed, and a table, README.md. When
# the script ends, or is stopped by a signal, all of OUT is packed into OUT.tar.gz. Steps that have their record are skipped,
# so the script resumes where it was stopped; remove a record to repeat its step. No step takes longer than its cap, or goes
# on after LIMIT_S seconds. It needs a binary with the devices, the libraries that those open, and Python with PyTorch and
# transformers.
# Environment, with defaults:
#
#   DEEPWIDE=target/release/deepwide   DEVICES="cuda tch:cuda"   SIZE=full or pico   DTYPE=bfloat16
#   PYTHON=python3   COMPILE=0 (1: prefill and training by torch.compile, too)   MODELS=OUT.models (random weights, 2.5 GB)
#   LIMIT_S=1500   CAP_S=150 (of a step)   PRETRAIN_S=200 (training of the base)   STUDY_S=400 (the comparison, roughly)
#   PRETRAIN=target/release/examples/pretrain_pico (makes the base of the study; without it, that is the built-in base)
#   PROFILE=target/release/examples/profile_cuda (profiles dense, deep and wide; without it, deepwide profile does)
set -euo pipefail
[ $# = 1 ] || { sed -n '2,/^set/{/^#/p}' "$0"; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
out=${1%/}
DEEPWIDE=${DEEPWIDE:-$repository/target/release/deepwide}
PRETRAIN=${PRETRAIN:-$repository/target/release/examples/pretrain_pico}
DEVICES=${DEVICES:-cuda tch:cuda}
SIZE=${SIZE:-full}
DTYPE=${DTYPE:-bfloat16}
PYTHON=${PYTHON:-python3}
MODELS=${MODELS:-$out.models}
PROFILE=${PROFILE:-$repository/target/release/examples/profile_cuda}
LIMIT_S=${LIMIT_S:-1500}
CAP_S=${CAP_S:-150}
PRETRAIN_S=${PRETRAIN_S:-200}
STUDY_S=${STUDY_S:-400}
mkdir -p "$out" "$MODELS"

case $SIZE in
    full)
        shapes="135m 1.1b"
        prefill=512,4096 decode="-n 64 --sequences 1,8,64" train=8x2048
        of_pretraining=(--large)
        of_study=(--seeds 3 --lr 3e-4 --seq-length 256 --batch-size 64 --micro-batch-size 64)
        of_builtin_study=(--seeds 3)
        of_profile=(--shape smollm2-135m)
        ;;
    pico)
        shapes="pico"
        prefill=64,128 decode="-n 8 --sequences 1,2" train=2x64
        of_pretraining=(--steps 40)
        of_study=(--quick)
        of_builtin_study=(--quick)
        of_profile=(--shape pico -r 1)
        ;;
    *) echo "SIZE is $SIZE, expected full or pico" >&2; exit 2 ;;
esac

sampler="" running=""
# finish: stops what is running, writes the table of what was measured, packs everything.
finish() {
    trap '' HUP INT TERM
    for process in $running $sampler; do
        kill "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    "$PYTHON" "$here/peer.py" table "$out" >"$out/README.md" || true
    cat "$out/README.md"
    tar -czf "$out.tar.gz" -C "$(dirname "$out")" "$(basename "$out")" || true
}
trap finish EXIT
trap 'exit 143' HUP INT TERM

say() {
    echo "$*" | tee -a "$out/steps.txt"
}

left() {
    echo $((LIMIT_S - SECONDS))
}

# attempt NAME CAP COMMAND…: the output is the record OUT/NAME; that of a bench that fails has the tests that it finished.
# Returns 1 if the command failed, 2 if it was stopped at its cap, 3 if LIMIT_S left it no time.
attempt() {
    local record="$out/$1" cap=$2 most start=$SECONDS status=0
    shift 2
    [ ! -s "$record" ] || return 0
    most=$(left)
    if [ "$most" -lt 10 ]; then
        say "left out after $SECONDS s: $record"
        return 3
    fi
    [ "$most" -lt "$cap" ] || most=$cap
    # Waited for, so that a signal ends the script at once.
    timeout -k 10 "$most" "$@" >"$record.part" 2>"$record.log" &
    running=$!
    wait "$running" || status=$?
    running=""
    if [ "$status" = 0 ]; then
        mv "$record.part" "$record"
        say "$((SECONDS - start)) s: $record"
        return 0
    fi
    local last
    last=$(tail -qn 1 "$record.part" "$record.log" | cut -c 1-300 | tr '\n' ' ')
    say "failed ($status) after $((SECONDS - start)) s: $record: $last"
    local is_stopped=0
    # 137 is also the status of a command that the system killed, for memory for instance.
    case $status in 124 | 137) [ $((SECONDS - start)) -lt "$most" ] || is_stopped=1 ;; esac
    [ "$is_stopped" = 0 ] || [ "$most" = "$cap" ] || return 3
    case $record in
        *.jsonl) grep '"avg_ts".*}$' "$record.part" >"$record" || rm "$record" ;;
    esac
    return $((1 + is_stopped))
}

# step NAME COMMAND…: an attempt whose failure does not matter to others.
step() {
    attempt "$1" "$CAP_S" "${@:2}" || true
}

# growth_of CHILD SHAPE: the options that grow it.
growth_of() {
    case $1 in
        dense) ;;
        deep) echo "--dus $(($("$PYTHON" "$here/peer.py" layers "$2") / 4))" ;;
        wide) echo "--moe 8 --top-k 2 --noise 0.1" ;;
    esac
}

# parity SHAPE CHILD…: the loss of whole models on the CPU, on every device and in PyTorch.
parity() {
    local shape=$1 child device growth
    [ -e "$MODELS/$shape/config.json" ] || rm -f "$out/made.$shape"
    step "made.$shape" "$PYTHON" "$here/peer.py" make "$shape" "$MODELS/$shape"
    for child in "${@:2}"; do
        read -r -a growth <<<"$(growth_of "$child" "$shape")"
        for device in flex $DEVICES; do
            step "parity.$shape.$child.${device//:/-}.json" "$DEEPWIDE" perplexity "$MODELS/$shape" "${growth[@]}" \
                -f "$repository/LICENSE-APACHE" --stride 512 -c 512 --chunks 2 --device "$device" --json
        done
    done
    step "parity.$shape.dense.torch.json" \
        "$PYTHON" "$here/peer.py" nats "$MODELS/$shape" "$repository/LICENSE-APACHE" --device "$on"
}

# speed SHAPE: each test of each child on each of our devices, and then in PyTorch.
speed() {
    local shape=$1 child test device mode modes growth options size many=3 some=3
    # Enough that timings of a small model exceed their noise, and its energy the second that a GPU's counter resolves.
    [ "$shape" != 135m ] || many=30 some=5
    for child in dense deep wide; do
        read -r -a growth <<<"$(growth_of "$child" "$shape")"
        for test in prefill decode train; do
            # 6.4 billion parameters in training take 102 GB, which leaves room for one sequence on a GPU of 141 GB.
            size=$train
            [ "$shape.$child" != 1.1b.wide ] || size=1x2048
            case $test in
                prefill) options=(-p "$prefill" -n 0 -r "$many" --dtype "$DTYPE") ;;
                # shellcheck disable=SC2206 # a list of words
                decode) options=(-p 0 $decode -r "$some" --dtype "$DTYPE") ;;
                train) options=(--train "$size" -r "$many" --dtype "$DTYPE") ;;
            esac
            for device in $DEVICES; do
                step "bench.$shape.$child.$test.${device//:/-}.jsonl" \
                    "$DEEPWIDE" bench "$MODELS/$shape" "${growth[@]}" "${options[@]}" --device "$device" -o jsonl
            done
            modes=eager
            [ "${COMPILE:-0}" != 1 ] || [ "$test" = decode ] || modes="eager compiled"
            for mode in $modes; do
                step "bench.$shape.$child.$test.torch-$mode.jsonl" "$PYTHON" "$here/peer.py" bench "$shape" "$child" \
                    --device "$on" --mode "$mode" "${options[@]}"
            done
        done
    done
}

# compiled_decoding SHAPE: PyTorch with a cache of fixed size and CUDA graphs.
compiled_decoding() {
    local shape=$1 child
    for child in dense deep wide; do
        # shellcheck disable=SC2086 # a list of words
        step "bench.$shape.$child.decode.torch-static.jsonl" "$PYTHON" "$here/peer.py" bench "$shape" "$child" \
            --device "$on" --mode static $decode -r 5 --dtype "$DTYPE"
    done
}

# pretrain: the base of the study, in MODELS/base, on the first device that makes it. Returns as attempt does.
pretrain() {
    local device status=1
    [ -x "$PRETRAIN" ] || return 1
    [ -e "$MODELS/base/config.json" ] || rm -f "$out/base.txt"
    [ ! -s "$out/base.txt" ] || return 0
    for device in "${working[@]}"; do
        if [ "$(left)" -le $((PRETRAIN_S + 100)) ]; then
            say "left out after $SECONDS s: $out/base.txt, and the comparison"
            return 3
        fi
        rm -rf "$MODELS/base"
        status=0
        attempt base.txt $((PRETRAIN_S + 100)) \
            "$PRETRAIN" "$MODELS/base" "${of_pretraining[@]}" --max-seconds "$PRETRAIN_S" --device "$device" || status=$?
        case $status in 0 | 3) break ;; esac
    done
    return "$status"
}

# tokens_of_study: those that train the control, so that three runs of three arms take about STUDY_S, as fifteen runs of the
# control do. With fewer than a million, the deep arm would have too few updates.
tokens_of_study() {
    local per_s tokens
    per_s=$(sed -n 's|.* updates, \([0-9]*\) tokens/s$|\1|p' "$out/base.txt")
    tokens=$((${per_s:-0} * STUDY_S / 15))
    [ "$tokens" -gt 1000000 ] || tokens=1000000
    [ "$tokens" -lt 3500000 ] || tokens=3500000
    echo "$tokens"
}

# study: the base, or the built-in one if it cannot be made, is grown and trained on the first device that does so.
study() {
    local device record status=0 name="compare" options
    for record in "$out"/compare.*.json; do
        [ ! -s "$record" ] || return 0
    done
    pretrain || status=$?
    case $status in
        0)
            options=(--base "$MODELS/base" "${of_study[@]}")
            [ "$SIZE" != full ] || options+=(--tokens "$(tokens_of_study)")
            ;;
        3) return 0 ;;
        *) name="compare.builtin" options=("${of_builtin_study[@]}") ;;
    esac
    for device in "${working[@]}"; do
        status=0
        attempt "$name.${device//:/-}.json" $((STUDY_S * 3 / 2)) \
            "$DEEPWIDE" compare "${options[@]}" --device "$device" --out "$out/$name.${device//:/-}" --json || status=$?
        # If it was stopped, it resumes in its folder the next time.
        [ "$status" = 1 ] || return 0
    done
}

if nvidia-smi -L >/dev/null 2>&1; then
    nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm --format=csv >"$out/gpu.csv"
    nvidia-smi --query-gpu=timestamp,power.draw,memory.used,utilization.gpu,clocks.sm --format=csv --loop=1 \
        >>"$out/power.csv" &
    sampler=$!
    on=cuda
else
    on=cpu
fi
smallest=${shapes%% *}

# 1. Parity: every device is opened, which compares its operations with those of the CPU; then the losses of whole models.
step doctor.json "$DEEPWIDE" doctor --json
# shellcheck disable=SC2086 # a list of words
read -r -a working <<<"$("$PYTHON" "$here/peer.py" working "$out" $DEVICES)"
parity "$smallest" dense deep wide

# 2. Speed of the smallest size.
speed "$smallest"

# 3. The study: a base of 24 million parameters is pretrained, then grown.
study

# 4. Decoding of the smallest size, compiled by PyTorch, which takes a minute or two a model.
[ "$on" != cuda ] || compiled_decoding "$smallest"

# 5. The larger sizes.
for shape in $shapes; do
    [ "$shape" != "$smallest" ] || continue
    parity "$shape" dense
    speed "$shape"
done

# 6. Time, FLOPs and bytes by module: of all children of the smallest size, of a larger one the dense model.
if [ -x "$PROFILE" ]; then
    for device in "${working[@]}"; do
        attempt "profile.${device//:/-}.txt" $((2 * CAP_S)) "$PROFILE" "${of_profile[@]}" \
            --device "$device" --dtype "$DTYPE" --out "$out/profile.${device//:/-}" || true
    done
fi
for shape in $shapes; do
    for child in dense deep wide; do
        # Those of the smallest size are in the profile above.
        [ "$child" = dense ] || { [ "$shape" = "$smallest" ] && [ ! -x "$PROFILE" ]; } || continue
        read -r -a growth <<<"$(growth_of "$child" "$shape")"
        for device in $DEVICES; do
            step "profile.$shape.$child.${device//:/-}.json" "$DEEPWIDE" profile "$MODELS/$shape" "${growth[@]}" \
                --device "$device" --dtype "$DTYPE" -n 16 --json
        done
    done
done

# 7. FLOPs and bytes that the GPU counts in a prompt of the smallest size, beside those of the config.
if [ "$on" = cuda ] && command -v ncu >/dev/null; then
    for child in dense wide; do
        read -r -a growth <<<"$(growth_of "$child" "$smallest")"
        for device in "${working[@]}"; do
            case $device in *cuda*) ;; *) continue ;; esac
            step "counters.$smallest.$child.${device//:/-}.md" "$PYTHON" "$here/counters.py" count "$MODELS/$smallest" \
                --deepwide "$DEEPWIDE" --device "$device" --dtype "$DTYPE" -p "${prefill%%,*}" "${growth[@]}"
        done
    done
else
    say "left out, without a GPU of NVIDIA and ncu on PATH: $out/counters.*.md"
fi
