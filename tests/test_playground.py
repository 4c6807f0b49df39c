"""docs/playground.html: what the page computes in a browser is what the package computes."""

import itertools
import json
import re
from pathlib import Path
from urllib.parse import quote

import pytest
import torch

from una_ref import METHODS
from una_ref.theory import DIVERGENCES, bradley_terry, fixed_point, objective, optimal_logps, una_end
from una_ref.theory.populations import over_pairs

PAGE = Path(__file__).parents[1] / "docs" / "playground.html"
REF = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
SETTINGS = [
    {"divergence": divergence, "beta": beta, "offset": offset, "tilt": tilt, "r": r}
    for divergence, beta, offset, tilt, r in itertools.product(
        ("reverse_kl", "forward_kl", "js", "hellinger"),
        (0.3, 1.0),
        (-0.5, 2.0),
        (0.0, 1.4),
        ([0.0, 1.0, 2.0], [1.5, -1.0, 0.3]),
    )
]


def ends(browsed, settings):
    """What the page computes at each of these settings."""
    page = browsed(f"{PAGE.as_uri()}#grid={quote(json.dumps(settings))}")
    return json.loads(re.search(r'<pre id="grid">(.*?)</pre>', page, re.DOTALL)[1])


def slopes(logps, divergence):
    """f′(π/π_ref), (1, 3)."""
    return DIVERGENCES[divergence].slope(logps - REF.log())


def expected(divergence, beta, offset, tilt, r):
    """The same policies by the package: (3,) probabilities by name, and their regrets."""
    r = torch.tensor([r], dtype=torch.float64)
    scores, mu = r + offset, (REF.log() * (1 - tilt)).log_softmax(-1)
    best = optimal_logps(REF.log(), r, beta, divergence)

    def regression(logps, v=0.0):
        return (mu.exp() * (beta * slopes(logps, divergence) - scores - v) ** 2).sum()

    def centred(logps):
        return regression(logps, (mu.exp() * (beta * slopes(logps, divergence) - scores)).sum())

    loss = METHODS["f-dpo"].loss
    pairs = over_pairs(loss, bradley_terry(scores), mu, REF.log(), beta=beta, divergence=divergence)
    found = {"ref": REF.log(), "best": best, "centred": fixed_point(centred, REF.log(), tolerance=1e-9)}
    found |= {"eq10": fixed_point(regression, REF.log(), tolerance=1e-9), "dpo": fixed_point(pairs, REF.log())}
    top = objective(best, REF.log(), r, beta, divergence)
    regrets = {name: float(top - objective(end, REF.log(), r, beta, divergence)) for name, end in found.items()}
    return {name: end[0].exp().tolist() for name, end in found.items()}, regrets


def test_the_page_ends_where_the_package_does(browsed):
    found = ends(browsed, SETTINGS)
    assert len(found) == len(SETTINGS)
    for setting, shown in zip(SETTINGS, found, strict=True):
        policies, regrets = expected(**setting)
        for name, policy in policies.items():
            assert shown["policies"][name] == pytest.approx(policy, abs=1e-6), (setting, name)
            assert shown["regrets"][name] == pytest.approx(regrets[name], abs=1e-6), (setting, name)


def test_with_several_minima_the_page_shows_that_of_small_steps(browsed):
    settings = [
        {"divergence": "reverse_kl", "beta": 0.5, "offset": offset, "tilt": tilt, "r": [0.0, 1.0, 2.0]}
        for offset, tilt in itertools.product((-3.0, -2.5), (0.0, 1.5))
    ]
    for setting, shown in zip(settings, ends(browsed, settings), strict=True):
        mu = (REF.log() * (1 - setting["tilt"])).log_softmax(-1)
        scores = torch.tensor([setting["r"]], dtype=torch.float64) + setting["offset"]
        end = una_end(REF.log(), scores, setting["beta"], sampler_logps=mu)
        assert shown["policies"]["eq10"] == pytest.approx(end[0].exp().tolist(), abs=1e-6), setting


def test_the_page_loads_nothing():
    text = PAGE.read_text("utf-8")
    assert re.findall(r'(?:src|href)="(?!\.\./|#)[^"]+"|@import|url\(', text) == []


def test_the_page_is_linked():
    for source in ("README.md", "docs/README.md", "notebooks/START.py"):
        assert "playground.html" in (PAGE.parents[1] / source).read_text("utf-8"), source
