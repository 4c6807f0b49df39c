"""Losses of one's own, as a user writes them, and every registered loss."""

import pytest
import torch
from torch.nn.functional import logsigmoid

from una_ref.examine.reductions import candidates
from una_ref.examine.signature import examinee
from una_ref.methods import KINDS, METHODS

torch.set_num_threads(1)


def margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps):
    return (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)


def rewritten_dpo(*, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.07):
    return torch.log1p((-beta * margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)).exp())


def flipped_dpo(*, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    return -logsigmoid(-beta * margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps))


def forgotten_reference(*, chosen_logps, rejected_logps, beta=0.1):
    return -logsigmoid(beta * (chosen_logps - rejected_logps))


def per_token_dpo(
    *, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, chosen_lengths, rejected_lengths, beta=0.1
):
    chosen = (chosen_logps - ref_chosen_logps) / chosen_lengths
    return -logsigmoid(beta * (chosen - (rejected_logps - ref_rejected_logps) / rejected_lengths))


def clamped_dpo(*, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    inside = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps).clamp(-1000, 80)
    return -logsigmoid(beta * inside)


def tightly_clamped_dpo(*, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    return -logsigmoid(beta * margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps).clamp(-5, 5))


def hinge(*, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps):
    """SLiC's hinge with a reference, and a fixed β of 0.2."""
    return (1 - 0.2 * margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)).relu()


def squared_without_values(*, logps, ref_logps, scores, beta=0.1):
    return (beta * (logps - ref_logps) - scores) ** 2


def squared_with_values(*, logps, ref_logps, scores, baseline, beta=0.1):
    return (beta * (logps - ref_logps) + baseline - scores) ** 2


def mean_dpo(*, chosen_logps, rejected_logps, beta=0.1):
    return -logsigmoid(beta * (chosen_logps - rejected_logps)).mean()


def detached(*, chosen_logps, rejected_logps, beta=0.1):
    return -logsigmoid(beta * (chosen_logps - rejected_logps).detach())


@pytest.fixture(scope="session")
def own():
    """own.NAME is a loss of this file."""

    class Own:
        pass

    for loss in (
        rewritten_dpo,
        flipped_dpo,
        forgotten_reference,
        per_token_dpo,
        clamped_dpo,
        tightly_clamped_dpo,
        hinge,
        squared_without_values,
        squared_with_values,
        mean_dpo,
        detached,
    ):
        setattr(Own, loss.__name__, staticmethod(loss))
    return Own


REGISTERED = {f"{one.name} ({kind})": one.loss for kind in KINDS for one in candidates(kind)}
"""Every registered function with its kind of feedback, printed and released forms included."""
OF_METHODS = [examinee(method.name, kind) for method in METHODS.values() for kind in method.kinds]
"""Every method with each of its kinds of feedback."""


def pytest_generate_tests(metafunc):
    if "registered" in metafunc.fixturenames:
        metafunc.parametrize("registered", REGISTERED.values(), ids=REGISTERED)
    if "of_method" in metafunc.fixturenames:
        metafunc.parametrize("of_method", OF_METHODS, ids=lambda subject: subject.name)
