"""Monitors against reward hacking: what people watch while a policy is trained on a reward model.

A monitor sees no true reward. It is a number of the policy, exact over all responses, and a larger one is more
suspicious. The true reward beside them says at which checkpoints they should have rung; see `alarms`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from una_ref.studies.leaderboard.board_worlds import BoardWorld
from una_ref.studies.leaderboard.linear_proxies import linear_proxy
from una_ref.theory import optimum

MONITORS: Mapping[str, str] = MappingProxyType(
    {
        "kl": "KL(π ‖ π_ref), nats",
        "entropy": "entropy lost against π_ref, nats",
        "length": "change of the mean length in either direction, tokens",
        "spread": "spread lost: sd of the reward model's rewards under π_ref minus that under π, reward units",
        "disagreement": "sd under π of the difference of two reward models, each from half of the pairs; reward units",
        "judge": "gain by the reward model minus by a judge (a reward model from as many other pairs), reward units",
    }
)
"""What each monitor measures, by name."""


class Watch:
    """The monitors of a run on a reward model.

    Args:
        world: of the run.
        pairs: that the reward model learned from. The judge learns from as many that follow them.
    """

    def __init__(self, world: BoardWorld, pairs: int) -> None:
        self.world = world
        drawn = world.drawn(2 * pairs)
        wins = world.first_wins(drawn)

        def learned(start: int, end: int) -> Tensor:
            rows = slice(start, end)
            return linear_proxy(world.world.tree, world.size.prompts, drawn[rows], wins[rows])

        self.proxy, self.judge = learned(0, pairs), learned(pairs, 2 * pairs)
        self.apart = learned(0, pairs // 2) - learned(pairs // 2, pairs)
        exact = world.world
        self.start = self._of(exact.ref_logps)

    def __call__(self, logps: Tensor) -> dict[str, float]:
        """The monitors of a policy (X, S), and as `truth` the gain in true reward over π_ref, in reward units."""
        now, start = self._of(logps), self.start
        gained = {name: now[name] - start[name] for name in now}
        return {
            "kl": float(optimum.kl(logps, self.world.world.ref_logps).mean()),
            "entropy": -gained["entropy"],
            "length": abs(gained["length"]),
            "spread": -gained["spread"],
            "disagreement": now["disagreement"],
            "judge": gained["proxy"] - gained["judge"],
            "truth": gained["truth"],
        }

    def _of(self, logps: Tensor) -> dict[str, float]:
        exact, p = self.world.world, logps.exp()

        def mean(values: Tensor) -> float:
            return float((p * values).sum(1).mean())

        def spread(values: Tensor) -> float:
            centred = values - (p * values).sum(1, keepdim=True)
            return float((p * centred.square()).sum(1).sqrt().mean())

        return {
            "entropy": float(optimum.entropy(logps).mean()),
            "length": mean(exact.fullness.expand_as(logps)) * self.world.size.length,
            "spread": spread(self.proxy),
            "disagreement": spread(self.apart),
            "proxy": mean(self.proxy),
            "judge": mean(self.judge),
            "truth": mean(exact.rewards),
        }
