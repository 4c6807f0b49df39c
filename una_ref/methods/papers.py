"""The papers that methods come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A source of equations.

    Attributes:
        cited: authors and year, with the name of the method.
        title: of the paper.
        url: where it can be read; empty where no stable address is known.
    """

    cited: str
    title: str
    url: str = ""


UNA = Paper(
    "Wang et al. 2024, UNA",
    "UNA: Unifying Alignments of RLHF/PPO, DPO and KTO by a Generalized Implicit Reward Function",
    "https://arxiv.org/abs/2408.15339",
)
UPO = Paper(
    "Sun et al. 2024, UPO", "Generalizing Offline Alignment Theoretical Paradigm with Diverse Divergence Constraints"
)
SURVEY = Paper(
    "Wang et al. 2024, survey",
    "A Comprehensive Survey of LLM Alignment Techniques: RLHF, RLAIF, PPO, DPO and More",
    "https://arxiv.org/abs/2407.16216",
)
INSTRUCT_GPT = Paper(
    "Ouyang et al. 2022, InstructGPT",
    "Training language models to follow instructions with human feedback",
    "https://arxiv.org/abs/2203.02155",
)
DPO = Paper(
    "Rafailov et al. 2023, DPO",
    "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
    "https://arxiv.org/abs/2305.18290",
)
CDPO = Paper(
    "Mitchell 2023, cDPO",
    "A note on DPO with noisy preferences and relationship to IPO",
    "https://ericmitchell.ai/cdpo.pdf",
)
F_DPO = Paper(
    "Wang et al. 2023, f-DPO",
    "Beyond Reverse KL: Generalizing Direct Preference Optimization with Diverse Divergence Constraints",
    "https://arxiv.org/abs/2309.16240",
)
IPO = Paper(
    "Azar et al. 2024, IPO",
    "A General Theoretical Paradigm to Understand Learning from Human Preferences",
    "https://arxiv.org/abs/2310.12036",
)
KTO = Paper(
    "Ethayarajh et al. 2024, KTO",
    "KTO: Model Alignment as Prospect Theoretic Optimization",
    "https://arxiv.org/abs/2402.01306",
)
DRO = Paper(
    "Richemond et al. 2024, DRO",
    "Offline Regularised Reinforcement Learning for Large Language Models Alignment",
    "https://arxiv.org/abs/2405.19107",
)
SIMPO = Paper(
    "Meng et al. 2024, SimPO",
    "SimPO: Simple Preference Optimization with a Reference-Free Reward",
    "https://arxiv.org/abs/2405.14734",
)
REINFORCE = Paper(
    "Williams 1992, REINFORCE",
    "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning",
    "https://doi.org/10.1007/BF00992696",
)
RLOO = Paper(
    "Ahmadian et al. 2024, RLOO",
    "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
    "https://arxiv.org/abs/2402.14740",
)
PPO = Paper("Schulman et al. 2017, PPO", "Proximal Policy Optimization Algorithms", "https://arxiv.org/abs/1707.06347")
ITERATIVE_DPO = Paper(
    "Xiong et al. 2023, iterative DPO",
    "Iterative Preference Learning from Human Feedback: Bridging Theory and Practice for RLHF under KL-Constraint",
    "https://arxiv.org/abs/2312.11456",
)
BRADLEY_TERRY = Paper(
    "Bradley & Terry 1952",
    "Rank Analysis of Incomplete Block Designs: I. The Method of Paired Comparisons",
    "https://doi.org/10.1093/biomet/39.3-4.324",
)

# Recipes of several steps, and merging.
RLAIF = Paper(
    "Lee et al. 2023, RLAIF",
    "RLAIF vs. RLHF: Scaling Reinforcement Learning from Human Feedback with AI Feedback",
    "https://arxiv.org/abs/2309.00267",
)
SDPO = Paper("Kim et al. 2024, sDPO", "sDPO: Don't Use Your Data All at Once", "https://arxiv.org/abs/2403.19270")
PAFT = Paper(
    "Pentyala et al. 2024, PAFT",
    "PAFT: A Parallel Training Paradigm for Effective LLM Fine-Tuning",
    "https://arxiv.org/abs/2406.17923",
)
