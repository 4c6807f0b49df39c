import re
from pathlib import Path

import una_ref
from una_ref import methods_figure
from una_ref.methods import METHODS


def words(path):
    """What a figure's SVG says; matplotlib leaves each text as a comment before its outlines."""
    return re.findall(r"<!-- (.*?) -->", path.read_text("utf-8"))


def test_it_has_a_tile_for_every_method_in_its_row_and_column(tmp_path):
    said = " ".join(words(methods_figure.draw(tmp_path)))
    for method in METHODS.values():
        assert f"{method.name} " in f"{said} "
        assert method.formula in said
        assert method.shape in said


def test_the_committed_one_is_of_this_registry(tmp_path):
    committed = Path(una_ref.__file__).parents[1] / "figures" / "methods.svg"
    assert words(committed) == words(methods_figure.draw(tmp_path))
