#!/bin/sh
# Shows: a trained model packed to 8 and 4 bits a weight: its size, and what that costs on a text it has not seen.
# Data: characters of Tiny Shakespeare, the last tenth held out. Takes: half a minute.
# Must reach: at most 0.001 nats more in 8 bits and 0.01 in 4, in less than 0.3 and 0.17 of the bytes.
. "$(dirname "$0")/common.sh"
split_shakespeare

train --set model.preset=llama-tiny --set model.dim=128 --set model.depth=4 --set run.steps="${STEPS:-600}" --out "$out/model" >"$out/train.json"
nll() { "$lmxlab" perplexity "$1" --file "$out/held-out.txt" --context 64 --max-tokens "${EVAL:-20000}" --json --quiet | number nll; }
dense=$(nll "$out/model")
echo "dense_nll $dense"
for bits in 8 4; do
  "$lmxlab" quantize "$out/model" "$out/$bits-bit" --bits $bits --json --quiet >"$out/$bits-bit.json"
  echo "added_$bits $(calc "$(nll "$out/$bits-bit") - $dense")"
  echo "bytes_$bits $(calc "$(number bytes_after <"$out/$bits-bit.json") / $(number bytes_before <"$out/$bits-bit.json")")"
  "$lmxlab" generate "$out/$bits-bit" --prompt "ROMEO:" --max-tokens 60 --temperature 0 --quiet >&2
  echo >&2
done
