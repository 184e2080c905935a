"""What a user installs: extras, contents of the wheel, and imports that stay light."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import mmembed

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~;\[ ]", line, maxsplit=1)[0].lower() for line in requirements}


@pytest.mark.parametrize(
    ("package", "extra"),
    [
        ("torch", ""),
        ("transformers", ""),
        ("qwen-vl-utils", "video"),
        ("decord", "video"),
        ("pymupdf", "documents"),
        ("accelerate", "train"),
        ("deepspeed", "train"),
        ("open_clip_torch", "evaluation"),
        ("mteb", "evaluation"),
    ],
)
def test_each_package_of_the_stack_is_in_the_extra_that_needs_it(package: str, extra: str) -> None:
    assert package in names(EXTRAS[extra] if extra else PROJECT["dependencies"])


def test_all_is_every_feature() -> None:
    included = {
        extra
        for line in EXTRAS["all"]
        for extra in line.removeprefix("mmembed[").removesuffix("]").split(",")
    }
    assert included == set(EXTRAS) - {"all", "dev", "quickstart"}


def test_the_quickstart_needs_nothing_that_its_features_do_not() -> None:
    features = {*EXTRAS["train"], *EXTRAS["video"], *EXTRAS["documents"], "mmembed[server]"}
    assert set(EXTRAS["quickstart"]) <= features


def test_every_extra_that_an_error_names_exists() -> None:
    sources = [p.read_text("utf-8") for p in (REPOSITORY / "mmembed").rglob("*.py")]
    named = {m for s in sources for m in re.findall(r"mmembed\[([a-z-]+)\]", s)}
    named |= {
        m for s in sources for m in re.findall(r"MissingDependencyError\([^()]*\"([\w-]+)\"\)", s)
    }
    assert named
    assert named <= set(EXTRAS)


def test_the_changelog_knows_this_version_or_says_unreleased() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (REPOSITORY / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert headings[0] == "Unreleased" or headings[0] == mmembed.__version__


def test_the_readme_and_ci_run_the_same_two_commands() -> None:
    commands = ("./mmembed.sh quickstart", "./mmembed.sh test")
    for path in ("README.md", ".ci/run"):
        text = (REPOSITORY / path).read_text("utf-8")
        assert all(command in text for command in commands), path


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nsys.stderr.write(' '.join(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    loaded = run.stderr.split()
    assert "mmembed" in loaded, run.stderr[-2000:]
    return set(loaded)


@pytest.mark.parametrize(
    "statement",
    [
        "import mmembed",
        "from mmembed import Image, MultimodalInput, Page, Text, Video",
        "import mmembed.types, mmembed.errors, mmembed.config",
        "import mmembed.inputs, mmembed.encoder, mmembed.search, mmembed.training",
        "from mmembed.cli import app\napp(['--help'], standalone_mode=False)",
        "from mmembed.cli import app\napp(['search', '--help'], standalone_mode=False)",
    ],
)
def test_the_vocabulary_and_help_need_no_torch(statement: str) -> None:
    heavy = {"torch", "transformers", "pandas", "pyarrow", "av", "pymupdf"}
    assert not heavy & modules_after(statement)


def test_every_public_name_can_be_imported() -> None:
    for name in mmembed.__all__:
        assert getattr(mmembed, name) is not None
    assert set(mmembed.__all__) <= set(dir(mmembed))
    with pytest.raises(AttributeError, match="no attribute 'embedder_'"):
        _ = mmembed.embedder_


def test_the_wheel_holds_both_packages_and_their_data(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
    (wheel,) = tmp_path.glob("mmembed-*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())

    package_data = {
        path.relative_to(REPOSITORY).as_posix()
        for folder in ("mmembed", "data_adapters")
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    configurations = {
        "mmembed/_configs/" + path.relative_to(REPOSITORY / "configs").as_posix()
        for path in (REPOSITORY / "configs").rglob("*")
        if path.is_file()
    }
    assert package_data and configurations
    assert package_data | configurations <= packed
    top = {name.split("/")[0] for name in packed if ".dist-info/" not in name}
    assert top == {"mmembed", "data_adapters"}
