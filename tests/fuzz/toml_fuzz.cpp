// A document in TOML, as recipes are; what we write of it reads back.
#include "lmxlab/base/json.h"
#include "tests/fuzz/fuzz.h"

using namespace lmxlab;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::accepts([&] {
    const Json json = parse_toml({reinterpret_cast<const char*>(data), size});
    const auto written = dump_toml(json);
    if (!fuzz::accepts([&] {
          const auto again = dump_toml(parse_toml(written));
          if (again != written) fuzz::finding("written " + written + "\nand again " + again);
        }))
      fuzz::finding("what was written is refused: " + written);
  });
  return 0;
}
