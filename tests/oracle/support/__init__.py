# SPDX-License-Identifier: Apache-2.0
"""What the oracles share: runs of oracle_trace, a LLaMA of transformers, and the comparison of two runs step by step."""
import logging
import os
import sys
import warnings

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["TORCHDYNAMO_DISABLE"] = "1"   # compiling the packages' kernels would take minutes

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)   # it misses kernels that are not for training
warnings.simplefilter("ignore", FutureWarning)                # what transformers says of peft's use of it

try:
    import apollo_torch  # noqa: F401
    import bitsandbytes  # noqa: F401
    import galore_torch  # noqa: F401
    import peft  # noqa: F401
    import safetensors  # noqa: F401
    import torch
    import transformers  # noqa: F401
except ImportError as error:
    print(f"skipped: {error}; ci/setup.sh --oracles installs it")
    sys.exit(77)

torch.set_num_threads(1)   # products this small gain nothing from more
