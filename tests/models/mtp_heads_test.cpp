// Heads for further tokens in model folders: as layers behind the last, under the names of
// DeepSeek's and GLM's checkpoints.
#include "lmxlab/base/files.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/io/safetensors.h"
#include "lmxlab/models/language_model.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>

namespace lmxlab {
namespace {

config::Model with_heads(const char* name, int heads) {
  auto m = config::preset(name);
  m.init_std = 0.2f;
  m.mtp_heads.assign(static_cast<size_t>(heads), config::mtp_block(m));
  return m;
}

// What all heads make of some tokens, one behind the other.
std::vector<float> heads_of(const LanguageModel& model) {
  const Enter enter(model.runtime());
  const std::vector<int32_t> ids{3, 1, 4, 1, 5, 9, 2, 6};
  const auto part = [&](int from, int to) {
    return mx::array(ids.data() + from, {1, to - from}, mx::int32);
  };
  auto pass = model.make_pass();
  const auto& t = model.transformer();
  auto h = t.hidden(part(0, 8), pass);
  std::vector<float> out;
  for (int k = 0; k < static_cast<int>(t.mtp_heads.size()); ++k) {
    auto own = t.mtp_pass(k, pass);
    h = t.mtp(k, mx::slice(h, {0, 0, 0}, {1, 7 - k, h.shape(2)}), part(k + 1, 8), own);
    const auto values = to_vector<float>(h);
    out.insert(out.end(), values.begin(), values.end());
  }
  return out;
}

TEST(MtpHeads, AreSavedAndLoadedInEveryLayout) {
  for (const char* name : {"llama-tiny", "gpt-tiny", "phi3-tiny", "mixtral-tiny", "mamba2-tiny",
                           "falcon-tiny", "qwen3-next-tiny", "deepseek-v3-tiny"}) {
    const test::TemporaryFolder folder;
    const LanguageModel model(with_heads(name, 2), 3);
    const auto want = heads_of(model);
    model.save(folder.path());
    const auto loaded = LanguageModel::load(folder.path(), true);
    EXPECT_TRUE(loaded.config() == model.config()) << name;
    EXPECT_EQ(heads_of(loaded), want) << name;
  }
}

// As released: no object of ours in config.json, copies of the model's own tensors in each head.
TEST(MtpHeads, OfReleasedCheckpoints) {
  for (const char* name : {"deepseek-v3-tiny", "glm4-moe-tiny"}) {
    const test::TemporaryFolder folder;
    const LanguageModel model(with_heads(name, 1), 3);
    const auto want = heads_of(model);
    model.save(folder.path());
    auto config = Json::parse(read_file(folder / "config.json"), "config.json");
    EXPECT_EQ(config.at("num_nextn_predict_layers").as_integer(), 1) << name;
    config.erase("lmxlab");
    write_file_atomic(folder / "config.json", config.dump());
    auto tensors = io::SafeTensors(folder / "model.safetensors").all();
    const auto head = "model.layers." + std::to_string(model.config().layers.size()) + ".";
    for (const char* part :
         {"enorm", "hnorm", "eh_proj", "shared_head.norm", "mlp.experts.0.up_proj"})
      EXPECT_TRUE(tensors.contains(head + part + ".weight")) << name << ": " << part;
    const test::TemporaryFolder released;
    write_file_atomic(released / "config.json", config.dump());
    auto with_copies = tensors;
    with_copies.emplace(head + "embed_tokens.weight", tensors.at("model.embed_tokens.weight"));
    with_copies.emplace(head + "shared_head.head.weight", tensors.at("model.embed_tokens.weight"));
    io::write_safetensors(released / "model.safetensors", with_copies);
    const auto loaded = LanguageModel::load(released.path());
    ASSERT_EQ(loaded.config().mtp_heads.size(), 1u) << name;
    EXPECT_EQ(heads_of(loaded), want) << name;

    // What transformers saves: the key stays, the heads do not.
    const test::TemporaryFolder without;
    write_file_atomic(without / "config.json", config.dump());
    std::erase_if(tensors, [&](const auto& t) { return t.first.starts_with(head); });
    io::write_safetensors(without / "model.safetensors", tensors);
    EXPECT_TRUE(LanguageModel::load(without.path()).config().mtp_heads.empty()) << name;
  }
}

}  // namespace
}  // namespace lmxlab
