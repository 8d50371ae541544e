// All properties in one list, as `doctor` and tests run them over a model at hand.
#pragma once

#include "lmxlab/checks/properties.h"

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace lmxlab::checks {

/// A model and what is tried on it.
struct Subject {
  LanguageModel& model;
  int length = 24;   // tokens of the texts, 8 at least
  int longest = 96;  // where windows and chunks are met, as far as that
  /// What gradients and training are tried on; none: nothing that is small enough.
  std::optional<config::Model> small = {};
};

struct Property {
  std::string key;     // "cached", for options
  std::string name;    // "cached = full", as its Check is called
  std::string states;  // what it says of a model
  bool on_copy;        // on a small model of the same parts with weights of its own
  std::function<Check(const Subject&)> run;
};

/// In the order in which they are run: what fails first explains what fails later.
const std::vector<Property>& properties();

/// A config of the same parts, for gradients and training: itself if it is small, else with fewer
/// layers and narrower, so that every kind of layer is still there; else the tiny model of its
/// family; none if that is not possible or still large.
std::optional<config::Model> small_copy(const config::Model& config);

}  // namespace lmxlab::checks
