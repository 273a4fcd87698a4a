"""The report: whole, self-contained, and honest about what is missing."""

import re
from html.parser import HTMLParser

import pytest

from raexla.eval.report import write_report
from raexla.eval.report.charts import Line, line_chart, smooth, ticks
from raexla.eval.report.collect import collect
from raexla.eval.table import in_order
from raexla.recipe import UserError
from tests.unit.eval.folder import PROMPTS, make_demo, make_reconstructions, make_run, make_samples

VOID = {"meta", "img", "br", "line", "circle", "rect", "polyline"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed out of order; collects ids, links and picture sources."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids |= {values["id"]} if "id" in values else set()
        self.links += [values["href"]] if "href" in values else []
        self.sources += [values["src"]] if "src" in values else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    return write_report(make_demo(root), root / "report.html").read_text()


def test_it_is_whole_and_needs_nothing_else(html):
    page = Balanced()
    page.feed(html)
    assert page.open == []
    assert len(page.sources) > 100
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert all(link.removeprefix("#") in page.ids for link in page.links)
    assert "<script" not in html
    assert not re.search(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", html)
    assert "prefers-color-scheme: dark" in html


def test_it_shows_what_is_there(html):
    for heading in ("Pictures", "Scores", "Reconstructions", "Understanding", "Training", "Timing", "Data", "Protocol"):
        assert heading in html
    assert "with guidance" in html
    assert "held-out pairs" in html
    assert "PSNR 25.4 dB, SSIM 0.930" in html
    assert (
        html.index(">decoder, 400 steps<") < html.index(">pretrain, 800 steps<") < html.index(">finetune, 200 steps<")
    )
    assert "sampler euler (steps 25), guidance cfg (scale 2), seed 0" in html
    assert "&lt;b&gt;bold&lt;/b&gt;" in html  # prompts are text
    assert "<b>bold</b>" not in html
    assert PROMPTS[0] in html
    assert "raexla sample --model runs/nano/finetune " in html
    assert "60 samples, kind caption, manifest" in html


def test_a_run_alone_is_enough(tmp_path):
    make_run(tmp_path / "runs" / "decoder", "decoder", 40, 0, tmp_path / "no data")
    html = write_report(tmp_path / "runs", tmp_path / "out" / "r.html").read_text()
    assert ">decoder, 40 steps<" in html
    assert '<h2 id="scores"' not in html
    run = collect(tmp_path / "runs").runs[0]
    assert run.typical("images_per_second") == 160.0
    assert [step for step, _ in run.sheets] == [10, 20, 30, 40]
    assert write_report(tmp_path / "runs" / "decoder", tmp_path / "one.html").is_file()


def test_classes_and_reconstructions_are_shown(tmp_path):
    make_samples(tmp_path / "runs" / "classes", by_class=True)
    make_reconstructions(tmp_path / "runs" / "again")
    html = write_report(tmp_path / "runs", tmp_path / "r.html").read_text()
    page = Balanced()
    page.feed(html)
    assert page.open == []
    assert {"codec", "samples"} <= page.ids
    assert all(link.removeprefix("#") in page.ids for link in page.links)
    assert "class 3" in html
    assert "26.32 ±0.63" in html
    assert "(2 equal)" in html
    assert "reference sha256" in html


def test_nothing_to_report(tmp_path):
    with pytest.raises(UserError, match="no run directory, no samples, no scores"):
        collect(tmp_path)


def test_charts():
    assert ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1.0]
    assert ticks(0, 830) == [0, 250, 500, 750]
    assert smooth([1.0] * 100) == [1.0] * 100
    assert smooth([0.0, 1.0]) == [0.0, 1.0]
    flat = line_chart([Line("flat", [0, 1], [0.0, 0.0]), Line("gap", [0, 1], [float("nan"), 1.0])], "x")
    assert "nan" not in flat
    assert line_chart([Line("none", [], [])], "x") == ""


def test_tasks_stand_in_one_order():
    assert in_order(["position", "overall", "colors", "single_object"]) == [
        "single_object",
        "colors",
        "position",
        "overall",
    ]
