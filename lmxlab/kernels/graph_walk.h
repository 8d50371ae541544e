// An evaluation that only counts: the graph in MLX's order of evaluation, buffers given and taken
// over as MLX's ops do it, and no kernel. For back ends whose own evaluation cannot be rehearsed.
// It is what the graph needs; a GPU's queue holds more while it runs ahead and memory allows it.
#pragma once

#include <mlx/array.h>

#include <vector>

namespace lmxlab::kernels {

/// Inside a rehearsal (rehearsal.h), which counts the buffers. Ops that a GPU has kernels of its
/// own for are known by name; the others allocate as on a CPU.
void walk_graph(std::vector<mlx::core::array> outputs);

}  // namespace lmxlab::kernels
