// --draft MODEL|ngram|mtp: what drafts tokens for speculative decoding.
#pragma once

#include "lmxlab/cli/model_argument.h"
#include "lmxlab/cli/options.h"
#include "lmxlab/inference/generate.h"

#include <memory>
#include <optional>
#include <string>

namespace lmxlab::cli {

struct DraftArgument {
  std::optional<std::string> name;
  std::optional<int> tokens;

  void declare(Options& o);
  /// Opens what was named, for this model.
  /// @throws Error(mismatch) for another vocabulary or no heads, Error(usage) for a number without
  /// a draft; as
  ///   open_model.
  void open(OpenModel& target, uint64_t seed, std::optional<DType> activations,
            const Context& context);
  bool given() const { return name.has_value(); }
  /// Into the options of a generation.
  void set(GenerateOptions& options) const;
  /// Whether it is the model itself without its adapters, whose weights are there.
  bool is_base() const { return base_; }
  /// Whether the model itself drafts, with its heads for further tokens.
  bool own_heads() const { return name == "mtp"; }
  /// None of prompt lookup, of the base and of own heads.
  OpenModel* model() const { return model_.get(); }

 private:
  std::shared_ptr<OpenModel> model_;
  bool base_ = false;
  std::shared_ptr<DraftSource> source_;
};

/// ", 31 of 40 drafted tokens kept"; empty if nothing was drafted.
std::string draft_text(const GenerateStats& stats);

}  // namespace lmxlab::cli
