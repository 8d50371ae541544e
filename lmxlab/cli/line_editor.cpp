#include "lmxlab/cli/line_editor.h"

#include "lmxlab/base/text.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <utility>

#ifdef LMXLAB_EDITLINE
#include <editline/readline.h>
#endif

namespace lmxlab::cli {

LineEditor::LineEditor(std::string prompt)
    : prompt_(std::move(prompt)),
      interactive_(isatty(STDIN_FILENO) != 0 && isatty(STDERR_FILENO) != 0) {
#ifdef LMXLAB_EDITLINE
  if (interactive_) {
    rl_outstream = stderr;
    rl_catch_signals = 0;
    using_history();
  }
#endif
}

std::optional<std::string> LineEditor::line(const std::string& prompt) {
#ifdef LMXLAB_EDITLINE
  if (interactive_) {
    char* const typed = readline(prompt.c_str());
    if (!typed) {
      std::fputs("\n", stderr);
      return std::nullopt;
    }
    std::string text = typed;
    std::free(typed);
    if (!trim(text).empty()) add_history(text.c_str());
    return text;
  }
#endif
  if (interactive_) {
    std::fputs(prompt.c_str(), stderr);
    std::fflush(stderr);
  }
  std::string text;
  if (!std::getline(std::cin, text)) return std::nullopt;
  return text;
}

std::optional<std::string> LineEditor::read() {
  auto first = line(prompt_);
  if (!first) return std::nullopt;
  constexpr std::string_view kQuotes = "\"\"\"";
  if (trim(*first) == kQuotes) {
    std::string all;
    while (auto next = line(". ")) {
      if (trim(*next) == kQuotes) break;
      all += (all.empty() ? "" : "\n") + *next;
    }
    return all;
  }
  while (!first->empty() && first->back() == '\\') {
    first->pop_back();
    const auto next = line(". ");
    if (!next) break;
    *first += "\n" + *next;
  }
  return first;
}

}  // namespace lmxlab::cli
