"""``import una_ref`` loads torch and few other packages."""

import ast
import subprocess
import sys
from pathlib import Path

import una_ref

POSIX_MODULES = {"crypt", "curses", "fcntl", "grp", "nis", "posix", "pty", "pwd", "readline", "resource", "spwd"}
POSIX_MODULES |= {"syslog", "termios", "tty"}
POSIX_NAMES = {"fork", "getuid", "geteuid", "getpgid", "killpg", "setsid", "sched_getaffinity", "sysconf", "uname"}
POSIX_NAMES |= {"SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2"}
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


def calls(tree):
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def test_nothing_needs_posix():
    # On Windows these modules and names are missing, and text gets other line ends unless `newline` says which.
    found = []
    for file in Path(una_ref.__file__).parent.rglob("*.py"):
        tree = ast.parse(file.read_text("utf-8"))
        imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        found += [f"{file.name}: {name}" for name in (imported & POSIX_MODULES) | (names & POSIX_NAMES)]
        for call in calls(tree):
            mode = call.args[1].value if len(call.args) > 1 and isinstance(call.args[1], ast.Constant) else ""
            writes = getattr(call.func, "id", "") == "open" and mode in ("w", "a")
            given = {keyword.arg for keyword in call.keywords}
            if writes and not {"encoding", "newline"} <= given:
                found.append(f"{file.name}:{call.lineno}: open without newline")
    assert not found
