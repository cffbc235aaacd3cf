"""Secret references in texts, and values in what others say."""

from pathlib import Path

import pytest

from retinue.errors import SecretNotFoundError
from retinue_kit.secrets import hide_values, references, resolve_secret


def test_values_take_the_place_of_references_and_are_noted_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A", "one")
    (tmp_path / "b").write_text("two\n")
    text = f"x ${{env:A}}-${{file:{tmp_path}/b}}"
    values: list[str] = []
    assert resolve_secret(text, field="f", values=values) == "x one-two"
    assert values == ["one", "two"]
    assert list(references(text)) == ["${env:A}", f"${{file:{tmp_path}/b}}"]
    with pytest.raises(SecretNotFoundError, match="f needs the environment variable GONE"):
        resolve_secret("${env:A} ${env:GONE}", field="f")


def test_what_others_repeat_is_cut_out_line_by_line() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n}"
    assert hide_values(f"bad key {key}", [key]) == "bad key ***"
    assert hide_values("line 2 is MIIEvQIBADANBgkq }", [key]) == "line 2 is *** }"
    # A short one would blot out half of any text.
    assert hide_values("an apple", ["a", "app"]) == "an apple"
