#!/usr/bin/env bash
# What only a GPU can show of the expert layer: the kernel tests on the device, the sweeps, compute-sanitizer.
#     tools/gpu_check.sh [folder for logs]
set -uo pipefail
cd "$(dirname "$0")/.."
logs=${1:-results}
mkdir -p "$logs"
export PYTHONPATH=src:.${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
failed=0

step() {
    local name=$1 start=$SECONDS
    shift
    if "$@" >"$logs/$name.log" 2>&1; then echo "ok      $((SECONDS - start)) s  $name"; else
        echo "FAILED  $((SECONDS - start)) s  $name"
        failed=1
        tail -n 25 "$logs/$name.log"
    fi
}

step kernels "$python" -m pytest -q -n 12 -o filterwarnings= --ignore tests/kernels/test_scale_rule.py tests/kernels
step sweeps "$python" -m pytest -q -n 3 --dist loadscope -o filterwarnings= tests/gpu
for tool in memcheck racecheck initcheck; do
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 step "$tool" \
        timeout 100 compute-sanitizer --tool "$tool" --error-exitcode 1 "$python" -m tools.sanitize_moe
done
exit $failed
