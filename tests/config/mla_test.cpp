// Latent attention with an indexer, as its classes say it.
#include "lmxlab/config/mla.h"

#include "lmxlab/config/count.h"
#include "lmxlab/config/describe.h"
#include "lmxlab/config/hf.h"
#include "lmxlab/config/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace lmxlab;
using namespace lmxlab::config;
using testing::HasSubstr;

namespace {

Json sizes(const char* type, int layers) {
  return Json::object({{"model_type", type},
                       {"vocab_size", 129'280},
                       {"hidden_size", 7168},
                       {"intermediate_size", 18'432},
                       {"num_attention_heads", 128},
                       {"num_hidden_layers", layers}});
}
const Mla& mixer(const Model& m, size_t i) {
  return std::get<Mla>(m.layers.at(i).mixer);
}
std::string letters(const Model& m) {
  std::string out;
  for (size_t i = 0; i < m.layers.size(); ++i) out += mixer(m, i).indexer->shared ? 'S' : 'F';
  return out;
}

TEST(Indexer, DeepSeekV32IsV3AndAnIndexerALayer) {
  const Model m = from_hf(sizes("deepseek_v32", 61)).model;
  Json v3 = sizes("deepseek_v3", 61);
  EXPECT_EQ(m.context, 163'840);
  const auto& x = *mixer(m, 60).indexer;
  EXPECT_EQ(x.heads, 64);
  EXPECT_EQ(x.head_dim, 128);
  EXPECT_EQ(x.top_k, 2048);
  EXPECT_FALSE(x.interleaved);
  EXPECT_TRUE(std::get<Rope>(mixer(m, 0).position).interleaved);
  const int64_t each = 1536 * 64 * 128 + 7168 * 128 + 7168 * 64 + 2 * 128;
  EXPECT_EQ(count(m).total, count(from_hf(v3).model).total + 61 * each);
  EXPECT_EQ(kv_bytes_per_token(m, 2), 61 * 2 * (512 + 64 + 128));
  EXPECT_EQ(from_hf(to_hf(m)).model, m);
  EXPECT_THAT(describe(m), AllOf(HasSubstr("indexer 64 x 128"), HasSubstr("top 2,048 keys")));
}

// Attention stops growing at top_k keys, and only the indexer still meets all.
TEST(Indexer, ArithmeticOfALongText) {
  const Model m = from_hf(sizes("deepseek_v32", 61)).model;
  const Model v3 = from_hf(sizes("deepseek_v3", 61)).model;
  const auto grows = [](const Model& of, int64_t from) {
    return flops_per_token(of, 2 * from) - flops_per_token(of, from);
  };
  const double index = 61 * 2.0 * 64 * (128 + 1), all = 61 * 2.0 * 128 * (192 + 128);
  EXPECT_DOUBLE_EQ(grows(v3, 1024), all * 512);
  EXPECT_DOUBLE_EQ(grows(m, 1024), (all + index) * 512);
  EXPECT_NEAR(grows(m, 1 << 20), index * (1 << 19), 1e-3 * index * (1 << 19));
}

TEST(Indexer, LayersOfGlmThatShareAChoice) {
  Json j = sizes("glm_moe_dsa", 7);
  const Model full = from_hf(j).model;
  EXPECT_EQ(letters(full), "FFFFFFF");
  EXPECT_TRUE(mixer(full, 0).indexer->interleaved);
  EXPECT_EQ(mixer(full, 0).indexer->heads, 32);
  EXPECT_EQ(*mixer(full, 0).q_rank, 2048);

  j["index_topk_freq"] = 3;
  EXPECT_EQ(letters(from_hf(j).model), "FFSSFSS");
  j["index_skip_topk_offset"] = 1;
  EXPECT_EQ(letters(from_hf(j).model), "FSSFSSF");
  j["index_topk_pattern"] = "FFSSSFS";
  EXPECT_EQ(letters(from_hf(j).model), "FFSSSFS");
  Json list = Json::array();
  for (const char* type : {"full", "shared", "full", "shared", "shared", "shared", "full"})
    list.push_back(Json(type));
  j["indexer_types"] = list;
  const Model m = from_hf(j).model;
  EXPECT_EQ(letters(m), "FSFSSSF");
  EXPECT_EQ(kv_bytes_per_token(m, 2), 2 * (7 * (512 + 64) + 3 * 128));
  EXPECT_EQ(from_hf(to_hf(m)).model, m);
  EXPECT_EQ(to_hf(m).at("indexer_types"), list);
  EXPECT_THAT(describe(m), HasSubstr("as chosen before"));
}

TEST(Indexer, ALossIsOursAlone) {
  Model m = from_hf(sizes("deepseek_v32", 4)).model;
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(mixer(m, i).indexer->loss, 0);
  for (Block& b : m.layers) std::get<Mla>(b.mixer).indexer->loss = 0.25f;
  EXPECT_EQ(check(m).list(), std::vector<std::string>());
  EXPECT_EQ(hf_form(m).model_type, "deepseek_v32");
  EXPECT_EQ(from_hf(to_hf(m)).model, m);
  EXPECT_EQ(from_json<Model>(to_json(m), "model"), m);
  EXPECT_THAT(describe(m), HasSubstr("indexer loss 0.25"));
  std::get<Mla>(m.layers[2].mixer).indexer->loss = -1;
  ASSERT_EQ(check(m).list().size(), 1u);
  EXPECT_THAT(check(m).list()[0], HasSubstr("layers.2.mixer.indexer.loss"));
}

TEST(Indexer, WhatContradictsItself) {
  const auto refused = [](const Json& j) -> std::string {
    try {
      from_hf(j);
    } catch (const Error& e) {
      return e.what();
    }
    ADD_FAILURE() << "no error";
    return "";
  };
  Json j = sizes("glm_moe_dsa", 2);
  j["index_topk_pattern"] = "SF";
  EXPECT_THAT(refused(j), HasSubstr("layers.0.mixer.indexer.shared"));
  j["index_topk_pattern"] = "F";
  EXPECT_THAT(refused(j), HasSubstr("index_topk_pattern: expected one for each of 2 layers"));
  j["index_topk_pattern"] = "FX";
  EXPECT_THAT(refused(j), HasSubstr("expected full or shared, got \"X\""));
  Json v32 = sizes("deepseek_v32", 4);
  v32["index_topk"] = 0;
  EXPECT_THAT(refused(v32), HasSubstr("mixer.indexer.top_k"));
  v32["index_topk"] = 8, v32["index_head_dim"] = 32;
  EXPECT_THAT(refused(v32), HasSubstr("mixer.indexer.head_dim"));
  v32["index_head_dim"] = 64, v32["q_lora_rank"] = Json();
  EXPECT_THAT(refused(v32), HasSubstr("mixer.indexer: "));
}

}  // namespace
