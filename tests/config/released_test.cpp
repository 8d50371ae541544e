// Sizes of released models against what their makers publish, and the shapes of the Python lmxlab
// against its own counts.
#include "lmxlab/config/count.h"
#include "lmxlab/config/hf.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/config/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

using namespace lmxlab;
using namespace lmxlab::config;

namespace {

TEST(Released, CountsThatAreKnownExactly) {
  const std::pair<const char*, int64_t> published[] = {
      {"gpt-small", 124'439'808},
      {"gpt-medium", 354'823'168},
      {"gpt-large", 774'030'080},
      {"gpt-xl", 1'557'611'200},
      {"distilgpt2", 81'912'576},
      {"santacoder-1.1b", 1'124'886'528},
      {"starcoderbase-1b", 1'137'207'296},
      {"starcoderbase-15b", 15'517'456'384},
      {"starcoder2-3b", 3'030'371'328},
      {"starcoder2-7b", 7'173'923'840},
      {"starcoder2-15b", 15'957'889'024},
      {"gpt-j-6b", 6'050'882'784},
      {"codegen-350m", 356'712'448},
      {"gpt-neox-20b", 20'554'567'680},
      {"pythia-14m", 14'067'712},
      {"pythia-31m", 30'494'720},
      {"pythia-70m", 70'426'624},
      {"pythia-160m", 162'322'944},
      {"pythia-410m", 405'334'016},
      {"pythia-1b", 1'011'781'632},
      {"pythia-1.4b", 1'414'647'808},
      {"pythia-2.8b", 2'775'208'960},
      {"pythia-6.9b", 6'857'302'016},
      {"pythia-12b", 11'846'072'320},
      {"bloom-560m", 559'214'592},
      {"bloom-1b1", 1'065'314'304},
      {"bloom-1b7", 1'722'408'960},
      {"bloom-3b", 3'002'557'440},
      {"bloom-7b1", 7'069'016'064},
      {"bloom-176b", 176'247'271'424},
      {"opt-125m", 125'239'296},
      {"opt-1.3b", 1'315'758'080},
      {"opt-2.7b", 2'651'596'800},
      {"opt-6.7b", 6'658'473'984},
      {"opt-13b", 12'853'473'280},
      {"opt-30b", 29'974'540'288},
      {"mpt-7b", 6'649'286'656},
      {"falcon-rw-1b", 1'311'625'216},
      {"falcon-7b", 6'921'720'704},
      {"falcon-40b", 41'303'293'952},
      {"phi-1.5", 1'418'270'720},
      {"phi-2", 2'779'683'840},
      {"stablelm-2-1.6b", 1'644'515'328},
      {"stablelm-3b-4e1t", 2'795'443'200},
      {"command-r-35b", 34'980'831'232},
      {"command-r-plus-104b", 103'810'674'688},
      {"aya-23-8b", 8'028'033'024},
      {"command-r7b", 8'028'033'024},
      {"command-a-111b", 111'057'580'032},
      {"llama-7b", 6'738'415'616},
      {"llama-13b", 13'015'864'320},
      {"llama-30b", 32'528'943'616},
      {"llama-65b", 65'285'660'672},
      {"llama-2-7b", 6'738'415'616},
      {"llama-2-70b", 68'976'648'192},
      {"codellama-7b", 6'738'546'688},
      {"codellama-34b", 33'743'970'304},
      {"llama-3-8b", 8'030'261'248},
      {"llama-3.1-8b", 8'030'261'248},
      {"llama-3.1-70b", 70'553'706'496},
      {"llama-3.1-405b", 405'853'388'800},
      {"llama-3.2-1b", 1'235'814'400},
      {"llama-3.2-3b", 3'212'749'824},
      {"tinyllama-1.1b", 1'100'048'384},
      {"smollm2-135m", 134'515'008},
      {"smollm2-360m", 361'821'120},
      {"smollm2-1.7b", 1'711'376'384},
      {"yi-6b", 6'061'035'520},
      {"yi-34b", 34'388'917'248},
      {"deepseek-llm-7b", 6'910'365'696},
      {"mistral-7b", 7'241'732'096},
      {"mistral-7b-v0.3", 7'248'023'552},
      {"mistral-nemo-12b", 12'247'782'400},
      {"mistral-small-22b", 22'247'282'688},
      {"mistral-small-24b", 23'572'403'200},
      {"mistral-large-123b", 122'610'069'504},
      {"ministral-8b", 8'019'808'256},
      {"qwen1.5-0.5b", 463'987'712},
      {"qwen1.5-7b", 7'721'324'544},
      {"qwen2.5-0.5b", 494'032'768},
      {"qwen2.5-1.5b", 1'543'714'304},
      {"qwen2.5-3b", 3'085'938'688},
      {"qwen2.5-7b", 7'615'616'512},
      {"qwen2.5-14b", 14'770'033'664},
      {"qwen2.5-32b", 32'763'876'352},
      {"qwen2.5-72b", 72'706'203'648},
      {"qwen3-0.6b", 596'049'920},
      {"qwen3-1.7b", 1'720'574'976},
      {"qwen3-4b", 4'022'468'096},
      {"qwen3-8b", 8'190'735'360},
      {"qwen3-14b", 14'768'307'200},
      {"qwen3-32b", 32'762'123'264},
      {"qwen1.5-moe-a2.7b", 14'315'784'192},
      {"qwen3-30b-a3b", 30'532'122'624},
      {"qwen3-235b-a22b", 235'093'634'560},
      {"qwen3-coder-480b-a35b", 480'154'875'392},
      {"smollm3-3b", 3'075'098'624},
      {"olmo-1b", 1'176'764'416},
      {"olmo-7b", 6'888'095'744},
      {"olmo2-1b", 1'484'916'736},
      {"olmo2-7b", 7'298'617'344},
      {"olmo2-13b", 13'716'198'400},
      {"olmo2-32b", 32'234'279'936},
      {"olmo3-7b", 7'298'011'136},
      {"olmo3-32b", 32'233'522'176},
      {"olmoe-1b-7b", 6'919'161'856},
      {"phi-3-mini-4k", 3'821'079'552},
      {"phi-3-medium-4k", 13'960'238'080},
      {"phi-4", 14'659'507'200},
      {"apertus-8b", 8'053'338'176},
      {"ernie-4.5-0.3b", 360'748'032},
      {"glm-4-9b", 9'399'951'360},
      {"glm-4-9b-0414", 9'400'279'040},
      {"granite-3.3-2b", 2'533'539'840},
      {"internlm3-8b", 8'804'241'408},
      {"nanochat-d20", 560'988'160},
      {"nanochat-d32", 1'879'048'192},
      {"seed-oss-36b", 36'151'104'512},
      {"bitnet-b1.58-2b", 2'412'820'480},
      {"gemma-2b", 2'506'172'416},
      {"gemma-7b", 8'537'680'896},
      {"gemma2-2b", 2'614'341'888},
      {"gemma2-9b", 9'241'705'984},
      {"gemma2-27b", 27'227'128'320},
      {"gemma3-270m", 268'098'176},
      {"gemma3-1b", 999'885'952},
      {"deepseek-v2-lite-16b", 15'706'484'224},
      {"deepseek-v2-236b", 235'741'434'880},
      {"deepseek-v3-671b", 671'026'419'200},  // without the layer that predicts two tokens on
      {"mixtral-8x7b", 46'702'792'704},
      {"mixtral-8x22b", 140'620'634'112},
      {"gpt-oss-20b", 20'914'757'184},
      {"gpt-oss-120b", 116'829'156'672},
      {"dbrx-132b", 131'596'523'520},
      {"mamba-130m", 129'135'360},
      {"mamba-370m", 371'516'416},
      {"mamba-790m", 793'204'224},
      {"mamba-1.4b", 1'372'178'432},
      {"mamba-2.8b", 2'768'345'600},
      {"mamba2-130m", 128'989'632},
      {"mamba2-2.7b", 2'702'599'680},
      {"codestral-mamba-7b", 7'285'403'648},
      {"rwkv-4-169m", 169'342'464},
      {"rwkv-4-430m", 430'397'440},
      {"rwkv-4-1.5b", 1'515'106'304},
      {"rwkv-4-3b", 2'984'627'200},
      {"zamba2-7b", 7'356'749'648},
      {"jamba-v0.1-52b", 51'570'323'328},
      {"lfm2-350m", 354'483'968},
      {"lfm2-700m", 742'489'344},
      {"lfm2-1.2b", 1'170'340'608},
      {"lfm2-2.6b", 2'569'272'320},
      {"falcon-h1-0.5b", 521'411'104},
      // Published without the biases by which experts are chosen, 22 layers of 32 and 23 of 128.
      {"lfm2-8b-a1b", 8'339'929'856 + 22 * 32},
      {"nemotron3-nano-30b-a3b", 31'577'937'344 + 23 * 128},
  };
  for (const auto& [name, n] : published) EXPECT_EQ(count(preset(name)).total, n) << name;
}

/// What makers leave out of a count: the embedding, or the head too.
enum Without { nothing, table, tables };

TEST(Released, CountsThatAreKnownInBillions) {
  struct Row {
    const char* name;
    double total, active;  // 0: not said
    Without without = nothing;
    double tolerance = 0.02;  // of what is said with one digit, or for other parts too, more
  };
  const Row published[] = {
      {"opt-66b", 66, 0},
      {"mpt-30b", 30, 0},
      {"falcon-180b", 180, 0},
      {"persimmon-8b", 9.3, 0},
      {"nemotron-4-340b", 340, 0},
      {"minitron-4b", 4.19, 0},
      {"stablelm-2-12b", 12.1, 0},
      {"ministral-3-8b", 8.4, 0},
      {"apertus-70b", 70.6, 0},
      {"exaone-4.0-1.2b", 1.28, 0},
      {"exaone-4.0-32b", 32, 0},
      {"glm-4-32b-0414", 32.6, 0},
      {"granite-3.3-8b", 8.17, 0},
      {"hunyuan-7b", 7.5, 0},
      {"gemma3-4b", 3.88, 0},
      {"gemma3-12b", 11.8, 0},
      {"gemma3-27b", 27.0, 0},
      {"gemma3n-e2b", 4.46, 0},  // with projections that no layer uses
      {"gemma3n-e4b", 6.87, 0},
      {"gemma4-26b-a4b", 25.2, 3.8},
      {"gemma4-31b", 30.7, 0},
      {"youtu-llm-2b", 1.96, 0},
      {"minicpm3-default", 4.07, 0},
      {"deepseek-v2-lite-16b", 15.7, 2.4, table, 0.03},
      {"deepseek-v2-236b", 236, 21},
      {"deepseek-v3-671b", 671, 37},
      {"moonlight-16b-a3b", 15.29, 2.24, tables, 0.002},
      {"kimi-k2-1t", 1000, 32, nothing, 0.03},
      {"glm-4.7-flash-30b-a3b", 30, 0},
      {"longcat-flash-560b", 560, 31.3, table},  // if no choice falls on an empty expert
      {"mixtral-8x7b", 46.7, 12.9},
      {"mixtral-8x22b", 141, 39},
      {"qwen1.5-moe-a2.7b", 14.3, 2.7},
      {"qwen2-57b-a14b", 57.4, 14},
      {"qwen3-30b-a3b", 30.5, 3.3},
      {"qwen3-235b-a22b", 235, 22},
      {"qwen3-coder-480b-a35b", 480, 35},
      {"olmoe-1b-7b", 6.9, 1.3},
      {"dots.llm1-142b-a14b", 142, 14},
      {"glm-4.5-air-106b", 106, 12, tables},
      {"glm-4.5-355b", 355, 32, tables},
      {"ernie-4.5-21b-a3b", 21, 3, table, 0.04},
      {"hunyuan-a13b-80b", 80, 13},
      {"minimax-m2-230b-a10b", 230, 10, tables, 0.03},
      {"minimax-text-01-456b", 456, 45.9, tables, 0.01},
      {"gpt-oss-20b", 20.9, 3.61, table, 0.03},  // the total with it
      {"gpt-oss-120b", 116.8, 5.13, table},
      {"k-exaone-236b-a23b", 236, 23, nothing, 0.03},
      {"trinity-nano-6b", 6, 1, nothing, 0.03},
      {"trinity-mini-26b-a3b", 26, 3, table, 0.03},
      {"solar-open-default", 102, 12},
      {"phimoe-default", 41.9, 6.6},
      {"mellum-default", 12, 2.5, nothing, 0.03},
      {"laguna-default", 33, 0},
      {"llama4-scout-109b", 109, 17},  // with its vision tower
      {"llama4-maverick-402b", 400, 17},
      {"dbrx-132b", 132, 36},
      {"mimo-v2-flash-309b-a15b", 309, 15, nothing, 0.03},
      {"grok-1-314b", 314, 0},
      {"deepseek-v3.2-exp-671b", 671, 37, table},
      {"glm-5-744b-a40b", 744, 40, table, 0.03},
      {"rwkv-4-7b", 7.4, 0},
      {"rwkv-4-14b", 14.2, 0},
      {"xlstm-7b", 6.87, 0},
      {"recurrentgemma-2b", 2.68, 0},
      {"recurrentgemma-9b", 8.6, 0, nothing, 0.04},
      {"mamba2-370m", 0.37, 0},
      {"mamba2-780m", 0.78, 0},
      {"mamba2-1.3b", 1.34, 0},
      {"bamba-9b", 9.78, 0},
      {"jamba-v0.1-52b", 52, 12},
      {"jamba-1.5-large-398b", 398, 94},
      {"lfm2-8b-a1b", 8.3, 1.5, nothing, 0.04},
      {"qwen3-next-80b-a3b", 80, 0},
      {"qwen3.5-9b", 9, 0},
      {"qwen3.5-27b", 27, 0},
      {"qwen3.5-35b-a3b", 35, 0},
      {"granite-4.0-h-micro-3b", 3.19, 0},
      {"granite-4.0-h-tiny-7b", 6.94, 0},
      {"granite-4.0-h-small-32b", 32, 9, nothing, 0.03},
      {"kimi-linear-48b-a3b", 48, 0, tables},
      {"nemotron-h-8b", 8.1, 0},
      {"nemotron-nano-9b-v2", 8.89, 0},
      {"nemotron3-nano-30b-a3b", 31.6, 3.6},
      {"nemotron3-super-120b-a12b", 120.6, 12.7},
  };
  for (const auto& row : published) {
    const Count n = count(preset(row.name));
    const int64_t out =
        (row.without != nothing ? n.embedding : 0) + (row.without == tables ? n.head : 0);
    const auto near = [&](int64_t ours, double billions, const char* what) {
      if (billions == 0) return;
      EXPECT_NEAR(double(ours) / 1e9, billions, row.tolerance * billions) << row.name << what;
    };
    near(n.total - out, row.total, ", all");
    near(n.active - out, row.active, ", active");
  }
}

// Theirs is ours and: the norm of each branch that is none, and less the norm of the heads of each
// delta net.
TEST(LmxlabShapes, CountsAreTheirs) {
  struct Row {
    const char* name;
    int64_t theirs;
    int branches = 0, deltas = 0;
  };
  for (Row row : {
           Row{"gpt-small-lmxlab", 123'653'376},
           Row{"gpt-medium-lmxlab", 353'774'592},
           Row{"gpt-10m-lmxlab", 9'605'504},
           Row{"gpt-30m-lmxlab", 30'241'024},
           Row{"gpt-tiny-lmxlab", 83'456},
           Row{"llama-7b-lmxlab", 5'933'109'248},
           Row{"llama-13b-lmxlab", 11'443'000'320},
           Row{"llama-10m", 9'877'248},
           Row{"llama-30m", 30'569'984},
           Row{"llama-tiny", 106'816},
           Row{"gemma-lmxlab", 2'506'172'416},
           Row{"gemma-tiny-lmxlab", 86'336},
           Row{"gemma3-lmxlab", 3'468'797'952},
           Row{"gemma3-tiny-lmxlab", 164'416},
           Row{"deepseek-tiny-lmxlab", 104'864},
           Row{"deepseek-v3-tiny-lmxlab", 472'588},
           Row{"mixtral-lmxlab", 46'702'792'704},
           Row{"mixtral-tiny-lmxlab", 254'784},
           Row{"llama4-scout-lmxlab", 107'769'861'888},
           Row{"llama4-scout-tiny-lmxlab", 575'056},
           Row{"llama4-maverick-tiny-lmxlab", 969'312},
           Row{"nemotron3-lmxlab", 6'152'770'176, 8},
           Row{"nemotron3-super-lmxlab", 47'522'739'200, 88},
           Row{"nemotron3-nano-lmxlab", 7'011'747'840, 52},
           Row{"nemotron3-8b-lmxlab", 8'101'065'728, 52},
           Row{"nemotron3-tiny-lmxlab", 138'396, 4},
           Row{"falcon-h1-10m-lmxlab", 9'299'320},
           Row{"falcon-h1-tiny-lmxlab", 227'396},
           Row{"jamba-10m-lmxlab", 10'185'080},
           Row{"jamba-tiny-lmxlab", 495'944},
           Row{"qwen35-lmxlab", 2'085'005'984, 0, 21},
           Row{"qwen35-tiny-lmxlab", 209'240, 0, 3},
       }) {
    const Model m = preset(row.name);
    int64_t ours = count(m).total + int64_t{row.branches} * m.dim;
    for (const Block& b : m.layers)
      if (const auto* d = std::get_if<GatedDelta>(&b.mixer)) ours -= d->value_dim, --row.deltas;
    EXPECT_EQ(ours, row.theirs) << row.name;
    EXPECT_EQ(row.deltas, 0) << row.name;
  }
}

TEST(Released, EveryModelTypeHasAFamilyWithATinyModelOfItsClass) {
  std::set<std::string> types{"lmxlab", "kimi_k2"};  // whose class is DeepSeek-V3's
  for (const auto& family : families()) {
    const Model m = tiny(family);
    EXPECT_EQ(m.family, family);
    EXPECT_EQ(m.vocab, 256) << family;
    EXPECT_EQ(m.dim, 64) << family;
    EXPECT_LE(m.layers.size(), 4u) << family;
    EXPECT_LT(count(m).total, 400'000) << family;
    const auto form = hf_form(m);
    types.insert(form.model_type);
    EXPECT_EQ(form.family, family == "grok" ? "" : family);  // which nobody's class expresses
  }
  for (const auto& type : hf_model_types()) EXPECT_TRUE(types.contains(type)) << type;
}

TEST(Released, NamesAreUniqueAndCountsAreThePresets) {
  std::set<std::string> names;
  for (size_t i = 0; i < presets().size(); ++i) {
    const auto& p = presets()[i];
    EXPECT_TRUE(names.insert(p.name).second) << p.name;
    EXPECT_EQ(p.name.find('_'), std::string::npos) << p.name;
    EXPECT_EQ(preset_parameters()[i], count(p.make()).total) << p.name;
  }
  EXPECT_EQ(preset_parameters().size(), presets().size());
}

// What files leave out is the class's: transformers writes no value that is its default.
TEST(Released, WhatAFileLeavesOutIsTheClasss) {
  const auto read = [](const char* type, const char* more) {
    Json j = Json::parse(R"({"vocab_size":64,"hidden_size":64,"num_hidden_layers":1,
        "num_attention_heads":8,"intermediate_size":64})",
                         "keys");
    Json others = Json::parse(more, "keys");
    for (auto& [key, value] : others.as_object()) j[key] = std::move(value);
    j["model_type"] = Json(type);
    return from_hf(j, true).model;
  };
  const auto kv_heads = [](const Model& m) { return attention_in(m.layers.at(0).mixer)->kv_heads; };
  EXPECT_EQ(kv_heads(read("llama", "{}")), 8) << "as many as there are heads";
  EXPECT_EQ(kv_heads(read("mimo_v2_flash", R"({"num_attention_heads":16})")), 4);
  EXPECT_EQ(kv_heads(read("laguna", R"({"num_attention_heads":16})")), 8);
  for (const char* type : {"olmo2", "olmo3", "internlm3"})
    EXPECT_EQ(std::get<RmsNorm>(read(type, "{}").final_norm).eps, 1e-5f) << type;
}

// Llama 4 Scout has no band between the frequencies that stay and those that are divided.
TEST(Released, Llama3ScalingWithoutABand) {
  const Model m = preset("llama4-scout-109b");
  const auto rope = std::get<Rope>(attention_in(m.layers[0].mixer)->position);
  const auto scaled = rope_table(rope, 128, 0).frequencies;
  const auto plain = rope_table(Rope{.theta = rope.theta, .interleaved = true}, 128, 0).frequencies;
  for (size_t i = 0; i < scaled.size(); ++i) {
    const double f = plain.empty() ? std::pow(5e5, -double(i) / 64) : double(plain[i]);
    const bool stays = 8192 * f >= 2 * 3.14159265358979;
    EXPECT_NEAR(double(scaled[i]), stays ? f : f / 16, 1e-6 * f) << i;
  }
}

}  // namespace
