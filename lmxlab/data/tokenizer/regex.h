// Regular expressions of tokenizer.json behind one private header: Oniguruma's (Ruby) syntax,
// matched by PCRE2.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::data {

/// A compiled pattern; copies share it, any thread may search with it.
class Regex {
 public:
  /// Where Ruby and Perl differ (\s, \w, \b, \h, scripts, classes in classes, {n,m}+), Ruby's
  /// meaning is kept.
  /// @throws Error(bad_data) with the position if it does not compile, Error(unsupported) naming a
  ///         construct whose Ruby meaning has no counterpart here.
  explicit Regex(std::string_view pattern);

  const std::string& pattern() const { return pattern_; }

  /// The first match at or after `from`. `text` must be valid UTF-8: it is not looked at again.
  /// @throws Error(resource) if the pattern needs more backtracking than the limit.
  bool find(std::string_view text, size_t from, size_t& begin, size_t& end) const;

  struct Match {
    size_t begin, end;
  };
  /// Appends every match, in order. An empty one right behind another match is none, as in
  /// Oniguruma's own iteration.
  void matches(std::string_view text, std::vector<Match>& out) const;

  /// Appends `base` + the end of each piece: matches and what lies between them, empty ones left
  /// out.
  void cut(std::string_view text, size_t base, std::vector<size_t>& ends) const;

 private:
  struct Code;
  std::string pattern_;
  std::shared_ptr<const Code> code_;
};

/// The pattern in PCRE2's syntax; for tests and messages.
std::string translate_regex(std::string_view pattern);
/// A pattern in the syntax of Rust's crates, as tiktoken has it, in Ruby's: the ends of a text, and
/// {n,m}+, which does not give back there.
std::string ruby_of_rust(std::string_view pattern);

}  // namespace lmxlab::data
