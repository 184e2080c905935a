"""`run.json` in the words of a report."""

from __future__ import annotations

from mmembed.evaluation.provenance import provenance


def test_settings_are_grouped_and_what_says_nothing_is_left_out():
    record = {
        "format": "mmembed-run/1",
        "wall_seconds": 3.14159265,
        "suite": "s",
        "subset": None,
        "allow_missing": False,
        "tasks": {"a": {"sha256": "0"}, "b": {}},
        "plan": {"sha256": "ab" * 32, "verified": True},
        "model": "m",
        "space": "0f" * 32,
        "encoder": {
            "model": "m",
            "inputs": {
                "geometry": {"image_mean": [0.1, 0.2]},
                "image_tokens": {"min": 4, "max": 4},
                "page_tokens": {"min": 4, "max": 16},
                "max_tokens": 256,
            },
            "pooling": "last_token",
        },
        "profile": {"name": "plain", "prompts": {}, "separator": "", "num_frames": 8},
        "hardware": {"cores": 2, "gpus": []},
        "of_later_versions": [1, 2],
    }
    assert provenance(record) == {
        "Model": {
            "model": "m",
            "space": "0f0f0f0f0f0f0f0f...",
            "inputs": "image tokens 4, page tokens 4 to 16, max tokens 256",
            "pooling": "last_token",
        },
        "Prompts": {"name": "plain", "num frames": "8"},
        "Data": {"suite": "s", "plan": "sha256 abababababababab..., verified yes", "tasks": "2"},
        "Run": {"wall seconds": "3.14159", "hardware": "cores 2", "of later versions": "1, 2"},
    }


def test_long_values_are_counted():
    record = {"list": list(range(20)), "profile": {"prompts": {str(n): "x" for n in range(40)}}}
    assert provenance(record) == {
        "Prompts": {"prompts": "40 entries"},
        "Run": {"list": "20 entries"},
    }


def test_values_of_other_types_are_words_too():
    assert provenance({"profile": "plain", "encoder": "e", "tasks": ["a"]}) == {
        "Model": {"encoder": "e"}, "Prompts": {"profile": "plain"}, "Data": {"tasks": "a"}
    }  # fmt: skip
    assert provenance({}) == {}
