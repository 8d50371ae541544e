// How a step of training is taken, how weights are packed, a cache is kept and memory is bounded:
// options that `bench`, `fit` and `train` share.
#pragma once

#include "lmxlab/cli/options.h"
#include "lmxlab/config/model.h"
#include "lmxlab/models/quantize.h"
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

/// @throws Error(usage) where keys and values are packed of a model that keeps none.
void check_kv_bits(const std::string& command, const std::optional<std::string>& option,
                   const config::Model& model);

/// Bytes of "16GB", "1.5 GiB", "800MB". @throws Error(usage) naming --memory of a command.
int64_t amount(const std::string& command, const std::string& text);

/// --memory of a command that computes: what it may take.
struct MemoryArgument {
  std::optional<std::string> text;

  void declare(Options& o);
  /// Holds the allocator to it, before anything is made; none if it was not given.
  /// @throws Error(usage) for what is no amount
  std::optional<plan::Budget> limit(const std::string& command) const;
};

struct PackArguments {
  std::optional<int> bits, group_size, embedding_bits;
  std::optional<std::string> kv_bits;

  void declare(Options& o);
  /// @throws Error(usage) for one that changes nothing beside the others, and for any if `trains`.
  /// @param with  how a use that generates is asked for, "--mode generate"
  void check(const std::string& command, bool trains, const std::string& with) const;

  bool any() const { return bits || group_size || embedding_bits || kv_bits; }
  QuantizeOptions packing() const {
    return {.bits = bits.value_or(4),
            .group_size = group_size.value_or(64),
            .embedding_bits = embedding_bits.value_or(0)};
  }
};

struct StepArguments {
  int accumulate = 1;
  std::string optimizer = "adamw", state_bits = "32";
  bool checkpointing = false;

  void declare(Options& o);
  /// @throws Error(usage) if any was given, for a use that is no training.
  void expect_none(const std::string& command) const;

  /// What options make of one use another, and what model, of `bench` and `fit`.
  static std::optional<std::string> words(const plan::Settings& from, const plan::Settings& to);

  int bits() const { return std::stoi(state_bits); }
  /// Tokens of data that `bench` trains on: two batches at least.
  static size_t tokens(int batch, int context) {
    return std::max<size_t>(size_t(batch) * size_t(context) * 2, 4096) + 1 + size_t(context);
  }
};

}  // namespace lmxlab::cli
