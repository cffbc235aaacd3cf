"""What a call costs, in billionths of a US dollar: configured prices over those of litellm's table."""

import importlib.util
import json
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path

from retinue_engine.llm.model import TokenUsage

_TABLE_FILE = "model_prices_and_context_window_backup.json"
_PER_MILLION = 1_000_000
_NANO = 10**9


@dataclass(frozen=True, slots=True)
class Price:
    """What tokens cost, in nano-USD per million tokens; None is not known, which is not 0."""

    input: int | None = None
    output: int | None = None
    cached_input: int | None = None
    """Input tokens from the provider's cache; the input price where it is None."""

    def over(self, other: "Price") -> "Price":
        """This price, with the other's for what this one does not say."""
        mine = {
            name: value
            for name in ("input", "output", "cached_input")
            if (value := getattr(self, name)) is not None
        }
        if "input" in mine and "cached_input" not in mine:
            # Who sets the input price sets the cached one with it, unless he says otherwise.
            mine["cached_input"] = None
        return replace(other, **mine)

    def cost(self, usage: TokenUsage | None) -> int | None:
        """Nano-USD of a call, rounded half up; None where a price or the usage that it needs is not known."""
        if usage is None:
            return None
        cached = min(usage.cached_input_tokens, usage.input_tokens)
        cached_price = self.input if self.cached_input is None else self.cached_input
        parts = (
            (usage.input_tokens - cached, self.input),
            (cached, cached_price),
            (usage.output_tokens, self.output),
        )
        total = 0
        for tokens, price in parts:
            if tokens:
                if price is None:
                    return None
                total += tokens * price
        return (total + _PER_MILLION // 2) // _PER_MILLION


class PriceTable:
    """litellm's table of prices, read once on first use, without importing litellm."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._prices: dict[str, Price] | None = None

    def warm(self) -> None:
        """Read the table now; it takes tens of milliseconds, so do it in a thread."""
        if self._prices is None:
            self._prices = _read(self._path or _packaged_table())

    def price(self, model: str, configured: Price = Price()) -> Price:
        """The price of a model by its name, with or without the provider; what is configured comes first."""
        self.warm()
        prices = self._prices or {}
        found = prices.get(model)
        # `openrouter/openai/gpt-4o` is `openai/gpt-4o` is `gpt-4o`, where the table has no price of its own.
        while found is None and "/" in model:
            model = model.partition("/")[2]
            found = prices.get(model)
        return configured.over(found or Price())


@cache
def _packaged_table() -> Path | None:
    spec = importlib.util.find_spec("litellm")
    return Path(spec.origin).parent / _TABLE_FILE if spec and spec.origin else None


def _read(path: Path | None) -> dict[str, Price]:
    if path is None or not path.exists():
        return {}
    # Decimal: 2.5e-06 has no exact float, and a price is exact.
    rows = json.loads(path.read_bytes(), parse_float=Decimal)
    prices = {}
    for model, row in rows.items():
        if model == "sample_spec" or not isinstance(row, dict):
            continue
        price = Price(
            _nano_per_million(row.get("input_cost_per_token")),
            _nano_per_million(row.get("output_cost_per_token")),
            _nano_per_million(row.get("cache_read_input_token_cost")),
        )
        if price != Price():
            prices[model] = price
    return prices


def _nano_per_million(dollars_per_token: object) -> int | None:
    if isinstance(dollars_per_token, bool) or not isinstance(dollars_per_token, int | Decimal):
        return None
    return int((Decimal(dollars_per_token) * _NANO * _PER_MILLION).to_integral_value(ROUND_HALF_UP))
