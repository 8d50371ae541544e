"""Writes lmxlab/data/jinja/unicode_tables.inc: what Python's str knows of characters, as ranges.

    python3 tools/make_unicode_tables.py lmxlab/data/jinja/unicode_tables.inc

Made with Python 3.11 (Unicode 14).
"""
import sys
import unicodedata

CODES = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def runs(codes):
    """Ranges (first, last, step) with step 1 or 2 that cover exactly these codes."""
    out = []
    for c in codes:
        if out:
            first, last, step = out[-1]
            if (first == last and c - last <= 2) or (first != last and c - last == step):
                out[-1] = (first, c, c - last)
                continue
        out.append((c, c, 1))
    return out


def mapping_runs(pairs):
    """Ranges (first, last, step, delta) of a mapping from one code to one code."""
    out = []
    for c, to in pairs:
        if out:
            first, last, step, delta = out[-1]
            if to - c == delta and ((first == last and c - last <= 2) or (first != last and c - last == step)):
                out[-1] = (first, c, c - last, delta)
                continue
        out.append((c, c, 1, to - c))
    return out


def cased(c):
    return (chr(c) + "a").title().endswith("a")


def final_after(before, c):
    return (before + chr(c) + "\u03a3").lower()[-1] == "\u03c2"


def rows(items):
    lines, line = [], "   "
    for item in items:
        text = " {" + ", ".join(f"0x{v:X}" if i < 2 and v >= 0 else str(v) for i, v in enumerate(item)) + "},"
        if len(line) + len(text) > 100:
            lines.append(line)
            line = "   "
        line += text
    return "\n".join(lines + [line])


def main(path):
    sets = {
        "kAlpha": [c for c in CODES if chr(c).isalpha()],
        "kDecimal": [c for c in CODES if chr(c).isdecimal()],
        "kDigit": [c for c in CODES if chr(c).isdigit()],
        "kNumeric": [c for c in CODES if chr(c).isnumeric()],
        "kPrintable": [c for c in CODES if chr(c).isprintable()],
        "kLower": [c for c in CODES if chr(c).islower()],
        "kUpper": [c for c in CODES if chr(c).isupper()],
        "kCased": [c for c in CODES if cased(c)],
        "kCaseIgnorable": [c for c in CODES if final_after("A", c) and not final_after(".", c)],
    }
    out = ["// Made by tools/make_unicode_tables.py; Unicode " + unicodedata.unidata_version + "."]
    for name, codes in sets.items():
        out.append(f"constexpr Range {name}[] = {{\n{rows(runs(codes))}\n}};")
    special = []
    for index, (name, change) in enumerate({"kToLower": str.lower, "kToUpper": str.upper, "kToTitle": str.title,
                                            "kToFolded": str.casefold}.items()):
        simple = []
        for c in CODES:
            to = change(chr(c))
            if len(to) > 1:
                special.append((c, index, to))
            elif to != chr(c):
                simple.append((c, ord(to)))
        out.append(f"constexpr Mapping {name}[] = {{\n{rows(mapping_runs(simple))}\n}};")
    out.append("// What becomes several characters: code, which of the four mappings above, the characters.")
    lines = []
    for c, index, to in sorted(special):
        lines.append("    {" + f"0x{c:X}, {index}, " + "{" + ", ".join(f"0x{ord(t):X}" for t in to) + "}},")
    out.append("constexpr Special kSpecial[] = {\n" + "\n".join(lines) + "\n};")
    with open(path, "w") as f:
        f.write("\n\n".join(out) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
