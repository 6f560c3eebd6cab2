"""Knows the field: which ways to drop visual tokens there are, what each needs, what was published
of it, and whether PocketVLM has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ARXIV = "https://arxiv.org/abs/"

# Where published figures are from; a letter of its own each, since figures of different papers do
# not compare.
SOURCES: Mapping[str, str] = {
    "a": "FasterVLM's [project page](https://theia-4869.github.io/FasterVLM/), mean over ten "
    "benchmarks; FastV as its authors ran it",
    "b": "the project pages of [VisPruner](https://theia-4869.github.io/VisPruner/) and "
    "[CDPruner](https://theia-4869.github.io/CDPruner/), ten benchmarks",
    "c": f"an [evaluation by others]({ARXIV}2602.13315), many of whose questions are about text in "
    "pictures",
    "d": "its authors' own abstract, table or repository, with benchmarks of their choice",
}


@dataclass(frozen=True)
class Published:
    """What was published: per cent of the unpruned model's accuracy by tokens of 576.

    Attributes:
        source: a key of `SOURCES`.
        kept: {tokens: per cent}.
    """

    source: str
    kept: Mapping[int, float]

    def __str__(self) -> str:
        figures = ", ".join(f"{tokens}: {value:.1f}" for tokens, value in self.kept.items())
        return f"{figures} ({self.source})"


@dataclass(frozen=True)
class Method:
    """A way to drop visual tokens.

    Attributes:
        title: as its authors call it.
        link: of the paper; empty where none is needed.
        venue: where it appeared.
        reads: what it chooses by.
        drops: where, and what becomes of the rest.
        nested: whether a graph of one budget serves all smaller ones; None where that is no
            question.
        trained: whether it needs training.
        here: how it is asked for in PocketVLM; of what is not there, why.
        name: of the registry's entry that it is; empty for none.
        published: of LLaVA-1.5-7B.
        remark: what else was published, or how ours differs.
        figures: under which name the demo's figures are; empty for none.
    """

    title: str
    link: str
    venue: str
    reads: str
    drops: str
    here: str
    nested: bool | None = None
    trained: bool = False
    name: str = ""
    published: tuple[Published, ...] = ()
    remark: str = ""
    figures: str = ""


BEHIND, TOWER, DECODER = "behind the tower", "inside the tower", "inside the decoder"

PRUNERS = (
    Method(
        "FasterVLM",
        f"{ARXIV}2412.01818",
        "arXiv 2024",
        "[CLS] attention, one layer",
        BEHIND,
        "`--pruner fastervlm`",
        True,
        name="fastervlm",
        published=(Published("a", {144: 98.75, 58: 94.24, 29: 89.41}),),
        figures="fastervlm",
    ),
    Method(
        "VTC-CLS",
        f"{ARXIV}2412.05819",
        "arXiv 2024",
        "[CLS] attention, summed over layers",
        BEHIND,
        "`--pruner vtc-cls`",
        True,
        name="vtc-cls",
        remark="GQA 58.2 at 128 and 55.7 at 64 tokens, 62.0 unpruned (d)",
        figures="vtc-cls",
    ),
    Method(
        "SCOPE",
        f"{ARXIV}2510.24214",
        "NeurIPS 2025",
        "how much of all features a token covers, weighed by [CLS] or received attention",
        BEHIND,
        "`--pruner scope`",
        True,
        name="scope",
        published=(Published("c", {128: 96.8, 64: 91.9}),),
        figures="scope",
    ),
    Method(
        "SCoRe",
        "https://cvpr.thecvf.com/virtual/2026/poster/39155",
        "CVPR 2026",
        "distance of features to what is picked, weighed by [CLS] or received attention",
        BEHIND,
        "`--pruner score`",
        True,
        name="score",
        published=(Published("d", {32: 95.0}),),
        figures="score",
    ),
    Method(
        "DivPrune",
        f"{ARXIV}2503.02175",
        "CVPR 2025",
        "distance of projected features to what is picked",
        BEHIND,
        "`--pruner divprune`",
        True,
        name="divprune",
        published=(
            Published("b", {128: 97.5, 64: 94.7, 32: 91.3}),
            Published("c", {128: 93.1, 64: 87.8}),
        ),
        figures="divprune",
    ),
    Method(
        "G-Prune",
        f"{ARXIV}2501.02268",
        "AAAI 2025",
        "projected features as a graph over which importance spreads",
        BEHIND,
        "`--pruner gprune`, a graph a picture",
        True,
        name="gprune",
        remark="LLaVA-NeXT-8B: 0.95 and 2.34 points less on VQAv2 and TextVQA for 63.57 % less "
        "FLOPs (d)",
        figures="gprune",
    ),
    Method(
        "Received attention",
        f"{ARXIV}2412.04467",
        "as VisionZip without [CLS]",
        "attention that patches pay each other",
        BEHIND,
        "`--pruner received-attention`",
        True,
        name="received-attention",
        figures="received-attention",
    ),
    Method(
        "VisionZip",
        f"{ARXIV}2412.04467",
        "CVPR 2025",
        "[CLS] or received attention; keys for merging",
        f"{BEHIND}; the rest is merged into some of it",
        "`--pruner visionzip`",
        False,
        name="visionzip",
        published=(
            Published("b", {128: 98.4, 64: 95.6, 32: 89.0}),
            Published("c", {128: 94.9, 64: 89.1}),
        ),
        figures="visionzip",
    ),
    Method(
        "CDPruner",
        f"{ARXIV}2506.10967",
        "NeurIPS 2025",
        "the question's embeddings, and distance of projected features",
        f"{BEHIND}, in a graph of its own",
        "`--pruner cdpruner`, in OpenVINO GenAI's form",
        True,
        name="cdpruner",
        published=(Published("b", {128: 99.0, 64: 97.0, 32: 94.3}),),
        remark="published with CLIP's text tower; ours reads the decoder's own embeddings, as "
        "OpenVINO GenAI does, of which no accuracy is published",
        figures="cdpruner",
    ),
    Method(
        "Evenly spaced",
        "",
        "a baseline",
        "nothing",
        BEHIND,
        "`--pruner uniform`",
        True,
        name="uniform",
        figures="uniform",
    ),
    Method(
        "Random",
        "",
        "a baseline",
        "nothing",
        BEHIND,
        "`--pruner random`",
        True,
        name="random",
        figures="random",
    ),
    Method(
        "No pruning",
        "",
        "",
        "nothing",
        "nowhere",
        "`--pruner none`",
        None,
        name="none",
    ),
)

STAGES = (
    Method(
        "FlowCut",
        f"{ARXIV}2505.19536",
        "NeurIPS 2025",
        "[CLS] attention and values, added up over layers",
        TOWER,
        "`--tower-stage LAYER:KEEP:flowcut`, keeps frozen",
        None,
        name="flowcut",
        published=(Published("d", {192: 100.2, 64: 96.0}),),
        remark="published with keeps that depend on the picture",
    ),
    Method(
        "SAINT",
        f"{ARXIV}2503.11549",
        "arXiv 2025",
        "likeness of keys",
        TOWER,
        "`--tower-stage LAYER:KEEP:keys`",
        None,
        name="keys",
        remark="its authors call 30 % less in the tower safe, more not (d)",
    ),
    Method(
        "Farthest first",
        f"{ARXIV}2503.02175",
        "DivPrune's order, in a layer",
        "distance of hidden states to what is picked",
        TOWER,
        "`--tower-stage LAYER:KEEP:farthest`",
        None,
        name="farthest",
    ),
    Method(
        "[CLS] ranked",
        f"{ARXIV}2412.01818",
        "FasterVLM's order, in a layer",
        "[CLS] attention",
        TOWER,
        "`--tower-stage LAYER:KEEP:cls`",
        None,
        name="cls",
    ),
    Method(
        "Received attention, in a layer",
        "",
        "",
        "attention that patches pay each other",
        TOWER,
        "`--tower-stage LAYER:KEEP:received`",
        None,
        name="received",
    ),
    Method(
        "Even pattern",
        "",
        "a baseline",
        "nothing",
        TOWER,
        "`--tower-stage LAYER:KEEP:even`",
        None,
        name="even",
    ),
    Method(
        "FastV",
        f"{ARXIV}2403.06764",
        "ECCV 2024",
        "what the question's last token attends to",
        DECODER,
        "`--decoder-stage LAYER:KEEP`, `--fastv-layer`, `--fastv-keep`",
        None,
        name="last-token",
        published=(Published("a", {144: 95.8, 58: 87.97, 29: 74.93}),),
        figures="fastv",
    ),
    Method(
        "PyramidDrop",
        f"{ARXIV}2410.17247",
        "CVPR 2025",
        "what the question's last token attends to",
        f"{DECODER}, in steps",
        "`--decoder-stage` three times",
        None,
        name="last-token",
        remark="LLaVA-NeXT: 55 % less inference FLOPs (d)",
    ),
    Method(
        "SparseVLM",
        f"{ARXIV}2410.04417",
        "ICML 2025",
        "what words that are about the picture attend to",
        DECODER,
        "`--decoder-stage LAYER:KEEP:raters`: keeps are constant, nothing is merged",
        None,
        name="raters",
    ),
    Method(
        "Fixed exit",
        f"{ARXIV}2411.19628",
        "after DyVTE, arXiv 2024",
        "nothing",
        f"{DECODER}, all tokens",
        "`--decoder-stage LAYER:0`",
        None,
        name="exit",
    ),
    Method(
        "SGL",
        f"{ARXIV}2412.03324",
        "CVPR 2025",
        "what a small model attended to while it answered",
        f"{DECODER} of a large model",
        "`run LARGE --guide SMALL`",
        None,
        name="given",
        remark="InternVL2-26B guided by 2B: 98.4 % with 35 % of the tokens, 89.6 % with 9 % (d)",
    ),
)

ELSEWHERE = (
    Method(
        "VisPruner",
        f"{ARXIV}2412.01818",
        "ICCV 2025",
        "[CLS] attention, then likeness of features",
        BEHIND,
        "rounding decides which tokens are kept: its pairs follow from ranks, so that one near tie "
        "reshuffles all after it, and no gate can hold an export against it",
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
