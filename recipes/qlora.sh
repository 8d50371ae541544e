#!/bin/sh
# Shows: an adapter is trained beside weights packed in 4 bits (QLoRA), and beside the same weights as they were.
# Data: bytes; the base is trained on Tiny Shakespeare, the adapters on this project's pages (docs/*.md). Equal tokens, three seeds each.
# Takes: a minute.
# Must reach: 2.8 nats a byte with weights of a sixth of the bytes, at most 0.03 more than beside those as they were; the
# interval of the difference includes 0.
. "$(dirname "$0")/common.sh"
train_base

"$lmxlab" quantize "$out/base" "$out/base-4bit" --bits 4 --quiet >&2
train --data "$out/pages.txt" --set model.preset="$out/base" --set adapter.rank=8 --set optimizer.lr=1e-2 --set run.batch=16 \
  --set schedule.warmup=10 --set sweep.seeds="${SEEDS:-3}" --set "sweep.budget={\"tokens\": ${TOKENS:-100000}}" \
  --set "sweep.over={\"model.preset\": [\"$out/base\", \"$out/base-4bit\"]}" --out "$out/adapters" >"$out/tuned.json"
"$lmxlab" compare "$out/adapters" >&2
"$lmxlab" compare "$out/adapters" --json >"$out/compared.json"
echo "packed_share $(calc "$(wc -c <"$out/base-4bit/model.safetensors") / $(wc -c <"$out/base/model.safetensors")")"
echo "dense_loss $(of 1 mean)"
echo "packed_loss $(of 2 mean)"
echo "packed_less_dense $(of 2 difference)"
echo "from $(of 2 low)"
echo "to $(of 2 high)"
