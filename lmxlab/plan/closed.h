// What a model takes by arithmetic on its config alone: exact for weights, caches, gradients and
// optimizers; an estimate for activations. Rehearsals (governor/measure.h) say it to the byte where
// they can be; this serves machines that are not here, and is their second opinion.
#pragma once

#include "lmxlab/config/model.h"
#include "lmxlab/plan/plan.h"

#include <cstdint>

namespace lmxlab::plan {

/// @param element  bytes of a number, or of a packed weight's scales and offsets.
/// @param bits  of packed weights: every layer's and the embedding's; 0: none are.
/// @param group  packed weights that share a scale and an offset
/// @param embedding_bits  of the embedding and a head tied to it; 0: as `bits`
int64_t weight_bytes(const config::Model& model, int element, int bits = 0, int group = 64,
                     int embedding_bits = 0);

/// Of the weights, what a pass over so many tokens reads at least: of n experts of which each token
/// meets k, n (1 - (1 - k / n)^tokens), as many as are expected where every choice is as likely;
/// tables of which it looks up rows, and heads for further tokens, not at all.
int64_t bytes_read(const config::Model& model, int64_t tokens, int element, int bits = 0,
                   int group = 64, int embedding_bits = 0);

/// Of state: adamw's two moments, Adafactor's rows and columns.
int64_t optimizer_bytes(const config::Model& model, const Settings& settings);

/// Of adapters on every linear layer of the blocks.
int64_t adapter_parameters(const config::Model& model, int rank);

/// What an estimate takes into account beside model and settings.
struct EstimateOptions {
  int new_tokens = 128;  // that a generation has room for behind its context
  int max_kv = 0;        // positions that its cache keeps at most; 0: all
  bool fused = true;     // our kernels: logits, and scores of attention in training, are not whole
};
/// @param element  bytes of a weight that is not packed
Parts estimate(const config::Model& model, const Settings& settings, int element,
               const EstimateOptions& options = {});
/// Whether a rehearsal is worth its time: of many models most are far too large. With weights of 16
/// bits where nothing says how many, they and the optimizer's state are within the budget, and all
/// that is estimated is at most a seventh above.
bool may_fit(const config::Model& model, const Settings& settings, const Budget& budget);

/// A model of Llama 3's proportions: heads of 128, eight of keys and values, hidden 3.5 times as
/// wide.
config::Model llama_like(int width, int depth);
/// The largest of those that generates with this budget at 4,096 positions.
struct Largest {
  int64_t parameters = 0, peak = 0, read = 0;  // read: bytes a token of decode reads
};
Largest largest_that_fits(const Budget& budget, int bits);

}  // namespace lmxlab::plan
