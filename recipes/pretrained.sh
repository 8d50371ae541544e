#!/bin/sh
# Shows: a model made elsewhere is taken as it is: measured, asked, written as GGUF and read back.
#   MODEL=HuggingFaceTB/SmolLM2-135M sh recipes/pretrained.sh   asks the hub; any folder or GGUF file will do
# Data: without MODEL a small Llama is trained first, and the first 500 tokens of Tiny Shakespeare are measured. Takes: ten seconds.
# Must reach: in GGUF the same loss to 0.0001 nats, and the same greedy text.
. "$(dirname "$0")/common.sh"
text=$here/../lmxlab/data/tinyshakespeare.txt

if [ -z "${MODEL:-}" ]; then
  MODEL=$out/model
  "$lmxlab" tokenizer train "$text" --vocab-size 512 --out "$out/tokenizer" --quiet >&2
  train --data "$text" --set data.tokenizer="$out/tokenizer" --set model.preset=llama-tiny --set run.steps="${STEPS:-600}" \
    --out "$MODEL" >"$out/train.json"
fi
"$lmxlab" convert "$MODEL" "$out/model.gguf" --format gguf --dtype f32 --quiet >&2
nll() { "$lmxlab" perplexity "$1" --file "$text" --context 64 --max-tokens 500 --dtype f32 --json --quiet | number nll; }
write() { "$lmxlab" generate "$1" --prompt "First Citizen:" --max-tokens 40 --temperature 0 --dtype f32 --quiet; }
folder=$(nll "$MODEL")
echo "nll $folder"
echo "difference $(calc "sqrt(($(nll "$out/model.gguf") - $folder) ^ 2)")"
write "$MODEL" | tee "$out/folder.txt" >&2
write "$out/model.gguf" >"$out/gguf.txt"
cmp -s "$out/folder.txt" "$out/gguf.txt" && echo "same 1" || echo "same 0"
