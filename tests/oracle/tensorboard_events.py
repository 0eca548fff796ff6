# SPDX-License-Identifier: Apache-2.0
"""TensorBoard itself reads our event files: python tensorboard_events.py BUILD_FOLDER

Needs the packages tensorboard, absl-py, protobuf and numpy; ends with 77 where they are missing.
"""
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    from tensorboard.backend.event_processing import event_accumulator
except ImportError as error:
    print(f"skipped: {error}; pip install tensorboard absl-py protobuf")
    sys.exit(77)


def main() -> int:
    program = Path(sys.argv[1]) / "tests" / "record_sample"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([program, folder], check=True)
        events = event_accumulator.EventAccumulator(str(Path(folder) / "tensorboard"))
        events.Reload()
        found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    wanted = [(step, 10.0 - 0.25 * step) for step in range(1, 11)] + [(step, 100.0 + step) for step in range(11, 16)]
    if found != wanted:
        print(f"TensorBoard read {found}\nwanted {wanted}")
        return 1
    print(f"TensorBoard read {len(found)} points; those beyond the resumed step were purged")
    return 0


sys.exit(main())
