"""What tests of several layers share."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for the network


@pytest.fixture(scope="session")
def toysteer_base():
    """The folder of ToySteer's base policy: out of UNA_REF_CACHE or the user's cache, made there the first time."""
    from una_ref.training import run

    return run.toysteer_base(progress=False)
