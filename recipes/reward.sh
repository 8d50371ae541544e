#!/bin/sh
# Shows: a reward model learns a taste from pairs, as an adapter with a head of one number on a language model, and ranks what that
# model writes.
# Data: lines of Tiny Shakespeare two by two; the better answer is the one with the larger share of the letter e, which nobody tells
# the model; the last tenth of the pairs held out. Then 50 lines are continued, by one sample and by the best of eight. Takes: half a minute.
# Must reach: of the held-out pairs 95 % are told apart; the letters e of the continuations are half as many again.
. "$(dirname "$0")/common.sh"

awk -v pairs="${PAIRS:-3000}" -v all="$out/pairs.jsonl" -v asked="$out/asked.jsonl" '
  function share(s,  n, all) { all = length(s); n = gsub(/e/, "", s); return n / all }
  function quoted(s) { gsub(/["\\]/, "", s); return "\"" s "\"" }
  length($0) > 25 && n < pairs {
    line = substr($0, 1, 32)
    if (before != "" && share(line) != share(before)) {
      n++; e = share(line) > share(before)
      print "{\"prompt\":\"\\n\",\"chosen\":" quoted(e ? line : before) ",\"rejected\":" quoted(e ? before : line) "}" > all
      if (n <= 50) print "{\"prompt\":" quoted(substr($0, 1, 8)) "}" > asked
      before = ""
    } else before = line
  }' "$here/../lmxlab/data/tinyshakespeare.txt"

train --set model.preset=gpt-tiny --set optimizer.lr=4e-3 --set run.batch=16 --set run.context=64 --set run.steps="${STEPS:-500}" \
  --out "$out/base" >"$out/base.json"
train --data "$out/pairs.jsonl" --set objective.kind=reward --set model.preset="$out/base" --set adapter.rank=8 --set optimizer.lr=5e-3 \
  --set schedule.warmup=20 --set run.context=48 --set run.batch=16 --set run.steps="${REWARD_STEPS:-300}" --out "$out/reward" >"$out/reward.json"
# The letters e of 50 texts.
letters() {
  "$lmxlab" generate "$out/base" --prompts-file "$out/asked.jsonl" --max-tokens 24 --temperature 1 --top-p 1 --seed 1 --json --quiet "$@" |
    sed -n 's/^{"text":"\([^"]*\)".*/\1/p' | awk '{ n += gsub(/e/, "") } END { print n }'
}
one=$(letters)
best=$(letters --best-of 8 --judge "$out/reward")
echo "accuracy $(tail -n 1 "$out/reward/metrics.jsonl" | number val_accuracy)"
echo "one $one"
echo "best $best"
echo "times $(calc "$best / $one")"
