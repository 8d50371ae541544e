// The loop that everything began with: logits and a cache out, the next token and the cache in.
#include "lmxlab/lmxlab.h"

#include <mlx/ops.h>

#include <iostream>

using namespace lmxlab;

// The most probable token after the last position: [B, L, V] -> [B, 1].
mx::array next_of(const mx::array& logits) {
  const int length = logits.shape(1);
  return mx::argmax(
      mx::slice(logits, {0, length - 1, 0}, {logits.shape(0), length, logits.shape(2)}), -1);
}

int main() {
  const auto tokenizer = data::Tokenizer::bytes();
  const auto config = config::preset("llama-tiny", {.vocab = tokenizer.vocab_size()});
  const auto x = tokenizer.encode("Once upon a time");

  LanguageModel model(config);
  auto [logits, cache] = model(x);
  auto next_token = next_of(logits);
  eval(logits, cache);

  const Cache kept = cache;  // a copy stays what it is now
  std::vector<int> first;
  for (int i = 0; i < 16; ++i) {
    first.push_back(to_vector<int>(next_token)[0]);
    std::tie(logits, cache) = model(next_token, std::move(cache));
    eval(logits, cache);
    next_token = next_of(logits);
  }

  // From the copy, the same continuation once more, without moving: each step copies what it
  // extends.
  std::tie(logits, cache) = model(x);
  next_token = next_of(logits);
  Cache again = kept;
  std::vector<int> second;
  for (int i = 0; i < 16; ++i) {
    second.push_back(to_vector<int>(next_token)[0]);
    std::tie(logits, again) = model(next_token, again);
    eval(logits, again);
    next_token = next_of(logits);
  }
  std::cout << kept.length() << " positions kept, " << again.length() << " now; "
            << (first == second ? "the same" : "another") << " text from the copy\n";
  return first == second && kept.length() == static_cast<int>(x.size()) &&
                 again.length() == kept.length() + 16
             ? 0
             : 1;
}
