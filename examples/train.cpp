// A model in ten lines: text, tokenizer, model, training, and what it says then.
#include "lmxlab/lmxlab.h"

#include <iostream>

int main() {
  using namespace lmxlab;
  const auto text = data::tiny_shakespeare();
  const auto tokenizer = data::Tokenizer::characters(text);
  const auto [train, validation] = data::split_tokens(tokenizer.encode(text), 0.1);

  LanguageModel model(config::gpt(
      {.depth = 2, .dim = 64, .heads = 2, .vocab = tokenizer.vocab_size(), .context = 64}));
  Trainer trainer(model, train, validation,
                  {.optimizer = {.lr = 3e-3},
                   .run = {.steps = 60, .batch = 8, .context = 64, .eval_every = 0}});
  const double before = *trainer.validate(10);
  const TrainResult result = trainer.run();

  std::cout << model.parameter_count() << " parameters, " << result.steps
            << " steps, validation loss " << before << " -> " << *result.val_loss
            << " nats a character\n"
            << generate(model, tokenizer.encode_ids("ROMEO:"), {.max_tokens = 120}, &tokenizer).text
            << '\n';
  return *result.val_loss < before - 0.5 ? 0 : 1;
}
