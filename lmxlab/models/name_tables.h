// What the tables of name rules share. Private to models.
#pragma once

#include "lmxlab/models/name_rules.h"

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace lmxlab::names {

using core::Arrays;
namespace mx = mlx::core;
using Make = std::function<NameRules(const config::Model&)>;
using Table = std::map<std::string, Make>;

/// By model type: mixtures of experts whose blocks are ordinary; recurrent mixers and blocks that
/// are put together otherwise.
const Table& of_experts();
const Table& of_hybrids();

NameRules mixtral();
NameRules granitemoe();
NameRules with_experts(std::vector<Rename> block = {}, std::vector<Reshaped> reshaped = {});
extern const std::vector<Stacked> kExperts;
/// Gate and up of every expert: halves of the second axis, or rows in turn.
Reshaped gate_and_up(const char* theirs, const char* leaf_gate, const char* leaf_up, bool in_turn,
                     bool turned);
/// One tensor with its axes swapped or its first two joined.
Reshaped one(const char* ours, const char* theirs, Reshaped::Turn to_ours,
             Reshaped::Turn to_theirs);
Arrays same(const Arrays& in, const config::Block& block);
/// Experts of a block; 1 where it has none.
int experts_of(const config::Block& block);

inline const std::vector<const char*> kQkv{"self_attn.q_proj.", "self_attn.k_proj.",
                                           "self_attn.v_proj."};
inline const std::vector<const char*> kGateUp{"mlp.gate_proj.", "mlp.up_proj."};

inline std::vector<Rename> joined(std::vector<Rename> a, const std::vector<Rename>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace lmxlab::names
