// Native sparse attention: three branches, of compressed, of selected and of the latest keys.
#pragma once

#include "lmxlab/config/position.h"

#include <optional>

namespace lmxlab::config {

/// arXiv:2502.11089. Each branch has keys and values of its own, and what they give is added with
/// gates between 0 and 1 a head. Compressed keys and values are made of `block` positions by an
/// MLP, one each `stride`; the probabilities that they get choose `selected` blocks of
/// `selected_block` positions, the same for all query heads of a key head; a window sees the latest
/// positions.
struct Nsa {
  static constexpr const char* kind = "nsa";
  int heads = 1, kv_heads = 1, head_dim = 64;
  Position position = Rope{};   // of selection and window: rope, or none. Compressed keys do not
                                // turn: their order in a block is learned
  int block = 32, stride = 16;  // of compressed keys
  int hidden = 128;             // inner width of the MLPs that compress
  int selected_block = 64, selected = 16;
  int first = 1, local = 2;  // of those, the first blocks of the text and the last up to the query
  int window = 512;
  std::optional<float> scale = {};  // of the scores; 1 / sqrt(head_dim) unless given
  template <class V>
  void visit(V& v) {
    v("heads", heads, "query heads");
    v("kv_heads", kv_heads, "key and value heads");
    v("head_dim", head_dim, "dimensions of a head");
    v("position", position, "none or rope, of selected keys and of the window");
    v("block", block, "positions of a compressed key");
    v("stride", stride, "positions from one compressed key to the next");
    v("hidden", hidden, "inner width of the MLPs that compress");
    v("selected_block", selected_block, "positions of a block that is selected");
    v("selected", selected, "blocks that a query meets");
    v("first", first, "blocks at the beginning that are among them");
    v("local", local, "blocks up to the query's own that are among them");
    v("window", window, "positions a query sees in the window, itself included");
    v("scale", scale, "of the scores, 1/sqrt(head_dim) unless given");
  }
};

}  // namespace lmxlab::config
