"""Knows the ways to drop visual tokens that PocketVLM does not have, and why."""

from __future__ import annotations

from methods_page.stated import ARXIV, BEHIND, DECODER, TOWER, Method, Published

ELSEWHERE = (
    Method(
        "VisPruner",
        f"{ARXIV}2412.01818",
        "ICCV 2025",
        "[CLS] attention, then likeness of features",
        BEHIND,
        "rounding decides which tokens are kept: its pairs follow from ranks, so that one near tie "
        "reshuffles all after it, and no gate can check an export",
        published=(
            Published("b", {128: 99.6, 64: 96.6, 32: 91.5}),
            Published("c", {128: 95.4, 64: 89.8}),
        ),
    ),
    Method(
        "HiPrune",
        f"{ARXIV}2508.00553",
        "arXiv 2025",
        "attention of a middle and of the last layer, neighbours",
        BEHIND,
        "not written: three kinds of tokens with shares of their own, so budgets are not nested",
        remark="up to 99.3 % with a third of the tokens (d)",
    ),
    Method(
        "HoloV",
        f"{ARXIV}2510.02912",
        "NeurIPS 2025",
        "[CLS] attention and variety within crops",
        BEHIND,
        "not written: SCOPE spreads tokens over the picture too, without crops",
        published=(Published("d", {64: 95.8}),),
    ),
    Method(
        "VScan",
        f"{ARXIV}2505.22654",
        "arXiv 2025",
        "[CLS] attention globally and in windows, then the question",
        f"{BEHIND} with merging, and {DECODER}",
        "not as one; `visionzip` or `--merge-dropped` with a decoder stage in the middle is near",
        remark="LLaVA-NeXT-7B: 95.4 % with a tenth of the FLOPs (d)",
    ),
    Method(
        "PruMerge",
        f"{ARXIV}2403.15388",
        "ICCV 2025",
        "[CLS] attention of the layer behind the one that is used",
        f"{BEHIND}, with merging",
        "its number of tokens follows from the picture, where here a budget is fixed, and its "
        "order is that of attention; VisionZip merges too",
    ),
    Method(
        "DART",
        f"{ARXIV}2502.11494",
        "EMNLP 2025",
        "likeness to a few pivots",
        DECODER,
        "not written: DivPrune's and SCOPE's greedy picks do without pivots",
    ),
    Method(
        "LLaVA-Scissor",
        f"{ARXIV}2506.21862",
        "arXiv 2025",
        "connected components of like features, in space and time",
        f"{BEHIND}, for clips",
        "components have no fixed number, and searching them is a loop in the graph",
    ),
    Method(
        "IPCV",
        f"{ARXIV}2512.18747",
        "arXiv 2025",
        "how much a layer changes a token",
        f"{TOWER}, dropped tokens come back behind it",
        "for towers that merge patches; here tower stages drop whole squares there",
    ),
    Method(
        "DyVTE",
        f"{ARXIV}2411.19628",
        "arXiv 2024",
        "a trained gate in each layer",
        f"{DECODER}, all tokens",
        "its gates are trained for each model; without them it is the fixed exit",
        trained=True,
    ),
    Method(
        "QueCC",
        f"{ARXIV}2411.03312",
        "arXiv 2024",
        "the question, by trained cross-attention",
        "in place of the projector",
        "trained with the model",
        trained=True,
    ),
    Method(
        "FlashSloth",
        f"{ARXIV}2412.04317",
        "CVPR 2025",
        "trained pooling and queries",
        "in place of the projector",
        "a model of its own",
        trained=True,
    ),
)
