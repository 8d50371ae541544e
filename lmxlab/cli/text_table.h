// Rows in columns: the first to the left, numbers to the right.
#pragma once

#include <string>
#include <vector>

namespace lmxlab::cli {

class TextTable {
 public:
  explicit TextTable(std::vector<std::string> header) : rows_{std::move(header)} {}
  /// As many cells as the header has, in UTF-8.
  void row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  /// Lines as wide as their widest cells; no spaces at the ends.
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace lmxlab::cli
