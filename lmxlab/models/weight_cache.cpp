#include "lmxlab/models/weight_cache.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/files.h"
#include "lmxlab/base/fnv.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/io/safetensors.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/models/quantize.h"

#include <mlx/ops.h>

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

namespace lmxlab {
namespace {

constexpr const char *kSource = "source", *kLayout = "tiles of 16 rows, 2";

std::string name_of(std::string_view text) {
  return Fnv().add(text).digits();
}

// The weight files of a folder, or the one file: a changed one has another size or time.
std::string stamp_of(const fs::path& source) {
  std::vector<std::string> files;
  const auto add = [&](const fs::directory_entry& entry) {
    const auto time = entry.last_write_time().time_since_epoch().count();
    files.push_back(entry.path().filename().string() + " " + std::to_string(entry.file_size()) +
                    " " + std::to_string(static_cast<int64_t>(time)));
  };
  if (fs::is_directory(source)) {
    for (const auto& entry : fs::directory_iterator(source))
      if (entry.path().extension() == ".safetensors") add(entry);
  } else {
    add(fs::directory_entry(source));
  }
  std::sort(files.begin(), files.end());
  std::string stamp = kLayout;
  for (const auto& f : files) stamp += "\n" + f;
  return stamp;
}

// Layers that are read faster interleaved.
std::vector<core::LayerWeight> layers_of(core::Transformer& model) {
  auto layers = core::weights_of(model);
  std::erase_if(layers, [](const core::LayerWeight& l) {
    const auto& w = *l.weight;
    return !w.quantized() || w.interleaved || !kernels::faster_interleaved(w.packed());
  });
  return layers;
}

// The arrays of a layer, all or none.
std::optional<kernels::QuantizedWeight> tiles_of(const io::SafeTensors& file,
                                                 const core::LayerWeight& layer) {
  const auto from = layer.weight->packed();
  const auto form = kernels::affine_form(from);
  std::vector<std::optional<mx::array>> found;
  for (const char* leaf : {".weight_tiles", ".scales_tiles", ".biases_tiles"}) {
    found.push_back(std::nullopt);
    if (file.contains(layer.path + leaf)) found.back() = file.get(layer.path + leaf);
  }
  if (!found[0] || !found[1] || found[2].has_value() != form.has_biases) return std::nullopt;
  auto tiles = kernels::affine_weight(*found[0], *found[1], found[2], form.group, form.bits, true);
  if (tiles.out != from.out || tiles.in != from.in) return std::nullopt;
  return tiles;
}

// False if the file is absent, spoilt or another's.
bool take_from(const fs::path& path, const std::string& source,
               const std::vector<core::LayerWeight>& layers) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return false;
  try {
    const io::SafeTensors file(path);
    const auto found = file.metadata().find(kSource);
    if (found == file.metadata().end() || found->second != source) return false;
    std::vector<kernels::QuantizedWeight> all;
    for (const auto& layer : layers) {
      auto tiles = tiles_of(file, layer);
      if (!tiles) return false;
      all.push_back(std::move(*tiles));
    }
    for (size_t i = 0; i < layers.size(); ++i) layers[i].weight->hold(all[i]);
    return true;
  } catch (const Error&) {
    return false;
  }
}

// A few rows at a time: only scales and biases, a tenth of it, are ever in memory together. They
// come last, so that words lie on lines.
void write_tiles(const fs::path& path, const std::string& source,
                 const std::vector<core::LayerWeight>& layers) {
  constexpr int64_t kAtOnce = 4 << 20;  // bytes
  std::vector<io::TensorInfo> infos, factors;
  std::vector<mx::Dtype> dtypes;
  for (const auto& layer : layers) {
    const auto w = layer.weight->packed();
    const auto form = kernels::affine_form(w);
    const mx::Shape groups{w.out, w.in / form.group};
    dtypes.push_back(kernels::affine_dtype(w));
    infos.push_back({layer.path + ".weight_tiles", mx::uint32, {w.out, w.in * form.bits / 32}});
    factors.push_back({layer.path + ".scales_tiles", dtypes.back(), groups});
    if (form.has_biases) factors.push_back({layer.path + ".biases_tiles", dtypes.back(), groups});
  }
  infos.insert(infos.end(), factors.begin(), factors.end());
  io::SafeTensorsWriter file(path, infos, {{kSource, source}});
  std::vector<mx::array> kept;  // of factors, in their order
  for (size_t i = 0; i < layers.size(); ++i) {
    auto w = layers[i].weight->packed();
    const int64_t tile =
        std::max<int64_t>(1, static_cast<int64_t>(w.packed.nbytes()) / w.out) * kernels::kTileRows;
    const int step = static_cast<int>(std::max<int64_t>(1, kAtOnce / tile)) * kernels::kTileRows;
    std::vector<mx::array> biases;
    for (int r = 0; r < w.out; r += step) {
      const auto tiles = kernels::interleave(kernels::some_rows(w, r, std::min(w.out, r + step)));
      file.write(tiles.packed);
      kept.push_back(mx::astype(*tiles.scales, dtypes[i]));
      kept.back().eval();
      if (!tiles.biases) continue;
      biases.push_back(mx::astype(*tiles.biases, dtypes[i]));
      biases.back().eval();
    }
    kept.insert(kept.end(), biases.begin(), biases.end());
    w.packed.eval();
    kernels::page_out(w.packed.data<char>(), w.packed.nbytes());
  }
  for (const auto& part : kept) file.write(part);
  file.commit();
}

}  // namespace

std::optional<std::string> interleave_from_cache(LanguageModel& model, const fs::path& from,
                                                 const fs::path& cache) {
  const Enter enter(model.runtime());
  const auto layers = layers_of(model.transformer());
  if (layers.empty()) return std::nullopt;
  try {
    const auto place = fs::canonical(from).string();
    const auto source = place + "\n" + stamp_of(from);
    const auto prefix = name_of(place) + "-";
    const auto path = cache / (prefix + name_of(source) + ".safetensors");
    if (take_from(path, source, layers)) return std::nullopt;
    make_directory(cache);
    write_tiles(path, source, layers);
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(cache, ignored)) {
      const auto name = entry.path().filename().string();
      if (name.starts_with(prefix) && name.ends_with(".safetensors") && entry.path() != path)
        fs::remove(entry.path(), ignored);
    }
    if (take_from(path, source, layers)) return std::nullopt;
    throw Error(Kind::resource, path.string() + " was written and cannot be read");
  } catch (const std::exception& e) {
    interleave_model(model);
    return "[weights] the cache in " + cache.string() +
           " cannot be used, so this start lays the weights out in memory: " + e.what();
  }
}

}  // namespace lmxlab
