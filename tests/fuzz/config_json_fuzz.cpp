// A config.json: what is read is valid, is counted and described, and reads back from what we
// write.
#include "lmxlab/config/count.h"
#include "lmxlab/config/describe.h"
#include "lmxlab/config/hf.h"
#include "lmxlab/config/validate.h"
#include "tests/fuzz/fuzz.h"

using namespace lmxlab;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::accepts([&] {
    const Json json = Json::parse({reinterpret_cast<const char*>(data), size});
    fuzz::accepts([&] { config::from_hf(json, true); });
    const auto model = config::from_hf(json).model;
    config::validate(model, Kind::internal);
    fuzz::accepts([&] {
      config::describe(model);
      config::flops_per_token(model, 1000);
      config::kv_bytes(model, model.context, 2, 8);
    });
    const auto written = config::to_hf(model).dump();
    if (!fuzz::accepts([&] {
          const auto again = config::to_hf(config::from_hf(Json::parse(written)).model).dump();
          if (again != written) fuzz::finding("written " + written + "\nand again " + again);
        }))
      fuzz::finding("what was written is refused: " + written);
  });
  return 0;
}
