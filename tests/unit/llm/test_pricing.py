"""What a call costs is exact, and unknown is not zero."""

import json
from pathlib import Path

import pytest

from retinue_engine.llm.model import TokenUsage
from retinue_engine.llm.pricing import Price, PriceTable

TABLE = {
    "sample_spec": {"input_cost_per_token": 0.0},
    "gpt": {
        "input_cost_per_token": 2.5e-06,
        "output_cost_per_token": 1e-05,
        "cache_read_input_token_cost": 1.25e-06,
    },
    "other/gpt": {"input_cost_per_token": 1e-06, "output_cost_per_token": 3e-06},
    "free": {"input_cost_per_token": 0.0, "output_cost_per_token": 0},
    "pictures": {"output_cost_per_image": 0.04},
}


@pytest.fixture
def table(tmp_path: Path) -> PriceTable:
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(TABLE), "utf-8")
    return PriceTable(path)


def test_a_price_is_exact_in_nano_usd_per_million(table: PriceTable) -> None:
    assert table.price("gpt") == Price(2_500_000_000, 10_000_000_000, 1_250_000_000)


@pytest.mark.parametrize("name", ["gpt", "openai/gpt", "router/openai/gpt"])
def test_a_model_is_found_with_and_without_its_provider(table: PriceTable, name: str) -> None:
    assert table.price(name).input == 2_500_000_000


def test_a_provider_with_a_price_of_its_own_comes_first(table: PriceTable) -> None:
    assert table.price("other/gpt").input == 1_000_000_000


def test_free_is_known_and_costs_nothing(table: PriceTable) -> None:
    assert table.price("free").cost(TokenUsage(10, 10)) == 0


@pytest.mark.parametrize("name", ["nowhere", "pictures", "sample_spec", ""])
def test_a_model_without_a_price_costs_nobody_knows_what(table: PriceTable, name: str) -> None:
    assert table.price(name).cost(TokenUsage(10, 10)) is None
    assert table.price(name).cost(TokenUsage(0, 0)) == 0


def test_without_usage_the_cost_is_unknown(table: PriceTable) -> None:
    assert table.price("gpt").cost(None) is None


def test_cached_tokens_are_part_of_the_input_at_their_own_price() -> None:
    price = Price(input=2_000_000, output=5_000_000, cached_input=1_000_000)
    assert price.cost(TokenUsage(10, 3, cached_input_tokens=4)) == 6 * 2 + 4 * 1 + 3 * 5


def test_cached_tokens_without_a_price_cost_as_input() -> None:
    assert Price(input=2_000_000, output=0).cost(TokenUsage(10, 3, cached_input_tokens=4)) == 20


@pytest.mark.parametrize(("tokens", "nano"), [(1, 0), (2, 1), (3, 1), (5, 1), (6, 2)])
def test_a_cost_is_rounded_once_at_the_end_half_up(tokens: int, nano: int) -> None:
    # 0.25 nano-USD a token: 0.25, 0.5, 0.75, 1.25, 1.5
    assert Price(input=250_000, output=0).cost(TokenUsage(tokens, 0)) == nano


def test_a_configured_price_comes_field_by_field_before_the_table(table: PriceTable) -> None:
    assert table.price("gpt", Price(output=7)) == Price(2_500_000_000, 7, 1_250_000_000)
    assert table.price("gpt", Price(cached_input=7)) == Price(2_500_000_000, 10_000_000_000, 7)
    assert table.price("gpt", Price(input=0)).input == 0


def test_a_configured_input_price_replaces_the_cached_one_of_the_table_too(table: PriceTable) -> None:
    assert table.price("gpt", Price(input=4)) == Price(4, 10_000_000_000, None)


def test_the_table_that_litellm_brings_is_read() -> None:
    price = PriceTable().price("openai/gpt-4o")
    assert price.input is not None
    assert price.output is not None
    assert 0 < price.input < price.output


def test_without_the_table_prices_are_unknown(tmp_path: Path) -> None:
    assert PriceTable(tmp_path / "none.json").price("gpt") == Price()
