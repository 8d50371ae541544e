#include "lmxlab/base/text.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/long_text.h"
#include "lmxlab/cli/measure.h"
#include "lmxlab/cli/model_argument.h"
#include "lmxlab/cli/progress.h"
#include "lmxlab/cli/step_arguments.h"
#include "lmxlab/config/count.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/governor/govern.h"
#include "lmxlab/inference/generate.h"
#include "lmxlab/kernels/machine.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/models/quantize.h"
#include "lmxlab/training/trainer.h"

#include <mlx/array.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>

namespace lmxlab::cli {
namespace {

constexpr int kDecode = 128;  // tokens that a prompt leaves room for, and decode runs
constexpr int kWarmTrain = 2;

void reset_peaks() {
  kernels::reset_peak();
  kernels::reset_peak_resident();
}

// A small model trains and generates: afterwards the process holds what it holds without the model,
// threads, code and tables.
void warm_up() {
  LanguageModel model(config::preset("gpt-tiny"));
  const std::vector<int32_t> ids(2048, 1);
  TrainOptions options;
  options.run.steps = 1, options.run.batch = 1, options.run.context = 64,
  options.run.eval_every = 0;
  Trainer trainer(model, mx::array(ids.begin(), {2048}, mx::int32),
                  mx::array(ids.begin(), {0}, mx::int32), options);
  trainer.run();
  generate(model, std::vector<int>{1, 2, 3}, {.max_tokens = 4, .ignore_eos = true});
  kernels::clear_cache();
}

std::vector<int> random_ids(size_t n, int vocab, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int> out(n);
  for (int& id : out) id = int(random() % uint64_t(vocab));
  return out;
}

class Bench : public Command {
  std::string model_, mode_ = "decode", dtype_;
  int batch_ = 1, repeat_ = 5;
  std::optional<int> context_;
  MemoryArgument memory_;
  std::optional<plan::Budget> limit_;
  PackArguments pack_;
  StepArguments step_;
  int64_t peak_ = 0;

  // Every text counts from zero.
  void note_peak() { peak_ = std::max(peak_, int64_t(kernels::peak_bytes())); }

  void declare(Options& o) override {
    o.argument("MODEL", &model_,
               "a model or run folder, or a preset or config.json, for random weights")
        .require();
    o.option("--mode", "MODE", &mode_, "what is timed").one_of({"train", "prefill", "decode"});
    o.option("--batch", "N", &batch_, "rows computed together").range(1, 1 << 20);
    o.option(
         "--context", "N", &context_,
         "tokens of a row: trained on, read, or read before decoding " + std::to_string(kDecode))
        .range(1)
        .otherwise("512, or what the model has room for");
    o.option("--repeat", "N", &repeat_,
             "measurements: steps of training, prompts read, texts of " + std::to_string(kDecode) +
                 " tokens")
        .range(1, 1 << 20);
    o.option("--dtype", "TYPE", &dtype_, "of the computation")
        .one_of({"f32", "bf16"})
        .otherwise("f32; of a checkpoint, its own");
    memory_.declare(o);
    pack_.declare(o);
    step_.declare(o);
  }

  GenerateOptions generation(int decoded) const {
    GenerateOptions options;
    options.sampling.temperature = 0;
    options.max_tokens = decoded;
    options.ignore_eos = true;
    options.kv_bits = cache_bits(pack_.kv_bits);
    return options;
  }

  // Seconds of each measurement after the first, which warms up.
  std::vector<double> time_training(OpenModel& m, int context, Context& context_of_run,
                                    Progress& progress) {
    TrainOptions options;
    options.run.batch = batch_, options.run.context = context;
    options.run.steps = kWarmTrain + repeat_;
    options.run.eval_every = 0, options.run.checkpoint_every = 0, options.run.log_every = 1;
    options.run.dtype = dtype_ == "bf16" ? ComputeType::bf16 : ComputeType::f32;
    options.run.accumulate = step_.accumulate;
    options.run.gradient_checkpointing = step_.checkpointing;
    options.optimizer.name = *enum_value<OptimizerName>(step_.optimizer);
    options.optimizer.state_bits = step_.bits();
    options.schedule.warmup = 0;
    const size_t n = StepArguments::tokens(batch_, context);
    govern_training(m.model.config(), options, n * sizeof(int32_t),
                    {.budget = limit_.value_or(machine_budget()),
                     .words = StepArguments::words,
                     .stop = context_of_run.stop});
    const auto ids = random_ids(n, m.model.config().vocab, 1);
    const std::vector<int32_t> values(ids.begin(), ids.end());
    const mx::array tokens(values.begin(), {int(n)}, mx::int32);
    const mx::array none(values.begin(), {0}, mx::int32);
    Trainer trainer(m.model, tokens, none, options);
    std::vector<double> seconds;
    auto last = std::chrono::steady_clock::now();
    reset_peaks();
    trainer.add(every(1, [&](Trainer&, StepMetrics& metrics) {
      const auto now = std::chrono::steady_clock::now();
      if (metrics.step > kWarmTrain) {
        seconds.push_back(std::chrono::duration<double>(now - last).count());
        progress.update(int64_t(seconds.size()), repeat_, {});
      }
      last = std::chrono::steady_clock::now();
    }));
    trainer.run(context_of_run.stop);
    return seconds;
  }

