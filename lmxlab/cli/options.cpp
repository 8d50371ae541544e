#include "lmxlab/cli/options.h"

#include "lmxlab/base/text.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <iomanip>
#include <limits>
#include <memory>
#include <sstream>

namespace lmxlab::cli {
namespace {

template <class... Fs>
struct Overloaded : Fs... {
  using Fs::operator()...;
};
template <class... Fs>
Overloaded(Fs...) -> Overloaded<Fs...>;

std::string number_text(double v) {
  std::ostringstream out;
  out << std::setprecision(10) << v;
  return out.str();
}

std::string default_of(const Target& target) {
  return std::visit(
      Overloaded{
          [](bool*) { return std::string(); },
          [](std::vector<std::string>*) { return std::string(); },
          [](std::string* v) { return *v; }, [](double* v) { return number_text(*v); },
          [](std::optional<double>* v) { return *v ? number_text(**v) : std::string(); },
          [](std::optional<std::string>* v) { return v->value_or(""); },
          []<class T>(std::optional<T>* v) { return *v ? std::to_string(**v) : std::string(); },
          []<class T>(T* v) { return std::to_string(*v); }},
      target);
}

std::string range_text(const Option& o) {
  if (std::isinf(o.min) && std::isinf(o.max)) return "";
  const std::string low = (o.above_min ? "a number above " : "at least ") + number_text(o.min);
  if (std::isinf(o.max)) return low;
  if (o.above_min) return low + " and at most " + number_text(o.max);
  return "from " + number_text(o.min) + " to " + number_text(o.max);
}

template <class T>
void set_number(const Option& o, const std::string& text, T& target, Problems& problems) {
  T value{};
  constexpr bool whole = std::is_integral_v<T>;
  bool good = !text.empty() && text[0] != ' ', too_large = false;
  if constexpr (whole) {
    const char* end = text.data() + text.size();
    const auto [at, code] = std::from_chars(text.data(), end, value);
    too_large = code == std::errc::result_out_of_range && at == end;
    good = good && code == std::errc() && at == end;
  } else {  // libc++ has no from_chars for these
    char* end = nullptr;
    value = std::strtod(text.c_str(), &end);
    good = good && end == text.c_str() + text.size() && std::isfinite(value);
  }
  if (too_large)
    return problems.add(o.name + ": expected an integer from " +
                        std::to_string(std::numeric_limits<T>::min()) + " to " +
                        std::to_string(std::numeric_limits<T>::max()) + ", got " + text);
  if (!good)
    return problems.add(o.name + ": expected " + (whole ? "an integer" : "a number") + ", got \"" +
                        text + "\"");
  const double v = double(value);
  if (v < o.min || v > o.max || (o.above_min && v == o.min))
    return problems.add(o.name + ": expected " + range_text(o) + ", got " + text);
  target = value;
}

void set_text(const Option& o, const std::string& text, std::string& target, Problems& problems) {
  if (!o.choices.empty() && std::find(o.choices.begin(), o.choices.end(), text) == o.choices.end())
    return problems.add(o.name + ": expected " + join(o.choices, ", ") + ", got \"" + text + "\"");
  target = text;
}

void set(const Option& o, const std::string& text, Problems& problems) {
  std::visit(
      Overloaded{[&](bool* v) { *v = true; },
                 [&](std::vector<std::string>* v) {
                   std::string one;
                   set_text(o, text, one, problems);
                   v->push_back(one);
                 },
                 [&](std::string* v) { set_text(o, text, *v, problems); },
                 [&](std::optional<std::string>* v) { set_text(o, text, v->emplace(), problems); },
                 [&]<class T>(std::optional<T>* v) { set_number(o, text, v->emplace(), problems); },
                 [&]<class T>(T* v) { set_number(o, text, *v, problems); }},
      o.target);
}

constexpr size_t kColumns = 90;

// Text broken at spaces; every line but the first begins with `indent` spaces.
std::string wrapped(const std::string& text, size_t indent) {
  std::string out;
  size_t column = indent;
  for (const auto& word : split(text, ' ')) {
    if (column > indent && column + 1 + word.size() > kColumns) {
      out += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (column > indent) {
      out += " ", ++column;
    }
    out += word;
    column += word.size();
  }
  return out;
}

std::string left_column(const Option& o) {
  return "  " + o.name + (o.value.empty() ? "" : " " + o.value);
}

std::string usage_line(const Entry& entry, const Options& options) {
  std::string line = "lmxlab " + entry.name;
  bool optional = false;
  for (const Option& o : options.list()) {
    if (o.positional()) {
      const std::string name = o.name + (o.repeatable() ? "..." : "");
      line += o.required ? " " + name : " [" + name + "]";
    } else if (o.required) {
      line += " " + o.name + " " + o.value;
    } else {
      optional = true;
    }
  }
  return line + (optional ? " [options]" : "");
}

std::string option_rows(const Options& options, bool positional) {
  size_t width = 0;
  for (const Option& o : options.list())
    if (o.positional() == positional) width = std::max(width, left_column(o).size());
  width = std::min<size_t>(width, 30) + 2;
  std::string out;
  for (const Option& o : options.list()) {
    if (o.positional() != positional) continue;
    std::string text = o.help;
    if (!o.choices.empty()) text += ": " + join(o.choices, ", ");
    if (o.repeatable()) text += " (may be repeated)";
    if (o.required && !o.positional())
      text += " (required)";
    else if (!o.default_text.empty())
      text += " (default: " + o.default_text + ")";
    std::string left = left_column(o);
    if (left.size() + 2 > width)
      left += "\n" + std::string(width, ' ');
    else
      left.resize(width, ' ');
    out += left + wrapped(text, width) + "\n";
  }
  return out;
}

}  // namespace

Option& Option::range(double low, double high) {
  min = low, max = high;
  return *this;
}

Option& Options::option(std::string name, std::string value, Target target, std::string help) {
  Option o{.name = std::move(name),
           .value = std::move(value),
           .target = target,
           .help = std::move(help)};
  o.default_text = default_of(target);
  list_.push_back(std::move(o));
  return list_.back();
}
Option& Options::argument(std::string name, Target target, std::string help) {
  return option(std::move(name), "", target, std::move(help));
}
Option& Options::flag(std::string name, bool* target, std::string help) {
  return option(std::move(name), "", target, std::move(help));
}

void declare_common(Options& options, bool* json, bool* quiet) {
  options.flag("--json", json, "print one JSON object on standard output, and nothing else there");
  options.flag("--quiet", quiet, "no progress, logs or warnings on standard error");
}

std::string help(const Entry& entry, const Options& options) {
  std::string out =
      "Usage: " + usage_line(entry, options) + "\n\n" + wrapped(entry.purpose, 0) + "\n";
  if (const auto rows = option_rows(options, true); !rows.empty()) out += "\nArguments:\n" + rows;
  out += "\nOptions:\n" + option_rows(options, false);
  return out + "\nExample:\n  lmxlab " + entry.example + "\n";
}

std::string help(const std::vector<Entry>& table) {
  std::string out =
      "The language-model lab for unified memory: train, sample and inspect language models.\n\n"
      "Usage: lmxlab COMMAND [arguments]\n\nCommands:\n";
  size_t width = 0;
  for (const Entry& e : table) width = std::max(width, e.name.size());
  for (const Entry& e : table) {
    std::string name = "  " + e.name;
    name.resize(width + 4, ' ');
    const auto end = e.purpose.find(". ");
    std::string purpose = e.purpose.substr(0, end);
    if (purpose.ends_with('.')) purpose.pop_back();
    out += name + wrapped(purpose, width + 4) + "\n";
  }
  return out +
         "\n`lmxlab COMMAND --help` shows its options and an example; `lmxlab --version` the "
         "version.\n"
         "Results go to standard output, everything else to standard error.\n"
         "Environment: NO_COLOR (any value: no colours), LMXLAB_THREADS (threads of the kernels), "
         "LMXLAB_CPU\n(the instruction set they use: scalar, sse4, avx2, avx512, avx512_bf16, amx "
         "or neon).\n"
         "Start with: lmxlab train\n";
}

std::string help_markdown(const std::vector<Entry>& table) {
  std::string out;
  for (const Entry& e : table) {
    const std::unique_ptr<Command> command(e.make());
    Options options;
    command->declare(options);
    bool json = false, quiet = false;
    declare_common(options, &json, &quiet);
    out += "## lmxlab " + e.name + "\n\n```text\n" + help(e, options) + "```\n\n";
  }
  return out;
}

Chosen choose(const std::vector<Entry>& table, const std::vector<std::string>& words) {
  if (words.empty()) return {};
  std::vector<std::string> names, second;
  for (const Entry& e : table) {
    const auto parts = split(e.name, ' ');
    names.push_back(parts[0]);
    if (words[0] != parts[0]) continue;
    if (parts.size() == 1) return {&e, 1};
    if (words.size() > 1 && words[1] == parts[1]) return {&e, 2};
    second.push_back(parts[1]);
  }
  if (!second.empty()) {
    const std::string found = words.size() > 1 ? words[1] : "";
    throw Error(Kind::usage,
                "[lmxlab] " + words[0] + " " +
                    (found.empty() ? "needs a second word" : "has no \"" + found + "\"") +
                    "; expected one of: " + join(second, ", "));
  }
  if (words[0].starts_with('-'))
    throw Error(Kind::usage, "[lmxlab] unknown option " + words[0] +
                                 ": expected a command first. `lmxlab --help` lists them.");
  throw Error(Kind::usage,
              "[lmxlab] unknown command \"" + words[0] + "\"; " + suggestion(words[0], names));
}

void parse(const std::string& command, const Options& options,
           const std::vector<std::string>& words) {
  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  std::vector<std::pair<const Option*, CLI::Option*>> parsed;
  std::vector<std::string> names;
  for (const Option& o : options.list()) {
    CLI::Option* option = nullptr;
    if (std::holds_alternative<bool*>(o.target)) {
      option = app.add_flag(o.name);
    } else {
      // As text: conversions and their messages are ours.
      option = app.add_option(o.name)->type_size(1)->multi_option_policy(
          CLI::MultiOptionPolicy::TakeAll);
      if (o.positional() && o.repeatable())
        option->expected(CLI::detail::expected_max_vector_size);
      else
        option->expected(1);
    }
    if (!o.positional()) names.push_back(o.name);
    parsed.emplace_back(&o, option);
  }
  names.push_back("--help");
  const std::string headline = "[" + command + "] bad arguments";
  try {
    app.parse(
        std::vector<std::string>(words.rbegin(), words.rend()));  // CLI11 takes them from the back
  } catch (const CLI::ArgumentMismatch&) {  // only the last word can lack its value
    throw Error(Kind::usage, headline + ": " + words.back() + ": expected a value, got none");
  } catch (const CLI::ParseError& e) {
    throw Error(Kind::usage, "[" + command + "] " + std::string(e.what()) + ". See `lmxlab " +
                                 command + " --help`.");
  }
  Problems problems;
  for (const std::string& extra : app.remaining()) {
    const std::string name = extra.substr(0, extra.find('='));
    if (extra.size() > 1 && extra[0] == '-')
      problems.add("unknown option " + name + "; " + suggestion(name, names));
    else
      problems.add("unexpected argument \"" + extra + "\"");
  }
  for (const auto& [o, option] : parsed) {
    const auto& values = option->results();
    if (std::holds_alternative<bool*>(o->target)) {
      if (option->count() == 0) continue;
      for (const auto& v : values)
        if (v != "true") problems.add(o->name + ": takes no value, got \"" + v + "\"");
      set(*o, "", problems);
      continue;
    }
    if (values.empty()) {
      if (o->required) problems.add(o->name + " is missing (" + o->help + ")");
    } else if (values.size() > 1 && !o->repeatable()) {
      problems.add(o->name + ": given " + std::to_string(values.size()) + " times, expected once");
    } else {
      for (const auto& v : values) set(*o, v, problems);
    }
  }
  problems.raise(Kind::usage, headline);
}

}  // namespace lmxlab::cli
