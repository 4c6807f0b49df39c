"""``import una_ref`` loads torch and few other packages."""

import subprocess
import sys

HEAVY = ("transformers", "peft", "datasets", "accelerate", "scipy", "matplotlib", "pandas")


def python(code: str) -> str:
    process = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return process.stdout.strip()


def test_import_loads_no_heavy_package():
    # Torch may load some of these if they are installed, so only what una_ref adds counts.
    code = """
import sys, torch
before = set(sys.modules)
import una_ref, una_ref.figures, una_ref.notebook
print(*set(sys.modules) - before)
"""
    loaded = {name.split(".")[0] for name in python(code).split()}
    assert "una_ref" in loaded
    assert not loaded & set(HEAVY)


def test_import_adds_at_most_300_ms_to_torch():
    code = "import time, torch; start = time.time(); import una_ref; print(time.time() - start)"
    assert min(float(python(code)) for _ in range(2)) <= 0.3
