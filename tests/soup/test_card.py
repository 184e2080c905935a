"""The card of a soup: members, weights, and what was gained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmembed.encoder.checkpoint import read_description
from mmembed.errors import CheckpointError, ConfigError
from mmembed.soup import soup
from mmembed.soup.card import add_results, compare, read_card, read_results

MEMBERS = [
    {"news": {"ndcg@10": 0.5}, "a|b": {"map": 0.1}},
    {"news": {"ndcg@10": 0.7}, "a|b": {"map": 0.3}},
]
SOUP = {"news": {"ndcg@10": 0.65}, "a|b": {"map": 0.4}}


def test_the_card_names_method_members_and_weights(members: list[Path], tmp_path: Path) -> None:
    made = soup(members[:2], output=tmp_path / "soup", method="slerp", t=0.25)
    card = read_card(made)
    assert (card["title"], card["method"], card["settings"]) == ("soup", "slerp", {"t": 0.25})
    assert card["fingerprint"] == read_description(made)["fingerprint"]
    assert card["members"] == [
        {
            "name": folder.name,
            "fingerprint": read_description(folder)["fingerprint"],
            "weight": share,
        }
        for folder, share in zip(members, (0.75, 0.25), strict=False)
    ]
    text = (made / "README.md").read_text()
    assert "| m0 | 0.7500 | `" in text and "`slerp` (t 0.25)" in text


def test_names_in_the_card_tell_members_apart_without_whole_paths(
    members: list[Path], tmp_path: Path
) -> None:
    folders = []
    for name in ("seed1", "seed2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model").symlink_to(members[0])
        folders.append(tmp_path / name / "model")
    card = read_card(soup([*folders, folders[0]], output=tmp_path / "soup"))
    assert [m["name"] for m in card["members"]] == ["seed1/model", "seed2/model", "seed1/model"]


def test_gains_are_over_the_mean_and_over_the_best_member() -> None:
    news, other = compare(MEMBERS, SOUP)
    assert (news["task"], news["metric"]) == ("news", "ndcg@10")
    assert (news["mean"], news["best"]) == (pytest.approx(0.6), 0.7)
    assert news["minus_mean"] == pytest.approx(0.05)
    assert news["minus_best"] == pytest.approx(-0.05)
    assert other["minus_best"] == pytest.approx(0.1)


def test_results_come_from_a_function_or_are_added_later(
    members: list[Path], tmp_path: Path
) -> None:
    known = dict(zip(members, MEMBERS, strict=False))
    made = soup(
        members[:2], output=tmp_path / "one", evaluate=lambda folder: known.get(folder, SOUP)
    )
    later = soup(members[:2], output=tmp_path / "two")
    assert "results" not in read_card(later)
    for _ in range(2):
        add_results(later, members=MEMBERS, soup=SOUP)
    first, second = read_card(made), read_card(later)
    assert first["results"] == second["results"] == compare(MEMBERS, SOUP)
    text = (later / "README.md").read_text()
    assert "| news | ndcg@10 | 0.6500 | 0.6000 | 0.7000 | +0.0500 | -0.0500 |" in text
    assert "| a\\|b | map |" in text
    assert text == (made / "README.md").read_text().replace("# one", "# two")


def test_a_soup_of_soups_has_its_own_card(members: list[Path], tmp_path: Path) -> None:
    first = soup(members[:1], output=tmp_path / "first", evaluate=lambda folder: SOUP)
    (first / "README.md").write_text("about the first")
    second = soup([first, members[0]], output=tmp_path / "second")
    assert "results" not in read_card(second)
    assert "about the first" not in (second / "README.md").read_text()


def test_results_that_do_not_fit_are_refused(members: list[Path], tmp_path: Path) -> None:
    made = soup(members[:2], output=tmp_path / "soup")
    with pytest.raises(ConfigError, match="1 results for 2 members; give one each: m0, m1"):
        add_results(made, members=MEMBERS[:1], soup=SOUP)
    with pytest.raises(ConfigError, match=r"member 2 lack map of a\|b"):
        add_results(made, members=[MEMBERS[0], {"news": {"ndcg@10": 1.0}}], soup=SOUP)
    with pytest.raises(CheckpointError, match=r"is not a soup: it has no soup.json"):
        add_results(members[0], members=MEMBERS, soup=SOUP)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "must hold"),
        ('{"a": 1}', "must hold"),
        ('{"a": {"b": "c"}}', "must hold"),
        ('{"a": {"b": NaN}}', "must hold"),
        (None, "cannot be read"),
    ],
)
def test_files_that_are_no_results_are_refused(
    tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_results(path)


def test_a_file_of_results_is_read_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(SOUP))
    assert read_results(tmp_path / "results.json") == SOUP
