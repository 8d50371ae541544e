#!/bin/sh
# Shows: greedy text, samples, the best of several by likelihood, and the majority of their answers.
# Data: sums of two numbers below 100, generated; 100 sums that were held out are asked, 8 samples each. Takes: two minutes.
# Must reach: TODO
. "$(dirname "$0")/common.sh"

awk -v sums="$out/sums.txt" -v asked="$out/asked.jsonl" 'BEGIN {
  srand(1)
  for (a = 0; a < 100; a++)
    for (b = 0; b < 100; b++)
      line[a * 100 + b] = a " " b
  for (i = 9999; i > 0; i--) { j = int(rand() * (i + 1)); t = line[i]; line[i] = line[j]; line[j] = t }
  for (i = 0; i < 10000; i++) {
    split(line[i], n, " "); s = sprintf("%02d+%02d=", n[1], n[2]); answer = sprintf("%03d", n[1] + n[2])
    # The lowest digit first, as one adds by hand.
    answer = substr(answer, 3, 1) substr(answer, 2, 1) substr(answer, 1, 1)
    if (i < 100) print "{\"prompt\":\"" s "\",\"answer\":\"" answer "\"}" > asked
    else print s answer > sums
  }
}'
train --data "$out/sums.txt" --set model.preset=llama-tiny --set optimizer.lr=4e-3 --set run.context=32 --set run.batch=32 \
  --set run.steps="${STEPS:-1500}" --out "$out/model" >"$out/train.json"
ask() { "$lmxlab" generate "$out/model" --prompts-file "$out/asked.jsonl" --max-tokens 3 --answer '[0-9]+' --json --quiet "$@"; }
greedy=$(ask --temperature 0 | tail -n 1)
several=$(ask --n 8 --vote --temperature 1 --top-p 1 | tail -n 1)
best=$(ask --best-of 8 --temperature 1 --top-p 1 | tail -n 1)
echo "$greedy
$several
$best" >&2
echo "one $(echo "$several" | number pass@1)"
echo "any $(echo "$several" | number pass@8)"
echo "majority $(echo "$several" | number majority)"
echo "greedy $(echo "$greedy" | number pass@1)"
