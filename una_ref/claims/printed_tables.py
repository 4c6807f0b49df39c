"""UNA's tables, recounted, and the settings that it reports for its experiments."""

from __future__ import annotations

import math

from una_ref.claims.ledger import FAILS, UNA, Evidence, claim
from una_ref.evaluation.printed import printed
from una_ref.theory import TableWorld, kl

OFFLINE = {f"Table {id}": printed()[id].numbers() for id in "12"}
"""The offline tables as UNA prints them: row -> six tasks and the average."""
ONLINE = {f"Table {id}": printed()[id].numbers() for id in "45"}
"""The online tables: the same tasks and the average."""
TABLE_6 = printed()["6"].numbers()
"""UNA's Table 6: MT-Bench, AlpacaEval LC win rate."""


def _averages_are_those_printed() -> bool:
    """Whether the averages in Tables 1, 2, 4 and 5 are right to the printed digits."""
    rows = [row for table in (OFFLINE | ONLINE).values() for row in table.values()]
    return all(abs(sum(tasks) / len(tasks) - average) <= 0.005 + 1e-9 for *tasks, average in rows)


@claim(
    "CU26",
    paper=UNA,
    place="Sec. 4.2, Tables 4–6",
    says="online UNA beats RLHF in 8 of 14 tasks with 2 ties, which clearly demonstrates its benefit",
    verdict="holds if read as a count alone",
    instead="the count is right but demonstrates nothing: with no difference at all it would be as uneven with "
    "probability p",
    shows="{wins:.0f} wins, {losses:.0f} losses, {ties:.0f} ties, p = {p:.2f} (sign test); averages {new:+.2f} and "
    "{old:+.2f} points; on MT-Bench {mt:.2f} below the model before training",
    notebook=None,
)
def _cu26() -> Evidence:
    una = [*ONLINE["Table 4"]["UNA"][:-1], *ONLINE["Table 5"]["UNA"][:-1], *TABLE_6["UNA"]]
    rlhf = [*ONLINE["Table 4"]["RLHF"][:-1], *ONLINE["Table 5"]["RLHF"][:-1], *TABLE_6["RLHF"]]
    wins = sum(a > b for a, b in zip(una, rlhf, strict=True))
    ties = sum(a == b for a, b in zip(una, rlhf, strict=True))
    decided = len(una) - ties
    tail = sum(math.comb(decided, k) for k in range(max(wins, decided - wins), decided + 1)) / 2**decided
    gains = [ONLINE[table]["UNA"][-1] - ONLINE[table]["RLHF"][-1] for table in ("Table 4", "Table 5")]
    numbers = {
        "wins": wins,
        "ties": ties,
        "losses": decided - wins,
        "p": min(1.0, 2 * tail),
        "new": gains[0],
        "old": gains[1],
        "mt": TABLE_6["Mistral-INST"][0] - TABLE_6["UNA"][0],
    }
    stands = {
        "8 wins and 2 ties of 14": (wins, ties, len(una)) == (8, 2, 14),
        "the sign test is far from significant": numbers["p"] > 0.3,
        "the printed averages are those of their rows": _averages_are_those_printed(),
        "on MT-Bench UNA is below the model before training": numbers["mt"] > 0,
    }
    return Evidence(numbers, stands)


@claim(
    "CU27",
    paper=UNA,
    place="Sec. 4.1, Tables 1 and 2",
    says="UNA-score is best on both leaderboards, because scores carry more information",
    verdict="holds if ifeval and truthful-qa are counted",
    instead="each lead comes from one task: without ifeval the model before training has the best average in Table 1; "
    "without truthful-qa UNA-score leads Table 2 by 0.1 points",
    shows="Table 1: UNA-score {score:.2f}, before training {base:.2f}; without ifeval {score_without:.2f} and "
    "{base_without:.2f}. Table 2: {lead:+.2f} over the next, without truthful-qa {lead_without:+.2f}",
    notebook=None,
)
def _cu27() -> Evidence:
    def without(table: str, task: int) -> dict[str, float]:
        return {name: (sum(row[:-1]) - row[task]) / 5 for name, row in OFFLINE[table].items()}

    def lead(averages: dict[str, float]) -> float:
        return averages["UNA-score (MSE)"] - max(v for name, v in averages.items() if name != "UNA-score (MSE)")

    printed = {table: {name: row[-1] for name, row in rows.items()} for table, rows in OFFLINE.items()}
    no_ifeval, no_truthful = without("Table 1", 4), without("Table 2", 1)
    numbers = {
        "score": printed["Table 1"]["UNA-score (MSE)"],
        "base": printed["Table 1"]["Mistral"],
        "score_without": no_ifeval["UNA-score (MSE)"],
        "base_without": no_ifeval["Mistral"],
        "lead": lead(printed["Table 2"]),
        "lead_without": lead(no_truthful),
    }
    stands = {
        "as printed UNA-score leads both tables": lead(printed["Table 1"]) > 1 and numbers["lead"] > 1,
        "without ifeval nothing beats the model before training": max(no_ifeval, key=lambda name: no_ifeval[name])
        == "Mistral",
        "without truthful-qa the lead is below 0.15 points": 0 < numbers["lead_without"] < 0.15,
        "the printed averages are those of their rows": _averages_are_those_printed(),
    }
    return Evidence(numbers, stands)


@claim(
    "CU29",
    paper=UNA,
    place="Sec. 4 against Sec. 7",
    says="the online experiments use a 7B policy with a 3B reward model (Sec. 4), and 1B–2B models (Sec. 7); β is 10 "
    "for RLHF and 30 for UNA",
    verdict=FAILS,
    instead="the two sections contradict each other; and if β weighs the KL, the two methods have different optima, "
    "both close to π_ref",
    shows="KL(π* ‖ π_ref) for a reward of sd 1: {ten:.4f} nats at β = 10, {thirty:.4f} at β = 30",
    notebook=None,
)
def _cu29() -> Evidence:
    policy, reward_model = 7.0, 3.0  # Sec. 4: Mistral-7B, GRM-Llama3.2-3B; billions
    low, high = 1.0, 2.0  # Sec. 7, limitation 1
    kls = {}
    for beta in (10.0, 30.0):
        world = TableWorld.random(0, prompts=20, responses=1000, beta=beta)
        kls[beta] = float(kl(world.optimum, world.ref_logps).mean())
    stands = {
        "neither model of Sec. 4 is within the sizes of Sec. 7": not (low <= policy <= high)
        and not (low <= reward_model <= high),
        "the optimum at β = 30 is not the one at β = 10": kls[10.0] / kls[30.0] > 5,
        "at both the optimum is within 0.02 nats of π_ref": kls[10.0] < 0.02,
    }
    return Evidence({"ten": kls[10.0], "thirty": kls[30.0]}, stands)
