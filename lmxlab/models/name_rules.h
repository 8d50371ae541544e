// How the classes of transformers name and lay out what our tree has, as data. Private to models.
#pragma once

#include "lmxlab/config/model.h"

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
    shards,   // queries, values, keys, in four parts one after another (CodeGen)
  };
  const char* theirs;
  std::vector<const char*> ours;
  Layout layout = Layout::rows;
};
/// Many small tensors, counted where the star is, that lie in one of ours along its first axis.
struct Stacked {
  const char *ours, *theirs;
};
/// A number that the class saves and nobody learns.
struct Constant {
  const char* theirs;
  float value;
};

struct NameRules {
  const char* layers = "model.layers.";
  std::vector<Rename> model = {};  // outside of blocks
  std::vector<Rename> block = {};  // behind "layers.N."
  std::vector<Fused> fused = {};
  std::vector<Stacked> stacked = {};
  std::vector<Constant> constants = {};
  std::vector<const char*> buffers = {};  // behind "layers.N.": neither read nor written
  bool turned = false;                    // matrices of blocks are [in, out]
};

/// Our names are Llama's: of a class that has them too, nothing.
NameRules name_rules(const std::string& model_type, const config::Model& model);

}  // namespace lmxlab
