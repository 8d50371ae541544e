#include "lmxlab/cli/step_arguments.h"

#include "lmxlab/config/count.h"
#include "lmxlab/kernels/memory.h"

#include <cctype>
#include <charconv>

namespace lmxlab::cli {

void declare_kv_bits(Options& o, std::optional<std::string>* target) {
  o.option("--kv-bits", "BITS", target,
           "of the keys and values that are kept: 32 as computed, 8 or 4 packed (less memory for "
           "long texts, slightly other answers)")
      .one_of({"32", "16", "8", "4"})
      .otherwise("16 beside quantized weights, else as computed");
}

std::optional<int> cache_bits(const std::optional<std::string>& option) {
  if (!option) return std::nullopt;
  return *option == "32" ? 0 : std::stoi(*option);
}

void check_kv_bits(const std::string& command, const std::optional<std::string>& option,
                   const config::Model& model) {
  if (!option || config::keeps_keys(model)) return;
  throw Error(Kind::usage, "[" + command + "] --kv-bits " + *option +
                               ": the model keeps no keys and values, its states stay as computed. "
                               "Leave it out.");
}

void PackArguments::declare(Options& o) {
  o.option("--bits", "N", &bits, "quantize the weights first, to 2 to 6 or 8 bits").range(2, 8);
  o.option("--group-size", "N", &group_size, "weights that share a scale: 32, 64 or 128")
      .otherwise("64");
  o.option("--embedding-bits", "N", &embedding_bits, "of the embedding and a head tied to it")
      .range(2, 8)
      .otherwise("as --bits");
  declare_kv_bits(o, &kv_bits);
}

void PackArguments::check(const std::string& command, bool trains, const std::string& with) const {
  const auto refuse = [&](const std::string& what) {
    throw Error(Kind::usage, "[" + command + "] " + what);
  };
  if (!bits && (group_size || embedding_bits))
    refuse("--group-size and --embedding-bits need --bits.");
  if (bits && trains) refuse("quantized weights are not trained: --bits goes with " + with + ".");
  if (kv_bits && trains)
    refuse("training keeps no keys and values: --kv-bits goes with " + with + ".");
}

void StepArguments::declare(Options& o) {
  o.option("--accumulate", "N", &accumulate, "batches an update, of training").range(1, 1 << 20);
  o.option("--optimizer", "NAME", &optimizer, "of training").one_of({"adamw", "adafactor"});
  o.option("--state-bits", "N", &state_bits, "of the optimizer's state").one_of({"32", "8"});
  o.flag("--gradient-checkpointing", &checkpointing,
         "of training: blocks are computed again in backward");
}

void StepArguments::expect_none(const std::string& command) const {
  if (accumulate > 1 || optimizer != "adamw" || state_bits != "32" || checkpointing)
    throw Error(Kind::usage, "[" + command +
                                 "] --accumulate, --optimizer, --state-bits and "
                                 "--gradient-checkpointing go with training, --mode train.");
}

std::optional<std::string> StepArguments::words(const plan::Settings& from,
                                                const plan::Settings& to) {
  std::string out = to.preset;
  const auto add = [&](bool changed, const std::string& text) {
    if (changed) out += (out.empty() ? "" : " ") + text;
  };
  const auto number = [](int n) { return std::to_string(n); };
  add(to.mode != from.mode, "--mode " + enum_name(to.mode));
  add(to.batch != from.batch, "--batch " + number(to.batch));
  add(to.accumulate != from.accumulate, "--accumulate " + number(to.accumulate));
  add(to.context != from.context, "--context " + number(to.context));
  add(to.bits != from.bits, "--bits " + number(to.bits.value_or(16)));
  add(to.group_size != from.group_size, "--group-size " + number(to.group_size));
  add(to.embedding_bits != from.embedding_bits,
      "--embedding-bits " + number(to.embedding_bits ? to.embedding_bits : to.bits.value_or(4)));
  add(to.kv_bits != from.kv_bits, "--kv-bits " + number(to.kv_bits.value_or(32)));
  add(to.checkpointing != from.checkpointing, "--gradient-checkpointing");
  add(to.state_bits != from.state_bits, "--state-bits " + number(to.state_bits));
  add(to.factored != from.factored, "--optimizer adafactor");
  return out;
}

int64_t amount(const std::string& command, const std::string& text) {
  double number = 0;
  const auto [at, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string unit;
  for (const char* p = at; p != text.data() + text.size(); ++p)
    if (*p != ' ') unit += static_cast<char>(std::tolower(static_cast<unsigned char>(*p)));
  double factor = 0;
  if (unit == "gb" || unit == "g" || unit == "gib") factor = double(1 << 30);
  if (unit == "mb" || unit == "m" || unit == "mib") factor = double(1 << 20);
  if (code != std::errc() || factor == 0 || number <= 0 || number > 1e6)
    throw Error(Kind::usage,
                "[" + command + "] --memory \"" + text + "\": expected an amount, as in 16GB");
  return static_cast<int64_t>(number * factor);
}

void MemoryArgument::declare(Options& o) {
  o.option("--memory", "AMOUNT", &text,
           "what may be used, as in 800MB: more is refused; a GPU waits rather than run ahead")
      .otherwise("what this machine has");
}

std::optional<plan::Budget> MemoryArgument::limit(const std::string& command) const {
  if (!text) return std::nullopt;
  const plan::Budget budget{amount(command, *text), "--memory " + *text};
  kernels::set_memory_limit(static_cast<size_t>(budget.bytes));
  return budget;
}

}  // namespace lmxlab::cli
