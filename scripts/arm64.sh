#!/usr/bin/env bash
# Builds the kernels and what lies below them for Linux on Arm (NEON), with the wheel of MLX for it, and runs their tests under
# qemu-user. Debian and its like on x86 only; on an Arm machine `make test` does more.
#   scripts/arm64.sh [options of ctest, such as -R kernels]
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cd "$top"
[ "$(uname -sm)" = "Linux x86_64" ] || fail "this check is for x86 Linux; on $(uname -sm) run \`make test\`."
"$top/scripts/bootstrap.sh" arm64
mlx=$(LMXLAB_MLX=cpu LMXLAB_MLX_ARM64=1 "$top/scripts/mlx.sh")

# The headers of other libraries apart from the system's own, which are the host's.
tools="$top/build/arm64-tools"
mkdir -p "$tools/include"
host=/usr/include/$(gcc -print-multiarch)
for header in nlohmann toml++ CLI pcre2.h utf8proc.h hwy curl; do
  from=/usr/include/$header
  [ -e "$from" ] || from=$host/$header
  [ -e "$from" ] || from=/usr/local/include/$header
  ln -sfn "$from" "$tools/include/$header"
done
# libcrypto's lie in two places. Only what does not call it is linked here.
mkdir -p "$tools/include/openssl"
ln -sf /usr/include/openssl/*.h "$host"/openssl/*.h "$tools/include/openssl/"

read -ra more <<<"${LMXLAB_CONFIGURE:-}"
say "arm64: configure (preset arm64-cross)"
quietly configure-arm64 cmake --preset arm64-cross -DMLX_ROOT="$mlx/mlx" "${more[@]+"${more[@]}"}" -DLMXLAB_BUILD_BENCH=OFF
say "arm64: compile, $(cores) at a time"
began=$SECONDS
ninja -C build/arm64-cross --quiet base_tests config_tests kernels_tests >&2
say "arm64: compiled in $((SECONDS - began)) s"

results="$top/build/arm64-cross/test-results"
rm -rf "$results"
mkdir -p "$results"
code=0
# Left out: what qemu cannot do (a process that limits its address space starts itself anew), and what takes minutes there and
# is about threads, memory, statistics or lists, not about NEON.
export GTEST_FILTER="${GTEST_FILTER:--MemoryDeathTest.*:Gemm.ManyAtOnceAreAllRight:LinearCrossEntropy.NeverHoldsAllLogits:\
Rehearsal.CountsWhatAnEvaluationTakes:Attention.HoldsNoMatrixOfScores:Memory.ThePeakOfAStepIsTheSameEachTime:\
Sample.DrawsAllThatMayComeAndNothingElse:ToHf.EachPresetRoundTrips:Presets.EachIsValidCountsDescribesAndSurvivesJsonAndToml}"
selection=(-R '^(base|config|kernels)$')
[ $# = 0 ] || selection=("$@")
# Each part runs its share of every program's cases: most of them keep one core busy.
parts=${TEST_JOBS:-2} running=() folders=()
for ((part = 0; part < parts; part++)); do
  folder="$results/$part"
  mkdir "$folder"
  GTEST_TOTAL_SHARDS=$parts GTEST_SHARD_INDEX=$part GTEST_OUTPUT="xml:$folder/" GTEST_BRIEF=1 \
    ctest --test-dir build/arm64-cross --output-on-failure --no-tests=error --output-log "$folder/ctest.log" \
    --output-junit "$folder/ctest.xml" "${selection[@]}" &
  running+=($!) folders+=("$folder")
done
for job in "${running[@]}"; do wait "$job" || code=$?; done
python3 scripts/count_tests.py "${folders[@]}" || code=$?
exit "$code"
