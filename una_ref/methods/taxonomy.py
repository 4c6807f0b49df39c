"""The survey's Table 1 as data: 33 systems on 13 axes, as printed and as they are, and what runs each.

Two rows differ where the original paper, or the survey's own text, says something else than its table; every
difference has a sentence. The axes have one reading here, for all rows (`axes.VALUES`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from una_ref.methods.axes import cells_of


@dataclass(frozen=True)
class Difference:
    """Cells in which the printed row is not true of the system, and why."""

    cells: Mapping[str, str]
    because: str


@dataclass(frozen=True)
class System:
    """One row of Table 1.

    Attributes:
        name: as printed, with the survey's number of the paper.
        cited: authors and year.
        printed: axis -> value, as printed.
        differences: where the row differs from the printed one.
        where: equations and section of the survey.
        runs: methods and recipes that run it, the closest first.
        method: the method of the registry whose axes these are; empty where a recipe combines several.
    """

    name: str
    cited: str
    printed: Mapping[str, str]
    where: str
    runs: tuple[str, ...]
    method: str
    differences: tuple[Difference, ...] = ()

    @property
    def axes(self) -> dict[str, str]:
        """Axis -> value that is true of the system."""
        changed = {axis: value for difference in self.differences for axis, value in difference.cells.items()}
        return dict(self.printed) | changed

    @property
    def because(self) -> str:
        """All differences with their reasons, as text."""
        return " ".join(f"{', '.join(d.cells)}: {d.because}." for d in self.differences)


def _but(because: str, **cells: str) -> Difference:
    return Difference(MappingProxyType(cells), because)


_RLHF = "Explicit Point Response Positive Preference Human Pair Reference Uncontrol KL Off Online Separate"
_DPO = "Implicit Point Response Positive Preference Human Pair Reference Uncontrol KL Off Offline Separate"
_SINGLE = "- - - - Binary Human - Reference Uncontrol KL Off Offline Separate"
_GAME = "- Preference Response Positive Preference Human Pair Reference Uncontrol KL On Offline Separate"


def _implicit(what: str) -> Difference:
    because = f"the loss treats {what} as the reward of a response"
    return _but(because, RM1="Implicit", RM2="Point", RM3="Response", RM4="Positive")


def _rows() -> tuple[System, ...]:
    def row(
        name: str, cited: str, printed: str, where: str, method: str, *differences: Difference, runs: str = ""
    ) -> System:
        words = tuple(runs.split()) or (method,)
        return System(name, cited, MappingProxyType(cells_of(printed)), where, words, method, differences)

    iterative = (
        _but("a preference model labels fresh samples, and the papers then update by DPO", RM1="Hybrid"),
        _but("each iteration samples from the current policy", RL4="Hybrid"),
    )
    return (
        row(
            "InstructGPT [2]",
            "Ouyang et al. 2022",
            "Explicit Point Response Positive Preference Human Pair Reference Uncontrol KL On Offline Separate",
            "Eq. 1, 2; Sec. 3.1.1",
            "ppo",
            runs="rlhf/three-stages ppo",
        ),
        row(
            "RLHF: Anthropic [3]",
            "Bai et al. 2022",
            "Explicit Point Response Positive Preference Human Pair Reference Uncontrol KL Off Hybrid Separate",
            "Eq. 2 with γ = 0; Sec. 3.1.2",
            "",
            _but("PPO trains on samples of the current policy, as in the row of InstructGPT", RL4="On"),
            runs="rlhf/anthropic-online",
        ),
        row(
            "Online RLHF/PPO [7]",
            "Dong et al. 2024",
            _RLHF,
            "Sec. 3.1.3 with Eq. 10",
            "iterative-dpo",
            *iterative,
            runs="rlhf/iterative-dpo iterative-dpo",
        ),
        row(
            "Iterative RLHF/PPO [8]",
            "Xiong et al. 2023",
            _RLHF,
            "Sec. 3.1.3 with Eq. 10",
            "iterative-dpo",
            *iterative,
            runs="rlhf/iterative-dpo iterative-dpo",
        ),
        row(
            "RLAIF-Anthropic [9]",
            "Bai et al. 2022",
            "Explicit Point Response Positive Preference AI Pair Reference Uncontrol KL On Offline Separate",
            "Sec. 3.2.1",
            "",
            _but("models label harmlessness, people label helpfulness", F2="Hybrid"),
            runs="rlaif/anthropic",
        ),
        row(
            "RLAIF-Google [10]",
            "Lee et al. 2023",
            "Explicit Point Response Positive Preference AI Pair Reference Uncontrol KL Off Offline Separate",
            "Sec. 3.2.2",
            "",
            _but("the policy gradient is taken on samples of the current policy", RL4="On"),
            _but("direct RLAIF asks the labeller during training, distilled RLAIF before it", O1="Hybrid"),
            runs="rlaif/google rlaif/google-direct",
        ),
        row(
            "SLiC-HF [11]",
            "Zhao et al. 2023",
            "- - - - Preference Human Pair Free Uncontrol KL Hybrid Offline Separate",
            "Eq. 3",
            "slic",
            _implicit("log π(y|x)"),
            _but(
                "−λ·log P(y_ref) pulls towards reference responses and knows no reference model",
                RL3="-",
            ),
            _but(
                "both variants use responses from before training: those of the rows, or of the SFT policy", RL4="Off"
            ),
        ),
        row("DPO [12]", "Rafailov et al. 2023", _DPO, "Eq. 5–12", "una-pair", runs="dpo"),
        row("DPOP [13]", "Pal et al. 2024", _DPO, "Eq. 13", "dpop"),
        row("βDPO [14]", "Wu et al. 2024", _DPO, "Eq. 14", "beta-dpo"),
        row(
            "IPO [15]",
            "Azar et al. 2023",
            "Implicit Preference Response Positive Preference Human Pair Reference Uncontrol KL Off Offline Separate",
            "Eq. 15–17",
            "ipo",
        ),
        row(
            "SDPO [16]",
            "Kim et al. 2024",
            _DPO,
            "Sec. 3.3.7 with Eq. 10",
            "sdpo",
            _but("models gave the preferences of OpenOrca and UltraFeedback, which it trains on", F2="AI"),
        ),
        row(
            "DPO: from r to Q [17]",
            "Rafailov et al. 2024",
            "Implicit Point Token Positive Preference Human Pair Reference Uncontrol KL Off Offline Separate",
            "Eq. 20–24",
            "token-dpo",
        ),
        row(
            "TDPO [18]",
            "Zeng et al. 2024",
            "Implicit Point Token Positive Preference Human Pair Reference Uncontrol KL Off Offline Separate",
            "Eq. 25–28",
            "tdpo",
        ),
        row(
            "Self-rewarding language model [19]",
            "Yuan et al. 2024",
            "Implicit Point Response Positive Preference AI Pair Reference Uncontrol KL Off Online Separate",
            "Sec. 3.5.1 with Eq. 10",
            "self-rewarding",
            _but(
                "the policy writes a verdict with points, and DPO then trains on the best and the worst", RM1="Hybrid"
            ),
            _but("each iteration samples from the current policy", RL4="Hybrid"),
        ),
        row(
            "CRINGE [20]",
            "Xu et al. 2023",
            "Implicit Point Response Positive Preference AI Pair Reference Uncontrol KL Off Online Separate",
            "Eq. 29, 30",
            "cringe",
            _but("a reward model ranks the samples of each iteration", RM1="Hybrid"),
            _but("each token of the worse response is contrasted with a rival token", RM3="Token"),
            _but("Eq. 29 and 30 contain no π_ref", RL1="Free", RL3="-"),
            _but("each iteration samples from the current policy", RL4="Hybrid"),
        ),
        row(
            "KTO [21]",
            "Ethayarajh et al. 2024",
            _SINGLE,
            "Eq. 31–34",
            "kto",
            _implicit("DPO's β·log(π/π_ref)"),
        ),
        row(
            "DRO [22]",
            "Richemond et al. 2024",
            _SINGLE,
            "Eq. 35–39",
            "dro",
            _implicit("DPO's β·log(π/π_ref)"),
            _but("the loss regresses any number, and the experiments use UltraFeedback's scores", F1="Score", F2="AI"),
        ),
        row(
            "ORPO [23]",
            "Hong et al. 2024",
            "- - - - Preference Human Pair Free Uncontrol - Off Offline Merge",
            "Eq. 40–42",
            "orpo",
            _implicit("its log odds"),
            _but("UltraFeedback's preferences are a model's, those of HH are people's", F2="Hybrid"),
            _but("P is the likelihood per token in the original", RL2="Control"),
        ),
        row(
            "PAFT [24]",
            "Pentyala et al. 2024",
            "Implicit Point Response Positive Preference Human Pair Reference Uncontrol KL Off Offline Merge",
            "Eq. 43",
            "paft",
            _but("models gave the preferences of UltraFeedback", F2="AI"),
        ),
        row(
            "R-DPO [25]",
            "Park et al. 2024",
            "Implicit Point Response Positive Preference Human Pair Reference Control KL Off Offline Merge",
            "Eq. 44–46",
            "r-dpo",
            _but("the loss has no SFT term, and π_ref is the policy after SFT", O2="Separate"),
        ),
        row(
            "SIMPO [26]",
            "Meng et al. 2024",
            "- - - - Preference Human Pair Free Control - Off Offline Merge",
            "Eq. 47",
            "simpo",
            _implicit("β/|y|·log π"),
            _but("models gave the preferences that it trains on", F2="AI"),
            _but("the loss has no SFT term, and training starts after SFT", O2="Separate"),
        ),
        row(
            "RLOO [27]",
            "Ahmadian et al. 2024",
            "Explicit Point Response Positive Preference Human Pair Free Uncontrol KL On Offline Separate",
            "Eq. 48",
            "rloo",
            _but("the reward contains −β·log(π/π_ref); what RLOO saves is the critic", RL1="Reference"),
        ),
        row(
            "LiPO [28]",
            "Liu et al. 2024",
            "Implicit Point Response Positive Preference Human List Reference Uncontrol KL Off Offline Separate",
            "Eq. 49",
            "lipo",
        ),
        row(
            "RRHF [29]",
            "Yuan et al. 2023",
            "- - - - Preference Human List Free Uncontrol - Off Offline Merge",
            "Eq. 50",
            "rrhf",
            _implicit("its mean log-probability per token"),
            _but("what is ranked is a mean over tokens, as in the row of SimPO", RL2="Control"),
        ),
        row(
            "PRO [30]",
            "Song et al. 2023",
            "Explicit Point Response Positive Preference Human List Free Uncontrol - Off Offline Merge",
            "Eq. 51, 52",
            "pro",
            _but("the policy's mean log-probability is ranked; reward scores only set temperatures", RM1="Implicit"),
            _but("what is ranked is a mean over tokens, as in the row of SimPO", RL2="Control"),
        ),
        row(
            "Negating Negatives [31]",
            "Duan et al. 2024",
            "Implicit Point Response Negative - Human - Reference Uncontrol KL On Offline Separate",
            "Eq. 53",
            "d2o",
            _but("every response of the data has the label bad", F1="Binary"),
            _but("the K responses of Eq. 53 are samples of π_ref", RL4="Off"),
        ),
        row(
            "Negative Preference Optimization [32]",
            "Zhang et al. 2024",
            "Implicit Point Response Negative - Human - Reference Uncontrol KL Off Offline Separate",
            "Sec. 3.10.2",
            "npo",
            _but("every response of the set to forget has the label bad", F1="Binary"),
            _but("somebody chooses what to forget; nobody rates it", F2="-"),
        ),
        row(
            "CPO [33]",
            "Xu et al. 2024",
            "Implicit Point Response Negative - Human - Reference Uncontrol KL Off Offline Merge",
            "Eq. 54",
            "cpo",
            _but("Eq. 54 compares y_w with y_l and imitates y_w", RM4="Positive", F1="Preference", F3="Pair"),
            _but("metric models choose the best and the worst translation", F2="AI"),
            _but("Eq. 54 takes π_ref to be uniform, and so contains none", RL1="Free", RL3="-"),
        ),
        row(
            "Nash Learning from Human Feedback [34]",
            "Munos et al. 2023",
            _GAME,
            "Eq. 55–59",
            "nash-md",
            _but("a preference model is trained and compares the samples", RM1="Explicit"),
            _but("the preference model labels new samples in every step", O1="Online"),
        ),
        row(
            "SPPO [35]",
            "Wu et al. 2024",
            _GAME,
            "Eq. 60, 61",
            "sppo",
            _but("a preference model labels the samples, and log(π/π^t) is fitted to its win rates", RM1="Hybrid"),
            _but("Eq. 60 and 61 stay near the previous policy π^t and contain no π_ref", RL1="Free", RL3="-"),
            _but("each iteration samples from its first policy π^t and gets new labels", RL4="Hybrid", O1="Online"),
        ),
        row(
            "DNO [36]",
            "Rosset et al. 2024",
            _GAME,
            "Eq. 62",
            "dno",
            _but("a judge labels the samples, and β·log(π/π^t) is the reward in the loss", RM1="Hybrid"),
            _but("a language model is the judge", F2="AI"),
            _but("Eq. 62 stays near the previous policy π^t and contains no π_ref", RL1="Free", RL3="-"),
            _but("each iteration samples from its first policy π^t and gets new labels", RL4="Hybrid", O1="Online"),
        ),
        row(
            "Beyond Reverse KL Divergence [37]",
            "Wang et al. 2023",
            "Implicit Point Response Positive Preference Human Pair Reference Uncontrol Multiple Hybrid Offline "
            "Separate",
            "Eq. 63–67",
            "f-dpo",
            _but("it trains on the pairs of the data set, as DPO does", RL4="Off"),
        ),
    )


SYSTEMS = _rows()
"""The 33 rows of Table 1, in its order."""

WITHOUT_A_ROW = MappingProxyType({"RSO": ("Eq. 4; Sec. 3.3.2", "rso"), "GPO": ("Eq. 18, 19; Sec. 3.3.8", "gpo")})
"""Papers that the survey reviews and Table 1 leaves out: where, and the method."""


def systems_of(method: str) -> tuple[System, ...]:
    """The systems whose axes are those of a method; empty where Table 1 does not have it."""
    return tuple(system for system in SYSTEMS if system.method == method)


def axes_of_method(method: str) -> dict[str, str]:
    """Axis -> value that is true of a method; empty where Table 1 does not have it."""
    return next((system.axes for system in systems_of(method)), {})
