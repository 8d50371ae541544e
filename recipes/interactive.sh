#!/bin/sh
# Shows: a text that is written in turns. Each turn goes on from a file of what was read, so that nothing is read twice.
# Data: characters of Tiny Shakespeare. Takes: ten seconds.
# Must reach: three turns give the text of one, and the last reads less than a fiftieth of what stands before it.
. "$(dirname "$0")/common.sh"

train --set model.preset=llama-tiny --set model.context=512 --set optimizer.lr=4e-3 --set run.steps="${STEPS:-1000}" --out "$out/model" >"$out/train.json"
tokens() { grep -o '"tokens":\[[^]]*' | cut -d'[' -f2; }
write() { "$lmxlab" generate "$out/model" --tokens "$1" --max-tokens "$2" --repetition-penalty 1.1 --temperature 0 --json --quiet --prompt-cache "$3"; }
prompt=$("$lmxlab" tokenize "$out/model" --text "JULIET:" --json --quiet | grep -o '\[[^]]*' | tr -d '[ ')

rm -f "$out/whole.cache" "$out/turns.cache"
whole=$(write "$prompt" 150 "$out/whole.cache" | tokens)
said=$prompt
for turn in 1 2 3; do
  write "$said" 50 "$out/turns.cache" >"$out/turn-$turn.json"
  said=$said,$(tokens <"$out/turn-$turn.json")
  grep -o '"text":"[^"]*' "$out/turn-$turn.json" | cut -d'"' -f4 >&2
done
[ "$said" = "$prompt,$whole" ] && echo "same 1" || echo "same 0"
echo "read_again $(calc "1 - $(number reused_tokens <"$out/turn-3.json") / $(number prompt_tokens <"$out/turn-3.json")")"
