"""What was measured, as JSON lines while it runs and as a Markdown table at the end."""

import json

from sides import median, spread


class Report:
    def __init__(self, folder, facts):
        self.folder, self.facts, self.rows, self.notes, self.growth, self.kernels = folder, facts, [], [], [], []
        self.lines = open(folder / "results.jsonl", "w")
        self.line({"machine": facts})

    def line(self, value):
        self.lines.write(json.dumps(value) + "\n")
        self.lines.flush()

    def row(self, part, work, ours, peer_name, peer, unit, goal="", lower=False):
        """Lists of one value a round. The ratio is ours over the peer's; `lower`: less is better."""
        ratio = median(ours) / median(peer) if ours and peer else None
        row = {"part": part, "work": work, "peer": peer_name, "unit": unit, "ours": ours, "theirs": peer, "ratio": ratio,
               "lower_is_better": lower, "goal": goal}
        self.rows.append(row)
        self.line(row)
        print(f"  {work} / {peer_name}: {show(ours)} and {show(peer)} {unit}" + (f", ratio {ratio:.2f}" if ratio else ""), flush=True)

    def note(self, text):
        self.notes.append(text)
        self.line({"note": text})
        print("  " + text, flush=True)

    def markdown(self):
        out = ["# Measured side by side", ""]
        out += [f"- {name}: {value}" for name, value in self.facts.items()]
        out += ["", "Medians over the rounds, and half their range; the ratio is ours over theirs."]
        if self.rows:
            out += ["", "| work | ours | theirs | peer | ratio | wanted |", "| --- | --- | --- | --- | --- | --- |"]
            for r in self.rows:
                ratio = "" if r["ratio"] is None else f"**{r['ratio']:.2f}**"
                out.append(f"| {r['work']} | {show(r['ours'])} {r['unit']} | {show(r['theirs'])} {r['unit']} | {r['peer']} | {ratio} | {r['goal']} |")
        if self.kernels:
            out += ["", "Kernels against the same functions in MLX's ordinary ops (ratio: theirs over ours, at least 0.95 wanted; "
                    "what a short look shows below that is measured again at length, and that counts):", "",
                    "| bench | set | cases | least | median | below 0.95 |", "| --- | --- | --- | --- | --- | --- |"]
            for k in self.kernels:
                slow = ", ".join(f"{case} ({ratio:.2f})" for case, ratio in k["slow"][:6]) or "none"
                out.append(f"| {k['bench']} | {k['set']} | {k['cases']} | {k['least']:.2f} | {k['median']:.2f} | {slow} |")
        if self.growth:
            out += ["", "Growth: time over FLOPs / best rate + bytes / best rate, both the best of the same sweep (at most 1.25 wanted):", "",
                    "| mode | batch | context | tokens/s | GFLOP/s | GB/s | time over the bound |", "| --- | --- | --- | --- | --- | --- | --- |"]
            for g in self.growth:
                out.append(f"| {g['mode']} | {g['batch']} | {g['context']} | {g['tokens_per_s']:.0f} | {g['gflops']:.1f} | "
                           f"{g['gbytes_per_s']:.2f} | {g['over']:.2f} |")
        if self.notes:
            out += [""] + [f"- {note}" for note in self.notes]
        return "\n".join(out) + "\n"

    def finish(self):
        text = self.markdown()
        (self.folder / "table.md").write_text(text)
        self.lines.close()
        return text


def show(values):
    if not values:
        return "-"
    middle = median(values)
    digits = 0 if middle >= 100 else 2
    return f"{middle:,.{digits}f} ±{100 * spread(values):.0f}%"
