#include "lmxlab/models/convert.h"

#include "lmxlab/checks/properties.h"
#include "lmxlab/config/hf.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/kernels/quantized.h"
#include "lmxlab/models/quantize.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>

namespace lmxlab {
namespace {

mx::array some_ids() {
  const std::vector<int> ids{1, 50, 7, 22, 9, 3, 60, 11, 5, 2};
  return mx::array(ids.begin(), {1, 10}, mx::int32);
}

// A model converted and saved is a folder of the class that its file was made from.
TEST(Convert, AGgufFileBecomesAFolder) {
  const auto folder = test::shared_fixtures("gguf");
  if (!folder) return;
  for (const char* name :
       {"tiny_llama_f32", "tiny_llama_q8_0", "tiny_llama_plain_q4_1", "tiny_qwen2_f32"}) {
    SCOPED_TRACE(name);
    const auto path = *folder / (std::string(name) + ".gguf");
    const kernels::WithActivations exact(kernels::Activations::float32);
    mx::array want(0.0f);
    {
      const auto model = LanguageModel::load(path);
      const Enter enter(model.runtime());
      want = model.forward(some_ids());
      mx::eval(want);
    }
    int last = 0;
    const auto model = convert_model(LanguageModel::load(path), DType::f32,
                                     [&](int done, int all) { last = all - done; });
    EXPECT_EQ(last, 1);
    const auto type = config::hf_form(model.config()).model_type;
    EXPECT_EQ(type, std::string(name).find("qwen2") == std::string::npos ? "llama" : "qwen2");
    const test::TemporaryFolder out;
    model.save(out.path());
    const auto again = LanguageModel::load(out.path(), true);
    const Enter enter(again.runtime());
    const auto c = checks::compare("logits", again.forward(some_ids()), want,
                                   checks::rounding_bound(again, want));
    EXPECT_TRUE(c.ok) << c.detail;
  }
}

TEST(Convert, PackedWeightsBecomeDense) {
  LanguageModel packed(config::preset("llama-tiny"), 3);
  quantize_model(packed, {.bits = 8, .group_size = 32});
  const auto plain = convert_model(std::move(packed), DType::f32);
  LanguageModel again(config::preset("llama-tiny"), 3);
  quantize_model(again, {.bits = 8, .group_size = 32});
  const kernels::WithActivations exact(kernels::Activations::float32);
  const Enter enter(plain.runtime());
  const auto want = plain.forward(some_ids());
  mx::eval(want);
  const auto c = checks::compare("logits", again.forward(some_ids()), want,
                                 checks::rounding_bound(plain, want));
  EXPECT_TRUE(c.ok) << c.detail;
  EXPECT_EQ(plain.dtype(), DType::f32);
}

}  // namespace
}  // namespace lmxlab
