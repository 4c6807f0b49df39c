"""Fixtures shared by the tests of several layers."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test uses the network


@pytest.fixture(scope="session")
def toysteer_base():
    """The folder of ToySteer's base policy."""
    from una_ref.training import toysteer_base

    return toysteer_base.toysteer_base()
