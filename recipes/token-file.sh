#!/bin/sh
# Shows: a text and the file of tokens made of it are the same data: a run on either gives the same weights.
# Data: Tiny Shakespeare in BPE tokens. Takes: ten seconds.
# Must reach: 0 bytes of the two models differ.
. "$(dirname "$0")/common.sh"
text=$here/../lmxlab/data/tinyshakespeare.txt

"$lmxlab" tokenizer train "$text" --vocab-size 512 --out "$out/tokenizer" --quiet >&2
"$lmxlab" data build "$text" "$out/tokens.safetensors" --tokenizer "$out/tokenizer" --quiet >&2
for file in "$text" "$out/tokens.safetensors"; do
  train --data "$file" --set data.tokenizer="$out/tokenizer" --set model.preset=llama-tiny --set run.steps="${STEPS:-300}" \
    --out "$out/of-$(basename "$file")" >"$out/$(basename "$file").json"
done
echo "different_bytes $(cmp -l "$out/of-tinyshakespeare.txt/model.safetensors" "$out/of-tokens.safetensors/model.safetensors" | wc -l)"