  std::vector<double> time_generation(const OpenModel& m, int context, int decoded, bool decode,
                                      Context& context_of_run, Progress& progress) {
    std::vector<double> seconds;
    reset_peaks();
    for (int i = -1; i < repeat_; ++i) {
      note_peak();
      if (context_of_run.stop.stop_requested()) break;
      std::vector<std::vector<int>> prompts;
      for (int b = 0; b < batch_; ++b)
        prompts.push_back(
            random_ids(size_t(context), m.model.config().vocab, uint64_t((i + 1) * batch_ + b)));
      auto options = generation(decoded);
      options.stop = context_of_run.stop;
      TokenStream stream(m.model, std::move(prompts), options);
      const auto start = std::chrono::steady_clock::now();
      // The first tokens of all rows end the prefill.
      for (int b = 0; b < batch_; ++b) stream.next();
      auto end = std::chrono::steady_clock::now();
      double time = std::chrono::duration<double>(end - start).count();
      if (decode) {
        while (stream.next()) {
        }
        time = std::chrono::duration<double>(std::chrono::steady_clock::now() - end).count();
      }
      if (i < 0 || context_of_run.stop.stop_requested()) continue;
      seconds.push_back(time);
      progress.update(i + 1, repeat_, {});
    }
    return seconds;
  }

