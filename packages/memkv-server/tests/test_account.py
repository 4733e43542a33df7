# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from memkv_core.settings import SettingProblem
from memkv_server.duration import parse_duration
from memkv_server.engine.account import Account, Rule, Rules

RULES = Rules(
    (
        Rule("keep", None, None),
        Rule("tenant-a*", 1000, None),
        Rule("tenant-[bc]?", 500, 60),
        Rule("*", None, 3600),
    )
)


@pytest.mark.parametrize(
    ("name", "quota", "ttl"),
    [
        ("keep", None, None),
        ("keeper", None, 3600),
        ("tenant-a", 1000, None),
        ("tenant-a/7", 1000, None),
        ("tenant-b1", 500, 60),
        ("tenant-b", None, 3600),
        ("Tenant-a", None, 3600),
        ("auto-0123", None, 3600),
    ],
)
def test_the_first_that_matches_counts(name: str, quota: int | None, ttl: int | None) -> None:
    rule = RULES.rule_for(name)
    assert (rule.quota_bytes, rule.ttl_s) == (quota, ttl)
    account = Account(5, rule)
    assert (account.quota_bytes, account.ttl_s) == (quota, ttl)
    assert (account.ages is None) == (quota is None and ttl is None)


def test_without_rules_nothing_is_bounded() -> None:
    assert Rules().rule_for("n") == Rule("n")
    assert Rules().ttl_s_min is None
    assert Account(5).ages is None


def test_a_drive_has_its_share_of_each_quota_and_the_whole_ttl() -> None:
    shares = [RULES.share(part, 7) for part in (1, 2, 4)]
    quotas = [[rule.quota_bytes for rule in share.rules] for share in shares]
    assert quotas == [[None, 142, 71, None], [None, 285, 142, None], [None, 571, 285, None]]
    assert all(sum(each or 0 for each in of_rule) <= 1000 for of_rule in zip(*quotas, strict=True))
    assert {share.ttl_s_min for share in shares} == {60}


def test_rules_of_a_start_message() -> None:
    rows = [{"match": rule.match, "quota_bytes": rule.quota_bytes, "ttl_s": rule.ttl_s} for rule in RULES.rules]
    assert Rules.of(rows) == RULES
    assert Rules.of([]) == Rules()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(5, 5), ("6", 6), ("90s", 90), ("30m", 1800), ("12h", 43_200), ("7d", 604_800), (" 2 W ", 1_209_600)],
)
def test_spans_of_time(text: object, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "1.5h", "-1", 0, "0s", "11y", "4000d", True, None, 1.5, [1], "1h30m"])
def test_what_is_no_span_of_time(text: object) -> None:
    with pytest.raises(SettingProblem):
        parse_duration(text)
