// Two models in two threads, each training and then speaking; neither knows of the other.
#include "lmxlab/lmxlab.h"

#include <iostream>
#include <thread>

using namespace lmxlab;

struct Outcome {
  double loss = 0;
  std::string text;
};

Outcome work(const char* preset) {
  const auto text = data::tiny_shakespeare();
  const auto tokenizer = data::Tokenizer::characters(text);
  const auto [train, held_out] = data::split_tokens(tokenizer.encode(text), 0.1);
  LanguageModel model(config::preset(preset, {.vocab = tokenizer.vocab_size()}), 7);
  Trainer trainer(model, train, held_out, {.run = {.steps = 10, .batch = 4, .context = 32}});
  const double loss = trainer.run().loss;
  const GenerateOptions options{.sampling = {.seed = 1}, .max_tokens = 30};
  return {loss, generate(model, tokenizer.encode_ids("ROMEO:"), options, &tokenizer).text};
}

int main() {
  const Outcome alone = work("gpt-tiny");
  Outcome gpt, llama;
  std::thread first([&] { gpt = work("gpt-tiny"); });
  std::thread second([&] { llama = work("llama-tiny"); });
  first.join();
  second.join();
  std::cout << "gpt " << gpt.loss << ", llama " << llama.loss << '\n';
  // With company, the very same numbers as alone.
  return gpt.loss == alone.loss && gpt.text == alone.text && llama.loss > 0 ? 0 : 1;
}
