// Lines that a person types: with arrow keys and a history where standard input is a terminal and
// libedit is there, plain ones else.
#pragma once

#include <optional>
#include <string>

namespace lmxlab::cli {

class LineEditor {
 public:
  /// @param prompt  shown on standard error where a person types.
  explicit LineEditor(std::string prompt);
  bool interactive() const { return interactive_; }
  /// The next message; nothing at the end of the input. Several lines between two lines of """ are
  /// one, and a line that ends in a backslash goes on in the next.
  std::optional<std::string> read();

 private:
  std::optional<std::string> line(const std::string& prompt);

  std::string prompt_;
  bool interactive_;
};

}  // namespace lmxlab::cli
