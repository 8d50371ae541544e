// Will it fit: what a use of a model takes, part by part, what there is, and if it is too much what
// would make it fit. A value that `lmxlab fit`, the start of commands and the documents print.
#pragma once

#include "lmxlab/base/fields.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace lmxlab::plan {

/// lora, qlora: weights stay, in their own type or packed, and low-rank adapters train.
enum class Mode { generate, train, lora, qlora };

/// Bytes at the peak.
struct Parts {
  int64_t weights = 0;      // packed ones with scales; of adapters too
  int64_t kv_cache = 0;     // keys and values, as allocated
  int64_t gradients = 0;    // of what trains; at the peak some may not be there yet
  int64_t optimizer = 0;    // its state
  int64_t activations = 0;  // everything else that lives then: results, what backward keeps
  int64_t workspace = 0;    // of the largest kernel then
  int64_t mapped = 0;       // of the weights: they lie in a file's mapping and are no arrays' own
  int64_t largest_op = 0;   // that an op adds at once, where that is known; within the others
  int64_t read = 0;         // of the weights: by a step of decode, of all rows; 0 of training
  template <class V>
  void visit(V& v) {
    v("weights", weights), v("kv_cache", kv_cache), v("gradients", gradients);
    v("optimizer", optimizer), v("activations", activations), v("workspace", workspace);
    v("mapped", mapped), v("largest_op", largest_op), v("read", read);
  }
  int64_t peak() const {
    return weights + kv_cache + gradients + optimizer + activations + workspace;
  }
  /// What an allocator counts of it.
  int64_t arrays() const { return peak() - mapped; }
};

/// What may be used, and why no more.
struct Budget {
  int64_t bytes = 0;
  std::string reason;  // "75 % of 64 GB", "the 2.0 GB that ulimit -v leaves"
};

/// What decides what a use takes, besides the model.
struct Settings {
  Mode mode = Mode::generate;
  int batch = 1, context = 512;
  int accumulate = 1;               // batches an update, of training
  bool bf16 = false;                // computes in bfloat16
  std::optional<int> bits = {};     // of weights packed first; none: as they are
  int group_size = 64;              // of those: weights that share a scale
  int embedding_bits = 0;           // of those: the embedding's, and a tied head's; 0: as `bits`
  std::optional<int> kv_bits = {};  // none: the model's own way
  int state_bits = 32;              // of an optimizer's state
  bool factored = false;            // Adafactor in the place of AdamW
  bool average = false;             // of the trained weights, kept beside them
  bool checkpointing = false;       // of gradients, a block each
  int rank = 16;                    // of adapters
  std::string preset = {};          // another model than the one asked for
  bool adapts() const { return mode == Mode::lora || mode == Mode::qlora; }
  bool operator==(const Settings&) const = default;
};

/// A way to make it fit.
struct Advice {
  std::string change;   // "gradient checkpointing"
  std::string options;  // what to give or change on the command line
  std::string cost;     // what it costs
  Settings settings;
  int64_t peak = 0;  // predicted
};

struct Plan {
  Settings settings;
  Parts parts;
  Budget budget;
  std::vector<Advice> advice = {};  // those that fit, cheapest first; of one that fits none

  bool fits() const { return parts.peak() <= budget.bytes; }
};

/// Bytes by part of a use; throws what it has to say of settings that cannot be.
using Measure = std::function<Parts(const Settings&)>;
/// How a command is told to do one thing in the place of another; none where it cannot do that.
using Words = std::function<std::optional<std::string>(const Settings& from, const Settings& to)>;
/// Presets that may stand in, largest first.
using Smaller = std::function<std::vector<std::string>()>;

/// The plan, and where it does not fit the changes that make it fit: one of them alone where one
/// does, else several together, none of which is too many.
/// @param smaller  of the same family; asked until one fits. None: there are none.
/// @param roughly  at once: what it says takes more than twice the budget is not measured
Plan make_plan(const Settings& settings, const Budget& budget, const Measure& measure,
               const Words& words, const Smaller& smaller = {}, const Measure& roughly = {});

/// The lines of a report: parts, peak, budget, advice.
std::string report(const Plan& plan);
/// One error that says what is too much and ranks the ways out. @throws Error(resource) if the plan
/// does not fit.
void require_fit(const Plan& plan, const std::string& what);

}  // namespace lmxlab::plan

template <>
struct lmxlab::EnumNames<lmxlab::plan::Mode> {
  static constexpr std::pair<lmxlab::plan::Mode, const char*> table[] = {
      {lmxlab::plan::Mode::generate, "generate"},
      {lmxlab::plan::Mode::train, "train"},
      {lmxlab::plan::Mode::lora, "lora"},
      {lmxlab::plan::Mode::qlora, "qlora"}};
};
