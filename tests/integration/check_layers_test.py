#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plants one violation after another in a small tree and expects ci/check_layers.py to find each, and nothing else."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

CHECK = Path(__file__).resolve().parents[2] / "ci" / "check_layers.py"
SPDX = "// SPDX-License-Identifier: Apache-2.0\n"
HEADER = SPDX + "#pragma once\n"
CLEAN = {
    "framework/core/error.hpp": HEADER,
    "framework/core/config.cpp": SPDX + "#include <yaml-cpp/yaml.h>\n",
    "framework/model/method.hpp": HEADER + '#include "dist/communicator.hpp"\n#include "framework/core/error.hpp"\n',
    "framework/train/trainer.cpp": SPDX + '#include "framework/model/method.hpp"\n#include "data/h5.hpp"\n',
    "quant/codec.hpp": HEADER + '#include "framework/core/error.hpp"\n',
    "dist/communicator.hpp": HEADER,
    "dist/mpi.cpp": SPDX + "#include <mpi.h>\n",
    "data/h5.hpp": HEADER,
    "data/h5.cpp": SPDX + "#include <hdf5.h>\n",
    "lowrank/methods/loqt.hpp": HEADER + '#include "quant/codec.hpp"\n#include "dist/communicator.hpp"\n',
    "tools/kumiko.cpp": SPDX + '#include "lowrank/methods/loqt.hpp"\nvoid f() { std::cout << "x"; }\n',
    "tests/train/trainer_test.cpp": SPDX + '#include "framework/model/method.hpp"\n',
    "ci/check.py": "#!/usr/bin/env python3\n# SPDX-License-Identifier: Apache-2.0\n",
}


def check(files):
    with tempfile.TemporaryDirectory() as folder:
        for path, text in {**CLEAN, **files}.items():
            target = Path(folder) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        done = subprocess.run([sys.executable, CHECK, folder], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines()[:-1]


class CheckLayers(unittest.TestCase):
    def finds(self, path, text, line, words):
        code, findings = check({path: text})
        self.assertEqual((code, len(findings)), (1, 1), findings)
        self.assertTrue(findings[0].startswith(f"{path}:{line}: "), findings)
        self.assertIn(words, findings[0])

    def accepts(self, path, text):
        self.assertEqual(check({path: text}), (0, []))

    def test_accepts_a_clean_tree(self):
        self.assertEqual(check({}), (0, []))

    def test_finds_an_include_upwards(self):
        for path, included in (
            ("framework/core/a.cpp", "quant/codec.hpp"),
            ("quant/a.cpp", "framework/model/method.hpp"),
            ("dist/a.cpp", "data/h5.hpp"),
            ("data/a.cpp", "dist/communicator.hpp"),
            ("framework/model/a.cpp", "quant/codec.hpp"),
            ("framework/train/a.cpp", "lowrank/methods/loqt.hpp"),
            ("framework/train/a.cpp", "quant/codec.hpp"),
            ("lowrank/a.cpp", "data/h5.hpp"),
        ):
            self.finds(path, f'{SPDX}\n#include "{included}"\n', 3, "must not include")

    def test_finds_a_top_included_from_below(self):
        self.finds("lowrank/a.cpp", SPDX + '#include "tools/b.hpp"\n', 2, "not in the tree")
        code, findings = check({"tools/b.hpp": HEADER, "lowrank/a.cpp": SPDX + '#  include "tools/b.hpp"\n'})
        self.assertEqual((code, len(findings)), (1, 1))
        self.assertIn('lowrank must not include "tools/b.hpp"', findings[0])

    def test_lets_special_files_through_and_only_those(self):
        code, findings = check({"dist/other.hpp": HEADER, "lowrank/a.cpp": SPDX + '#include "dist/other.hpp"\n'})
        self.assertEqual((code, len(findings)), (1, 1))
        code, findings = check({"quant/int8_state.hpp": HEADER, "framework/model/a.cpp": SPDX + '#include "quant/int8_state.hpp"\n'})
        self.assertEqual((code, findings), (0, []))

    def test_finds_headers_of_other_projects_in_the_wrong_place(self):
        for path, header in (
            ("framework/train/a.cpp", "mpi.h"),
            ("dist/ranks.cpp", "mpi.h"),
            ("data/shard.cpp", "hdf5.h"),
            ("tools/a.cpp", "yaml-cpp/yaml.h"),
            ("tests/core/a.cpp", "torch/torch.h"),
        ):
            self.finds(path, f"{SPDX}#include <{header}>\n", 2, header)
        self.accepts("tests/dist/mpi_test_main.cpp", SPDX + "#include <mpi.h>\n")

    def test_finds_a_path_not_from_the_root(self):
        self.finds("quant/a.cpp", SPDX + '#include "codec.hpp"\n', 2, "from the root")

    def test_finds_a_missing_license_line_and_guard(self):
        self.finds("quant/a.cpp", "int x;\n", 1, "SPDX")
        self.finds("ci/a.sh", "#!/bin/sh\necho\n", 2, "SPDX")
        self.finds("quant/a.hpp", SPDX, 1, "#pragma once")

    def test_finds_what_headers_may_not_hold(self):
        self.finds("quant/a.hpp", HEADER + "namespace {\n}\n", 3, "anonymous")
        self.finds("quant/a.hpp", HEADER + "using namespace std;\n", 3, "using namespace")
        self.finds("quant/a.hpp", HEADER + "#ifdef KUMIKO_WITH_CUDA\n#endif\n", 3, "build option")
        self.accepts("quant/a.cpp", SPDX + "namespace {\n}\n")

    def test_finds_new_delete_and_cout(self):
        self.finds("quant/a.cpp", SPDX + "auto* p = new int(1);\n", 2, "'new'")
        self.finds("quant/a.cpp", SPDX + "void f(int* p) { delete p; }\n", 2, "'delete'")
        self.finds("quant/a.cpp", SPDX + "void f(int* p) { delete[] p; }\n", 2, "'delete'")
        self.finds("quant/a.cpp", SPDX + "void f() { std::cout << 1; }\n", 2, "std::cout")

    def test_reads_code_and_not_comments_texts_or_names(self):
        self.accepts("quant/a.cpp", SPDX + "// new Foo, delete x\n/* std::cout\n new Foo */\n")
        self.accepts("quant/a.cpp", SPDX + 'auto s = "new x \\" delete y"; auto r = R"(delete z\nnew y)"; char c = \'"\'; int n = 1\'000;\n')
        self.accepts("quant/a.cpp", SPDX + "struct A { A(const A&) = delete; }; int newest; int new_size;\n")

    def test_keeps_line_numbers_after_comments_and_raw_texts(self):
        self.finds("quant/a.cpp", SPDX + '/* a\n b */ auto r = R"x(one\ntwo)x";\nint* p = new int;\n', 5, "'new'")

    def test_refuses_a_folder_that_is_no_tree(self):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([sys.executable, CHECK, folder], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("no folder 'framework'", done.stderr)


if __name__ == "__main__":
    unittest.main()
