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

# Losses that TRL names.
EXO = Paper(
    "Ji et al. 2024, EXO",
    "Towards Efficient Exact Optimization of Language Model Alignment",
    "https://arxiv.org/abs/2402.00856",
)
NCA = Paper(
    "Chen et al. 2024, NCA",
    "Noise Contrastive Alignment of Language Models with Explicit Rewards",
    "https://arxiv.org/abs/2402.05369",
)
ROBUST_DPO = Paper(
    "Ray Chowdhury et al. 2024, rDPO",
    "Provably Robust DPO: Aligning Language Models with Noisy Feedback",
    "https://arxiv.org/abs/2403.00409",
)
BCO = Paper(
    "Jung et al. 2024, BCO",
    "Binary Classifier Optimization for Large Language Model Alignment",
    "https://arxiv.org/abs/2404.04656",
)
SPPO_HARD = Paper(
    "Wu et al. 2024, SPPO",
    "Self-Play Preference Optimization for Language Model Alignment",
    "https://arxiv.org/abs/2405.00675",
)
AOT = Paper(
    "Melnyk et al. 2024, AOT",
    "Distributional Preference Alignment of LLMs via Optimal Transport",
    "https://arxiv.org/abs/2406.05882",
)
APO = Paper(
    "D'Oosterlinck et al. 2024, APO",
    "Anchored Preference Optimization and Contrastive Revisions: Addressing Underspecification in Alignment",
    "https://arxiv.org/abs/2408.06266",
)
DISCOPOP = Paper(
    "Lu et al. 2024, DiscoPOP",
    "Discovering Preference Optimization Algorithms with and for Large Language Models",
    "https://arxiv.org/abs/2406.08414",
)
TULU3 = Paper(
    "Lambert et al. 2024, Tülu 3",
    "Tulu 3: Pushing Frontiers in Open Language Model Post-Training",
    "https://arxiv.org/abs/2411.15124",
)
ALPHA_PO = Paper(
    "Gupta et al. 2025, AlphaPO", "AlphaPO: Reward Shape Matters for LLM Alignment", "https://arxiv.org/abs/2501.03884"
)
TPO = Paper(
    "Saeidi et al. 2024, TPO",
    "Triple Preference Optimization: Achieving Better Alignment using a Single Step Optimization",
    "https://arxiv.org/abs/2405.16681",
)
# The GRPO family.
GRPO = Paper(
    "Shao et al. 2024, GRPO",
    "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
    "https://arxiv.org/abs/2402.03300",
)
DR_GRPO = Paper(
    "Liu et al. 2025, Dr. GRPO",
    "Understanding R1-Zero-Like Training: A Critical Perspective",
    "https://arxiv.org/abs/2503.20783",
)
DAPO = Paper(
    "Yu et al. 2025, DAPO",
    "DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
    "https://arxiv.org/abs/2503.14476",
)
GSPO = Paper("Zheng et al. 2025, GSPO", "Group Sequence Policy Optimization", "https://arxiv.org/abs/2507.18071")
CISPO = Paper(
    "MiniMax 2025, CISPO",
    "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention",
    "https://arxiv.org/abs/2506.13585",
)
SAPO = Paper("Gao et al. 2025, SAPO", "Soft Adaptive Policy Optimization", "https://arxiv.org/abs/2511.20347")
