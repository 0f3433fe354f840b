"""common_plateau: runs of one model are flat at the same loss, whatever they differ in."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from stallwatch.detector.core.family import Peer, family_of, stem
from stallwatch.detector.core.verdicts import Verdict
from stallwatch.detector.core.vitals import Level, Vitals
from stallwatch.detector.diagnosis import explain
from stallwatch.detector.diagnosis.ranking import is_benign
from support.vitals import first, level, ranked, score, vitals, weighed

START = {"loss_start": 2.3}
UNKNOWN = {
    **{name: Level() for name in ("gradient_norm", "weight_norm", "update_ratio", "alignment")},
    "alignment_mean": math.nan,
    "alignment_error": math.nan,
}


def peer(name: str, loss: float = 1.0, rate: float = 1e-3, **changes) -> Peer:
    """A run that is flat at a loss, with the settings of the run that looks at it."""
    alike = Peer(
        run=name,
        flat=True,
        since_step=520,
        level=loss,
        noise=0.05,
        learning_rate=rate,
        peak_learning_rate=rate,
        effective_batch=32.0,
        world_size=1,
        optimizer="AdamW",
        model="Net",
        parameters=10_000,
    )
    return replace(alike, **changes)


def among(*family: Peer, loss_start: float = 2.3, **changes) -> Vitals:
    """A run that is flat at 1.0 at a learning rate of 1e-3, and its family."""
    return replace(vitals(**changes), family=family, loss_start=loss_start)


def confidence(seen: Vitals, kind: str = "common_plateau") -> float:
    """What it is given; 0 when it is not shown."""
    return next((each.confidence for each in ranked(seen) if each.weighing.kind == kind), 0.0)


SWEEP = (peer("net-s1", 1.01, 1e-2), peer("net-s2", 0.99, 1e-4))


def test_the_same_loss_at_other_learning_rates():
    """Two other runs, at rates a hundred apart, are flat at the same loss."""
    seen = among(*SWEEP)
    assert first(seen) == "common_plateau"
    reason = weighed("common_plateau", seen).reason
    assert "2 other runs of the family are flat at the same loss, 1 +- " in reason
    assert "(net-s1, net-s2), at learning rates from 0.0001 to 0.01" in reason
    assert first(among(*SWEEP, **UNKNOWN)) == "common_plateau"


@pytest.mark.parametrize(
    "family",
    [
        (),
        SWEEP[:1],
        (peer("a", 1.2, 1e-2), peer("b", 0.99, 1e-4)),
        (peer("a", 1.0, 1e-2, flat=False), peer("b", 0.99, 1e-4)),
        (peer("a", math.nan), peer("b", math.nan)),
        (peer("a", model="Other"), peer("b", model="Other")),
    ],
    ids=["none", "one", "elsewhere", "not flat", "unknown", "another model"],
)
def test_it_takes_two_others_at_the_same_place(family):
    """One may be there by chance; other models have other losses."""
    steps = tuple(replace(each, since_step=50) for each in family)
    assert confidence(among(*steps)) == 0.0


def test_the_seed_alone_is_not_enough_for_an_answer():
    """Runs with the same settings share whatever is wrong with them."""
    seen = among(peer("a"), peer("b"), peer("c"), peer("d"), **UNKNOWN)
    assert 0.05 < confidence(seen) < 0.6
    assert "they differ in nothing that is known but the seed" in weighed("common_plateau", seen).reason
    assert "Vary the learning rate" in weighed("common_plateau", seen).advice[0]


def test_what_differs_adds_to_it():
    """Learning rate, batch and optimizer are not what holds the runs up."""
    alike = score("common_plateau", among(peer("a"), peer("b")))
    rates = score("common_plateau", among(*SWEEP))
    batches = among(peer("a", effective_batch=256.0, world_size=8), peer("b", optimizer="SGD"))
    assert rates > alike + 2
    assert score("common_plateau", batches) > alike + 2
    assert "effective batches from 32 to 256, with AdamW and SGD" in weighed("common_plateau", batches).reason


def test_the_run_that_got_through_is_named_with_what_differs():
    """It shows that the level is no floor, and how to get below it."""
    through = peer("net-s3", 0.2, 3e-2, flat=False, world_size=4, effective_batch=128.0)
    seen = among(*SWEEP, through)
    found = weighed("common_plateau", seen)
    said = "net-s3 got through to 0.2, with learning rate 0.03 instead of 0.001 and effective batch 128 instead of 32"
    assert said in found.reason
    assert "learning rate 0.03" in found.advice[0]
    assert confidence(seen) > 0.5
    assert found.score < score("common_plateau", among(*SWEEP))


def test_a_seed_that_got_through_with_the_same_settings():
    """Luck: then more seeds are the way."""
    seen = among(peer("net-s1"), peer("net-s2"), peer("net-s3", 0.2))
    found = weighed("common_plateau", seen)
    assert "net-s3 got through to 0.2, with the same settings but for the seed" in found.reason
    assert "by its seed alone" in found.advice[0]


def test_a_run_that_got_through_speaks_against_a_floor_and_a_limit():
    """The same model can do better than that."""
    through = peer("net-s3", 0.2)
    for kind in ("noise_floor", "capacity_limit"):
        assert score(kind, among(through)) == pytest.approx(score(kind, among()) - 2.5)
        larger = replace(through, parameters=1_000_000)
        assert score(kind, among(larger)) == pytest.approx(score(kind, among()))


def test_flat_after_as_many_samples_at_other_losses():
    """The same epoch, whatever the batch: weak by itself, and nothing where a schedule ends the fall."""
    family = (
        peer("a", 1.4, effective_batch=64.0, since_step=252),
        peer("b", 0.6, 1e-2, since_step=510),
    )
    seen = among(*family, **UNKNOWN)
    assert "went flat after as many samples" in weighed("common_plateau", seen).reason
    assert confidence(seen) > 0.05
    assert confidence(replace(seen, rate=replace(seen.rate, since=500, before=1e-2))) == 0.0
    assert confidence(replace(seen, rate=replace(seen.rate, falling=True))) == 0.0


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"alignment_mean": 0.4, "alignment_error": 0.03, "rate": {"now": 1e-5}}, "lr_too_low"),
        ({"alignment_mean": -0.5, "alignment_error": 0.03}, "lr_too_high"),
        ({"depth_ratio": level(1e-8, 1e-2)}, "vanishing_gradients"),
        ({"decay_share": level(0.9), "weight_norm": level(3.0, 20.0, 20.0)}, "over_regularized"),
        ({"scaling": {"skipped_share": 0.9, "loss_scale": 1e-3, "loss_scale_peak": 65536.0}}, "amp_overflow"),
    ],
)
def test_a_fault_that_the_run_shows_is_not_excused_by_its_family(changes, fault):
    """All runs of a family may have the same fault: it is named first, as it would be without them."""
    assert first(among(**changes)) == fault
    seen = among(*SWEEP, peer("net-s5", 1.0, 1e-1), peer("net-s6", 1.0, 1e-5), **changes)
    assert ranked(seen)[0].weighing.kind == fault
    assert confidence(seen) < confidence(seen, fault)


def test_runs_that_are_done_are_not_held_up():
    """The loss is all but gone, or the schedule at its end: they end together because they are done."""
    done = {"loss": {"level": 0.01}}
    family = (peer("a", 0.01, 1e-2), peer("b", 0.01, 1e-4))
    assert first(among(*family, **done)) == "noise_floor"
    ended = {"rate": {"now": 1e-6, "peak": 1e-3, "falling": True, "low_since": 850}}
    assert ranked(among(*SWEEP, **ended))[0].weighing.kind == "noise_floor"


def test_a_run_that_has_learnt_nothing_is_not_called_benign():
    """Flat where it started, like all others: something is broken, whatever it is."""
    kinds = [each.weighing.kind for each in ranked(among(*SWEEP, loss_start=1.0)) if each.confidence > 0.6]
    assert not any(is_benign(kind) for kind in kinds)


def test_the_family_is_in_the_evidence_whatever_comes_first():
    """One line a run: for whoever looks at the finding."""
    seen = among(*SWEEP, peer("net-s3", 0.2), alignment_mean=-0.5, alignment_error=0.03)
    verdict = Verdict(kind="plateau", firing=True, step=1000, since_step=500)
    assert explain(verdict, seen).evidence["family"] == (
        "net-s1: flat at 1.01 (learning rate 0.01 instead of 0.001)",
        "net-s2: flat at 0.99 (learning rate 0.0001 instead of 0.001)",
        "net-s3: got through to 0.2",
    )
    assert "family" not in explain(verdict, among()).evidence


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("resnet-s1", "resnet"),
        ("resnet-seed42", "resnet"),
        ("team/resnet_seed_3", "team/resnet"),
        ("resnet-lr1e-3-s2", "resnet"),
        ("resnet-bs256.run7", "resnet"),
        ("train-88123_4", "train"),
        ("resnet", "resnet"),
        ("resnet50", "resnet50"),
        ("vit-b16", "vit-b16"),
        ("gpt-2x", "gpt-2x"),
        ("-1", "-1"),
    ],
)
def test_names_without_what_numbers_them(name, shared):
    """Seeds, counters and settings go; what names the model stays."""
    assert stem(name) == shared


def test_a_declared_group_comes_before_the_name():
    """And a group is no name: `resnet` the group and `resnet-1` the run are two families."""
    assert family_of("a", "resnet") == family_of("b", "resnet")
    assert family_of("resnet-1", "") == family_of("resnet-2", "") != family_of("resnet-1", "resnet")
