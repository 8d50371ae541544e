// The program: the table of commands, one place where errors become exit codes.
#include "lmxlab/base/text.h"
#include "lmxlab/base/version.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/context.h"
#include "lmxlab/cli/signals.h"
#include "lmxlab/kernels/cublas_workspace.h"
#include "lmxlab/kernels/isa.h"
#include "lmxlab/kernels/machine.h"
#include "lmxlab/kernels/thread_pool.h"

#include <mlx/stream.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>

namespace lmxlab::cli {
namespace {

const std::vector<Entry>& table() {
  static const std::vector<Entry> entries{
      {"train",
       "Trains a model and writes a run folder, which is a model folder. Without a recipe: a small "
       "GPT on the "
       "built-in Tiny Shakespeare.",
       "train --steps 200 --out runs/first", make_train},
      {"generate",
       "Continues a prompt, and streams the text as it comes. Sampling defaults are those of the "
       "model's "
       "generation_config.json, else temperature 0.8 and top-p 0.95.",
       "generate runs/run-1 --prompt \"ROMEO:\" --max-tokens 200", make_generate},
      {"chat",
       "A conversation in the terminal, in the form that the model was trained on. It remembers "
       "what was said; commands begin with a slash, and /help lists them.",
       "chat smollm2.gguf --system \"You answer in one sentence.\"", make_chat},
      {"logits",
       "Computes the logits of given tokens. Reads `input_ids` [B, T] and writes `logits` float32 "
       "[B, T, V], both in "
       "safetensors files.",
       "logits runs/run-1 --tokens-file in.safetensors --out out.safetensors", make_logits},
      {"perplexity",
       "Measures how well a model predicts a text: the mean negative log-likelihood of every token "
       "but the first, its exponential, and bits a byte.",
       "perplexity runs/run-1 --file book.txt --context 64", make_perplexity},
      {"tokenize",
       "Turns text into token ids, or ids into text. Added and special tokens written in the text "
       "are recognised, and "
       "nothing is put around it.",
       "tokenize runs/run-1 --text \"To be\"", make_tokenize},
      {"tokenizer train",
       "Trains a byte-level BPE tokenizer. Writes tokenizer.json, which the `tokenizers` library "
       "reads as well.",
       "tokenizer train book.txt --vocab-size 1000 --out tokenizer", make_tokenizer_train},
      {"data build",
       "Turns text, JSON lines and token files of other programs into one mapped file of tokens, "
       "which `train --data` takes.",
       "data build book.txt book.tokens --tokenizer runs/run-1", make_data_build},
      {"data inspect",
       "Shows what a model would be trained on: the rows of a recipe, or samples as tokens; those "
       "that are learned in colour (between double brackets where there are no colours), how long "
       "they are, and how they pack.",
       "data inspect recipe.toml --rows 2", make_data_inspect},
      {"template",
       "Renders a chat template: messages as the text that a model is given. Byte for byte what "
       "transformers gives.",
       "template runs/run-1 --messages messages.json --add-generation-prompt", make_template},
      {"compare",
       "Puts runs side by side. Those of one recipe but for the seed are a group: mean and "
       "deviation "
       "of the loss, the interval of Student's t, how far it is from a reference group (Hedges' g, "
       "Welch's p), parameters, arithmetic, time and memory.",
       "compare runs/rates-1 --sort val_loss", make_compare},
      {"mup-check",
       "Trains a recipe for a few steps at several widths and compares the sizes of activations: "
       "with muP none of them grows with the width, and a learning rate found at a small one is "
       "that of a large one. Ends with 5 if one does.",
       "mup-check recipes/mup.toml --width 32 --width 128", make_mup_check},
      {"list", "Lists the presets and their families.", "list qwen3", make_list},
      {"info", "Shows a model's configuration as a table.", "info gpt-small", make_info},
      {"count", "Counts a model's parameters by part.", "count llama-7b", make_count},
      {"fit",
       "Says before anything runs whether a model fits in memory: the peak by part, what there is, "
       "the "
       "tokens a second that the memory allows, and what would make it fit.",
       "fit gpt-small --mode train --batch 2", make_fit},
      {"quantize",
       "Packs a model's weights into a few bits each. Writes a folder that every command takes, "
       "and mlx-lm too; what lies beside the weights is copied.",
       "quantize runs/run-1 runs/run-1-4bit --bits 4", make_quantize},
      {"convert",
       "Writes a model with dense weights in one type, under the names and shapes of its class of "
       "transformers, with its tokenizer and template beside them; or all of it as one GGUF file, "
       "for llama.cpp and its kin.",
       "convert smollm2.gguf smollm2 --dtype bf16", make_convert},
      {"merge",
       "Writes a model with an adapter's additions in its weights, which are packed again where "
       "they "
       "were; says the largest error of that.",
       "merge smollm2 my-adapter smollm2-mine", make_merge},
      {"pull",
       "Fetches a model from the Hugging Face hub into the cache that other tools share. What is "
       "there is not fetched again, what was cut off goes on where it ended, and every file's "
       "checksum is compared. A model that does not fit in this machine's memory is refused "
       "before its weights are asked for.",
       "pull HuggingFaceTB/SmolLM2-135M-Instruct", make_pull},
      {"bench",
       "Times training, prefill or decoding of a model. The model is warm and its tokens are "
       "random; the median and the "
       "spread are reported, and how they compare with what this machine measures.",
       "bench llama-tiny --mode decode --context 64", make_bench},
      {"doctor",
       "Examines the machine and, if one is given, a model. Bandwidth and FLOP/s are measured; a "
       "model must be causal, answer the same with a cache, in a batch and behind padding, and "
       "train as its gradients say. Of what fails it says the likely cause. Where "
       "reference.safetensors (input_ids, logits) lies beside the weights, they are compared.",
       "doctor llama-tiny --only causal,cached,padding", make_doctor},
  };
  return entries;
}

// Several problems, which stand in lines of their own, as one line.
std::string one_line(std::string_view message) {
  std::string out;
  for (const auto& line : split(message, '\n')) {
    const auto text = trim(line);
    if (text.empty()) continue;
    if (!out.empty()) out += out.back() == ':' ? " " : "; ";
    out += text;
  }
  return out;
}

void report(const Context& context, const Error& e) {
  std::fflush(stdout);
  std::fprintf(stderr, "%s %s\n", context.styled("1;31", "error:").c_str(),
               one_line(e.what()).c_str());
  if (!context.json) return;
  const Json object = Json::object({{"error", Json::object({{"kind", Json(kind_name(e.kind()))},
                                                            {"message", Json(e.what())}})}});
  std::fputs((object.dump() + "\n").c_str(), stdout);
  std::fflush(stdout);
}

void read_environment() {
  const auto value = [](const char* name) -> std::string {
    const char* text = std::getenv(name);
    return text ? text : "";
  };
  if (const auto threads = value("LMXLAB_THREADS"); !threads.empty()) {
    char* end = nullptr;
    const long n = std::strtol(threads.c_str(), &end, 10);
    if (*end || n < 1 || n > 256)
      throw Error(Kind::usage, "[lmxlab] LMXLAB_THREADS is \"" + threads +
                                   "\": expected a number of threads from 1 to 256");
    kernels::set_threads(int(n));
  }
  if (const auto tf32 = value("MLX_ENABLE_TF32"); !tf32.empty())  // as MLX reads it
    kernels::set_tf32(std::atoi(tf32.c_str()) != 0);
  if (const auto cpu = value("LMXLAB_CPU"); !cpu.empty())
    with_context("[lmxlab] LMXLAB_CPU", [&] { kernels::set_isa(kernels::isa_named(cpu)); });
}

int dispatch(Context& context, std::vector<std::string> words) {
  const auto is = [&](const std::string& word, const char* a, const char* b) {
    return word == a || word == b;
  };
  if (words.empty() || is(words[0], "--help", "-h") || (words[0] == "help" && words.size() == 1)) {
    context.print(help(table()));
    return 0;
  }
  if (words[0] == "--version") {
    context.print("lmxlab " LMXLAB_VERSION " (MLX " LMXLAB_MLX_VERSION ", " LMXLAB_MLX_FLAVOUR
                  ")\n");
    return 0;
  }
  if (words[0] == "--help-markdown") {  // docs/cli.md is this
    context.print(help_markdown(table()));
    return 0;
  }
  if (words[0] == "help") words.erase(words.begin()), words.push_back("--help");
  const Chosen chosen = choose(table(), words);
  const std::unique_ptr<Command> command(chosen.entry->make());
  Options options;
  command->declare(options);
  bool json = false;
  declare_common(options, &json, &context.quiet);
  words.erase(words.begin(), words.begin() + ptrdiff_t(chosen.words));
  const auto end = std::find(words.begin(), words.end(), "--");
  if (std::find_if(words.begin(), end, [&](const auto& w) { return is(w, "--help", "-h"); }) !=
      end) {
    context.print(help(*chosen.entry, options));
    return 0;
  }
  parse(chosen.entry->name, options, words);
  context.json = json;
  return command->run(context);
}

int run(int argc, char** argv) {
  Context context;
  if (argc > 0) context.program = argv[0];
  context.terminal = isatty(STDERR_FILENO) != 0;
  const char* no_colour = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  context.colour =
      context.terminal && !(no_colour && *no_colour) && !(term && std::string_view(term) == "dumb");
  const std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  // Known before the arguments are parsed, so that their faults are reported as JSON too.
  context.json = std::find(words.begin(), std::find(words.begin(), words.end(), "--"), "--json") !=
                 words.end();
  context.table = &table();
  kernels::spare_address_space();
  Signals signals;
  context.stop = signals.token();
  context.interrupts = &signals;
  try {
    try {
      read_environment();
      const int code = dispatch(context, words);
      context.flush();
      return code;
    } catch (const ClosedPipe&) {
      return 0;
    } catch (...) {
      const Error e = current_error();
      report(context, e);
      return exit_code(e.kind());
    }
  } catch (const std::bad_alloc&) {
    std::fputs("error: [memory] out of memory\n", stderr);
    return exit_code(Kind::resource);
  }
}

}  // namespace
}  // namespace lmxlab::cli

int main(int argc, char** argv) {
  const int code = lmxlab::cli::run(argc, argv);
  try {
    mlx::core::synchronize();  // queued work must end before the libraries shut down their threads
  } catch (const std::exception&) {  // a failure that was reported already
  }
  return code;
}
