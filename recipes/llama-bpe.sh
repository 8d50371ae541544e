#!/bin/sh
# Shows: a byte-level BPE tokenizer is trained, then a small Llama on its tokens, which goes on from three prompts.
# Data: nine tenths of Tiny Shakespeare, the last tenth held out from both. Takes: a minute.
# Must reach: 2.45 bits a byte on the held-out text.
. "$(dirname "$0")/common.sh"
split_shakespeare

"$lmxlab" tokenizer train "$out/learn.txt" --vocab-size 512 --out "$out/tokenizer" --quiet >&2
train --data "$out/learn.txt" --set data.tokenizer="$out/tokenizer" --set data.validation=0.01 \
  --set model.preset=llama-tiny --set model.dim=128 --set model.depth=3 --set model.context=64 \
  --set run.steps="${STEPS:-1200}" --out "$out/model" >"$out/train.json"
for who in ROMEO JULIET KING; do
  "$lmxlab" generate "$out/model" --prompt "$who:" --max-tokens 40 --seed 1 --quiet >&2
  echo >&2
done
"$lmxlab" perplexity "$out/model" --file "$out/held-out.txt" --context 64 --max-tokens "${EVAL:-60000}" --json --quiet >"$out/held-out.json"
echo "bits_per_byte $(number bits_per_byte <"$out/held-out.json")"
