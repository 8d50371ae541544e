#include "lmxlab/base/text.h"
#include "lmxlab/cli/adapter_argument.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/model_argument.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/governor/govern.h"
#include "lmxlab/io/safetensors.h"
#include "lmxlab/kernels/quantized.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <chrono>

namespace lmxlab::cli {
namespace {

constexpr int kTokensAPass = 4096;

class Logits : public Command {
  std::string model_, tokens_file_, out_;
  std::optional<int> cached_;
  int64_t seed_ = 0;
  AdapterArgument adapters_;

  void declare(Options& o) override {
    o.argument("MODEL", &model_, "a model or run folder, or a preset with random weights")
        .require();
    o.option("--tokens-file", "FILE", &tokens_file_,
             "safetensors with `input_ids`, integers [B, T]")
        .require();
    o.option("--out", "FILE", &out_, "safetensors to write, with `logits` float32 [B, T, V]")
        .require();
    o.option("--cached", "N", &cached_, "feed the tokens in pieces of N through the cache")
        .range(1)
        .otherwise("one pass, no cache");
    o.option("--seed", "N", &seed_, "of a preset's weights").range(0);
    adapters_.declare(o);
  }

  static int rows_of(int B, int T) { return std::clamp(kTokensAPass / T, 1, B); }

  mx::array read_ids(int vocab) const {
    const io::SafeTensors file(tokens_file_);
    if (!file.contains("input_ids"))
      throw Error(Kind::bad_data, "[logits] " + tokens_file_ +
                                      " has no `input_ids`; it has: " + join(file.names(), ", "));
    const auto raw = file.get("input_ids");
    if (!mx::issubdtype(raw.dtype(), mx::integer) || raw.ndim() != 2 || raw.size() == 0)
      throw Error(Kind::bad_data,
                  "[logits] " + tokens_file_ + ": input_ids: expected integers [B, T], got " +
                      std::to_string(raw.ndim()) + " dimensions, " + std::to_string(raw.size()) +
                      " elements" +
                      (mx::issubdtype(raw.dtype(), mx::integer) ? "" : ", of another type"));
    const auto ids = mx::contiguous(mx::astype(raw, mx::int64));
    const auto bad = mx::logical_or(mx::less(ids, mx::array(int64_t{0})),
                                    mx::greater_equal(ids, mx::array(int64_t{vocab})));
    if (mx::any(bad).item<bool>()) {
      const int at =
          int(mx::argmax(mx::reshape(mx::astype(bad, mx::int32), {-1})).item<uint32_t>());
      const auto value = mx::take(mx::reshape(ids, {-1}), at).item<int64_t>();
      throw Error(Kind::bad_data,
                  "[logits] " + tokens_file_ + ": input_ids[" + std::to_string(at / ids.shape(1)) +
                      ", " + std::to_string(at % ids.shape(1)) + "] is " + std::to_string(value) +
                      ": outside the vocabulary of " + std::to_string(vocab));
    }
    auto out = mx::astype(ids, mx::int32);
    mx::eval(out);
    return out;
  }

  // In one pass a row or a few, or in pieces of so many tokens.
  static mx::array compute(const LanguageModel& model, const mx::array& ids,
                           std::optional<int> pieces_of, const std::function<void()>& go_on) {
    const int B = ids.shape(0), T = ids.shape(1);
    const int rows = rows_of(B, T);
    std::vector<mx::array> parts;
    for (int b = 0; b < B; b += rows) {
      const int end = std::min(B, b + rows);
      if (!pieces_of) {
        go_on();
        auto piece = mx::astype(model.forward(mx::slice(ids, {b, 0}, {end, T})), mx::float32);
        mx::eval(piece);
        parts.push_back(piece);
        continue;
      }
      Cache cache = model.make_cache();
      cache.text_length = T;
      std::vector<mx::array> pieces;
      for (int t = 0; t < T; t += *pieces_of) {
        go_on();
        auto [logits, next] =
            model(mx::slice(ids, {b, t}, {end, std::min(T, t + *pieces_of)}), std::move(cache));
        auto piece = mx::astype(logits, mx::float32);
        eval(piece, next);
        pieces.push_back(piece), cache = std::move(next);
      }
      auto joined = mx::concatenate(pieces, 1);
      mx::eval(joined);
      parts.push_back(joined);
    }
    auto logits = parts.size() == 1 ? parts[0] : mx::concatenate(parts, 0);
    mx::eval(logits);
    return logits;
  }

  void govern(const OpenModel& m, int B, int T) const {
    Subject subject = subject_of(m);
    subject.pass = [&](const LanguageModel& model, const plan::Settings& s) {
      const bool pieces = cached_ || s.context < T;
      compute(model, mx::zeros({B, T}, mx::int32), pieces ? std::optional(s.context) : std::nullopt,
              [] {});
    };
    // Pieces, and all of them joined.
    subject.held = 2 * sizeof(float) * size_t(B) * size_t(T) * size_t(m.model.config().vocab);
    govern_pass(subject, m.model.parameter_bytes(), rows_of(B, T), std::min(T, cached_.value_or(T)),
                "logits of " + std::to_string(B) + " x " + std::to_string(T) + " tokens",
                {"pieces of fewer tokens", "--cached", "the same answers, more passes", true},
                {budget_beside(m)});
  }

  int run(Context& context) override {
    if (out_.empty()) throw Error(Kind::usage, "[logits] --out: expected a file, got \"\"");
    const auto parent = fs::absolute(out_).parent_path();
    std::error_code ignored;
    if (!fs::is_directory(parent, ignored))  // before the work
      throw Error(Kind::not_found, "[logits] --out: there is no folder " + parent.string());
    auto opened = open_model(model_, uint64_t(seed_), std::nullopt, context);
    adapters_.load(opened);
    const auto& model = opened.model;
    const Enter enter(model.runtime());
    // For comparisons: packed weights as they are, activations unrounded.
    const kernels::WithActivations exact(kernels::Activations::float32);
    const auto ids = read_ids(model.config().vocab);
    const int B = ids.shape(0), T = ids.shape(1);
    govern(opened, B, T);
    const auto start = std::chrono::steady_clock::now();
    const auto go_on = [&] {
      if (context.stop.stop_requested())
        throw Error(Kind::canceled, "[logits] interrupted; nothing was written");
    };
    const auto logits = compute(model, ids, cached_, go_on);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    io::write_safetensors(out_, {{"logits", logits}});
    const int V = logits.shape(2);
    if (context.json)
      context.print_json(Json::object({{"batch", Json(B)},
                                       {"length", Json(T)},
                                       {"vocab", Json(V)},
                                       {"seconds", Json(seconds)}}));
    else
      context.print("logits [" + std::to_string(B) + ", " + std::to_string(T) + ", " +
                    std::to_string(V) + "] in " + out_ + ", " + human_seconds(seconds) + "\n");
    return 0;
  }
};

}  // namespace

Command* make_logits() {
  return new Logits;
}

}  // namespace lmxlab::cli
