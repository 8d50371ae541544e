#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/base/version.h"
#include "lmxlab/checks/examine.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/long_text.h"
#include "lmxlab/cli/measure.h"
#include "lmxlab/cli/model_argument.h"
#include "lmxlab/cli/progress.h"
#include "lmxlab/config/count.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/io/gguf.h"
#include "lmxlab/io/hf_folder.h"
#include "lmxlab/kernels/isa.h"
#include "lmxlab/kernels/machine.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/quantized.h"
#include "lmxlab/kernels/thread_pool.h"

#include <mlx/array.h>
#include <mlx/ops.h>
#include <mlx/version.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

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
constexpr int kShortest = 8;  // tokens that properties need
constexpr int kBeyond = 4;    // times the length: as far as windows and chunks are met

// Checks of what lies beside the weights.
constexpr const char* kBeside[] = {"file", "reference", "tokenizer"};

class Doctor : public Command {
  std::optional<std::string> model_;
  std::optional<std::string> only_;
  std::optional<int> length_;
  int64_t seed_ = 0;
  Json checks_ = Json::array(), machine_ = Json::object(), copy_ = Json::object();
  int failed_ = 0, done_ = 0;
  bool bad_weights_ = false;
  Context* context_ = nullptr;

  static std::vector<std::string> keys() {
    std::vector<std::string> out;
    for (const auto& p : checks::properties()) out.push_back(p.key);
    out.insert(out.end(), std::begin(kBeside), std::end(kBeside));
    return out;
  }

  void declare(Options& o) override {
    o.argument("MODEL", &model_,
               "a model or run folder, a GGUF file, a folder of config.json alone, or a preset: "
               "its properties are checked as well");
    o.option("--only", "NAME,...", &only_, "these checks of MODEL alone: " + join(keys(), ", "));
    o.option("--length", "N", &length_,
             "tokens of the texts that are tried; windows and chunks are met up to 4 N of them")
        .range(kShortest, 4096)
        .otherwise("24");
    o.option("--seed", "N", &seed_, "of a preset's weights, and of the text tried").range(0);
  }

  // What --only names; empty: all.
  std::vector<std::string> chosen() const {
    std::vector<std::string> out;
    if (!only_) return out;
    const auto known = keys();
    for (const auto& part : split(*only_, ',')) {
      const std::string name(trim(part));
      if (std::find(known.begin(), known.end(), name) == known.end())
        throw Error(Kind::usage, "[doctor] --only: there is no check \"" + name + "\"" +
                                     suggestion(name, known));
      out.push_back(name);
    }
    return out;
  }

