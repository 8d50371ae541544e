#!/bin/sh
# Shows: a small model drafts what a large one says; the text is the large one's alone, token for token.
# Data: characters of Tiny Shakespeare. Takes: half a minute.
# Must reach: the same tokens, greedy and drawn, and of four drafted ones enough stay for 1.5 tokens a pass of the large model.
. "$(dirname "$0")/common.sh"

train --set model.preset=llama-tiny --set model.dim=128 --set model.depth=4 --set run.steps="${STEPS:-600}" --out "$out/large" >"$out/large.json"
train --set model.preset=llama-tiny --set model.depth=1 --set run.batch=16 --set run.steps="${STEPS:-600}" --out "$out/small" >"$out/small.json"
write() { "$lmxlab" generate "$out/large" --prompt "KING RICHARD:" --max-tokens "${TOKENS:-400}" --seed 1 --json --quiet "$@"; }
same=1
for temperature in 0 0.8; do
  write --temperature $temperature >"$out/alone.json"
  write --temperature $temperature --draft "$out/small" --num-draft-tokens 4 >"$out/drafted-$temperature.json"
  [ "$(grep -o '"tokens":\[[^]]*' "$out/alone.json")" = "$(grep -o '"tokens":\[[^]]*' "$out/drafted-$temperature.json")" ] || same=0
done
echo "same $same"
for temperature in 0 0.8; do
  json=$out/drafted-$temperature.json
  echo "a_pass_at_$temperature $(calc "1 + 4 * $(number accepted_tokens <"$json") / $(number draft_tokens <"$json")")"
done
