"""What a principal may do: scopes, patterns of run names, and patterns of silences that lie within them."""

from __future__ import annotations

import random
import re
import time
from fnmatch import fnmatchcase

import pytest

from stallwatch.detector.auth.access import EVERYBODY, READERS, Principal, Scope, matches


def principal(*scopes: str, runs: tuple[str, ...] = ("*",)) -> Principal:
    """One with these."""
    return Principal("test", frozenset(map(Scope, scopes)), runs)


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("*", "", True),
        ("*", "any/thing", True),
        ("bert", "bert", True),
        ("bert", "bert-1", False),
        ("bert-*", "bert-", True),
        ("bert-*", "xbert-1", False),
        ("bert-*", "Bert-1", False),
        ("*-1", "bert-1", True),
        ("*-1", "bert-12", False),
        ("a*b*c", "abc", True),
        ("a*b*c", "acbc", True),
        ("a*b*c", "acb", False),
        ("a*a", "a", False),
        ("a**b", "ab", True),
        ("team/[x]?", "team/[x]?", True),
        ("team/[x]?", "team/xy", False),
        ("", "", True),
    ],
)
def test_a_star_is_anything_and_the_rest_is_itself(pattern, name, fits):
    """Neither `?` nor `[...]` mean anything, and case counts."""
    assert matches(pattern, name) is fits


def test_patterns_do_what_a_regular_expression_would():
    """On thousands of random pairs over a small alphabet."""
    rng = random.Random(7)
    for _ in range(20_000):
        pattern = "".join(rng.choices("ab*", k=rng.randint(0, 7)))
        name = "".join(rng.choices("ab", k=rng.randint(0, 9)))
        expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None
        assert matches(pattern, name) is expected, (pattern, name)


def test_a_pattern_with_many_stars_takes_no_time():
    """What makes a regular expression go back and forth for hours."""
    started = time.process_time()
    assert not matches("*a" * 64 + "b", "a" * 128)
    assert time.process_time() - started < 5.0


def test_scopes_are_what_they_say():
    """Writing is not reading; administering includes reading, and not writing."""
    table = {
        scope: [other.value for other in Scope if principal(scope).may(other, "r")]
        for scope in ("write", "read", "administer")
    }
    assert table == {"write": ["write"], "read": ["read"], "administer": ["read", "administer"]}
    assert all(EVERYBODY.may_everywhere(scope) for scope in Scope)
    assert [scope for scope in Scope if READERS.has(scope)] == [Scope.READ]
    assert not principal("read", runs=("a*", "b*")).may_everywhere(Scope.READ)


@pytest.mark.parametrize(
    ("own", "pattern", "may"),
    [
        ("bert-*", "bert-1", True),
        ("bert-*", "bert-*", True),
        ("bert-*", "bert-1?", True),
        ("bert-*", "bert-[12]", True),
        ("bert-*", "b*", False),
        ("bert-*", "*", False),
        ("bert-*", "[b]ert-1", False),
        ("bert-*", "?ert-1", False),
        ("bert-*", None, False),
        ("*", None, True),
        ("*-a*", "x-?a", False),
        ("a?*", "a?", False),
        ("[b]*", "[b]1", False),
    ],
)
def test_a_silence_may_be_set_only_where_all_that_it_covers_is_allowed(own, pattern, may):
    """A silence's pattern knows more signs than a token's."""
    assert principal("administer", runs=(own,)).may_pattern(Scope.ADMINISTER, pattern) is may


def test_no_allowed_silence_covers_a_run_that_is_not_allowed():
    """Random patterns against random names: one counterexample would be a hole."""
    rng = random.Random(11)
    allowed = 0
    for _ in range(60_000):
        own = "".join(rng.choices("ab*?[]", k=rng.randint(0, 4)))
        pattern = "".join(rng.choices("ab*?[]", k=rng.randint(1, 5)))
        one = principal("administer", runs=(own or "*",))
        if not one.may_pattern(Scope.ADMINISTER, pattern):
            continue
        allowed += 1
        name = "".join(rng.choices("ab?[]", k=rng.randint(0, 5)))
        if fnmatchcase(name, pattern):
            assert one.may(Scope.ADMINISTER, name), (own, pattern, name)
    assert allowed > 500
