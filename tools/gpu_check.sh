#!/usr/bin/env bash
# What only a GPU can show. Of the expert layer (all by default): kernel tests on the device, tiles, times, sweeps, compute-sanitizer.
#     tools/gpu_check.sh LOGS [step ...]        steps: kernels tune bench profile sweeps guard sanitize
# Of all else, by name: every test of tests/gpu, `octavo verify` at full shape, recovery, steps beside their floors, layers, whole requests of each shape.
#     tools/gpu_check.sh LOGS tests verify recovery floors layers whole
# Beside other engines, whose packages are in the folders VLLM_SITE and SGLANG_SITE (benchmarks/README.md):
#     tools/gpu_check.sh LOGS peers hybrid-peers
set -uo pipefail
cd "$(dirname "$0")/.."
logs=${1:?usage: tools/gpu_check.sh LOGS [step ...]}
shift
steps=${*:-kernels tune bench profile sweeps guard sanitize}
mkdir -p "$logs"
export PYTHONPATH=src:.${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
pytest=("$python" -m pytest -q -o filterwarnings= --durations=5)
shapes=benchmarks/shapes
# the names of shapes in benchmarks/results
declare -A short=(
    [glm-4.5-air-fp8-dynamic]=glm45_air [mixtral-8x7b-fp8-dynamic]=mixtral [olmoe-1b-7b-fp8-dynamic]=olmoe
    [qwen3-30b-a3b-fp8]=block [qwen3-next-80b-a3b-fp8]=qwen3_next [qwen3.6-35b-a3b-fp8]=qwen36
)
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

# beside MODEL NAME [sglang]: whole requests of vLLM, of SGLang if asked for, and ours beside them, as the result NAME
beside() {
    local peers=("$logs/vllm.json")
    PYTHONPATH=${VLLM_SITE:?}:. VLLM_USE_FLASHINFER_SAMPLER=0 \
        step vllm timeout 500 "$python" -m benchmarks.peers.vllm_offline "$1" "${peers[0]}" || return 1
    if [ "${3:-}" = sglang ]; then
        peers+=("$logs/sglang.json")
        PYTHONPATH=${SGLANG_SITE:?}:. \
            step sglang timeout 400 "$python" -m benchmarks.peers.sglang_offline "$1" "${peers[1]}" --extra '{"page_size": 64}' || return 1
    fi
    step "$2" timeout 300 "$python" -m benchmarks.end_to_end --model "${1#src/octavo/assets/}" --name "$2" --peer "${peers[@]}"
}

# hybrid MODEL NAME: the same, beside three workloads of vLLM. Its kernels of Gated DeltaNet are those in Triton, which it tunes in its first steps
# (FlashInfer's would be compiled for minutes, and its dense products need sources that are not in the peer's folder), and DeepGEMM's are compiled
# when they are first called, in the midst of a measurement: vLLM runs twice, and what it compiled stays
hybrid() {
    local run only=("seed burst" "decode b=1" "decode b=64")
    for run in first second; do
        PYTHONPATH=${VLLM_SITE:?}:. VLLM_USE_FLASHINFER_SAMPLER=0 VLLM_DEEP_GEMM_WARMUP=skip VLLM_BLOCKSCALE_FP8_GEMM_FLASHINFER=0 \
            step "vllm-hybrid-$run" timeout 580 "$python" -m benchmarks.peers.vllm_offline "$1" "$logs/vllm-hybrid.json" --repeats 5 \
            --only "${only[@]}" --extra '{"gdn_prefill_backend": "triton", "cudagraph_capture_sizes": [1, 64]}' || return 1
    done
    step "$2" timeout 300 "$python" -m benchmarks.end_to_end --model "$1" --name "$2" --peer "$logs/vllm-hybrid.json"
}

# beside_layer: Gated DeltaNet of one layer beside vLLM's kernels of it, which are compiled and tuned at first, for minutes
beside_layer() {
    PYTHONPATH=${VLLM_SITE:?}:. \
        step vllm-delta-net timeout 500 "$python" -m benchmarks.peers.vllm_delta_net "$logs/vllm-delta-net.json" || return 1
    step delta-net timeout 100 "$python" -m benchmarks.delta_net --peer "$logs/vllm-delta-net.json"
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
    tests)
        step tests "${pytest[@]}" -n 11 --dist loadscope -m "not alone" tests/gpu || failed=1
        step tests-alone "${pytest[@]}" -m alone tests/gpu || failed=1
        ;;
    verify)
        for shape in qwen3-30b-a3b-fp8-dynamic "$shapes"/*; do
            step "verify-${shape##*/}" timeout 200 "$python" -m octavo verify --quick --load-format dummy "$shape" || failed=1
        done
        ;;
    recovery) step recovery timeout 200 "$python" -m benchmarks.recovery || failed=1 ;;
    floors)
        step floors timeout 100 "$python" -m benchmarks.profile_step || failed=1
        for shape in qwen3.6-35b-a3b-fp8 qwen3-next-80b-a3b-fp8; do
            step "floors-$shape" timeout 120 "$python" -m benchmarks.profile_step --model "$shapes/$shape" \
                --name "profile_step_${short[$shape]}" || failed=1
        done
        ;;
    layers)
        step attention timeout 100 "$python" -m benchmarks.attention || failed=1
        step delta-net timeout 100 "$python" -m benchmarks.delta_net || failed=1
        step dense timeout 100 "$python" -m tools.tune_dense --brief --log "$logs/dense.json" || failed=1
        ;;
    whole)
        for shape in "${!short[@]}"; do
            step "whole-$shape" timeout 200 "$python" -m benchmarks.end_to_end --model "$shapes/$shape" \
                --name "end_to_end_${short[$shape]}" || failed=1
        done
        ;;
    peers) beside src/octavo/assets/qwen3-30b-a3b-fp8-dynamic end_to_end sglang || failed=1 ;;
    hybrid-peers)
        hybrid "$shapes/qwen3-next-80b-a3b-fp8" end_to_end_qwen3_next || failed=1
        beside_layer || failed=1
        ;;
    *)
        echo "no such step: $name"
        failed=1
        ;;
    esac
done
exit $failed
