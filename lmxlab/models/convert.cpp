#include "lmxlab/models/convert.h"

#include "lmxlab/config/hf.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/models/rotary_order.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>

namespace lmxlab {
LanguageModel convert_model(LanguageModel model, DType dtype,
                            const std::function<void(int, int)>& progress) {
  auto config = model.config();
  // A family whose class turns neighbours keeps its order.
  std::map<std::string, RotaryRows> turns;
  if (config::hf_form(config).family != config.family)
    turns = set_rotary_order(config, RotaryOrder::halves);
  LanguageModel out(config, 0, dtype);
  out.set_special_ids(model.special_ids());
  const Enter enter(out.runtime());
  std::map<std::string, core::Weight*> from;
  for (const auto& [path, w, embedding] : core::weights_of(model.transformer())) from[path] = w;
  std::map<std::string, core::Param*> others;
  for (const auto& e : core::collect(model.transformer())) others[e.path] = e.param;
  const auto put = [&](core::Param& to, mx::array value, const std::string& path) {
    const auto turn = turns.find(path);
    if (turn != turns.end()) value = reorder(value, turn->second, RotaryOrder::halves);
    value = mx::astype(value, to_mlx(dtype));
    mx::eval(value);
    to.value = std::move(value);
  };
  const auto entries = core::collect(out.transformer());
  int done = 0;
  for (const auto& e : entries) {
    if (progress) progress(done++, static_cast<int>(entries.size()));
    const auto dot = e.path.rfind('.');
    const auto path = e.path.substr(0, dot), leaf = e.path.substr(dot + 1);
    const auto weight = from.find(path);
    if (leaf == "weight" && weight != from.end()) {
      auto& w = *weight->second;
      put(*e.param,
          w.quantized() ? w.rows(mx::arange(e.param->value.shape(0), mx::int32), mx::float32)
                        : w.w.value,
          path);
      w = core::Weight{{mx::zeros({0}, mx::float32)}};
    } else {
      put(*e.param, others.at(e.path)->value, path);
    }
  }
  return out;
}

}  // namespace lmxlab
