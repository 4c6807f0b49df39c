"""What the tests of studies share."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from una_ref.studies import run_store
from una_ref.studies.online_runs import OnlineSettings
from una_ref.studies.proxies import TRUTH


@pytest.fixture
def threads(monkeypatch):
    """Runs are computed in threads: tests' own functions are not found by name in another process."""
    monkeypatch.setattr(run_store, "ProcessPoolExecutor", lambda workers, **_: ThreadPoolExecutor(workers))


@pytest.fixture(scope="session")
def records():
    """The folder of the committed records."""
    return Path(__file__).resolve().parents[2] / "figures" / "runs"


@pytest.fixture(scope="session")
def other_base(tmp_path_factory, toysteer_base):
    """ToySteer's base policy with other weights, in a folder of its own."""
    from una_ref.policies import loading

    folder = tmp_path_factory.mktemp("bases") / "other"
    model, tokenizer = loading.load(str(toysteer_base))
    for weight in model.parameters():
        weight.data *= 0.9
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_online():
    """Settings of a small online study."""
    return OnlineSettings(
        steps=2,
        draws=4,
        every=1,
        rollouts=3,
        timed=2,
        test=64,
        reward=TRUTH,
        rewards=("16", TRUTH),
        offsets=(0.0, 2.0),
        entries=("rloo", "una-online"),
        offset_entries=("una-online", "una-centred"),
        retuned=("una-online",),
        proxy_entries=("rloo",),
        seeds=(0, 1),
        tuning_seeds=(100,),
        timed_seeds=(0,),
        lrs=(3e-3, 1e-2),
    )
