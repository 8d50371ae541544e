// A command's options as data: name, unit, target, help. Parsing (CLI11, in options.cpp alone),
// `--help` and its check against docs/cli.md all read the same list.
#pragma once

#include "lmxlab/base/error.h"

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace lmxlab::cli {

/// Where a value goes. A vector takes the option as often as it is given; a bool is a flag.
using Target = std::variant<bool*, int*, int64_t*, double*, std::string*, std::optional<int>*,
                            std::optional<int64_t>*, std::optional<double>*,
                            std::optional<std::string>*, std::vector<std::string>*>;

struct Option {
  std::string name;   // "--max-tokens", or "MODEL" for an argument by its place
  std::string value;  // what the help calls the value: "N", "TEXT"; empty for a flag
  Target target;
  std::string help;
  bool required = false;
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool above_min = false;                 // the minimum itself is out of range
  std::vector<std::string> choices = {};  // empty: any text
  std::string default_text = {};  // what the target held when it was declared; empty: nothing

  bool positional() const { return name[0] != '-'; }
  bool repeatable() const { return std::holds_alternative<std::vector<std::string>*>(target); }

  Option& require() { return required = true, *this; }
  /// Numbers in [min, max].
  Option& range(double low, double high = std::numeric_limits<double>::infinity());
  /// Numbers greater than `low`.
  Option& above(double low) { return min = low, above_min = true, *this; }
  Option& range_max(double high) {
    max = high;
    return *this;
  }
  Option& one_of(std::vector<std::string> names) { return choices = std::move(names), *this; }
  /// What the help says where the default is not a value: "runs/NAME-N".
  Option& otherwise(std::string text) { return default_text = std::move(text), *this; }
};

class Options {
 public:
  /// In the order of the command line. The reference is good until the next declaration.
  Option& argument(std::string name, Target target, std::string help);
  Option& option(std::string name, std::string value, Target target, std::string help);
  Option& flag(std::string name, bool* target, std::string help);

  const std::vector<Option>& list() const { return list_; }

 private:
  std::vector<Option> list_;
};

struct Context;

/// What a command does: it declares where its options go, and runs once they are there.
class Command {
 public:
  virtual ~Command() = default;
  virtual void declare(Options& options) = 0;
  /// @return the exit code. Throws Error for everything that is wrong.
  virtual int run(Context& context) = 0;
};

/// A row of the one table of commands.
struct Entry {
  std::string name;     // "train", or two words: "tokenizer train"
  std::string purpose;  // one or two sentences
  std::string example;  // the arguments of one that runs
  Command* (*make)();
};
template <class C>
Command* make_command() {
  return new C;
}

/// What every command takes: --json and --quiet.
void declare_common(Options& options, bool* json, bool* quiet);

/// The help of one command: usage, purpose, every option with its default, example.
std::string help(const Entry& entry, const Options& options);
/// The help of the program.
std::string help(const std::vector<Entry>& table);
/// Every command's help as a Markdown document.
std::string help_markdown(const std::vector<Entry>& table);

/// The row that the first words name, and how many words that took; null if there are none.
/// @throws Error(usage) naming the nearest command.
struct Chosen {
  const Entry* entry = nullptr;
  size_t words = 0;
};
Chosen choose(const std::vector<Entry>& table, const std::vector<std::string>& words);

/// Fills the targets. @throws Error(usage) with every fault: unknown or repeated options, missing
/// ones, bad values.
void parse(const std::string& command, const Options& options,
           const std::vector<std::string>& words);

}  // namespace lmxlab::cli
