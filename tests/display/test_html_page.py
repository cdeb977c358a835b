"""Pages on disk: their parts, their size, and what a reader without scripts or with an old browser sees."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
from browser import chromium, offline_page

from steerlens.display.html_page import write_page
from steerlens.figures.token_views import packed, view_heads, view_tokens

FIGURE = go.Figure(go.Scatter(x=[1, 2], y=[3, 4], name="</script><script>alert(1)</script>"))


def heads() -> Any:
    import numpy as np

    return view_heads(["a", "</script>"], np.zeros((1, 2, 2)))


def test_scripts_stand_once_and_only_where_needed(tmp_path: Path) -> None:
    plain = write_page(tmp_path / "a.html", "A", ["words", view_tokens(["a"], [1.0])]).read_text()
    assert len(plain) < 10_000 and "packedScripts.plotly =" not in plain
    figure = write_page(tmp_path / "b.html", "B", [FIGURE, FIGURE]).read_text()
    assert figure.count("packedScripts.plotly =") == 1 and "packedScripts.circuitsvis =" not in figure
    both = write_page(tmp_path / "c.html", "C", [heads(), FIGURE, heads()]).read_text()
    assert both.count("packedScripts.circuitsvis =") == 1 and len(both) < 3_000_000


def test_the_same_page_has_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_page(tmp_path / name, "A", [FIGURE, heads()]).read_bytes() for name in ("a.html", "b.html"))
    assert first == second
    assert packed("x") == packed("x")


def test_data_cannot_end_their_element(tmp_path: Path) -> None:
    page = write_page(tmp_path / "a.html", "A </title>", [FIGURE, heads(), "# <b>", "<i>"]).read_text()
    assert "<script>alert" not in page and "<title>A &lt;/title&gt;</title>" in page
    assert "<h2>&lt;b&gt;</h2>" in page and "<p>&lt;i&gt;</p>" in page
    data = page.split('<script type="application/json">')[1].split("</script>")[0]
    assert json.loads(data)["data"][0]["name"] == "</script><script>alert(1)</script>"


def test_numbers_in_tables_say_what_is_unknown_and_what_is_small(tmp_path: Path) -> None:
    table = pd.DataFrame({"a": [1.5, None, 0.0004, 0.0], "b": [1, 2, 3, 4], "c": ["x", None, "<u>", "y"], "d": [True] * 4})
    page = write_page(tmp_path / "a.html", "A", [table]).read_text()
    for cell in ("number>1.50<", "number>0.0004<", "number>0.00<", "number>3<", ">&ndash;<", ">&lt;u&gt;<", ">True<"):
        assert f"{cell}/td>" in page
    assert page.count("&ndash;") == 2


def test_a_reader_without_scripts_is_told(tmp_path: Path) -> None:
    path = write_page(tmp_path / "a.html", "A", ["words", FIGURE, heads(), view_tokens([" sky"], [1.0])])
    with chromium() as browser:
        page = browser.new_context(java_script_enabled=False).new_page()
        page.goto(path.as_uri())
        text = page.locator("body").inner_text()
    for said in ("Scripts are off", "words", "The figure is drawn here", "where scripts run", "sky"):
        assert said in text


@pytest.mark.parametrize("broken", ["DecompressionStream", "atob"])
def test_a_browser_that_cannot_draw_says_so(tmp_path: Path, broken: str) -> None:
    path = write_page(tmp_path / "a.html", "A", [FIGURE, heads()])
    with chromium() as browser, offline_page(browser) as seen:
        seen.page.add_init_script(f"delete window.{broken}")
        seen.open(path)
        assert seen.page.get_by_text("This could not be drawn").count() == 2
        assert broken in seen.errors[0]
