// How the classes of transformers name and lay out what our tree has, as data. Private to models.
#pragma once

#include "lmxlab/config/model.h"
#include "lmxlab/core/tree.h"

#include <functional>
#include <string>
#include <vector>

namespace lmxlab {

/// The beginning of a name in each form.
struct Rename {
  const char *ours, *theirs;
};
/// One matrix over several of ours.
struct Fused {
  enum class Layout {
    rows,     // one after another
    grouped,  // of queries, keys and values: each key head behind its queries, then its value head
    heads,    // of each head the rows of one, then those of the next
    shards,   // queries, values, keys, in four parts one after another (CodeGen)
  };
  const char* theirs;
  std::vector<const char*> ours;
  Layout layout = Layout::rows;
};
/// Many layers, counted where the star is, whose weights and biases lie in one of ours along its
/// first axis.
struct Stacked {
  const char *ours, *theirs;
  /// How many of them there are, where theirs are more: those behind ours are zeros.
  std::function<int(const config::Block&)> count = {};
};
/// Tensors that are laid out in a way of their own; all of them, by their whole names.
struct Reshaped {
  std::vector<const char*> ours, theirs;
  using Turn = std::function<core::Arrays(const core::Arrays&, const config::Block&)>;
  Turn to_ours, to_theirs;
};
/// A number that the class saves and nobody learns.
struct Constant {
  const char* theirs;
  float value;
};

/// What begins the names of one of several blocks of ours that a layer of theirs is.
struct Branch {
  std::vector<Rename> names;  // before the others
  std::vector<Reshaped> reshaped = {};
};

struct NameRules {
  const char* layers = "model.layers.";
  std::vector<Rename> model = {};      // outside of blocks
  std::vector<Rename> block = {};      // behind "layers.N."
  std::vector<Rename> recurrent = {};  // of blocks with a recurrent mixer, before the others
  std::vector<Rename> ffn_alone = {};  // of blocks without a mixer, before the others
  /// Of whole names, before everything else on the way to ours and after it on the way back.
  std::function<std::string(const std::string& name, bool to_ours)> whole = {};
  std::vector<Fused> fused = {};
  std::vector<Stacked> stacked = {};
  std::vector<Reshaped> reshaped = {};
  std::vector<Branch> branches = {};  // none: a layer is a block
  std::vector<Constant> constants = {};
  std::vector<const char*> buffers = {};  // behind "layers.N.": not read
  /// What of them is written of a layer; none: nothing.
  std::function<core::Tensors(const config::Model&, int layer)> made = {};
  bool turned = false;  // matrices of blocks are [in, out]
};

/// Our names are Llama's: of a class that has them too, nothing.
NameRules name_rules(const std::string& model_type, const config::Model& model);

}  // namespace lmxlab
