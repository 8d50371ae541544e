#!/usr/bin/env python3
"""Makes tests/experiments/statistics_golden.h: values of SciPy for lmxlab/experiments/statistics.

Run with any Python that has SciPy (1.10 or newer) and NumPy; then `make format`.
"""
import pathlib

import numpy as np
from scipy import special, stats

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/experiments/statistics_golden.h"
DOFS = [0.5, 1, 2, 2.7, 3, 4, 5, 9, 29, 30, 100, 1234.5, 1e5]
SAMPLES = [
    ([1.61, 1.64, 1.58], [1.52, 1.55, 1.49]),
    ([1.61, 1.64], [1.70, 1.45, 1.52, 1.60, 1.59]),
    ([2.0, 2.0, 2.0], [2.1, 2.3, 2.2]),
    ([1.4712, 1.4698, 1.4731, 1.4705, 1.4720], [1.4709, 1.4688, 1.4716, 1.4699, 1.4722]),
]


def number(x):
    return repr(float(x))


def numbers(values):
    return "{" + ", ".join(number(v) for v in values) + "}"


def main():
    lines = ["// Made by tools/make_statistics_golden.py with SciPy. Not to be edited.", "#pragma once", "",
             "#include <vector>", "", "namespace lmxlab::golden {", "",
             "struct Quantile {", "  double p, dof, t;", "};", "inline const std::vector<Quantile> quantiles = {"]
    for dof in DOFS:
        for p in (0.55, 0.9, 0.975, 0.995, 0.9995, 0.025):
            lines.append(f"    {{{p}, {dof}, {number(stats.t.ppf(p, dof))}}},")
    lines += ["};", "struct Tail {", "  double t, dof, p;", "};", "inline const std::vector<Tail> tails = {"]
    for dof in DOFS:
        for t in (-3.0, 1e-6, 0.3, 1.0, 2.5, 12.0):
            lines.append(f"    {{{t}, {dof}, {number(stats.t.sf(t, dof))}}},")
    lines += ["};", "struct Beta {", "  double a, b, x, value;", "};", "inline const std::vector<Beta> betas = {"]
    for a, b in ((0.5, 0.5), (2, 3), (0.1, 40), (300, 0.5), (50, 70), (4e4, 5e4)):
        for x in (1e-8, 0.2, 0.4444, 0.5, 0.97):
            value = special.betainc(a, b, x)
            if value > 1e-280:
                lines.append(f"    {{{a}, {b}, {x}, {number(value)}}},")
    lines += ["};", "struct Pair {", "  std::vector<double> a, b;",
              "  double low, high, p, d, g;  // of b - a; Welch's interval", "};",
              "inline const std::vector<Pair> pairs = {"]
    for a, b in SAMPLES:
        x, y = np.array(a), np.array(b)
        test = stats.ttest_ind(y, x, equal_var=False)
        interval = test.confidence_interval(0.95)
        m = len(x) + len(y) - 2
        pooled = np.sqrt(((len(x) - 1) * x.var(ddof=1) + (len(y) - 1) * y.var(ddof=1)) / m)
        d = (y.mean() - x.mean()) / pooled
        g = d * np.exp(special.gammaln(m / 2) - special.gammaln((m - 1) / 2)) / np.sqrt(m / 2)
        lines.append(f"    {{{numbers(a)}, {numbers(b)}, {number(interval.low)}, {number(interval.high)}, "
                     f"{number(test.pvalue)}, {number(d)}, {number(g)}}},")
    lines += ["};", "struct Mean {", "  std::vector<double> values;", "  double confidence, mean, sd, low, high;", "};",
              "inline const std::vector<Mean> means = {"]
    for values, confidence in ((SAMPLES[0][0], 0.95), (SAMPLES[1][0], 0.99), (SAMPLES[3][1], 0.9)):
        v = np.array(values)
        low, high = stats.t.interval(confidence, len(v) - 1, loc=v.mean(), scale=stats.sem(v))
        lines.append(f"    {{{numbers(values)}, {confidence}, {number(v.mean())}, {number(v.std(ddof=1))}, {number(low)}, "
                     f"{number(high)}}},")
    lines += ["};", "", "}  // namespace lmxlab::golden", ""]
    OUT.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
