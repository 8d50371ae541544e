#!/bin/sh
# Shows: a base of one kind of text learns another: all of its weights, or an adapter beside them (LoRA, DoRA).
# Data: bytes; the base is trained on Tiny Shakespeare, then on this project's pages (docs/*.md). Equal tokens, three seeds each.
# Takes: a minute.
# Must reach: with a twelfth of the parameters LoRA comes 75 % of the way that plain fine-tuning comes; DoRA is within 0.06 nats
# of it; merged, the loss is the same to 0.0001.
. "$(dirname "$0")/common.sh"
train_base

tune() {
  train --data "$out/pages.txt" --set model.preset="$out/base" --set run.batch=16 --set schedule.warmup=10 \
    --set sweep.seeds="${SEEDS:-3}" --set "sweep.budget={\"tokens\": ${TOKENS:-100000}}" "$@" >>"$out/tuned.json"
}
tune --set optimizer.lr=1e-3 --set sweep.over='{"optimizer.lr": [1e-3]}' --out "$out/all"
tune --set optimizer.lr=1e-2 --set adapter.rank=8 --set sweep.over='{"adapter.dora": [false, true]}' --out "$out/adapters"
"$lmxlab" compare "$out/all" "$out/adapters" >&2
"$lmxlab" compare "$out/all" "$out/adapters" --json >"$out/compared.json"
nll() { "$lmxlab" perplexity "$@" --context 64 --max-tokens "${EVAL:-20000}" --json --quiet | number nll; }
tail -c $(($(wc -c <"$out/pages.txt") / 10)) "$out/pages.txt" >"$out/held-out.txt"
base=$(nll "$out/base" --file "$out/held-out.txt")
echo "base_loss $base"
echo "all_loss $(of 1 mean)"
echo "lora_loss $(of 2 mean)"
echo "closed $(calc "($base - $(of 2 mean)) / ($base - $(of 1 mean))")"
echo "dora_less_lora $(calc "$(of 3 mean) - $(of 2 mean)")"
echo "trained_share $(calc "1 - $(of 1 parameters) / $(of 2 parameters)")"

adapter=$(ls -d "$out"/adapters/dora=false-s* | head -n 1)
"$lmxlab" merge "$out/base" "$adapter" "$out/merged" --json --quiet >"$out/merged.json"
beside=$(nll "$out/base" --adapter "$adapter" --file "$out/held-out.txt")
echo "merged_difference $(calc "sqrt(($(nll "$out/merged" --file "$out/held-out.txt") - $beside) ^ 2)")"
