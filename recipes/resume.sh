#!/bin/sh
# Shows: a run that is interrupted and goes on ends with the weights of one that never was.
# Data: characters of Tiny Shakespeare. Takes: ten seconds.
# Must reach: 0 bytes of the two models differ, after an interruption that did fall into the run.
. "$(dirname "$0")/common.sh"
steps=${STEPS:-600}
run() { exec "$lmxlab" train --quiet --json --set model.preset=llama-tiny --set run.steps="$steps" --set run.checkpoint_every=20 --set run.eval_every=0 "$@"; }

(run --out "$out/whole" >"$out/whole.json")
run --out "$out/parts" >"$out/first.json" &
first=$!
until ls -d "$out"/parts/checkpoints/step-* >/dev/null 2>&1 || ! kill -0 $first 2>/dev/null; do sleep 0.1; done
kill -TERM $first
wait $first && code=0 || code=$?
echo "exit_code $code"
echo "interrupted_at $(number steps <"$out/first.json")"
"$lmxlab" train --resume "$out/parts" --quiet --json >"$out/second.json"
echo "steps $(number steps <"$out/second.json")"
echo "different_bytes $(cmp -l "$out/whole/model.safetensors" "$out/parts/model.safetensors" | wc -l)"
