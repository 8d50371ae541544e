// Parameters, arithmetic and cache bytes of a config, without building it.
#pragma once

#include "lmxlab/config/model.h"

#include <cstdint>
#include <vector>

namespace lmxlab::config {

struct LayerCount {
  int64_t mixer = 0, ffn = 0, norm = 0;
  int64_t total() const { return mixer + ffn + norm; }
};
/// Parameters by part. A tied head counts once, as the embedding.
struct Count {
  int64_t total = 0;
  int64_t active = 0;  // those that a token meets: of experts, as many as it goes through
  int64_t embedding = 0, position = 0, mixer = 0, ffn = 0, norm = 0, head = 0;
  int64_t mtp = 0;  // of the heads for further tokens, which are not active
  std::vector<LayerCount> layers;
};
/// @throws Error(not_found) for a custom part that nobody registered, Error(usage) beyond 64 bits.
Count count(const Model& model);

/// The norms of a block: before or after its mixer, and its FFN. A branch that is Nothing has none;
/// a parallel block has one, which both branches share.
struct BlockNorms {
  int mixer = 0, ffn = 0;
};
BlockNorms block_norms(const Block& block);

/// Parameters of a norm over `dim` values, and of a mixer in a stream of that width.
int64_t norm_parameters(const Norm& norm, int dim);
int64_t count_mixer(const Mixer& mixer, int dim);

/// Floating-point operations of a forward pass, a token, averaged over a sequence of `length`
/// tokens; a multiply-add is two. Matrix products only: projections, scores and weighted values
/// over the keys a query really sees (causal, window), head. A recurrent mixer counts as its
/// recurrence: two a parameter, and two a number of its state each time it is read or written. A
/// custom part counts two a parameter.
/// A training step costs three times as much.
double flops_per_token(const Model& model, int64_t length);
/// Of the heads for further tokens alone, the output head included.
double mtp_flops_per_token(const Model& model, int64_t length);

/// Bytes of the states of recurrent mixers, whatever the context: float32 ones, and the inputs that
/// convolutions keep, in elements.
int64_t state_bytes(const Model& model, int64_t bytes_per_element);
/// Bytes of keys and values that one more token adds, while no window is full.
int64_t kv_bytes_per_token(const Model& model, int64_t bytes_per_element);
/// Whether a cache of it grows with the text: a recurrent model keeps states alone.
bool keeps_keys(const Model& model);
/// Numbers of a head that share a scale and an offset in a packed cache.
int kv_group(int head_dim);
/// Bytes of a row's cache after `context` tokens: keys and values, of which a layer with a window
/// keeps no more than that, and states.
/// @param kv_bits  16: elements of two bytes at most; 8 or 4: of a packed cache, whose scales and
///   offsets are elements; 0: as they are.
int64_t kv_bytes(const Model& model, int64_t context, int64_t bytes_per_element, int kv_bits = 0);

}  // namespace lmxlab::config
