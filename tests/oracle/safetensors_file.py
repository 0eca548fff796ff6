# SPDX-License-Identifier: Apache-2.0
"""The safetensors package reads our files: python safetensors_file.py BUILD_FOLDER

Needs the packages safetensors and torch; ends with 77 where they are missing.
"""
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import torch
    from safetensors import safe_open
except ImportError as error:
    print(f"skipped: {error}; pip install safetensors")
    sys.exit(77)

WANTED = {
    "bytes": (torch.uint8, [3]),
    "model.f32": (torch.float32, [2, 3]),
    "model.bf16": (torch.bfloat16, [5, 1]),
    "model.f16": (torch.float16, [7]),
    "count": (torch.int64, []),
    "none": (torch.float32, [0, 4]),
}


def main() -> int:
    program = Path(sys.argv[1]) / "tests" / "record_sample"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([program, folder], check=True)
        with safe_open(Path(folder) / "model.safetensors", framework="pt") as file:
            assert file.metadata() == {"format": "pt"}, file.metadata()
            assert set(file.keys()) == set(WANTED), file.keys()
            for name, (dtype, shape) in WANTED.items():
                tensor = file.get_tensor(name)
                wanted = torch.arange(tensor.numel()).view(shape).to(dtype)
                assert tensor.dtype == dtype and torch.equal(tensor, wanted), (name, tensor)
    print(f"safetensors read {len(WANTED)} tensors")
    return 0


sys.exit(main())
