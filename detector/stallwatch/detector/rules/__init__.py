"""Rule sets of other tools, for those who move: run beside Stallwatch's own checks, by the names that they know."""

from __future__ import annotations

from stallwatch.detector.rules.book import RuleBook
from stallwatch.detector.rules.sets import RULE_SETS

__all__ = ["RULE_SETS", "RuleBook"]
