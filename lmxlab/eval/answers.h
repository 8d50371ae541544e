// Answers in texts that a model made: found, counted, compared.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lmxlab {

/// What a text says in the end. Without a pattern: what stands in its last \boxed{...}, else its
/// last number, without the commas that group digits and without zeros behind a point that say
/// nothing ("1,200.50" is 1200.5).
class AnswerFinder {
 public:
  AnswerFinder();
  /// The pattern's last match, or its first group if it has one; spaces around it go. (Ruby's
  /// syntax, as in tokenizers.) @throws Error(usage) if it does not compile.
  explicit AnswerFinder(const std::string& pattern);
  ~AnswerFinder();
  AnswerFinder(AnswerFinder&&) noexcept;
  AnswerFinder& operator=(AnswerFinder&&) noexcept;

  /// None if there is no answer. @throws Error(resource) for a pattern that backtracks too much.
  std::optional<std::string> operator()(std::string_view text) const;

 private:
  struct Pattern;
  std::unique_ptr<Pattern> pattern_;
};

struct Vote {
  std::string answer;
  int votes = 0;
  size_t first = 0;  // the first text that gives it
};
/// The answer that most texts give (self-consistency, arXiv:2203.11171); of equally many the one
/// that came first. None if no text has any.
std::optional<Vote> majority(const std::vector<std::optional<std::string>>& answers);

/// The chance that one of k samples is right, where c of n were: 1 - C(n - c, k) / C(n, k), without
/// bias (arXiv:2107.03374, equation 1).
/// @throws Error(usage) unless 0 <= c <= n and 1 <= k <= n.
double pass_at_k(int n, int c, int k);

}  // namespace lmxlab
