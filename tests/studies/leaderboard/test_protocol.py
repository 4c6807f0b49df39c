from dataclasses import replace

from una_ref.studies.leaderboard.board_settings import LeaderboardSettings
from una_ref.studies.leaderboard.board_worlds import MEASURES
from una_ref.studies.leaderboard.protocol import ABOUT_MEASURES, sentences


def test_every_sentence_has_at_most_25_words_and_a_stop():
    for sentence in sentences(LeaderboardSettings()):
        assert len(sentence.split()) <= 25 and sentence.endswith(".")


def test_the_numbers_are_those_of_the_settings():
    text = " ".join(sentences(replace(LeaderboardSettings(), steps=77, beta=0.35, leaders=5, budgets=(256, 8192))))
    for said in (
        "77 optimizer steps",
        "at most 77 updates",
        "β = 0.35",
        "have up to 5 rows",
        "Budgets: 256, 8,192 labels",
    ):
        assert said in text


def test_every_measure_of_a_run_is_explained():
    assert {*MEASURES, "tax", "own", "best_regret", "updates"} == {*ABOUT_MEASURES}