  int run(Context& context) override {
    const bool train = mode_ == "train", decode = mode_ == "decode";
    warm_up();
    kernels::reset_peak_resident();
    const int64_t before = int64_t(kernels::peak_resident());
    limit_ = memory_.limit("bench");
    auto place = find_model(model_, context);
    const auto dtype = dtype_argument(dtype_);
    // Master weights are float32 whatever the computation; a checkpoint's are as they are.
    const auto master = train ? std::optional(DType::f32) : std::nullopt;
    const auto made = train ? DType::f32 : dtype.value_or(DType::f32);
    auto m = weights_of(place).empty() ? new_model(std::move(place), 0, made, context)
                                       : open_model(std::move(place), 0, master, context);
    if (dtype) m.model.set_activations(*dtype);
    const int positions = learned_positions(m.model);
    const int length = context_.value_or(usual_length(m.model.config(), train));
    // A short model decodes fewer tokens: as many as it has positions for.
    const int decoded = positions > 0 ? std::min(kDecode, positions - length) : kDecode;
    if (positions > 0 && (train ? length > positions : decoded < 2))
      throw Error(Kind::usage, "[bench] " + model_ + " has " + std::to_string(positions) +
                                   " learned positions: --context " + std::to_string(length) +
                                   (train ? " does not fit" : " leaves no room to decode") +
                                   ". Give at most " +
                                   std::to_string(train ? positions : positions - 2) + ".");
    pack_.check("bench", train, "--mode prefill or decode");
    check_kv_bits("bench", pack_.kv_bits, m.model.config());
    if (!train) step_.expect_none("bench");
    if (!train) {
      auto options = generation(decoded);
      const auto how = pack_.packing();
      govern_generation(
          {.config = m.model.config(),
           .weights = weights_of(m.place),
           .dtype = dtype,
           .bits = pack_.bits,
           .group_size = how.group_size,
           .embedding_bits = how.embedding_bits,
           .packs = true},
          m.model.parameter_bytes(), batch_, length, options,
          {.budget = limit_.value_or(budget_beside(m)), .words = StepArguments::words});
    }
    if (pack_.bits) {
      quantize_model(m.model, pack_.packing());
      interleave_model(m.model);
    }
    if (!train) evaluate_weights(m.model);
    kernels::clear_cache();  // of what making them left
    Progress progress(context);
    const DType computed = !train             ? m.model.activations()
                           : dtype_ == "bf16" ? DType::bf16
                                              : DType::f32;
    auto seconds = train ? time_training(m, length, context, progress)
                         : time_generation(m, length, decoded, decode, context, progress);
    progress.clear();
    note_peak();
    const int64_t peak = peak_;
    const int64_t resident = int64_t(kernels::peak_resident());
    if (context.stop.stop_requested()) throw Error(Kind::canceled, "[bench] interrupted");

    const auto& config = m.model.config();
    const double rows = train ? batch_ * step_.accumulate : batch_;
    const double tokens = rows * (decode ? decoded - 1 : length);
    std::sort(seconds.begin(), seconds.end());
    const size_t n = seconds.size();
    const double median = n % 2 ? seconds[n / 2] : (seconds[n / 2 - 1] + seconds[n / 2]) / 2;
    const double rate = tokens / median;
    // A token of decode sees what lies before it: on average, the whole of a text twice as long
    // does.
    const double flops =
        config::flops_per_token(config, decode ? 2 * (length + decoded / 2) : length) *
        (train ? 3 : 1);
    // The least that must move through memory. Training: weights read forward and backward,
    // gradients written and read, moments and weights read and written. Else: weights once a pass,
    // and the cache read or written. Of experts, as many as the tokens of a pass meet.
    const auto read = [&](double of_a_row) {
      return double(m.model.bytes_read(static_cast<int64_t>(batch_ * of_a_row)));
    };
    const int64_t element = m.model.activations() == DType::f32 ? 4 : 2;
    const int kv_bits = cache_bits(pack_.kv_bits).value_or(m.model.kv_bits());
    const auto kept = [&](int seen) {
      return rows * double(config::kv_bytes(config, seen, element, kv_bits));
    };
    const int piece = GenerateOptions{}.prefill_chunk;
    double moved = 0;
    if (train)
      moved = 8 * double(m.model.parameter_bytes()) + 2 * read(length);
    else if (decode)
      moved = (decoded - 1) * (read(1) + kept(length + decoded / 2));
    else
      moved =
          length / piece * read(piece) + (length % piece ? read(length % piece) : 0) + kept(length);
    const double gflops = rate * flops / 1e9, gbytes = moved / median / 1e9;
    context.log(context.styled("2", "measuring this machine"));
    const Rates rates = measure_rates();
    const double bandwidth = rates.read, peak_flops = rates.flops(computed);
    if (context.json) {
      context.print_json(Json::object({{"mode", Json(mode_)},
                                       {"batch", Json(batch_)},
                                       {"context", Json(length)},
                                       {"dtype", Json(dtype_name(computed))},
                                       {"repeat", Json(n)},
                                       {"tokens_per_s", Json(rate)},
                                       {"min", Json(tokens / seconds.back())},
                                       {"max", Json(tokens / seconds.front())},
                                       {"gflops", Json(gflops)},
                                       {"gbytes_per_s", Json(gbytes)},
                                       {"fraction_of_bandwidth", Json(gbytes * 1e9 / bandwidth)},
                                       {"fraction_of_flops", Json(gflops * 1e9 / peak_flops)},
                                       {"best_gbytes_per_s", Json(bandwidth / 1e9)},
                                       {"best_gflops", Json(peak_flops / 1e9)},
                                       {"peak_bytes", Json(peak)},
                                       {"peak_resident_bytes", Json(resident)},
                                       {"resident_before_bytes", Json(before)}}));
      return 0;
    }
    char text[640];
    std::snprintf(text, sizeof text,
                  "%-14s %.0f tokens/s (median of %zu; %.0f to %.0f)\n"
                  "%-14s %.1f GFLOP/s, %.0f%% of the %.0f measured\n"
                  "%-14s at least %.2f GB/s, %.0f%% of the %.1f measured\n"
                  "%-14s %s\n",
                  (mode_ + " " + std::to_string(batch_) + "x" + std::to_string(length)).c_str(),
                  rate, n, tokens / seconds.back(), tokens / seconds.front(), "arithmetic", gflops,
                  100 * gflops * 1e9 / peak_flops, peak_flops / 1e9, "memory bus", gbytes,
                  100 * gbytes * 1e9 / bandwidth, bandwidth / 1e9, "peak memory",
                  human_bytes(double(peak)).c_str());
    context.print(text);
    return 0;
  }
};

}  // namespace

Command* make_bench() {
  return new Bench;
}

}  // namespace lmxlab::cli
