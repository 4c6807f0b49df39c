"""Several processes: how they find each other, share out work and exchange what they have."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from una_ref.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
LAUNCHED = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Where torchrun, the MPIs and srun say how many processes they have started."""


def processes() -> Accelerator:
    """The processes of this run and their device: CUDA if available, else the CPU.

    Raises:
        InputError: several processes were started that would each train alone.
    """
    from accelerate import Accelerator

    try:
        team = Accelerator(cpu=not torch.cuda.is_available())
    except ValueError as error:  # the environment has a number of processes and no address
        raise InputError(f"processes: expected them started by torchrun or accelerate launch, got: {error}") from error
    for name in LAUNCHED:
        launched = int(os.environ.get(name) or "1")
        # srun and mpirun may start one torchrun on each node, which has several processes.
        together = team.num_processes == launched if name == "WORLD_SIZE" else team.num_processes % launched == 0
        if not together:
            raise InputError(
                f"processes: expected the {launched} that {name} names to train together, got "
                f"{team.num_processes}. Fix: start them with torchrun or accelerate launch"
            )
    return team


def share(team: Accelerator, items: Sequence[T]) -> Sequence[T]:
    """The items that this process takes: every n-th, where n is the number of processes."""
    return items[team.process_index :: team.num_processes]


def from_all(team: Accelerator, items: Sequence[T]) -> list[T]:
    """The items of every process, those of the first process first."""
    if team.num_processes == 1:
        return list(items)
    from accelerate.utils import gather_object

    return gather_object(list(items))


def from_main(value: T) -> T:
    """The value that the main process has."""
    from accelerate.utils import broadcast_object_list

    values: list[Any] = [value]
    return broadcast_object_list(values)[0]


def gathered(team: Accelerator, items: Sequence[T], total: int) -> list[T]:
    """The results that every process has for its `share` of `total` items, in the order of the items."""
    n, every = team.num_processes, from_all(team, items)
    starts = [0]
    for rank in range(n):
        starts.append(starts[-1] + len(range(rank, total, n)))
    return [every[starts[i % n] + i // n] for i in range(total)]


def any_process(team: Accelerator, flag: bool) -> bool:
    """Whether the flag is set in any process."""
    if team.num_processes == 1:
        return flag
    return bool(team.reduce(torch.tensor(float(flag), device=team.device)))
