// How a step of training is taken, and how a cache is kept: options that `bench` and `fit` share.
#pragma once

#include "lmxlab/cli/options.h"
#include "lmxlab/plan/plan.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>

namespace lmxlab::cli {

/// Declares --kv-bits.
void declare_kv_bits(Options& o, std::optional<std::string>* target);
/// What a cache is told of it.
std::optional<int> cache_bits(const std::optional<std::string>& option);

struct StepArguments {
  int accumulate = 1;
  std::string optimizer = "adamw", state_bits = "32";
  bool checkpointing = false;

  void declare(Options& o);
  /// @throws Error(usage) if any was given, for a use that is no training.
  void expect_none(const std::string& command) const;

  /// What options make of one use another, of `bench`.
  static std::string words(const plan::Settings& from, const plan::Settings& to);

  int bits() const { return std::stoi(state_bits); }
  /// Tokens of data that `bench` trains on: two batches at least.
  static size_t tokens(int batch, int context) {
    return std::max<size_t>(size_t(batch) * size_t(context) * 2, 4096) + 1 + size_t(context);
  }
};

}  // namespace lmxlab::cli
