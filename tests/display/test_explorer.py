"""The interactive view: its logic without a browser, and in a real Jupyter with one."""

import builtins
import inspect
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from browser import chromium, offline_page
from tiny import Bench

import steerlens
from steerlens.display.explorer import LIMIT, OWN, REMEDY, Choice, compare, explore

PROMPT = "Name a town."
SHORT: dict[str, Any] = {"max_new_tokens": 12}


@pytest.fixture
def sv(make_vector: Callable[..., Any]) -> Any:
    return make_vector(0, 8.0, concept="towns")


def control(view: Any, description: str) -> Any:
    def walk(widget: Any) -> Iterator[Any]:
        yield widget
        for child in getattr(widget, "children", ()):
            yield from walk(child)

    return next(w for w in walk(view.widget) if getattr(w, "description", "") == description)


def output(view: Any) -> Any:
    return view.widget.children[-1]


# --- both texts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_texts_are_those_of_generate(bench: Bench, sv: Any, temperature: float) -> None:
    settings: dict[str, Any] = {"temperature": temperature, "seed": 3, **SHORT}
    seen = compare(bench.model, sv, PROMPT, **settings)
    assert [seen.plain] == steerlens.generate(bench.model, PROMPT, **settings)
    assert [seen.steered] == steerlens.generate(bench.model, PROMPT, sv, **settings)
    assert seen.plain != seen.steered
    special = bench.model.tokenizer.all_special_tokens  # which generate leaves out of its text
    assert "".join(token for token in seen.tokens if token not in special) == seen.steered


