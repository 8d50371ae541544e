#!/bin/sh
# Shows: models of twelve families: their parameters, tokens a second in training and writing, memory measured and planned.
# Data: random tokens. Takes: half a minute.
# Must reach: no family takes more than 2 % more memory in training than was planned before.
. "$(dirname "$0")/common.sh"
worst=0
for preset in ${PRESETS:-gpt-tiny llama-tiny gemma3-tiny deepseek-v3-tiny mixtral-tiny llama4-tiny nemotron-h-tiny \
  falcon-h1-tiny jamba-tiny qwen3-5-tiny mamba2-tiny rwkv-tiny}; do
  "$lmxlab" bench "$preset" --mode train --batch 4 --context 64 --repeat 3 --json --quiet >"$out/train.json"
  "$lmxlab" bench "$preset" --mode decode --context 16 --repeat 1 --json --quiet >"$out/decode.json"
  planned=$("$lmxlab" fit "$preset" --mode train --batch 4 --context 64 --json --quiet | number peak_bytes)
  measured=$(number peak_bytes <"$out/train.json")
  ratio=$(calc "$measured / $planned")
  worst=$(calc "($ratio > $worst) ? $ratio : $worst")
  echo "$preset: $("$lmxlab" count "$preset" --json | number parameters) parameters, $(number tokens_per_s <"$out/train.json") and \
$(number tokens_per_s <"$out/decode.json") tokens/s, $measured of $planned bytes planned" >&2
done
echo "worst $worst"
