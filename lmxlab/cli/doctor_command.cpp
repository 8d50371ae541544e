#include "lmxlab/base/text.h"
#include "lmxlab/base/version.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/long_text.h"
#include "lmxlab/cli/measure.h"
#include "lmxlab/cli/model_argument.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/kernels/machine.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/thread_pool.h"

#include <mlx/array.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>
#include <mlx/version.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

namespace lmxlab::cli {
namespace {

std::string fixed(double v, int digits) {
  char text[48];
  std::snprintf(text, sizeof text, "%.*f", digits, v);
  return text;
}
std::string tiny(double v) {
  char text[48];
  std::snprintf(text, sizeof text, "%.2g", v);
  return text;
}

class Doctor : public Command {
  std::optional<std::string> model_;
  int64_t seed_ = 0;
  Json checks_ = Json::array();
  int failed_ = 0;
  Context* context_ = nullptr;

  void declare(Options& o) override {
    o.argument("MODEL", &model_,
               "a model or run folder, or a preset: its properties are checked as well");
    o.option("--seed", "N", &seed_, "of a preset's weights, and of the tokens tried").range(0);
  }

  void check(const std::string& name, bool ok, const std::string& detail) {
    checks_.push_back(
        Json::object({{"name", Json(name)}, {"ok", Json(ok)}, {"detail", Json(detail)}}));
    if (!ok) ++failed_;
    if (context_->json) return;
    std::string padded = name;
    padded.resize(std::max<size_t>(18, name.size() + 1), ' ');
    context_->print(std::string(ok ? "ok   " : "FAIL ") + padded + detail + "\n");
    context_->flush();
  }

  void machine() {
    check("chip", true, chip_name());
    check("cores", kernels::usable_cpus() > 0, std::to_string(kernels::usable_cpus()) + " usable");
    const auto room = kernels::memory_room();
    const bool bounded = room.bytes != SIZE_MAX;
    check("memory", !bounded || room.bytes > size_t{256} << 20,
          human_bytes(double(kernels::memory_size())) + ", " +
              (bounded ? human_bytes(double(room.bytes)) + " available (bound: " + room.bound + ")"
                       : "no bound known"));
    const double bandwidth = read_bandwidth();
    check("memory bandwidth", bandwidth > 0, fixed(bandwidth / 1e9, 1) + " GB/s read");
    const double flops = matmul_flops();
    check("arithmetic", flops > 0, fixed(flops / 1e9, 0) + " GFLOP/s in a float32 matrix product");
    check("mlx", std::string(mx::version()) == LMXLAB_MLX_VERSION,
          std::string(mx::version()) + ", back end " LMXLAB_MLX_FLAVOUR
                                       ", built for " LMXLAB_MLX_VERSION);
    // Ours stands in front of MLX's CPU back end on Linux alone.
#ifdef __linux__
    const bool ours = std::string_view(LMXLAB_MLX_FLAVOUR) == "cpu";
#else
    const bool ours = false;
#endif
    check("allocator", !ours || kernels::own_allocator(), kernels::allocator_name());
    check("matrix product", !ours || kernels::own_gemm(), kernels::gemm_name());
    check("threads", true, std::to_string(kernels::threads()) + " for kernels");
  }

  // Largest difference of two float arrays, as a share of the largest value, against what rounding
  // explains.
  void compare(const std::string& name, const LanguageModel& model, const mx::array& a,
               const mx::array& b, const std::string& what) {
    const auto x = to_vector<float>(mx::astype(a, mx::float32)),
               y = to_vector<float>(mx::astype(b, mx::float32));
    double worst = 0, largest = 0;
    bool finite = x.size() == y.size();
    for (size_t i = 0; i < x.size() && i < y.size(); ++i) {
      finite = finite && std::isfinite(x[i]) && std::isfinite(y[i]);
      worst = std::max(worst, double(std::abs(x[i] - y[i])));
      largest = std::max(largest, double(std::abs(x[i])));
    }
    const double eps = model.dtype() == DType::f32   ? 0x1p-23
                       : model.dtype() == DType::f16 ? 0x1p-10
                                                     : 0x1p-7;
    const double tolerance =
        8 * eps * std::sqrt(double(model.config().dim)) * std::max(largest, 1e-6);
    check(name, finite && worst <= tolerance,
          what + ": largest difference " + tiny(worst) + ", allowed " + tiny(tolerance));
  }

