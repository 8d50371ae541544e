// A step of training as one compiled function, and the same step built anew each time: the losses
// are equal to the bit. The trainer's steps are compiled.
#include "lmxlab/lmxlab.h"

#include <mlx/compile.h>

#include <iostream>

int main() {
  using namespace lmxlab;
  const auto text = data::tiny_shakespeare();
  const auto tokenizer = data::Tokenizer::characters(text);
  const auto [train, held_out] = data::split_tokens(tokenizer.encode(text), 0.01);

  const auto run = [&](bool compiled) {
    LanguageModel model(config::preset("llama-tiny", {.vocab = tokenizer.vocab_size()}), 1);
    Trainer trainer(model, train, held_out,
                    {.run = {.steps = 40, .batch = 2, .context = 32, .eval_every = 0}});
    if (!compiled) mx::disable_compile();  // MLX calls the function itself from then on
    const auto result = trainer.run();
    std::cout << (compiled ? "compiled: " : "not compiled: ") << result.seconds / 40 * 1e3
              << " ms a step, loss " << result.loss << '\n';
    return result.loss;
  };
  const auto loss = run(true);
  return run(false) == loss ? 0 : 1;
}
