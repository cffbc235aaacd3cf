"""A commit waits for company that it is likely to have, and only where the processor is busy."""

import pytest

from retinue_engine.stores import company as company_module
from retinue_engine.stores.company import COMPANY_LEFT, LINGER_PER_WRITE_S, LONGEST_LINGER_S, Company


@pytest.fixture
def company(monkeypatch: pytest.MonkeyPatch) -> Company:
    """Of a writer on a busy processor."""
    monkeypatch.setattr(company_module, "HIGH_LOAD", -1.0)
    monkeypatch.setattr(company_module, "LOOK_S", 0.0)
    return Company()


def test_who_writes_alone_never_waits(company: Company) -> None:
    assert company.linger_s() == 0
    for _ in range(3):
        company.note(1)
        assert company.linger_s() == 0


def test_the_more_company_the_longer_to_a_bound(company: Company) -> None:
    for writes in (2, 5, 9):
        company.note(writes)
        assert company.linger_s() == pytest.approx((writes - 1) * LINGER_PER_WRITE_S)
    company.note(1_000)
    assert company.linger_s() == LONGEST_LINGER_S


def test_a_large_commit_is_remembered_for_some_time(company: Company) -> None:
    company.note(10)
    company.note(1)
    assert company.linger_s() == pytest.approx((10 * COMPANY_LEFT - 1) * LINGER_PER_WRITE_S)
    for _ in range(200):
        company.note(1)
    assert company.linger_s() == 0


def test_nobody_waits_where_the_processor_is_not_busy(
    monkeypatch: pytest.MonkeyPatch, company: Company
) -> None:
    company.note(100)
    monkeypatch.setattr(company_module, "HIGH_LOAD", float("inf"))
    assert company.linger_s() == 0


def test_the_load_is_that_of_the_time_since_the_last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = used_s = 100.0
    monkeypatch.setattr(company_module.time, "monotonic", lambda: now_s)
    monkeypatch.setattr(company_module.time, "process_time", lambda: used_s)
    company = Company()
    company.note(2)
    now_s, used_s = now_s + 1.0, used_s + 0.75
    assert company.linger_s() > 0
    # Too soon for another look.
    now_s += company_module.LOOK_S / 2
    assert company.linger_s() > 0
    now_s, used_s = now_s + 1.0, used_s + 0.65
    assert company.linger_s() == 0
