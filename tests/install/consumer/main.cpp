// An application on the installed library: loads a trained folder, streams text into a callback
// from a worker thread.
//   consumer FOLDER
#include <iostream>
#include <string>
#include <thread>

#include "lmxlab/lmxlab.h"

int main(int argc, char** argv) {
  const std::string folder = argc > 1 ? argv[1] : "";
  int pieces = 0, code = 0;
  std::jthread worker([&] {
    try {
      const auto model = lmxlab::LanguageModel::load(folder);
      const auto tokenizer = lmxlab::data::Tokenizer::load(folder);
      const auto result =
          lmxlab::stream_generate(model, tokenizer.encode_ids("ROMEO:"), {.max_tokens = 40},
                                  &tokenizer, [&](const lmxlab::TokenEvent& event) {
                                    pieces += !event.text.empty();
                                    std::cout << event.text << std::flush;
                                  });
      std::cout << '\n' << result.tokens.size() << " tokens in " << pieces << " pieces\n";
    } catch (const lmxlab::Error& error) {
      std::cout << "caught " << lmxlab::kind_name(error.kind()) << ": " << error.what() << '\n';
      code = lmxlab::exit_code(error.kind());
    }
  });
  worker.join();
  return code;
}
