"""Which column plays which role, by its name or because the user said so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

_EVALUATION = frozenset(
    {
        "eval",
        "evaluation",
        "val",
        "valid",
        "validation",
        "validate",
        "dev",
        "devel",
        "test",
        "heldout",
        "holdout",
    }
)
_TRAINING = frozenset({"train", "training", "tr", "trn", "learn"})
# Metrics that are better when they are higher, and when they are lower.
_RISING_METRICS = frozenset(
    [
        "acc",
        "accuracy",
        "accuracies",
        "auc",
        "auroc",
        "auprc",
        "ap",
        "map",
        "bleu",
        "sacrebleu",
        "chrf",
        "meteor",
        "rouge",
        "cider",
        "dice",
        "em",
        "f1",
        "f2",
        "fscore",
        "iou",
        "miou",
        "jaccard",
        "mrr",
        "ndcg",
        "hit",
        "hits",
        "pixacc",
        "precision",
        "psnr",
        "recall",
        "score",
        "ssim",
        "top",
        "kappa",
        "mcc",
        "r2",
        "exact",
        "spearman",
        "pearson",
        "correlation",
        "reward",
        "return",
    ]
)
_FALLING_METRICS = frozenset(
    [
        "ppl",
        "perplexity",
        "wer",
        "cer",
        "ter",
        "per",
        "mae",
        "mse",
        "rmse",
        "mape",
        "error",
        "err",
        "fid",
        "kid",
        "lpips",
        "epe",
        "rmsle",
        "bpc",
        "bpb",
        "brier",
        "ece",
    ]
)
_METRICS = _RISING_METRICS | _FALLING_METRICS
_HELD_OUT_METRICS = frozenset(
    {"map", "ap", "bleu", "sacrebleu", "rouge", "meteor", "cider", "chrf", "wer", "cer", "fid", "ndcg", "mrr"}
)
# Metrics only with a number: `top5`, `hits10`.
_AT_COUNTS = frozenset({"top", "hit", "hits"})
_NO_METRIC = frozenset(
    [
        "sec",
        "secs",
        "second",
        "seconds",
        "time",
        "ms",
        "samples",
        "tokens",
        "memory",
        "mem",
        "batch",
        "count",
        "num",
        "size",
        "norm",
        "lr",
    ]
)
# Not losses although they are called so.
_NOT_A_LOSS = frozenset(
    [
        "scale",
        "scaler",
        "min",
        "max",
        "std",
        "var",
        "weight",
        "weights",
        "scaling",
        "best",
        "mask",
        "masks",
        "num",
        "count",
        "counter",
        "tokens",
        "token",
        "samples",
        "time",
        "ms",
        "sec",
        "secs",
        "seconds",
        "ratio",
        "rate",
        "lr",
        "coef",
        "coefficient",
        "factor",
        "grad",
        "diff",
        "delta",
        "smoothing",
        "fn",
        "function",
        "type",
        "name",
        "lowest",
        "minimum",
    ]
)
# What is a loss where nothing is called one, the likeliest first.
_OBJECTIVES = (
    *(
        "objective",
        "obj",
        "cost",
        "elbo",
        "nelbo",
        "neg_elbo",
        "xent",
        "ce",
        "bce",
        "criterion",
        "cross_entropy",
        "crossentropy",
        "nll",
        "energy",
        "nlll",
        "logloss",
    ),
    *(
        "log_loss",
        "binary_logloss",
        "multi_logloss",
        "mlogloss",
        "kl",
        "mse",
        "rmse",
        "mae",
        "l1",
        "l2",
        "bpc",
        "bpb",
    ),
    *("error", "err", "perplexity", "ppl"),
)

_LOSS = (
    *("loss", "train_loss", "training_loss", "loss_train", "loss_training", "train_loss_step", "loss_step"),
    *(
        "training_loss_step",
        "train_step_loss",
        "batch_loss",
        "total_loss",
        "train_total_loss",
        "train_loss_total",
    ),
    *("loss_total", "lm_loss", "train_lm_loss", "train_loss_epoch", "training_loss_epoch", "loss_epoch"),
    *("train_epoch_loss", "epoch_loss", "nll_loss", "train_nll_loss", "train_nll", "nll", "cross_entropy"),
    *("train_cross_entropy", "ce_loss", "train_ce_loss", "losses", "train_losses", "training_losses"),
    *(
        "running_loss",
        "train_running_loss",
        "avg_loss",
        "average_loss",
        "mean_loss",
        "train_avg_loss",
        "avg_train_loss",
    ),
    *("average_training_loss", "average_train_loss", "avg_training_loss", "mean_train_loss", "smoothed_loss"),
)
_EVALUATION_LOSS = tuple(
    pattern.format(split)
    for split in ("eval", "val", "valid", "validation", "evaluation", "dev", "test")
    for pattern in (
        "{}_loss",
        "loss_{}",
        "{}_loss_epoch",
        "{}_epoch_loss",
        "{}_total_loss",
        "{}_lm_loss",
        "{}_nll",
    )
)
_OPPONENTS = frozenset(
    [
        "g",
        "d",
        "gen",
        "disc",
        "generator",
        "discriminator",
        "dis",
        "critic",
        "actor",
        "policy",
        "value",
        "real",
        "fake",
        "adv",
        "adversarial",
        "pi",
        "vf",
        "q",
    ]
)
# Words around the name of an objective.
_AROUND = (
    _EVALUATION
    | _TRAINING
    | frozenset({"avg", "average", "mean", "total", "epoch", "step", "batch", "running", "current"})
)
_STEP = (
    *(
        "step",
        "global_step",
        "train_global_step",
        "trainer_global_step",
        "steps",
        "train_step",
        "training_step",
    ),
    *("iteration", "iter", "iterations", "iters", "num_updates", "train_num_updates", "update", "updates"),
    *("current_step", "iter_num", "it", "batch", "batches", "_step"),
)
_EPOCH = (
    "epoch",
    "train_epoch",
    "epochs",
    "ep",
    "current_epoch",
    "epoch_num",
    "trainer_epoch",
    "training_epoch",
)
_LEARNING_RATE = (
    "lr",
    "learning_rate",
    "train_lr",
    "train_learning_rate",
    "optimizer_lr",
    "charts_learning_rate",
)
_TIME = (
    *(
        "_timestamp",
        "timestamp",
        "wall_time",
        "walltime",
        "time",
        "datetime",
        "date",
        "_runtime",
        "runtime",
        "elapsed",
    ),
    *("elapsed_time", "time_elapsed", "elapsed_seconds", "relative_time_process", "relative_time_wall"),
)
_GRADIENT_NORM = (
    "grad_norm",
    "gradient_norm",
    "train_grad_norm",
    "train_gradient_norm",
    "gnorm",
    "train_gnorm",
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Column names the user gave; None leaves the choice to the names."""

    loss: str | None = None
    step: str | None = None
    learning_rate: str | None = None
    evaluation_loss: str | None = None
    time: str | None = None
    epoch: str | None = None
    losses: tuple[str, ...] = ()
    """Several columns whose sum is the training loss."""

    @property
    def named(self) -> tuple[tuple[str, str], ...]:
        """The options given, with their values."""
        options = (
            ("--loss", self.loss),
            ("--step", self.step),
            ("--lr", self.learning_rate),
            ("--eval-loss", self.evaluation_loss),
            ("--time", self.time),
            ("--epoch", self.epoch),
        )
        several = tuple(("--loss", value) for value in self.losses)
        return (*several, *((option, value) for option, value in options if value is not None))


