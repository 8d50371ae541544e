// A model in another form: dense, in one type, and laid out as its class of transformers has it.
#pragma once

#include "lmxlab/models/language_model.h"

#include <functional>

namespace lmxlab {

/// The same model with dense weights of `dtype`. Queries and keys that a GGUF file stores for
/// rotations of neighbours are put in the order of halves, which is what classes of transformers
/// rotate. The given model's weights are dropped one by one as they are converted.
/// @param progress  called with (done, all) before each weight. What it throws leaves as it was
///   thrown.
/// @cost  the dense model, and one weight more
LanguageModel convert_model(LanguageModel model, DType dtype,
                            const std::function<void(int, int)>& progress = {});

}  // namespace lmxlab
