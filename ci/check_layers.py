#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the layers and the house rules that a pattern can see. ci/check_layers.py [ROOT]

Prints one line 'file:line: what is wrong' a finding; exit code 1 when there is one.
"""

import re
import sys
from pathlib import Path

# Layer: the folders it may include besides itself, and single files beyond those.
LAYERS = {
    "framework/core": ((), ()),
    "quant": (("framework/core",), ()),
    "dist": (("framework/core",), ()),
    "data": (("framework/core",), ()),
    "framework/model": (("framework/core",), ("dist/communicator.hpp", "quant/int8_state.hpp")),
    "framework/train": (("framework/core", "framework/model", "data", "dist"), ()),
    "lowrank": (("framework/core", "framework/model", "quant"), ("dist/communicator.hpp",)),
}
# Folders that may include every layer and themselves, and that no layer includes.
TOPS = ("tools", "tests")

# Header of another project: the files that may include it.
OUTSIDE = (
    (r"mpi(-ext)?\.h", r"dist/mpi[^/]*\.cpp|tests/dist/.*", "only dist/mpi*.cpp may"),
    (r"nccl\.h", r"dist/nccl[^/]*\.(cpp|hpp)", "only dist/nccl* may"),
    (r"(hdf5|H5[A-Z]\w*)\.h", r"data/h5\.cpp|tests/data/h5_hostile_test\.cpp", "only data/h5.cpp and its hostile test may"),
    (r"yaml-cpp/.*", r"framework/core/config[^/]*", "only framework/core/config* may"),
    (r"torch/torch\.h|torch/nn/.*|torch/nn\.h", r"(?!)", "torch::nn is not used, and torch.h costs 20 s a file"),
)

HEADER = "header"
SOURCE = "source"
# What: where it applies, the files where it is allowed, the pattern in code without comments and texts, the message.
PATTERNS = (
    (HEADER, r"(?!)", r"\bnamespace\s*\{", "anonymous namespace in a header"),
    (HEADER, r"(?!)", r"\busing\s+namespace\b", "'using namespace' in a header"),
    (HEADER, r"(?!)", r"\bKUMIKO_WITH_\w+", "build option in a header: absence is a file (no_mpi.cpp)"),
    (SOURCE, r"(tools|tests)/.*", r"\bstd\s*::\s*cout\b", "std::cout outside tools/ and tests/: use framework/core/log.hpp"),
    (SOURCE, r"(?!)", r"(?<!operator )\bnew\b\s*[\w:(\[]", "'new': owners are values or unique_ptr"),
    (SOURCE, r"(?!)", r"(?<!operator )(?<!=)(?<!= )\bdelete\b", "'delete': owners are values or unique_ptr"),
    (SOURCE, r"tests/.*", r"\bcudaDeviceSynchronize\b", "library code never synchronises the device"),
)

HEADERS = {".hpp", ".h", ".cuh"}
SOURCES = HEADERS | {".cpp", ".c", ".cu"}
SCRIPTS = {".py", ".sh"}
FOLDERS = tuple(LAYERS) + TOPS + ("ci",)
LICENSE_LINE = "SPDX-License-Identifier: Apache-2.0"

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
LITERAL = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<mark>[^()\s\\]{0,16})\(.*?\)(?P=mark)"|"(?:\\.|[^"\\\n])*"|'
    r"(?<![0-9A-Fa-f])'(?:\\.|[^'\\\n])+'",
    re.DOTALL,
)


def blank(text):
    """The text without comments and literals; lines keep their numbers."""
    return LITERAL.sub(lambda found: " " + "\n" * found.group().count("\n"), text)


def layer_of(path):
    for layer in (*LAYERS, *TOPS):
        if path.startswith(layer + "/"):
            return layer
    return None


def include_problem(root, path, quoted, name):
    for pattern, allowed, why in OUTSIDE:
        if re.fullmatch(pattern, name) and not re.fullmatch(allowed, path):
            return f"must not include <{name}>: {why}"
    if not quoted:
        return None
    if path.endswith(".c") and (root / path).with_name(name).is_file():   # preloaded into any program: no include folders
        return None
    if not (root / name).is_file():
        return f'includes "{name}", which is not in the tree; name it from the root of the repository'
    layer, other = layer_of(path), layer_of(name)
    if layer in TOPS or layer == other:
        return None
    folders, files = LAYERS[layer]
    if other in folders or name in files:
        return None
    may = ", ".join((*folders, *files)) or "nothing else"
    return f'{layer} must not include "{name}" (it may include itself, {may})'


def check_source(root, path, text):
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        found = INCLUDE.match(line)
        if found:
            problem = include_problem(root, path, found[1] == '"', found[2])
            if problem:
                yield number, problem
    suffix = Path(path).suffix
    code = blank(text)
    if suffix in HEADERS and not re.search(r"^\s*#\s*pragma\s+once\b", code, re.MULTILINE):
        yield 1, "no '#pragma once'"
    for number, line in enumerate(code.split("\n"), 1):
        if re.match(r"\s*#\s*include\b", line):
            continue
        for where, allowed, pattern, message in PATTERNS:
            if where == HEADER and suffix not in HEADERS or re.fullmatch(allowed, path):
                continue
            if re.search(pattern, line):
                yield number, message


def check_file(root, path):
    text = (root / path).read_text(encoding="utf-8")
    first = text.split("\n", 2)
    line = 1 if first[0].startswith("#!") else 0
    if len(first) <= line or LICENSE_LINE not in first[line]:
        yield line + 1, f"no '{LICENSE_LINE}'"
    if Path(path).suffix in SOURCES:
        yield from check_source(root, path, text)


def check_tree(root):
    """Findings (path, line, message) of all files below root."""
    for folder in FOLDERS:
        for file in sorted((root / folder).rglob("*")):
            if file.is_file() and file.suffix in SOURCES | SCRIPTS:
                path = file.relative_to(root).as_posix()
                for line, message in check_file(root, path):
                    yield path, line, message


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
    if not (root / "framework").is_dir():
        sys.exit(f"check_layers: {root} has no folder 'framework'")
    findings = list(check_tree(root))
    for path, line, message in findings:
        print(f"{path}:{line}: {message}")
    print(f"check_layers: {len(findings)} findings" if findings else "check_layers: no findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