  void properties(const OpenModel& m) {
    const auto& model = m.model;
    const Enter enter(model.runtime());
    const int vocab = model.config().vocab;
    const int positions = learned_positions(model);
    const int length = std::clamp(positions > 0 ? positions : 32, 1, 32), rows = 3;
    std::mt19937_64 random(uint64_t(seed_) + 1);
    std::vector<int32_t> ids(size_t(rows) * size_t(length));
    for (auto& id : ids) id = int32_t(random() % uint64_t(vocab));
    const mx::array tokens(ids.begin(), {rows, length}, mx::int32);
    const auto whole = model.forward(tokens);
    if (length > 1) {
      const int cut = length / 2;
      auto other = ids;
      for (int b = 0; b < rows; ++b)
        for (int t = cut; t < length; ++t) {
          auto& id = other[size_t(b * length + t)];
          id = int32_t((id + 1 + int64_t(random() % uint64_t(std::max(vocab - 1, 1)))) % vocab);
        }
      const auto changed = model.forward(mx::array(other.begin(), {rows, length}, mx::int32));
      compare("causal", model, mx::slice(whole, {0, 0, 0}, {rows, cut, vocab}),
              mx::slice(changed, {0, 0, 0}, {rows, cut, vocab}), "later tokens changed");
      const int pieces[] = {1, std::max(1, length / 3), length};
      Cache cache = model.make_cache();
      std::vector<mx::array> parts;
      for (int at = 0, i = 0; at < length; ++i) {
        const int end = std::min(length, at + pieces[std::min(i, 2)]);
        auto [logits, next] = model(mx::slice(tokens, {0, at}, {rows, end}), std::move(cache));
        eval(logits, next);
        parts.push_back(logits), cache = std::move(next), at = end;
      }
      compare("cached = full", model, whole, mx::concatenate(parts, 1),
              "in pieces through the cache");
    }
    std::vector<mx::array> single;
    for (int b = 0; b < rows; ++b)
      single.push_back(model.forward(mx::slice(tokens, {b, 0}, {b + 1, length})));
    compare("batched = single", model, whole, mx::concatenate(single, 0),
            std::to_string(rows) + " rows");
    if (!m.tokenizer) return;
    const auto& tokenizer = *m.tokenizer;
    std::vector<int> plain;
    while (plain.size() < 200) {
      const int id = int(random() % uint64_t(tokenizer.vocab_size()));
      if (!tokenizer.is_special(id)) plain.push_back(id);
    }
    const auto text = tokenizer.decode(plain);
    const auto again = tokenizer.decode(tokenizer.encode_ids(text, {.special = false}));
    check("tokenizer", again == text,
          "text of 200 random tokens " + std::string(again == text ? "comes" : "does not come") +
              " back");
  }

  int run(Context& context) override {
    context_ = &context;
    std::optional<OpenModel> model;
    if (model_) model.emplace(open_model(*model_, uint64_t(seed_), std::nullopt, context));
    machine();
    if (model) properties(*model);
    if (context.json) context.print_json(Json::object({{"checks", checks_}}));
    context.flush();
    if (failed_ > 0)
      context.log(std::to_string(failed_) + (failed_ == 1 ? " check failed" : " checks failed"));
    return failed_ > 0 ? exit_code(Kind::internal) : 0;
  }
};

}  // namespace

Command* make_doctor() {
  return new Doctor;
}

}  // namespace lmxlab::cli
