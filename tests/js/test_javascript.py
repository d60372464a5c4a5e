"""The page's JavaScript, run by Node: its own tests, and patches against another library."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonpatch
import msgspec
import pytest

from pushd.demo import Market

HERE = Path(__file__).parent
STATIC = HERE.parent.parent / "pushd" / "static"
NODE = shutil.which("node")

pytestmark = pytest.mark.skipif(NODE is None, reason="needs node 18 or newer")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The scripts and their tests beside a package.json, without which Node 18
    takes no .js file for a module. The daemon has no use for one.
    """
    root = tmp_path_factory.mktemp("javascript")
    shutil.copytree(STATIC, root / "pushd" / "static")
    shutil.copytree(HERE, root / "tests" / "js")
    (root / "package.json").write_text('{"type": "module"}')
    return root


def node(*arguments: str, given: str = "") -> str:
    assert NODE is not None
    ran = subprocess.run(
        [NODE, *arguments], input=given, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize("name", [path.name for path in sorted(HERE.glob("*.test.mjs"))])
def test_javascript(tree: Path, name: str) -> None:
    node("--test", str(tree / "tests" / "js" / name))


def applied(tree: Path, cases: list[tuple[Any, Any]]) -> list[Any]:
    return json.loads(node(str(tree / "tests" / "js" / "apply.mjs"), given=json.dumps(cases)))


def arbitrary(chance: random.Random, depth: int = 4) -> Any:
    """Some JSON, with names that pointers have to escape."""
    kind = chance.randrange(4 if depth else 2)
    if kind == 0:
        return chance.choice([None, True, False, 0, 1, 1.5, "", "ä€", "a/b"])
    if kind == 1:
        return chance.randrange(5)
    if kind == 2:
        return [arbitrary(chance, depth - 1) for _ in range(chance.randrange(5))]
    names = chance.sample(
        ["a", "b", "", "a/b", "m~n", "~1", "0", "-", "__proto__"], chance.randrange(5)
    )
    return {name: arbitrary(chance, depth - 1) for name in names}


def exactly(documents: list[Any]) -> str:
    """As text, since 1 == True in Python."""
    return json.dumps(documents, sort_keys=True)


def test_patches_between_arbitrary_documents_lead_where_they_should(tree: Path) -> None:
    chance = random.Random(1)
    pairs = [(arbitrary(chance), arbitrary(chance)) for _ in range(1_000)]
    cases = [(old, jsonpatch.make_patch(old, new).patch) for old, new in pairs]
    expected = [jsonpatch.apply_patch(old, patch) for old, patch in cases]
    assert exactly(applied(tree, cases)) == exactly(expected)


def test_the_market_s_patches_lead_from_each_second_to_the_next(tree: Path) -> None:
    market = Market(random.Random(1), 0.0)
    documents = []
    for second in range(300):
        market.advance(float(second))
        documents.append(msgspec.to_builtins(market.quotes()))
    cases = [(old, jsonpatch.make_patch(old, new).patch) for old, new in pairwise(documents)]
    assert applied(tree, cases) == documents[1:]
