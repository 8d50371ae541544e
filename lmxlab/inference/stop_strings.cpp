#include "lmxlab/inference/stop_strings.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace lmxlab {

std::string StopStrings::push(const std::string& piece) {
  if (found_) return {};
  held_ += piece;
  size_t first = std::string::npos;
  for (const auto& s : strings_) first = std::min(first, held_.find(s));
  if (first != std::string::npos) {
    found_ = true;
    held_.resize(first);
    return std::exchange(held_, {});
  }
  size_t keep = 0;  // the longest end of the text with which a stop string begins
  for (const auto& s : strings_)
    for (size_t n = std::min(s.size() - 1, held_.size()); n > keep; --n)
      if (std::string_view(held_).ends_with(std::string_view(s).substr(0, n))) keep = n;
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return out;
}

std::string StopStrings::finish() {
  return found_ ? std::string() : std::exchange(held_, {});
}

}  // namespace lmxlab
