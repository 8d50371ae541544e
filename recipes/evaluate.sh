#!/bin/sh
# Shows: perplexity and bits a byte on a text that was never trained on, of two models before and after training.
# Data: characters of Tiny Shakespeare, the last tenth held out. Takes: half a minute.
# Must reach: from six bits a byte, which knows nothing of 65 characters, to 2.95 for the GPT and 2.7 for the Llama.
. "$(dirname "$0")/common.sh"
split_shakespeare

for preset in gpt-tiny llama-tiny; do
  for steps in 1 "${STEPS:-1200}"; do
    train --set model.preset=$preset --set optimizer.lr=4e-3 --set schedule.warmup=1 --set run.batch=16 --set run.steps="$steps" \
      --out "$out/$preset-$steps" >"$out/train.json"
    "$lmxlab" perplexity "$out/$preset-$steps" --file "$out/held-out.txt" --context 64 --max-tokens "${EVAL:-20000}" --json --quiet >"$out/$preset-$steps.json"
    [ "$steps" = 1 ] && when=before || when=after
    echo "$preset-$when $(number bits_per_byte <"$out/$preset-$steps.json")"
  done
done
