#!/bin/sh
# Shows: several samples of a prompt: the share of right ones, the majority of their answers, and whether any is right.
# Data: the larger of two numbers below 1000, generated; 200 pairs that were held out are asked, 8 samples each. Takes: 10 seconds.
# Must reach: a sample is right in 60 % of the cases, the majority in 6 % more, and any of eight in 90 %.
. "$(dirname "$0")/common.sh"

awk -v learned="$out/learned.jsonl" -v asked="$out/asked.jsonl" 'BEGIN {
  srand(1)
  for (i = 0; i < 10000; i++) {
    a = int(rand() * 1000); b = int(rand() * 1000)
    if (pairs[a, b]++) continue
    prompt = sprintf("{\"prompt\":\"%03d,%03d=\",", a, b); larger = sprintf("%03d", a > b ? a : b)
    if (i < 200) print prompt "\"answer\":\"" larger "\"}" > asked
    else print prompt "\"completion\":\"" larger "\"}" > learned
  }
}'
train --data "$out/learned.jsonl" --set objective.kind=sft --set data.tokenizer=byte --set model.preset=llama-tiny --set optimizer.lr=3e-3 \
  --set schedule.warmup=20 --set run.context=128 --set run.batch=8 --set run.steps="${STEPS:-200}" --out "$out/model" >"$out/train.json"
"$lmxlab" generate "$out/model" --prompts-file "$out/asked.jsonl" --max-tokens 3 --answer '[0-9]+' --n 8 --temperature 1 --top-p 1 --seed 1 \
  --json --quiet | tail -n 1 >"$out/summary.json"
"$lmxlab" generate "$out/model" --prompts-file "$out/asked.jsonl" --max-tokens 3 --answer '[0-9]+' --best-of 8 --temperature 1 --top-p 1 --seed 1 \
  --json --quiet >"$out/best.jsonl"
greedy=$("$lmxlab" generate "$out/model" --prompts-file "$out/asked.jsonl" --max-tokens 3 --answer '[0-9]+' --temperature 0 --json --quiet |
  tail -n 1 | number pass@1)
one=$(number pass@1 <"$out/summary.json")
majority=$(number majority <"$out/summary.json")
echo "one $one"
echo "majority $majority"
echo "gained $(calc "$majority - $one")"
sed 's/.*"answer":"\([0-9]*\)".*/\1/' "$out/asked.jsonl" >"$out/right.txt"
echo "best $(sed -n 's/^{"text":"\([0-9]*\)".*/\1/p' "$out/best.jsonl" | paste - "$out/right.txt" | awk '$1 == $2 { n++ } END { print n / NR }')"
echo "greedy $greedy"
echo "any $(number pass@8 <"$out/summary.json")"
