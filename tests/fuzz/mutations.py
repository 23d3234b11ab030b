"""Ways to damage a file or a word, each a function of a generator."""

import re

import numpy as np

# What people and programs really write in the wrong place, and what trips parsers.
SCALARS = (
    "2021-13-45", "2021-02-30T25:61:61Z", "0001-01-01", "9999-12-31T23:59:59+14:00",
    "9999-12-31T23:59-14:00", "0001-01-01T00:00+14:00", "9999-12-31/", "--5", "--5/3",
    "12:30:61", "!!int abc",
    "!!float x", "!!timestamp 1", "!!bool 2", "!!binary '*'", "!!set {a: 1}", "!!python/object:os.system x",
    "!unknown 1", "*nowhere", "&a [*a]", "<<: 1", "²", "½", "१२", "9" * 5000, "-" + "9" * 5000,
    "0x" + "f" * 5000, "1e999", "-1e999", "1e-999", "nan", ".nan", "-.inf", "inf", "-1", "0", "1.5", "1_000",
    "007", "0o9", "NO", "null", "~", "", "true", "{}", "[]", "[[[[[]]]]]", "{a: {b: {c: 1}}}", "'", '"', "`",
    "@", "%", ":", "- -", "? x", "|", ">", "#", "\t", "\0", "\x07", "\x85", "\ufeff", "🙂", "\u202e", "é" * 300,
    "a" * 5000, "../../..", "/", ".", "..", "~root", "http://[", "s3://", "file:///", "B02=²", "B02=", "=1",
    "B02=1;B02=2", "B02=99999999999999999999", "18446744073709551616", "-9223372036854775809", "1/0", "%s",
    "{0}", "[" * 300, "{" * 300, "EPSG:999999", "POLYGON", "all", "2020/2021", "2020-01-01/..",
)  # fmt: skip
_SCALAR = re.compile(r"[^\s,:;\[\]{}\"'=]+")
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF)


def mutated_text(text: str, rng: np.random.Generator) -> str:
    """Change one to three places of a text: another scalar, or lines that go, come twice, or move."""
    for _ in range(int(rng.integers(1, 4))):
        lines = text.split("\n")
        row = int(rng.integers(len(lines)))
        match int(rng.integers(10)):
            case 0:
                del lines[row]
            case 1:
                lines.insert(row, lines[row])
            case 2:
                other = int(rng.integers(len(lines)))
                lines[row], lines[other] = lines[other], lines[row]
            case 3:
                lines[row] = " " * int(rng.integers(1, 4)) + lines[row]
            case 4:
                start = int(rng.integers(len(text) + 1))
                lines = (text[:start] + text[start + int(rng.integers(1, 9)) :]).split("\n")
            case 5:
                start = int(rng.integers(len(text) + 1))
                lines = (text[:start] + str(rng.choice(SCALARS)) + text[start:]).split("\n")
            case _:
                lines[row] = mutated_word(lines[row], rng)
        text = "\n".join(lines)
    return text


def mutated_word(word: str, rng: np.random.Generator) -> str:
    """Put another scalar in the place of one."""
    found = list(_SCALAR.finditer(word))
    new = str(rng.choice(SCALARS))
    if not found:
        return new
    one = found[int(rng.integers(len(found)))]
    return word[: one.start()] + new + word[one.end() :]


def mutated_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Change one to four places of a file: bits, bytes, runs of them, or its end. Headers, where most is decided, are
    met as often as all the rest."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        size = len(changed)
        if not size:
            break
        limit = min(size, 1024) if rng.random() < 0.5 else size
        start = int(rng.integers(limit))
        length = int(rng.choice([1, 2, 4, 8, 64, 1024]))
        match int(rng.integers(8)):
            case 0:
                changed[start] ^= 1 << int(rng.integers(8))
            case 1:
                changed[start : start + length] = rng.bytes(length)
            case 2:
                changed[start : start + length] = bytes([int(rng.choice(_NUMBERS))]) * length
            case 3:
                del changed[start : start + length]
            case 4:
                changed[start:start] = rng.bytes(length)
            case 5:
                del changed[start:]
            case 6:
                other = int(rng.integers(size))
                changed[start : start + length] = changed[other : other + length]
            case _:
                changed[start : start + 4] = int(rng.choice([-1, 2**31 - 1, -(2**31), 65536])).to_bytes(
                    4, "little", signed=True
                )
    return bytes(changed)
