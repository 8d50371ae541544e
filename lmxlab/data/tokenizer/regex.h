// Regular expressions of tokenizer.json behind one private header: Oniguruma's (Ruby) syntax,
// matched by PCRE2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
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
  ///         construct whose Ruby meaning has no counterpart here, or if it is longer than 64 KiB.
  explicit Regex(std::string_view pattern);

  const std::string& pattern() const { return pattern_; }

  /// How much backtracking the hard searches of one text may use together: seconds, and a part
  /// that grows with the text.
  static constexpr uint64_t effort_for(size_t bytes) {
    return 50'000'000 + 64 * static_cast<uint64_t>(bytes);
  }

  /// The first match at or after `from`. `text` must be valid UTF-8: it is not looked at again.
  /// @param effort  what is left for this text; a search that is not easy takes from it.
  /// @throws Error(resource) if the pattern needs more backtracking than that.
  bool find(std::string_view text, size_t from, size_t& begin, size_t& end, uint64_t& effort) const;
  bool find(std::string_view text, size_t from, size_t& begin, size_t& end) const {
    uint64_t effort = effort_for(text.size());
    return find(text, from, begin, end, effort);
  }

  struct Match {
    size_t begin, end;
  };
  /// The first match at or after `from`, and its first group where that took part.
  bool find(std::string_view text, size_t from, Match& match, std::optional<Match>& group) const;
  /// Appends every match, in order. An empty one right behind another match is none, as in
  /// Oniguruma's own iteration.
  void matches(std::string_view text, std::vector<Match>& out) const;

  /// Appends `base` + the end of each piece: matches and what lies between them, empty ones left
  /// out.
  void cut(std::string_view text, size_t base, std::vector<size_t>& ends) const;

 private:
  struct Code;
  const size_t* search(std::string_view text, size_t from, uint64_t& effort) const;
  std::string pattern_;
  std::shared_ptr<const Code> code_;
};

/// The pattern in PCRE2's syntax; for tests and messages.
std::string translate_regex(std::string_view pattern);
/// A pattern in the syntax of Rust's crates, as tiktoken has it, in Ruby's: the ends of a text, and
/// {n,m}+, which does not give back there.
std::string ruby_of_rust(std::string_view pattern);

}  // namespace lmxlab::data
