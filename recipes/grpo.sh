#!/bin/sh
# Shows: a model that has learned the form of sums and a vague idea of their values learns the values from being told right
# or wrong (GRPO): rewards, rollouts, and the same bits in rollout and training.
# Data: sums of two numbers below 20, generated; the answers it is shown first are mostly wrong; a fifth of the sums held out of
# all. Takes: half a minute.
# Must reach: of the held-out sums 85 % are right, from less than half; no token's log-probability differs between rollout
# and training (mismatch 0).
. "$(dirname "$0")/common.sh"

awk -v out="$out" -v sums="${SUMS:-20}" 'BEGIN {
  srand(1)
  for (a = 0; a < sums; a++) for (b = 0; b < sums; b++) held[a, b] = rand() < 0.2
  for (a = 0; a < sums; a++) for (b = 0; b < sums; b++) {
    line = sprintf("{\"prompt\":\"%d+%d=\",\"answer\":\"%d\"}", a, b, a + b)
    print line > out (held[a, b] ? "/asked.jsonl" : "/questions.jsonl")
  }
  for (i = 0; i < 8000; i++) {
    a = int(rand() * sums); b = int(rand() * sums); c = a + b + int(rand() * 7) - 3
    if (!held[a, b]) printf "{\"prompt\":\"%d+%d=\",\"completion\":\"%d.\"}\n", a, b, c < 0 ? 0 : c > out "/shown.jsonl"
  }
}'
train --data "$out/shown.jsonl" --set objective.kind=sft --set data.tokenizer=byte --set model.preset=llama-tiny --set model.dim=64 \
  --set model.heads=4 --set optimizer.lr=3e-3 --set schedule.warmup=20 --set run.context=32 --set run.batch=32 \
  --set run.steps="${STEPS:-600}" --out "$out/shown" >"$out/shown.json"

cat >"$out/grpo.toml" <<END
[model]
preset = "$out/shown"

[data]
file = "$out/questions.jsonl"
validation_file = "$out/asked.jsonl"

[objective]
kind = "grpo"

[grpo]
prompts = 16
group_size = 8
max_completion_length = 4
stop_tokens = [46]
epsilon_high = 0.28

[[rewards]]
reward = "exact"

[optimizer]
name = "adamw"
lr = ${LR:-5e-4}

[schedule]
name = "linear"

[run]
steps = ${GRPO_STEPS:-1600}
batch = 128
context = 32
log_every = 1
eval_every = 0
checkpoint_every = 0
END
"$lmxlab" train "$out/grpo.toml" --quiet --json --out "$out/grpo" >"$out/grpo.json"

# The share of right answers to what was held out.
right() {
  "$lmxlab" generate "$1" --prompts-file "$out/asked.jsonl" --max-tokens 4 --stop . --answer '[0-9]+' --temperature 0 --json --quiet |
    tail -n 1 | number pass@1
}
echo "before $(right "$out/shown")"
echo "after $(right "$out/grpo")"
# Of the completions of a rollout, in the first and the last twentieth of the steps.
sed 's/.*"success":\([^,}]*\).*/\1/' "$out/grpo/metrics.jsonl" | awk '
  { all[NR] = $1 }
  END { n = int(NR / 20); for (i = 1; i <= n; i++) { first += all[i] / n; last += all[NR + 1 - i] / n }; print "first", first; print "last", last }'
echo "mismatch $(sed 's/.*"mismatch":\([^,}]*\).*/\1/' "$out/grpo/metrics.jsonl" | sort -g | tail -n 1)"
