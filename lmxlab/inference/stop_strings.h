// Finds the first stop string in text that comes in pieces. Of the engine, and of programs that
// stream text themselves.
#pragma once

#include <string>
#include <vector>

namespace lmxlab {

/// Holds back what may become a stop string; what it lets go never is a part of one.
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {}

  /// The text that is certain now. Once a string was found, its start and all that follows is gone.
  std::string push(const std::string& piece);
  /// What was held back: the text ended.
  std::string finish();
  bool found() const { return found_; }

 private:
  std::vector<std::string> strings_;
  std::string held_;
  bool found_ = false;
};

}  // namespace lmxlab
