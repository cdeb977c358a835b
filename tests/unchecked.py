"""A function of a test file run in a process of its own, without the type checks that the tests switch on."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent


def without_type_checks(module: str, function: str) -> Any:
    """What `tests/cases/{module}.py`'s function returns, as JSON values."""
    code = f"import json, {module}; print(json.dumps({module}.{function}()))"
    paths = [str(TESTS.parent), str(TESTS), str(TESTS / "cases")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
