#!/usr/bin/env bash
# Measures the program beside PyTorch and llama.cpp on this machine and prints a table (docs/benchmarks.md).
#   PARTS="train lora decode files kernels growth context avx2"   what is measured (all)
#   QUICK=1 (fewer rounds)   ROUNDS=5   THREADS=n   OUT=folder
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cd "$top"
read -ra parts <<<"${PARTS:-train lora decode files kernels growth context avx2}"
targets=(lmxlab_program)
case " ${parts[*]} " in *" kernels "*) for source in bench/kernels_*.cpp; do targets+=("bench_$(basename "$source" .cpp)"); done ;; esac
case " ${parts[*]} " in *" context "*) targets+=(bench_train_step) ;; esac
LMXLAB_CONFIGURE="${LMXLAB_CONFIGURE:-} -DLMXLAB_BUILD_BENCH=ON" scripts/build.sh "${targets[@]}"
peers=$(scripts/peers.sh)
options=()
case " ${parts[*]} " in *" decode "* | *" files "* | " avx2 ") options+=(--llama "$(scripts/compare_peers.sh)") ;; esac
[ -z "${QUICK:-}" ] || options+=(--quick)
[ -z "${ROUNDS:-}" ] || options+=(--rounds "$ROUNDS")
[ -z "${THREADS:-}" ] || options+=(--threads "$THREADS")
out=${OUT:-build/compare/$(date +%Y-%m-%d-%H%M%S)}
mkdir -p "$out"
PYTHONDONTWRITEBYTECODE=1 "$peers/bin/python" tools/compare/compare.py --program "$top/build/release/lmxlab" --out "$out" \
  --work build/compare/models "${options[@]+"${options[@]}"}" "${parts[@]}"
