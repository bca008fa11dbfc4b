#!/usr/bin/env bash
# What only a GPU can show of the expert layer: kernel tests on the device, tiles, times, sweeps, compute-sanitizer.
#     tools/gpu_check.sh LOGS [step ...]        steps: kernels tune bench profile sweeps guard sanitize; all by default
set -uo pipefail
cd "$(dirname "$0")/.."
logs=${1:?usage: tools/gpu_check.sh LOGS [step ...]}
shift
steps=${*:-kernels tune bench profile sweeps guard sanitize}
mkdir -p "$logs"
export PYTHONPATH=src:.${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
pytest=("$python" -m pytest -q -o filterwarnings= --durations=5)
failed=0

# step NAME COMMAND...: run, log, and say how long it took
step() {
    local name=$1 start=$SECONDS
    shift
    if "$@" >"$logs/$name.log" 2>&1; then
        echo "ok      $((SECONDS - start)) s  $name"
    else
        echo "FAILED  $((SECONDS - start)) s  $name"
        tail -n 30 "$logs/$name.log"
        return 1
    fi
}

for name in $steps; do
    case $name in
    kernels) step kernels "${pytest[@]}" -n 14 tests/ops || failed=1 ;;
    tune) step tune timeout 200 "$python" -m tools.tune_moe --write --log "$logs/tune.json" || failed=1 ;;
    bench)
        step bench timeout 120 "$python" -m benchmarks.moe_layer || failed=1
        step bench-block timeout 120 "$python" -m benchmarks.moe_layer --format block --name moe_layer_block || failed=1
        step bench-mixtral timeout 120 "$python" -m benchmarks.moe_layer --shape mixtral-8x7b --name moe_layer_mixtral ||
            failed=1
        ;;
    profile) step profile timeout 60 "$python" -m tools.profile_moe || failed=1 ;;
    sweeps) step sweeps "${pytest[@]}" -n 3 --dist loadscope tests/gpu/test_any_batch.py tests/gpu/test_same_bits.py || failed=1 ;;
    guard) step guard "${pytest[@]}" tests/gpu/test_guard_pages.py || failed=1 ;;
    sanitize) step sanitize timeout 200 "$python" -m tools.sanitize_moe || failed=1 ;;
    esac
done
exit $failed
