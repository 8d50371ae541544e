// What every command is given: where results and logs go, whether to stop, how the program was
// called.
#pragma once

#include "lmxlab/base/error.h"
#include "lmxlab/base/json.h"

#include <chrono>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::cli {

/// Nobody reads standard output any more. Not an error: the reader had enough.
struct ClosedPipe {};

struct Context {
  std::string program = "lmxlab";  // as it was called, for what to type next
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
  bool json = false, quiet = false;
  bool terminal = false;  // standard error is one
  bool colour = false;    // and takes colours
  std::stop_token stop = {};
  class Signals* interrupts = nullptr;
  const std::vector<struct Entry>* table = nullptr;

  /// Results, to standard output. @throws Error(resource) if it cannot be written, ClosedPipe.
  void print(std::string_view text) const;
  /// One object on a line of standard output.
  void print_json(const Json& object) const { print(object.dump() + "\n"); }
  void flush() const;
  /// To standard error, a line; silent with --quiet.
  void log(std::string_view line) const;
  /// `warning: ...` to standard error; silent with --quiet.
  void warn(std::string_view text) const;
  /// Text in a style of ANSI ("1" bold, "2" faint, "31" red) where standard error takes colours.
  std::string styled(std::string_view style, std::string_view text) const;
  /// The terminal's width in columns, 80 where there is none.
  int columns() const;
};

}  // namespace lmxlab::cli
