// A chat template, rendered with some of everything. The limits are a hundredth of the usual ones,
// so that what they do not bound shows as a time-out.
#include "lmxlab/data/jinja/interpreter.h"
#include "lmxlab/data/jinja/parser.h"
#include "tests/fuzz/fuzz.h"

using namespace lmxlab;

namespace {

constexpr const char* kVariables = R"({
  "messages": [{"role": "system", "content": "Be brief."},
               {"role": "user", "content": [{"type": "text", "text": "Hi <b>"}]},
               {"role": "assistant", "content": null, "tool_calls": [
                 {"type": "function", "function": {"name": "f", "arguments": {"x": 1, "y": [2.5, true]}}}]},
               {"role": "tool", "content": "na\u00efve \u2615"}],
  "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
  "documents": null, "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>",
  "s": "Hello World", "e": "", "i": 7, "f": 2.5, "n": -3, "big": 12345678901234567890, "l": [3, 1, 2],
  "d": {"x": 1, "items": 5, "y": [1, {"z": null}]}, "ws": " \u00a0 a b \n", "ml": "one\ntwo\r\n\n  four"})";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Json variables = Json::parse(kVariables);
  const data::LocalTime now{2024, 2, 29, 0, 5, 9, 7};
  fuzz::accepts([&] {
    const auto program = data::jinja::parse({reinterpret_cast<const char*>(data), size});
    data::jinja::Limits limits;
    limits.steps = 200'000, limits.bytes = size_t{1} << 23, limits.output = size_t{1} << 20;
    data::jinja::Interpreter(variables, now, limits).render(program);
  });
  return 0;
}
