"""What the tests of the leaderboard share."""

from dataclasses import replace

import pytest

from una_ref.studies.engine import carry_out
from una_ref.studies.leaderboard.board_settings import LeaderboardSettings
from una_ref.studies.leaderboard.board_study import LEADERBOARD

AXES = ("board", "exact_scores", "tiny_lm", "alarms", "frontier", "label_noise", "positive_share", "sharpness")


@pytest.fixture(scope="session")
def tiny():
    """Settings of a leaderboard of seconds."""
    return replace(
        LeaderboardSettings(),
        prompts=2,
        second=1,
        vocabulary=4,
        length=3,
        hidden=8,
        steps=4,
        batch=8,
        draws=4,
        seeds=(0, 1),
        tuning_seeds=(100,),
        tuning_budget=32,
        budgets=(16, 32),
        lrs=(1e-3, 1e-2),
        factors=(1.0,),
        entries=("sft", "una-pair", "una-centred", "una-binary-bce", "rloo", "rloo.rm"),
        alarm_seeds=(200,),
        leaders=4,
        axis_seeds=(0,),
        axis_budget=32,
        frontier=(0.5, 1.0),
    )


@pytest.fixture(scope="session")
def finished(tiny, tmp_path_factory):
    """The folder and the results of a whole tiny leaderboard."""
    folder = tmp_path_factory.mktemp("leaderboard")
    return folder, carry_out(LEADERBOARD, folder, settings=tiny, workers=1, axes=AXES)
