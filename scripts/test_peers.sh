#!/usr/bin/env bash
# Runs tests/peer with PyTorch and transformers beside the program.   scripts/test_peers.sh [options of pytest]
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

preset=${PRESET:-release}
cd "$top"
scripts/build.sh lmxlab_program
peers=$(scripts/peers.sh)
models=$(dirname "$(scripts/models.sh smollm2)")
scripts/models.sh gemma3 >/dev/null
results="$top/build/$preset/peer-results"
rm -rf "$results"
mkdir -p "$results"
say "test-peers: $peers"
code=0
# Nothing is fetched: the peers read our files only.
HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1 \
  LMXLAB_PROGRAM="$top/build/$preset/lmxlab" LMXLAB_SOURCE="$top" \
  LMXLAB_MODELS="$models" LMXLAB_FIXTURES="${LMXLAB_FIXTURES:-$top/../shared/fixtures}" \
  "$peers/bin/python" -m pytest -q -p no:cacheprovider --junit-xml="$results/peers.xml" "$@" tests/peer || code=$?
if [ "$code" = 5 ]; then echo "error: no test was found in tests/peer" >&2; fi
"$peers/bin/python" scripts/count_tests.py "$results" || code=$?
exit "$code"
