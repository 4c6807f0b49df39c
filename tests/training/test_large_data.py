"""Memory does not grow with the text of rows, only by some bytes for each: its place, a hash and its turn."""

import json
import random
import subprocess
import sys

import pytest

PREPARE = """
import resource, sys
from una_ref.training.settings import resolve
from una_ref.training.prepare import prepare

def peak(path):
    job = prepare(resolve(sys.argv[1], sys.argv[4:], data=path))
    job.step(0, record=True)
    print(len(job.examples) + len(job.held_out), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

for path in sys.argv[2:4]:
    peak(path)
"""
A_ROW = 1000
"""Most bytes of memory for each row; some are the allocator's. A `Row` and its `Example` in memory would take 3,200."""


def write(path, rows, kind):
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijkl", k=draw.randint(2, 8))) for _ in range(500)]

    def some(n, draw=draw):
        return " ".join(draw.choices(words, k=n))

    make = {
        "pairs": lambda i: {"prompt": f"{some(8)} {i}", "chosen": some(7), "rejected": some(7)},
        "labels": lambda i: {"prompt": f"{some(12, random.Random(i // 2))}", "completion": some(7), "label": i % 2},
    }[kind]
    path.write_text("".join(json.dumps(make(i)) + "\n" for i in range(rows)))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kind", "responses"), [("dpo", "pairs", 1), ("una-binary-mse", "labels", 2)])
def test_memory_does_not_grow_with_the_rows(method, kind, responses, tmp_path, tiny):
    counts = (1_000, 13_000)
    paths = [write(tmp_path / f"{n}.jsonl", n, kind) for n in counts]
    command = [sys.executable, "-c", PREPARE, method, *paths, *tiny, "held_out=0.01"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (few, before), (many, after) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (few, many) == tuple(n // responses for n in counts)
    assert (after - before) * 1024 / (counts[1] - counts[0]) < A_ROW
