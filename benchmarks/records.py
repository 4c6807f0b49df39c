"""Records: what a benchmark measured, with the versions, the hardware and the date."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import Any


def data_folder() -> Path:
    """The folder of real data, from UNA_REF_DATA; exits with status 2 if it is not set."""
    if "UNA_REF_DATA" not in os.environ:
        script = Path(sys.argv[0]).stem
        print(f"{script}: expected UNA_REF_DATA, the folder with the data files, got none", file=sys.stderr)
        raise SystemExit(2)
    return Path(os.environ["UNA_REF_DATA"])


def provenance() -> dict[str, Any]:
    """Versions, hardware and date, which stand in every record."""
    from una_ref.training.card import versions

    return {
        "versions": versions(),
        "hardware": f"{os.cpu_count()} CPU cores, {processor()}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def processor() -> str:
    """The processor's name (on Linux), and the widest instructions of it that torch uses."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    widest = torch.backends.cpu.get_cpu_capability()
    bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return f"{model[1] if model else platform.processor()}, {widest}, {'with' if bf16 else 'without'} bf16 products"
