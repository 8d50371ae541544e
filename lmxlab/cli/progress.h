// How a long run is going, on standard error: a bar that is redrawn on a terminal, else a line now
// and then.
#pragma once

#include "lmxlab/cli/context.h"

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace lmxlab::cli {

/// "1.2 of 1.5 GB planned"; without a plan (0) "1.2 GB".
std::string of_planned(int64_t peak, int64_t planned);
/// What is live now and what is kept for reuse: "1.1 GB now, 40 MB kept".
std::string held_text();

class Progress {
 public:
  using Show = std::string (*)(int64_t);
  /// @param interval  seconds between two lines where standard error is no terminal.
  /// @param show  how a count is written; null: as a number.
  explicit Progress(const Context& context, double interval = 10, Show show = nullptr);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// @param facts  most important first: what does not fit the terminal is left out from the end.
  ///   The bar takes what is left.
  /// @param before_time  how many of them stand before the time left.
  void update(int64_t done, int64_t total, const std::vector<std::string>& facts,
              size_t before_time = 0);
  /// Takes the bar off the line, for other output; the next update draws it again.
  void clear();
  /// Draws the last state, whatever the time, and ends the line.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  void draw();
  std::string line(int columns) const;

  const Context& context_;
  double interval_;
  Show show_;
  Clock::time_point start_, drawn_;
  int64_t first_ = -1, done_ = 0, total_ = 0;
  std::vector<std::string> facts_;
  size_t before_time_ = 0;
  bool on_screen_ = false, pending_ = false, finished_ = false;
};

}  // namespace lmxlab::cli