  void check(const checks::Check& c, const std::string& states = "") {
    Json entry =
        Json::object({{"name", Json(c.name)}, {"ok", Json(c.ok)}, {"detail", Json(c.detail)}});
    if (c.worst && std::isfinite(*c.worst)) entry["worst"] = Json(*c.worst);
    if (c.bound) entry["bound"] = Json(*c.bound);
    if (!c.hint.empty()) entry["hint"] = Json(c.hint);
    checks_.push_back(std::move(entry));
    if (!c.ok) ++failed_;
    if (context_->json) return;
    std::string padded = c.name;
    padded.resize(std::max<size_t>(21, c.name.size() + 1), ' ');
    std::string said = states;
    if (!c.ok || !c.worst) said += (states.empty() ? "" : ": ") + c.detail;
    if (c.ok && c.worst)
      said += ": worst " + shown(*c.worst) + " of " + shown(*c.bound) + " allowed";
    context_->print(std::string(c.ok ? "ok      " : "FAILED  ") + padded + said + "\n");
    if (!c.hint.empty()) context_->print("        " + c.hint + ".\n");
    context_->flush();
  }
  void check(const std::string& name, bool ok, const std::string& detail) {
    check(checks::Check{name, ok, detail});
  }
  static std::string shown(double v) {
    char text[32];
    std::snprintf(text, sizeof text, "%.2g", v);
    return text;
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

  // On what gradients and training are tried.
  void describe_copy(const config::Model& whole, const std::optional<config::Model>& small) {
    if (!small) return;
    const bool same = *small == whole;
    const auto n = config::count(*small).total;
    copy_ = Json::object({{"same", Json(same)},
                          {"layers", Json(int64_t(small->layers.size()))},
                          {"dim", Json(small->dim)},
                          {"parameters", Json(n)}});
    if (context_->json) return;
    context_->print(
        "        what follows is tried on " +
        (same ? "a model of the same config, with new weights\n"
              : "a small model of the same parts: " + std::to_string(small->layers.size()) +
                    " layers of width " + std::to_string(small->dim) + ", " + with_commas(n) +
                    " parameters\n"));
  }

  void properties(OpenModel& m, const std::vector<std::string>& only) {
    auto& model = m.model;
    const auto wanted = [&](const std::string& key) {
      return only.empty() || std::find(only.begin(), only.end(), key) != only.end();
    };
    const Enter enter(model.runtime());
    // What few rows of packed products round is no fault of the model.
    const kernels::WithActivations exact(kernels::Activations::float32);
    const int given = length_.value_or(24);
    const int positions = learned_positions(model);
    const auto within = [&](int n) { return positions > 0 ? std::min(positions, n) : n; };
    checks::Subject subject{model, within(given), within(kBeyond * given)};
    std::vector<const checks::Property*> todo;
    for (const auto& p : checks::properties())
      if (wanted(p.key)) todo.push_back(&p);
    if (wanted("file")) file(m.place);
    const bool too_short = subject.length < kShortest || model.config().vocab < 2;
    if (std::any_of(todo.begin(), todo.end(), [](auto* p) { return p->on_copy; }))
      subject.small = checks::small_copy(model.config());
    Progress progress(*context_);
    bool said = false;
    for (const auto* p : todo) {
      if (context_->stop.stop_requested())
        throw Error(Kind::canceled, "[doctor] interrupted after " + std::to_string(done_) + " of " +
                                        std::to_string(todo.size()) + " properties");
      progress.update(done_++, int64_t(todo.size()), {p->name});
      const bool weights = p->key == "weights" || p->key == "parameters";
      const auto result = too_short && !weights
                              ? checks::Check{p->name, true,
                                              "not tried: it needs " + std::to_string(kShortest) +
                                                  " positions and 2 tokens in the vocabulary"}
                              : p->run(subject);
      progress.clear();
      if (p->on_copy && !std::exchange(said, true)) describe_copy(model.config(), subject.small);
      check(result, p->states);
      if (p->key == "weights" && !result.ok) {
        bad_weights_ = true;  // nothing can be said of what it computes
        return;
      }
    }
    if (!todo.empty()) progress.update(int64_t(todo.size()), int64_t(todo.size()), {"done"});
    progress.clear();
    if (wanted("reference")) reference(m);
    if (wanted("tokenizer")) round_trip(m);
  }

  // The loader has refused whatever the model does not know.
  void file(const ModelPlace& place) {
    if (place.path.empty()) return missing("file", "a preset has no file");
    size_t n = 0;
    if (io::is_gguf(place.path)) {
      n = io::Gguf(place.path).tensors().size();
    } else if (io::has_weights(place.path)) {
      n = io::read_folder(place.path).size();
    } else {
      return missing("file", "there are no weights beside config.json");
    }
    check("file", true,
          std::to_string(n) +
              " tensors, of the shapes that the config says, none "
              "unknown");
  }

  // What was asked for by name must be there.
  void missing(const std::string& key, const std::string& why) {
    if (only_) throw Error(Kind::not_found, "[doctor] --only " + key + ": " + why);
  }

  void reference(OpenModel& m) {
    const auto path = m.place.path / "reference.safetensors";
    std::error_code ignored;
    if (m.place.path.empty() || !fs::exists(path, ignored))
      return missing("reference",
                     "expected reference.safetensors with input_ids and logits beside "
                     "the weights");
    const io::SafeTensors of(path);
    if (!of.contains("input_ids") || !of.contains("logits"))
      throw Error(Kind::bad_data, "[doctor] " + path.string() +
                                      ": expected input_ids [B, T] and logits [B, T, V], got " +
                                      join(of.names(), ", "));
    const auto ids = of.get("input_ids"), logits = of.get("logits");
    const int vocab = m.model.config().vocab;
    if (ids.ndim() != 2 || logits.ndim() != 3 || logits.shape(0) != ids.shape(0) ||
        logits.shape(1) != ids.shape(1) || logits.shape(2) != vocab)
      throw Error(Kind::bad_data, "[doctor] " + path.string() +
                                      ": expected input_ids [B, T] and logits [B, T, " +
                                      std::to_string(vocab) + "], got other shapes");
    // How far its authors' own computations in other orders are apart, where they say so.
    double bound = 0;
    const auto about = m.place.path / "reference.json";
    if (fs::exists(about, ignored)) {
      const Json json = Json::parse(read_file(about), about.string());
      const auto number = [&](const char* key) {
        const Json* v = json.find(key);
        return v && v->is_number() ? v->as_number() : 0.0;
      };
      bound =
          number("atol") +
          number("rtol") * double(mx::max(mx::abs(mx::astype(logits, mx::float32))).item<float>());
    }
    check(checks::equals_reference(m.model, ids, logits, bound),
          "logits of " + std::to_string(ids.size()) + " tokens beside the weights");
  }

  void round_trip(OpenModel& m) {
    if (!m.tokenizer) return missing("tokenizer", "there is none beside the weights");
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
    if (!model_ && (only_ || length_))
      throw Error(Kind::usage, std::string("[doctor] ") + (only_ ? "--only" : "--length") +
                                   " is of a model's checks: expected MODEL");
    const auto only = chosen();
    std::optional<OpenModel> model;
    if (model_) {
      auto place = find_model(*model_, context);
      if (weights_of(place).empty())
        model.emplace(new_model(std::move(place), uint64_t(seed_), DType::f32, context));
      else
        model.emplace(open_model(std::move(place), uint64_t(seed_), std::nullopt, context));
      expect_tokens(model->model.config(), "doctor");
    }
    if (only.empty()) machine();
    if (model) properties(*model, only);
    if (context.json) {
      Json report = Json::object({{"checks", checks_}});
      if (only.empty()) report["machine"] = machine_;
      if (copy_.size() > 0) report["copy"] = copy_;
      context.print_json(report);
    } else {
      const size_t n = checks_.size();
      context.print(failed_ == 0 ? std::to_string(n) + " checks, all ok\n"
                                 : std::to_string(failed_) + " of " + std::to_string(n) +
                                       " checks failed\n");
    }
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
