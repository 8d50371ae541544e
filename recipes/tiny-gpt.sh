#!/bin/sh
# Shows: a tiny GPT is trained on characters and writes a text.
# Data: the built-in Tiny Shakespeare. Takes: half a minute.
# Must reach: 1.97 nats a character on the held-out tenth; of the words it writes, 70 % are words of Shakespeare.
. "$(dirname "$0")/common.sh"

train --set model.preset=gpt-tiny --set model.context=64 --set optimizer.lr=4e-3 --set run.batch=16 --set run.steps="${STEPS:-2000}" \
  --out "$out/model" >"$out/train.json"
"$lmxlab" generate "$out/model" --prompt "ROMEO:" --max-tokens "${TOKENS:-2000}" --seed 1 --quiet >"$out/sample.txt"
head -n 12 "$out/sample.txt" >&2

words() { tr -cs "A-Za-z'" '\n' <"$1" | tr A-Z a-z; }
words "$here/../lmxlab/data/tinyshakespeare.txt" | sort -u >"$out/known.txt"
echo "val_loss $(number val_loss <"$out/train.json")"
echo "known_words $(words "$out/sample.txt" | awk -v known="$out/known.txt" '
  BEGIN { while ((getline w < known) > 0) is[w] = 1 } $0 != "" { n++; k += $0 in is } END { print k / n }')"
