// One exception type for the whole library, and the one table from kinds to exit codes.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace lmxlab {

enum class Kind { usage, not_found, bad_data, mismatch, unsupported, resource, canceled, internal };

std::string_view kind_name(Kind kind);
/// The exit code of the command line (usage 2 ... internal 70, canceled 130).
int exit_code(Kind kind);

/// `[component] what is wrong: expected X, got Y. What to do.`
/// Context (file, tensor, line) is put in front by the layer that knows it.
class Error : public std::runtime_error {
 public:
  Error(Kind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

/// The exception in flight as an Error: ours unchanged, also where MLX has carried our allocator's
/// from another thread; bad_alloc as resource, others as internal.
/// @param fallback  the kind of a foreign exception whose type says nothing.
Error current_error(Kind fallback = Kind::internal);

/// Runs `body`; whatever it throws leaves as an Error whose message begins with `context`.
template <class F>
auto with_context(const std::string& context, F&& body) -> decltype(body()) {
  try {
    return body();
  } catch (...) {
    Error e = current_error();
    throw Error(e.kind(), context + ": " + e.what());
  }
}

/// Runs `body`; whatever it throws leaves as an Error.
template <class F>
auto as_error(F&& body) -> decltype(body()) {
  try {
    return body();
  } catch (...) {
    throw current_error();
  }
}

/// Collects every fault before one throw, for things that a user can mend together.
class Problems {
 public:
  void add(std::string problem) { list_.push_back(std::move(problem)); }
  bool empty() const { return list_.empty(); }
  const std::vector<std::string>& list() const { return list_; }
  /// @throws Error(kind) `headline` and one problem a line, if there are any.
  void raise(Kind kind, const std::string& headline) const;

 private:
  std::vector<std::string> list_;
};

}  // namespace lmxlab
