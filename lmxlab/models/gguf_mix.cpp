#include "lmxlab/models/gguf_mix.h"

namespace lmxlab {
namespace {

constexpr GgufMix kMixes[] = {
    {"f32", 0, "F32", "F32", "F32", "F32"},         {"f16", 1, "F16", "F16", "F16", "F16"},
    {"bf16", 32, "BF16", "BF16", "BF16", "BF16"},   {"q8_0", 7, "Q8_0", "Q8_0", "Q8_0", "Q8_0"},
    {"q6_k", 18, "Q6_K", "Q6_K", "Q6_K", "Q6_K"},   {"q5_k_m", 17, "Q5_K", "Q6_K", "Q5_K", "Q6_K"},
    {"q5_1", 9, "Q5_1", "Q5_1", "Q5_1", "Q6_K"},    {"q5_0", 8, "Q5_0", "Q5_0", "Q5_0", "Q6_K"},
    {"q4_k_m", 15, "Q4_K", "Q6_K", "Q4_K", "Q6_K"}, {"q4_1", 3, "Q4_1", "Q4_1", "Q4_1", "Q6_K"},
    {"q4_0", 2, "Q4_0", "Q4_0", "Q4_0", "Q6_K"},    {"q3_k_m", 12, "Q3_K", "Q5_K", "Q4_K", "Q6_K"},
    {"q2_k", 10, "Q2_K", "Q4_K", "Q3_K", "Q6_K"},
};

// For rows of no whole blocks of 256.
struct Smaller {
  std::string_view type, instead;
};
constexpr Smaller kSmaller[] = {
    {"Q2_K", "Q4_1"}, {"Q3_K", "Q4_1"}, {"Q4_K", "Q5_0"}, {"Q5_K", "Q5_1"}, {"Q6_K", "Q8_0"},
};

const io::GgmlType& named(std::string_view name) {
  if (const auto* type = io::ggml_type(name)) return *type;
  throw Error(Kind::internal, "[gguf] there is no type " + std::string(name));
}

}  // namespace

const GgufMix* gguf_mix(std::string_view name) {
  for (const auto& m : kMixes)
    if (name == m.name) return &m;
  return nullptr;
}

std::vector<std::string> gguf_mixes() {
  std::vector<std::string> out;
  for (const auto& m : kMixes) out.emplace_back(m.name);
  return out;
}

const io::GgmlType& mixed_type(const GgufMix& mix, const GgufRole& role, int width) {
  using Kind = GgufRole::Kind;
  const int eighth = role.layers / 8;
  const bool matters =
      role.layer < eighth || role.layer >= 7 * role.layers / 8 || (role.layer - eighth) % 3 == 2;
  const bool between = role.kind == Kind::value || role.kind == Kind::down;
  std::string_view name = role.kind == Kind::head ? mix.head
                          : !between              ? mix.usual
                          : matters               ? mix.more
                                                  : mix.rest;
  if (width % named(name).weights == 0) return named(name);
  for (const auto& s : kSmaller)
    if (name == s.type) name = s.instead;
  return named(width % named(name).weights == 0 ? name : "F16");
}

}  // namespace lmxlab
