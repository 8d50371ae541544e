#!/bin/sh
# Shows: a language model is fine-tuned on answers (SFT), then on pairs of a better and a worse one (DPO).
# Data: lines of Tiny Shakespeare; the better answer to a line is the one that follows it, the worse the same words
# in reverse order; the last tenth of the pairs held out. Takes: half a minute.
# Must reach: of the held-out pairs 95 % are told apart, by a reward that began at no difference.
. "$(dirname "$0")/common.sh"
pairs=${PAIRS:-4000}

awk -v pairs="$pairs" '
  function quoted(s) { gsub(/["\\]/, "", s); return "\"" s "\"" }
  function reversed(s,  w, n, i, r) { n = split(s, w, " "); for (i = n; i > 0; i--) r = r " " w[i]; return r }
  length($0) > 20 && length(before) > 20 && n < pairs {
    n++; prompt = quoted(before "\n"); sub(/\n/, " ", prompt); good = quoted(" " $0)
    print "{\"prompt\":" prompt ",\"completion\":" good "}" > "'"$out"'/sft.jsonl"
    print "{\"prompt\":" prompt ",\"chosen\":" good ",\"rejected\":" quoted(reversed($0)) "}" > "'"$out"'/pairs.jsonl"
  }
  { before = $0 }' "$here/../lmxlab/data/tinyshakespeare.txt"

train --set model.preset=gpt-tiny --set optimizer.lr=4e-3 --set run.batch=16 --set run.context=128 \
  --set run.steps="${STEPS:-1000}" --out "$out/base" >"$out/base.json"
train --data "$out/sft.jsonl" --set model.preset="$out/base" --set objective.kind=sft --set optimizer.lr=1e-3 --set run.context=128 \
  --set run.steps="${SFT_STEPS:-200}" --out "$out/sft" >"$out/sft.json"
train --data "$out/pairs.jsonl" --set model.preset="$out/sft" --set objective.kind=dpo --set optimizer.lr=5e-4 \
  --set run.context=128 --set run.batch=8 --set run.steps="${DPO_STEPS:-200}" --out "$out/dpo" >"$out/dpo.json"
echo "accuracy $(tail -n 1 "$out/dpo/metrics.jsonl" | number val_accuracy)"
echo "margin $(tail -n 1 "$out/dpo/metrics.jsonl" | number val_margin)"
