#include "lmxlab/base/text.h"
#include "lmxlab/base/version.h"
#include "lmxlab/checks/properties.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/long_text.h"
#include "lmxlab/cli/measure.h"
#include "lmxlab/cli/model_argument.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/kernels/isa.h"
#include "lmxlab/kernels/machine.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/quantized.h"
#include "lmxlab/kernels/thread_pool.h"

#include <mlx/array.h>
#include <mlx/ops.h>
#include <mlx/version.h>

#include <algorithm>
#include <random>

namespace lmxlab::cli {
namespace {

std::string fixed(double v, int digits) {
  char text[48];
  std::snprintf(text, sizeof text, "%.*f", digits, v);
  return text;
}
std::string share(double part, double whole) {
  return whole > 0 ? ", " + fixed(100 * part / whole, 0) + "% of it" : "";
}
constexpr int kLength = 24, kShortest = 8;  // tokens of the sequences that properties are tried on

class Doctor : public Command {
  std::optional<std::string> model_;
  int64_t seed_ = 0;
  Json checks_ = Json::array(), machine_ = Json::object();
  int failed_ = 0;
  bool bad_weights_ = false;
  Context* context_ = nullptr;

  void declare(Options& o) override {
    o.argument("MODEL", &model_,
               "a model or run folder, or a preset: its properties are checked as well");
    o.option("--seed", "N", &seed_, "of a preset's weights, and of the text tried").range(0);
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
    check("mlx", std::string(mx::version()) == LMXLAB_MLX_VERSION,
          std::string(mx::version()) + ", back end " LMXLAB_MLX_FLAVOUR
                                       ", built for " LMXLAB_MLX_VERSION);
    // Ours stands in front of MLX's CPU back end on Linux alone.
#ifdef __linux__
    const bool ours = on_cpu();
#else
    const bool ours = false;
#endif
    check("allocator", !ours || kernels::own_allocator(), kernels::allocator_name());
    check("matrix product", !ours || kernels::own_gemm(), kernels::gemm_name());
    std::vector<std::string> sets;
    for (const auto isa : kernels::isas()) sets.emplace_back(kernels::name(isa));
    const std::string active(kernels::name(kernels::isa()));
    check("kernels", true,
          on_cpu() ? active + " of " + join(sets, ", ") + "; " +
                         std::to_string(kernels::threads()) + " threads"
                   : "MLX's for " LMXLAB_MLX_FLAVOUR);
    speed();
    machine_["chip"] = Json(chip_name());
    machine_["cores"] = Json(kernels::usable_cpus());
    machine_["memory_bytes"] = Json(int64_t(kernels::memory_size()));
    machine_["mlx"] = Json(std::string(mx::version()) + " " LMXLAB_MLX_FLAVOUR);
    machine_["matrix_product"] = Json(kernels::gemm_name());
    if (on_cpu()) {
      machine_["threads"] = Json(kernels::threads());
      machine_["set"] = Json(active);
      Json all = Json::array();
      for (const auto& set : sets) all.push_back(Json(set));
      machine_["sets"] = std::move(all);
    }
  }

  // What the machine can do, and what share of it a product and a streaming kernel reach.
  void speed() {
    const Rates rates = measure_rates();
    check("bandwidth", rates.read > 0, fixed(rates.read / 1e9, 1) + " GB/s read");
    std::string arithmetic = fixed(rates.f32 / 1e9, 0) + " GFLOP/s in float32";
    if (rates.bf16 > 0) arithmetic += ", " + fixed(rates.bf16 / 1e9, 0) + " in bfloat16";
    if (rates.int8 > 0) arithmetic += ", " + fixed(rates.int8 / 1e9, 0) + " GOP/s in int8";
    check("arithmetic", rates.f32 > 0, arithmetic);
    const double stream = streaming_rate();
    check("streaming", stream > 0,
          "RMSNorm moves " + fixed(stream / 1e9, 1) + " GB/s" + share(stream, rates.read));
    const double f32 = product_flops(mx::float32), bf16 = product_flops(mx::bfloat16);
    check("product float32", f32 > 0,
          fixed(f32 / 1e9, 0) + " GFLOP/s" + share(f32, rates.flops(DType::f32)));
    check("product bfloat16", bf16 > 0,
          fixed(bf16 / 1e9, 0) + " GFLOP/s" + share(bf16, rates.flops(DType::bf16)));
    machine_["read_bytes_per_s"] = Json(rates.read);
    machine_["f32_flops"] = Json(rates.f32);
    machine_["bf16_flops"] = Json(rates.bf16);
    machine_["int8_ops"] = Json(rates.int8);
    machine_["streaming_bytes_per_s"] = Json(stream);
    machine_["product_f32_flops"] = Json(f32);
    machine_["product_bf16_flops"] = Json(bf16);
  }

  void properties(OpenModel& m) {
    auto& model = m.model;
    const Enter enter(model.runtime());
    // What few rows of packed products round is no fault of the model.
    const kernels::WithActivations exact(kernels::Activations::float32);
    for (const auto& e : core::collect(model.transformer()))
      if (!mx::all(mx::isfinite(mx::astype(e.param->value, mx::float32))).item<bool>()) {
        check("weights", false, e.path + " has numbers that are not finite");
        bad_weights_ = true;
        return;
      }
    check("weights", true, with_commas(model.parameter_count()) + ", all finite");
    const int positions = learned_positions(model);
    const int length = std::min(positions > 0 ? positions : kLength, kLength);
    if (length < kShortest || model.config().vocab < 2) {
      check("properties", true,
            "not checked: they need " + std::to_string(kShortest) +
                " positions and 2 tokens in the vocabulary");
    } else {
      for (const auto& c : checks::check_model(model, length)) check(c.name, c.ok, c.detail);
    }
    if (!m.tokenizer) return;
    const auto& tokenizer = *m.tokenizer;
    std::mt19937_64 random(uint64_t(seed_) + 1);
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
    if (context.json)
      context.print_json(Json::object({{"checks", checks_}, {"machine", machine_}}));
    context.flush();
    if (failed_ > 0)
      context.log(std::to_string(failed_) + (failed_ == 1 ? " check failed" : " checks failed"));
    return failed_ == 0 ? 0 : exit_code(bad_weights_ ? Kind::bad_data : Kind::internal);
  }
};

}  // namespace

Command* make_doctor() {
  return new Doctor;
}

}  // namespace lmxlab::cli