# Each name is asked about a dozen times; exports have thousands of them.
@lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """The name without its notation: `Train/Loss` and `train.loss` are `train_loss`; W&B's leading `_` stays."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())
    words = re.sub(r"[^0-9a-z]+", "_", spaced.lower()).strip("_")
    return f"_{words}" if name.startswith("_") else words


@lru_cache(maxsize=4096)
def _words(name: str) -> frozenset[str]:
    # `mIoU` is one word to people.
    whole = re.sub(r"[^0-9a-z]+", "_", name.lower())
    return frozenset(plain(name).split("_")) | frozenset(whole.split("_"))


def _ordered(names: Sequence[str], order: Sequence[str]) -> list[str]:
    by_plain: dict[str, str] = {}
    for name in names:
        by_plain.setdefault(plain(name), name)
    return [by_plain[wanted] for wanted in order if wanted in by_plain]


def is_evaluation(name: str) -> bool:
    """Whether the name speaks of held-out data."""
    words = _words(name)
    return bool(words & _EVALUATION) and not words & _TRAINING


def is_training(name: str) -> bool:
    """Whether the name speaks of training data."""
    return bool(_words(name) & _TRAINING)


def is_only_split(name: str) -> bool:
    """Whether the name says which data it is about and nothing else: `val`."""
    return set(plain(name).split("_")) <= _EVALUATION | _TRAINING


def best_losses(names: Sequence[str]) -> list[str]:
    """Of the columns that may be the training loss those with a known name, or all where there is none."""
    candidates = loss_candidates(names)
    return [name for name in candidates if is_known_loss(name)] or candidates


def is_loss(name: str) -> bool:
    """Whether the name is that of some loss."""
    words = _words(name)
    if words & _NOT_A_LOSS and plain(name) not in _LOSS:
        return False
    return any(word.endswith(("loss", "losses")) or word == "nll" for word in words)


@lru_cache(maxsize=4096)
def is_metric(name: str) -> bool:
    """Whether the name is that of a target metric, such as an accuracy; `top1` and `mAP50` are written with numbers."""
    words = _words(name)
    if is_loss(name) or words & _NO_METRIC:
        return False
    return any(
        word in _METRICS
        or (bare := word.rstrip("0123456789")) in _METRICS
        or (bare != word and bare in _AT_COUNTS)
        for word in words
    )


def is_held_out_metric(name: str) -> bool:
    """Whether the metric is one that nobody computes on batches of training data: it takes a whole data set."""
    return is_metric(name) and any(word.rstrip("0123456789") in _HELD_OUT_METRICS for word in _words(name))


def is_better_lower(name: str) -> bool:
    """Whether a metric is better when it is lower, as an error rate is."""
    return any(
        word in _FALLING_METRICS or word.rstrip("0123456789") in _FALLING_METRICS for word in _words(name)
    )


def objective_candidates(names: Sequence[str], *, evaluation: bool = False) -> list[str]:
    """What may be a loss where nothing is called one: `cost`, `rmse`, or just `train`; best first."""
    found: list[tuple[int, str]] = []
    for name in names:
        words = set(plain(name).split("_")) - {""}
        if words & _NOT_A_LOSS or bool(words & _EVALUATION and not words & _TRAINING) is not evaluation:
            continue
        core = "_".join(word for word in plain(name).split("_") if word not in _AROUND and not word.isdigit())
        if core in _OBJECTIVES:
            found.append((_OBJECTIVES.index(core), name))
        elif not core and words & (_TRAINING | _EVALUATION):
            found.append((len(_OBJECTIVES), name))
    return [name for _, name in sorted(found, key=lambda each: each[0])]


def loss_candidates(names: Sequence[str]) -> list[str]:
    """Columns that may be the training loss: known names first, best first, then whatever else is called a loss."""
    known = _ordered(names, _LOSS)
    others = [name for name in names if is_loss(name) and not is_evaluation(name) and name not in known]
    return known + [name for name in others if not _words(name) & _EVALUATION]


def are_opponents(names: Iterable[str]) -> bool:
    """Whether the losses are those of networks that work against each other: their sum says nothing."""
    return any(_words(name) & _OPPONENTS for name in names)


def is_known_loss(name: str) -> bool:
    """Whether the name alone says that this is the training loss."""
    return plain(name) in _LOSS


def evaluation_loss_candidates(names: Sequence[str]) -> list[str]:
    """Columns that may be the evaluation loss, best first."""
    known = _ordered(names, _EVALUATION_LOSS)
    others = [name for name in names if is_loss(name) and is_evaluation(name) and name not in known]
    return known + others


def loss_names(names: Sequence[str]) -> list[str]:
    """Columns that may be a loss of any kind."""
    found = loss_candidates(names) + evaluation_loss_candidates(names)
    return found or objective_candidates(names) or objective_candidates(names, evaluation=True)


def step_candidates(names: Sequence[str]) -> list[str]:
    """Columns that may count optimizer steps, best first."""
    return _ordered(names, _STEP)


def epoch_candidates(names: Sequence[str]) -> list[str]:
    """Columns that may count epochs, best first."""
    return _ordered(names, _EPOCH)


def learning_rate_candidates(names: Sequence[str]) -> list[str]:
    """Columns that may hold the learning rate, best first; `lr-AdamW/pg1` and the like after the plain names."""
    known = _ordered(names, _LEARNING_RATE)
    others = [n for n in names if n not in known and ("lr" in _words(n) or "learning_rate" in plain(n))]
    return known + others


def time_candidates(names: Sequence[str]) -> list[str]:
    """Columns that may hold a time, best first."""
    return _ordered(names, _TIME)


def gradient_norm_candidates(names: Sequence[str]) -> list[str]:
    """Columns that may hold the gradient's norm, best first."""
    known = _ordered(names, _GRADIENT_NORM)
    return known + [n for n in names if n not in known and {"grad", "norm", "total"} <= _words(n)]


def wanted(names: Iterable[str], selection: Selection) -> list[str]:
    """The columns worth reading, in the order of the file."""
    names = list(names)
    chosen = {value for _, value in selection.named}
    for candidates in (step_candidates, epoch_candidates, time_candidates, learning_rate_candidates):
        chosen.update(candidates(names))
    chosen.update(gradient_norm_candidates(names))
    chosen.update(name for name in names if is_loss(name) or is_metric(name) or is_known_loss(name))
    for evaluation in (False, True):
        chosen.update(objective_candidates(names, evaluation=evaluation))
    return [name for name in names if name in chosen]
