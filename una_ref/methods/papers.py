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

# Losses on pairs
SLIC = Paper(
    "Zhao et al. 2023, SLiC-HF",
    "SLiC-HF: Sequence Likelihood Calibration with Human Feedback",
    "https://arxiv.org/abs/2305.10425",
)
RSO = Paper(
    "Liu et al. 2023, RSO",
    "Statistical Rejection Sampling Improves Preference Optimization",
    "https://arxiv.org/abs/2309.06657",
)
DPOP = Paper(
    "Pal et al. 2024, DPOP (Smaug)",
    "Smaug: Fixing Failure Modes of Preference Optimisation with DPO-Positive",
    "https://arxiv.org/abs/2402.13228",
)
BETA_DPO = Paper(
    "Wu et al. 2024, β-DPO", "β-DPO: Direct Preference Optimization with Dynamic β", "https://arxiv.org/abs/2407.08639"
)
GPO = Paper(
    "Tang et al. 2024, GPO",
    "Generalized Preference Optimization: A Unified Approach to Offline Alignment",
    "https://arxiv.org/abs/2402.05749",
)
R_DPO = Paper(
    "Park et al. 2024, R-DPO",
    "Disentangling Length from Quality in Direct Preference Optimization",
    "https://arxiv.org/abs/2403.19159",
)
ORPO = Paper(
    "Hong et al. 2024, ORPO",
    "ORPO: Monolithic Preference Optimization without Reference Model",
    "https://arxiv.org/abs/2403.07691",
)
CPO = Paper(
    "Xu et al. 2024, CPO",
    "Contrastive Preference Optimization: Pushing the Boundaries of LLM Performance in Machine Translation",
    "https://arxiv.org/abs/2401.08417",
)
RPO = Paper(
    "Sun et al. 2025, RPO",
    "Reward-aware Preference Optimization: A Unified Mathematical Framework for Model Alignment",
    "https://arxiv.org/abs/2502.00203",
)
REBEL = Paper(
    "Gao et al. 2024, REBEL",
    "REBEL: Reinforcement Learning via Regressing Relative Rewards",
    "https://arxiv.org/abs/2404.16767",
)
ODPO = Paper(
    "Amini et al. 2024, ODPO",
    "Direct Preference Optimization with an Offset",
    "https://arxiv.org/abs/2402.10571",
)
LLAMA_2 = Paper(
    "Touvron et al. 2023, Llama 2",
    "Llama 2: Open Foundation and Fine-Tuned Chat Models",
    "https://arxiv.org/abs/2307.09288",
)
REWARD_CENTRING = Paper(
    "Eisenstein et al. 2023",
    "Helping or Herding? Reward Model Ensembles Mitigate but do not Eliminate Reward Hacking",
    "https://arxiv.org/abs/2312.09244",
)

# A reference that moves
TR_DPO = Paper(
    "Gorbatovski et al. 2024, TR-DPO",
    "Learn Your Reference Model for Real Good Alignment",
    "https://arxiv.org/abs/2404.09656",
)

# Single responses and lists
APO = Paper(
    "D'Oosterlinck et al. 2024, APO",
    "Anchored Preference Optimization and Contrastive Revisions: Addressing Underspecification in Alignment",
    "https://arxiv.org/abs/2408.06266",
)
NPO = Paper(
    "Zhang et al. 2024, NPO",
    "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning",
    "https://arxiv.org/abs/2404.05868",
)
D2O = Paper(
    "Duan et al. 2024, D2O",
    "Negating Negatives: Alignment without Human Positive Samples via Distributional Dispreference Optimization",
    "https://arxiv.org/abs/2403.03419",
)
LIPO = Paper(
    "Liu et al. 2024, LiPO",
    "LiPO: Listwise Preference Optimization through Learning-to-Rank",
    "https://arxiv.org/abs/2402.01878",
)
RRHF = Paper(
    "Yuan et al. 2023, RRHF",
    "RRHF: Rank Responses to Align Language Models with Human Feedback without tears",
    "https://arxiv.org/abs/2304.05302",
)
PRO = Paper(
    "Song et al. 2023, PRO",
    "Preference Ranking Optimization for Human Alignment",
    "https://arxiv.org/abs/2306.17492",
)

# Tokens
FROM_R_TO_Q = Paper(
    "Rafailov et al. 2024, token DPO",
    "From r to Q*: Your Language Model is Secretly a Q-Function",
    "https://arxiv.org/abs/2404.12358",
)
TDPO = Paper("Zeng et al. 2024, TDPO", "Token-level Direct Preference Optimization", "https://arxiv.org/abs/2404.11999")
CRINGE = Paper(
    "Adolphs et al. 2022, CRINGE",
    "The CRINGE Loss: Learning what language not to model",
    "https://arxiv.org/abs/2211.05826",
)
PAIRWISE_CRINGE = Paper(
    "Xu et al. 2023, pairwise CRINGE",
    "Some things are more CRINGE than others: Iterative Preference Optimization with the Pairwise Cringe Loss",
    "https://arxiv.org/abs/2312.16682",
)
LD_DPO = Paper(
    "Liu et al. 2024, LD-DPO",
    "Length Desensitization in Direct Preference Optimization",
    "https://arxiv.org/abs/2409.06411",
)
WPO = Paper(
    "Zhou et al. 2024, WPO",
    "WPO: Enhancing RLHF with Weighted Preference Optimization",
    "https://arxiv.org/abs/2406.11827",
)

# Losses that TRL names, and GRPO
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

# Games and sources of responses
NASH_MD = Paper("Munos et al. 2023, Nash-MD", "Nash Learning from Human Feedback", "https://arxiv.org/abs/2312.00886")
SPPO = Paper(
    "Wu et al. 2024, SPPO",
    "Self-Play Preference Optimization for Language Model Alignment",
    "https://arxiv.org/abs/2405.00675",
)
DNO = Paper(
    "Rosset et al. 2024, DNO",
    "Direct Nash Optimization: Teaching Language Models to Self-Improve with General Preferences",
    "https://arxiv.org/abs/2404.03715",
)
RFT = Paper(
    "Yuan et al. 2023, RFT",
    "Scaling Relationship on Learning Mathematical Reasoning with Large Language Models",
    "https://arxiv.org/abs/2308.01825",
)
SELF_REWARDING = Paper(
    "Yuan et al. 2024, self-rewarding", "Self-Rewarding Language Models", "https://arxiv.org/abs/2401.10020"
)

# Recipes of several steps
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