def test_change_and_kl_by_hand(bench: Bench, sv: Any) -> None:
    """The definition, one token at a time, each prediction from a pass of its own over what stands before it."""
    seen = compare(bench.model, sv, PROMPT, **SHORT)
    tokenizer, text = bench.model.tokenizer, PROMPT
    if tokenizer.chat_template:
        message = [{"role": "user", "content": PROMPT}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    lengths = [len(ids)]
    for place, token in enumerate(tokenizer.convert_tokens_to_ids(list(seen.tokens))):
        tokens = torch.tensor([ids])
        with torch.no_grad():
            plain = bench.model(tokens)[0, -1].double().log_softmax(-1)
            with steerlens.steer(bench.model, sv, prompt_lengths=lengths):
                steered = bench.model(tokens)[0, -1].double().log_softmax(-1)
        assert seen.change[place] == pytest.approx(float(steered[token] - plain[token]), abs=1e-4)
        assert seen.kl[place] == pytest.approx(float((steered.exp() * (steered - plain)).sum()), abs=1e-4)
        ids = [*ids, token]


def test_a_vector_of_factor_0_changes_nothing(model: Any, sv: Any) -> None:
    seen = compare(model, sv.scaled(0), PROMPT, **SHORT)
    assert seen.plain == seen.steered and set(seen.change) == {0.0} and set(seen.kl) == {0.0}


# --- the view ---------------------------------------------------------------------------------------------------------


def test_moving_controls_shows_what_generate_gives(model: Any, sv: Any) -> None:
    view = explore(model, sv, prompt=PROMPT, **SHORT)
    first = output(view).value
    control(view, "x its factor").value = -0.5
    control(view, "positions").value = "all"
    control(view, "prompt").value = "Hi"
    (expected,) = steerlens.generate(model, "Hi", sv.scaled(-0.5).replace(positions="all"), temperature=0, **SHORT)
    assert expected in view.text() and "factor -4 (-0.50 x its own), all, layer 1" in view.text()
    assert "factor -4 (-0.50 x its own), all, layer 1" in output(view).value != first
    assert view.choice == Choice("towns", "Hi", -0.5, "all", 0.0, 0)
    control(view, "temperature").value = 1.0
    control(view, "seed").value = 5
    sampled = steerlens.generate(model, "Hi", sv.scaled(-0.5).replace(positions="all"), seed=5, **SHORT)
    assert sampled[0] in view.text()


def test_a_setting_is_computed_once(model: Any, sv: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from steerlens.display import explorer

    done = []
    real = explorer.compare
    monkeypatch.setattr(explorer, "compare", lambda *args, **settings: done.append(1) or real(*args, **settings))
    view = explore(model, sv, prompt=PROMPT, **SHORT)
    slider = control(view, "x its factor")
    for multiple in (2.0, 1.0, 2.0, 1.0):
        slider.value = multiple
    assert len(done) == 2
    assert slider.continuous_update is False and control(view, "prompt").continuous_update is False


def test_several_vectors_are_chosen_from(model: Any, sv: Any) -> None:
    view = explore(model, [sv, -sv, sv.replace(concept="cats")], prompt=PROMPT, **SHORT)
    chooser = control(view, "vector")
    assert list(chooser.options) == ["towns", "towns #2", "cats"]
    chooser.value = "towns #2"
    assert steerlens.generate(model, PROMPT, -sv, temperature=0, **SHORT)[0] in view.text()
    named = explore(model, {"mine": sv, "other": -sv}, prompt=PROMPT, **SHORT)
    assert list(control(named, "vector").options) == ["mine", "other"]
    with pytest.raises(StopIteration):
        control(explore(model, sv, prompt=PROMPT, **SHORT), "vector")


def test_errors_are_read_in_the_view(model: Any, sv: Any) -> None:
    view = explore(model, sv, prompt=PROMPT, **SHORT)
    before = view.text()
    control(view, "prompt").value = "<b>" * 400
    assert "ValueError: prompt 0 has" in output(view).value and "exceeds the context" in output(view).value
    assert view.text() == before
    control(view, "prompt").value = "Hi"
    assert "steerlens-comparison" in output(view).value


def test_what_cannot_work_is_refused_at_once(model: Any, sv: Any) -> None:
    with pytest.raises(ValueError, match="there are no vectors"):
        explore(model, [])
    with pytest.raises(ValueError, match="two names read the same: 1 and '1'"):
        explore(model, {1: sv, "1": sv})
    for wrong in ("x", ["x"]):
        with pytest.raises(TypeError):
            inspect.unwrap(explore)(model, wrong)
    with pytest.raises(ValueError, match="layer 9 does not exist"):
        explore(model, [sv, sv.replace(layer=9)])
    with pytest.raises(ValueError, match="exceeds the context"):
        explore(model, sv, prompt="x" * 600)


def test_texts_are_escaped(model: Any, sv: Any) -> None:
    view = explore(model, sv.replace(concept="<script>alert(1)</script>"), prompt=PROMPT, **SHORT)
    assert "<script>" not in output(view).value and "&lt;script&gt;" in output(view).value
    assert f"+{LIMIT:g}" in output(view).value


def test_without_widgets_it_is_text(model: Any, sv: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any) -> Any:
        if name.startswith("ipywidgets"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", missing)
    view = explore(model, sv, prompt=PROMPT, **SHORT)
    assert view.widget is None
    bundle = view._repr_mimebundle_()
    assert set(bundle) == {"text/plain"} and REMEDY in bundle["text/plain"]
    assert steerlens.generate(model, PROMPT, sv, temperature=0, **SHORT)[0] in repr(view)


def test_the_model_is_left_as_it_came(model: Any, sv: Any) -> None:
    tokens = torch.tensor([[1, 20, 30, 40]])
    before = model(tokens)
    view = explore(model, sv, prompt=PROMPT, **SHORT)
    control(view, "prompt").value = "x" * 600
    assert torch.equal(model(tokens), before)
    assert view.choice.positions == OWN


# --- in Jupyter -------------------------------------------------------------------------------------------------------

CELLS = """
import torch
import steerlens
from steerlens.display.explorer import explore

model = steerlens.load_model("terrarium")
direction = torch.randn(160, generator=torch.Generator().manual_seed(0))
sv = steerlens.SteeringVector(direction, 8.0, 2, concept="noise")
explore(model, sv, prompt="Describe a fox.", max_new_tokens=10)
"""
VIEW = """
import numpy as np
from steerlens.figures.token_views import view_heads

view_heads(["a", "b"], np.tril(np.ones((2, 2, 2))))
"""


@contextmanager
def jupyter(folder: Path) -> Iterator[str]:
    """A JupyterLab server on this machine, with settings of its own; gives its address."""
    pytest.importorskip("jupyterlab", reason="needs jupyterlab")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = folder / "config" / "labconfig"
    settings.mkdir(parents=True)
    quiet = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (settings / "page_config.json").write_text(json.dumps(quiet))
    own = {f"JUPYTER_{name.upper()}_DIR": str(folder / name) for name in ("config", "data", "runtime")}
    own |= {
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHONPATH": str(Path(steerlens.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    options = {"ip": "127.0.0.1", "port": port, "port_retries": 0, "token": "", "password": "", "open_browser": False}
    flags = [f"--ServerApp.{name}={value}" for name, value in options.items()]
    flags += [f"--ServerApp.root_dir={folder}", "--allow-root", "--LabApp.expose_app_in_browser=True"]
    with (folder / "server.log").open("w") as log:
        command = [sys.executable, "-m", "jupyterlab", *flags]
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **own}, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, server, folder / "server.log")
        yield address
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_for(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    """Ask until the server answers."""
    import time

    end = time.monotonic() + 40
    while True:
        try:
            with urllib.request.urlopen(f"{address}/api", timeout=2):
                return
        except OSError:
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"Jupyter did not start: {log.read_text()[-800:]}") from None
            time.sleep(0.1)


def _steered(page: Any) -> str:
    return page.locator(".steerlens-comparison").inner_text()


def _changed(page: Any, before: str, *words: str) -> str:
    """The view's text, as soon as it differs from what it was and holds these words."""
    page.wait_for_function(
        """([before, words]) => {
            const text = document.querySelector(".steerlens-comparison")?.innerText ?? before;
            return text !== before && words.every(word => text.includes(word));
        }""",
        arg=[before, list(words)],
        timeout=60_000,
    )
    return _steered(page)


@pytest.mark.slow
def test_in_jupyter(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (CELLS, VIEW)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "explore.ipynb")
    with chromium() as browser, jupyter(tmp_path) as address, offline_page(browser, localhost=True) as seen:
        page = seen.page
        page.goto(f"{address}/lab/tree/explore.ipynb", timeout=60_000)
        kernel = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
        page.wait_for_function(f"{kernel}?.status === 'idle'", timeout=60_000)  # or Jupyter would ask which kernel to run
        page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")
        page.wait_for_selector(".steerlens-comparison", timeout=60_000)
        first = _steered(page)
        assert "factor 8 (1.00 x its own), p2+s2, layer 2" in first
        assert page.locator(".steerlens-comparison .token").count() > 0
        prompt = page.locator(".jupyter-widgets.widget-text input").first
        prompt.fill("Make up a story about a turnip.")
        prompt.press("Enter")
        second = _changed(page, first)
        handle = page.locator(".jupyter-widgets.widget-slider .noUi-handle").first
        handle.focus()
        handle.press("Home")
        third = _changed(page, second, "factor -16 (-2.00 x its own)")
        page.locator(".jupyter-widgets.widget-dropdown select").first.select_option("all")
        fourth = _changed(page, third, "all, layer 2")
        assert len({first, second, third, fourth}) == 4
        prompt.fill("a word " * 600)
        prompt.press("Enter")
        page.wait_for_selector(".steerlens-problem", timeout=60_000)
        assert "exceeds the context" in page.locator(".steerlens-problem").inner_text()
        if picture := os.environ.get("STEERLENS_SCREENSHOT"):
            prompt.fill("Describe a fox.")
            prompt.press("Enter")
            page.wait_for_selector(".steerlens-comparison")
            page.screenshot(path=picture)
        page.wait_for_function("document.querySelectorAll('.steerlens-heads canvas').length === 3", timeout=60_000)
        assert seen.outside == []
