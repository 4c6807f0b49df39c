"""Reward models of the studies on a real language model: Bradley–Terry on human pairs, with the base as backbone.

A reward model is named by its base, its pairs and its training. So two studies that ask for the same one share it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from una_ref.policies import loading
from una_ref.policies.classifier import Classifier
from una_ref.studies import real_measures as measures
from una_ref.studies.offline_study import as_feedback
from una_ref.studies.real_work import RealStudySettings, name_of, named_folder, part_of, sizes_until
from una_ref.training.checkpoints import write_text
from una_ref.training.config import Config
from una_ref.training.run import train

SETS: Mapping[str, str] = {"hh": "reward", "ultrafeedback": "scores", "llmbar": "llmbar", "hhh": "hhh"}
"""The sets of pairs on which a reward model's accuracy is measured: held-out rows of these parts."""


@dataclass(frozen=True)
class RewardModel:
    """Train a reward model, and measure its accuracy.

    Attributes:
        lr: learning rate; not tuned.
        pairs: the part of the data whose training pairs it learns.
        seed: of adapter, head and order.
        sets: names in `SETS`.
    """

    lr: float
    pairs: str = "reward"
    seed: int = 0
    sets: tuple[str, ...] = tuple(SETS)

    @property
    def key(self) -> str:
        """Its name in runs.jsonl; the default's is that of the offline study's records."""
        which = "" if (self.pairs, self.seed) == ("reward", 0) else f"{self.pairs}/seed={self.seed}/"
        return f"reward-model/{which}lr={self.lr:g}"

    def measured(self, settings: RealStudySettings, base: Path) -> dict[str, Any]:
        """The run's line: a 1 for each pair on which the reward model is right."""
        judge = Classifier(str(self.folder(settings, base)))
        sets = {name: part_of(SETS[name], settings, judge.tokenizer).held_out for name in self.sets}
        hits = {name: measures.judged_pairs(judge, as_feedback(rows, "pairs")) for name, rows in sets.items()}
        return {"hits": hits}

    def folder(self, settings: RealStudySettings, base: Path) -> Path:
        """The folder of the trained reward model; it is trained first if it is not there.

        Processes that ask at the same time wait for one of them.
        """
        from filelock import FileLock

        sizes = {name: asdict(size) for name, size in sizes_until(self.pairs, settings).items()}
        about = [name_of(base), sizes, settings.batch, settings.lora_r, settings.lora_alpha, self.lr, self.seed]
        folder = named_folder("reward_model", about)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            self._train(folder, settings, base)
        return folder / "model"

    def _train(self, folder: Path, settings: RealStudySettings, base: Path) -> None:
        file = folder / "pairs.jsonl"
        if not file.exists():
            rows = part_of(self.pairs, settings, loading.load_tokenizer(str(base))).train
            lines = (
                {"prompt": row.prompt, "chosen": row.responses[chosen], "rejected": row.responses[rejected]}
                for row in rows
                for chosen, rejected in row.pairs or ()
            )
            write_text(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        config = Config(
            method="reward-model",
            data=str(file),
            model=str(base),
            output=str(folder / "model"),
            held_out=0.0,
            steps=settings.sizes[self.pairs].train // settings.batch,
            batch=settings.batch,
            lr=self.lr,
            seed=self.seed,
            lora_r=settings.lora_r,
            lora_alpha=settings.lora_alpha,
            save_every=8,
        )
        train(config, progress=False)
