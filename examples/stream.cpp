// Text streamed into a callback from a worker thread, and stopped from outside.
#include "lmxlab/lmxlab.h"

#include <condition_variable>
#include <iostream>
#include <mutex>
#include <thread>

using namespace lmxlab;

int main() {
  const auto tokenizer = data::Tokenizer::bytes();
  const LanguageModel model(config::preset("llama-tiny", {.vocab = tokenizer.vocab_size()}));
  std::mutex mutex;
  std::condition_variable grown;
  int tokens = 0;
  Generation result;

  std::jthread worker([&](std::stop_token stop) {
    try {
      result = stream_generate(model, tokenizer.encode_ids("Hello"),
                               {.max_tokens = 1'000'000, .stop = stop}, &tokenizer,
                               [&](const TokenEvent& event) {
                                 const std::lock_guard lock(mutex);
                                 tokens += event.token >= 0;
                                 grown.notify_one();
                               });
    } catch (const Error& error) {
      std::cerr << kind_name(error.kind()) << ": " << error.what() << '\n';
    }
  });
  {
    std::unique_lock lock(mutex);
    grown.wait_for(lock, std::chrono::minutes(1), [&] { return tokens >= 20; });
  }
  worker.request_stop();  // ends the generation between two tokens; what was made stays
  worker.join();
  std::cout << result.tokens.size() << " tokens, then " << enum_name(result.reason) << '\n';
  return result.reason == StopReason::canceled && result.tokens.size() >= 20 ? 0 : 1;
}
