#!/bin/sh
# Shows: an adapter is trained beside a GGUF file in 4 bits, which is mapped as it is; run and file together are the tuned model.
#   MODEL=SmolLM2-135M-Instruct.Q4_1.gguf TEXT=tinyshakespeare.txt RATE=3e-4 sh recipes/lora-gguf.sh   takes five minutes; must fall by 0.3 nats, seen: 3.67 to 3.33
# Data: without MODEL a small Llama is trained on Tiny Shakespeare and written as Q4_1; the adapter learns this project's
# pages (docs/*.md), of which the last tenth is held out. Takes: half a minute.
# Must reach: in 200 steps 1.5 nats less than the file alone, in no more memory than was planned.
. "$(dirname "$0")/common.sh"

if [ -z "${MODEL:-}" ]; then
  shakespeare=$here/../lmxlab/data/tinyshakespeare.txt
  "$lmxlab" tokenizer train "$shakespeare" --vocab-size 512 --out "$out/tokenizer" --quiet >&2
  train --data "$shakespeare" --set data.tokenizer="$out/tokenizer" --set model.preset=llama-tiny --set model.dim=128 \
    --set run.steps="${STEPS:-600}" --out "$out/base" >"$out/base.json"
  cat "$here"/../docs/[a-k]*.md >"$out/pages.txt"
  MODEL=$out/base.gguf
  "$lmxlab" convert "$out/base" "$MODEL" --format gguf --dtype q4_1 --quiet >&2
fi
text=${TEXT:-$out/pages.txt}
bytes=$(wc -c <"$text")
head -c "$((bytes * 9 / 10))" "$text" >"$out/learn.txt"
tail -c "$((bytes / 10))" "$text" | iconv -c -f utf-8 -t utf-8 >"$out/held-out.txt"

train --data "$out/learn.txt" --set model.preset="$MODEL" --set adapter.rank=16 --set optimizer.lr="${RATE:-1e-2}" --set schedule.warmup=10 \
  --set run.batch=4 --set run.context=128 --set run.steps="${LORA_STEPS:-200}" --set data.validation=0 --out "$out/adapter" >"$out/tuned.json"
nll() { "$lmxlab" perplexity "$MODEL" --file "$out/held-out.txt" --context 128 --max-tokens "${EVAL:-10000}" --json --quiet "$@" | number nll; }
before=$(nll)
after=$(nll --adapter "$out/adapter")
echo "before $before"
echo "fell $(calc "$before - $after")"
echo "of_planned $(calc "$(number peak_bytes <"$out/tuned.json") / $(number planned_bytes <"$out/tuned.json")")"
