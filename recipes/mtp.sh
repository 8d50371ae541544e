#!/bin/sh
# Shows: two heads learn, beside the model, the tokens behind the next one, and draft them when it writes.
# Data: characters of Tiny Shakespeare. Takes: a minute.
# Must reach: the next token's loss no more than 0.03 nats above that without heads (three seeds), the same text greedy and
# drawn, and of what the first head drafts 45 % stay, of a drawn text 40 %.
. "$(dirname "$0")/common.sh"

model="--set model.preset=llama-tiny --set model.dim=96 --set model.depth=3 --set run.context=64 --set run.batch=8"
last() { tail -n 1 "$1/metrics.jsonl" | number "$2"; }
alone=0 beside=0 n=0
for seed in ${SEEDS:-1 2 3}; do
  for kind in pretrain mtp; do
    heads=""
    [ $kind = pretrain ] || heads="--set objective.heads=2"
    train $model $heads --set objective.kind=$kind --set run.seed="$seed" --set run.steps="${STEPS:-500}" --out "$out/$kind-$seed" >"$out/$kind-$seed.json"
  done
  alone=$(calc "$alone + $(last "$out/pretrain-$seed" val_loss)")
  beside=$(calc "$beside + $(last "$out/mtp-$seed" val_main_loss)")
  n=$((n + 1))
done
echo "next_token $(calc "$alone / $n")"
echo "next_token_beside_heads $(calc "$beside / $n")"
echo "difference $(calc "($beside - $alone) / $n")"
for k in 1 2; do
  echo "accuracy_$k $(last "$out/mtp-$seed" val_mtp_accuracy_$k)"
done

write() { "$lmxlab" generate "$out/mtp-$seed" --prompt "KING RICHARD:" --max-tokens "${TOKENS:-400}" --seed 1 --json --quiet "$@"; }
same=1
for temperature in 0 0.8; do
  write --temperature $temperature >"$out/alone.json"
  for drafts in 1 2 4; do
    json=$out/drafted-$temperature-$drafts.json
    write --temperature $temperature --draft mtp --num-draft-tokens $drafts >"$json"
    [ "$(grep -o '"tokens":\[[^]]*' "$out/alone.json")" = "$(grep -o '"tokens":\[[^]]*' "$json")" ] || same=0
    echo "kept_of_${drafts}_at_$temperature $(calc "$(number accepted_tokens <"$json") / $(number draft_tokens <"$json")")"
  done
done
echo "same $same"
