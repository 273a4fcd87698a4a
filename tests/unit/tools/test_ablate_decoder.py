"""`tools/ablate_decoder.py` on made-up results: which runs there are, what is not run again, what the tables say."""

import json
from pathlib import Path

import numpy as np
import pytest

from raexla.recipe import UserError, load
from raexla.train.stages import STAGES

RECIPE = Path(__file__).parents[3] / "recipes" / "nano" / "decoder.yaml"


@pytest.fixture
def bench(tmp_path):
    from ablation.runs import Bench

    return Bench(tmp_path / "out", Path("data/nano"), 120)


class FakeScorer:
    """Scores that say which cell was scored how often."""

    def __init__(self):
        self.calls = []

    def score(self, artifact, sets, noised):
        self.calls.append(artifact.parent.name)
        values = {"psnr": 20.0 + len(self.calls), "ssim": 0.5, "rfid": 0.25, "perceptual": 0.1, "right": 1.0}
        names = [*sets, *(f"scenes, noise {s}" for s in ("0.2", "0.4") if noised)]
        shown = {name: np.full((8, 32, 32, 3), 7, np.uint8) for name in names}
        return {name: {**values, "protocol": {"images": 1000, "what": name}} for name in names}, shown


def fake_train(asked):
    """Writes what a run leaves behind; `asked` collects the settings."""

    def train(settings):
        asked.append(settings)
        folder = Path(next(s for s in settings if s.startswith("run.dir=")).partition("=")[2])
        (folder / "checkpoints").mkdir(parents=True)
        lines = [
            {"step": 0, "validation/psnr": 26.0, "validation/ssim": 0.8, "validation/rfid": 0.5},
            {"step": 5, "event": "phase", "phase": "adversarial"},
            {"step": 5, "phase": "adversarial", "loss": 1.0, "critic/accuracy": 0.75, "seconds": 3.0},
            {"step": 5, "validation/psnr": 25.0, "validation/ssim": 0.7, "validation/rfid": 0.25},
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    return train


def test_a_run_that_two_tables_share_is_one():
    from ablation.variants import TABLES, cells

    names = [cell.name for cell in cells(["losses", "noise"], 2)]
    assert names[:3] == ["start-seed0", "l1-seed0", "perceptual-seed0"]
    assert names.count("gan-seed1") == 1
    assert len(names) == len(set(names)) == 2 * len({*TABLES["losses"].rows, *TABLES["noise"].rows})
    assert [name.endswith("seed0") for name in names] == [True] * 8 + [False] * 8  # whole tables come first


def test_all_settings_make_a_recipe(bench, monkeypatch):
    from ablation.variants import TABLES, cells

    monkeypatch.chdir(RECIPE.parents[2])
    found = {c.variant.name: load(RECIPE, STAGES, bench.settings(c)) for c in cells(list(TABLES), 2) if c.seed == 1}
    assert all(recipe.run.seed == 1 and recipe.runtime.type == "eager" for recipe in found.values())
    assert found["l1"].losses.perceptual is None
    assert [name for name in ("l1", "perceptual", "gram") if found[name].critic is not None] == []
    assert {name: r.noise.tau for name, r in found.items() if name.startswith("tau")} == {"tau-0": 0.0, "tau-0.8": 0.8}
    assert found["gan"].noise.tau == 0.2
    assert (found["gan"].first_step("critic"), found["gan"].first_step("adversarial")) == (45, 60)
    plain = load(RECIPE, STAGES)
    assert found["recipe"].losses == plain.losses
    assert (found["recipe"].train, found["recipe"].optim) == (plain.train, plain.optim)
    assert [s.weight for s in found["scenes-text"].data.sources] == [7, 1]
    assert found["scenes-text"].data.sources[1].path == str(bench.made / "text")
    assert {r.train.steps for name, r in found.items() if not name.startswith(("recipe", "start"))} == {120}
    assert found["start"].train.steps == 1


def test_what_is_done_is_not_done_again_and_other_settings_are_refused(bench, monkeypatch):
    from ablation.runs import Bench, done, run
    from ablation.variants import cells

    monkeypatch.chdir(RECIPE.parents[2])
    cell, other = cells(["losses"], 1)[1:3]
    assert not done(bench, cell)
    asked, scorer = [], FakeScorer()
    result = run(bench, cell, fake_train(asked), scorer)
    assert done(bench, cell)
    assert not done(bench, other)
    assert asked[0][:-2] == bench.settings(cell)
    assert scorer.calls == ["l1-seed0"]
    assert [point["step"] for point in result["curve"]] == [0, 5]
    assert result["records"] == [{"step": 5, "phase": "adversarial", "critic/accuracy": 0.75}]
    assert not (bench.out / "runs" / cell.name / "checkpoints").exists()
    with pytest.raises(UserError, match=r"l1-seed0\.json was made with other settings"):
        done(Bench(bench.out, bench.data, 121), cell)


def test_spread_over_seeds_and_rows_without_results():
    from ablation.summary import as_json, course_of, report, scores_of

    def one(variant, seed, psnr):
        values = {"psnr": psnr, "ssim": 0.5, "rfid": 0.25, "perceptual": 0.1, "right": 1.0, "protocol": {"images": 9}}
        record = {"step": 5, "phase": "adversarial", "critic/accuracy": 0.7 + 0.1 * seed}
        common = {"settings": [], "seconds": {}, "records": [record]}
        curve = [{"step": step, "psnr": psnr + step, "ssim": 0.5, "rfid": 0.1} for step in (0, 5)]
        named = {"cell": f"{variant}-seed{seed}", "variant": variant, "seed": seed, "curve": curve}
        return {**named, **common, "scores": {"scenes": values}}

    results = [
        one("l1", 0, 26.0),
        one("l1", 1, 27.0),
        one("l1", 2, 28.0),
        one("recipe", 0, 26.0),
        one("recipe", 1, 24.0),
    ]
    assert scores_of(results, "l1")["scenes"]["psnr"] == {"mean": 27.0, "sd": 1.0, "seeds": 3}
    assert scores_of(results, "gan") == {}
    start, after = course_of(results, "recipe")
    assert (start["phase"], after["phase"], after["psnr"]["mean"]) == ("start", "adversarial", 30.0)
    assert after["accuracy"]["mean"] == pytest.approx(0.75)
    text = report(results)
    assert "| L1 | 3 | 27.00 ± 1.00 | 0.5000 ± 0.0000 |" in text
    assert "L1 + perceptual" not in text
    assert "| 5 | adversarial | 30.00 ± 1.41 |" in text
    assert as_json(results)["tables"]["noise"] == ["start", "tau-0", "gan", "tau-0.8"]


def test_tables_go_between_the_marks_of_a_page():
    from ablation.summary import into_page

    page = "a\n<!-- tables -->\nold\n<!-- end of tables -->\nb\n"
    new = into_page(page, "## T\n\n| 1 |\n")
    assert new == "a\n<!-- tables -->\n\n### T\n\n| 1 |\n\n<!-- end of tables -->\nb\n"
    assert into_page(new, "## T\n\n| 1 |\n") == new
    with pytest.raises(UserError, match="it needs the lines"):
        into_page("no marks", "")


def test_results_of_different_protocols_are_not_compared():
    from ablation.summary import protocols

    made = [{"cell": name, "scores": {"scenes": {"protocol": {"images": n}}}} for name, n in (("a", 9), ("b", 10))]
    assert protocols(made[:1]) == {"scenes": {"images": 9}}
    with pytest.raises(UserError, match="a and b were scored differently on scenes"):
        protocols(made)


def test_the_whole_summary_and_its_sheet(bench, monkeypatch, capsys):
    import ablate_decoder
    from ablation.runs import run
    from ablation.variants import cells
    from PIL import Image

    monkeypatch.chdir(RECIPE.parents[2])
    scorer = FakeScorer()
    for cell in cells(["losses", "data"], 2):
        run(bench, cell, fake_train([]), scorer)
    np.savez(
        bench.out / "originals.npz", **{n: np.zeros((8, 32, 32, 3), np.uint8) for n in ("scenes", "words", "text")}
    )
    assert ablate_decoder.main(["--out", str(bench.out)]) == 0
    assert "18 runs summed up" in capsys.readouterr().out
    result = json.loads((bench.out / "results.json").read_text())
    assert len(result["cells"]) == 18
    assert result["protocols"]["words"] == {"images": 1000, "what": "words"}
    pixels = np.asarray(Image.open(bench.out / "sheet.png"))
    columns = {"losses": 12, "noise": 12, "data": 14}
    rows = {"losses": 6, "noise": 2, "data": 3}  # two of the losses' variants stand in `noise` too
    assert (pixels == 7).all(-1).sum() == 64 * 64 * sum(columns[name] * rows[name] for name in rows)
    assert ablate_decoder.main(["loses", "--out", str(bench.out)]) == 2
    assert "error: 'loses' is not known; choose from losses, noise, data, gan" in capsys.readouterr().err


def test_noise_on_latents_is_the_same_for_every_decoder():
    import torch
    from ablation.scores import NoisedCodec

    class Codec:
        image_size = output_size = 32

        def encode(self, image):
            return torch.zeros(len(image), 16, 48)

        def decode(self, latent):
            return latent

    image = torch.zeros(20, 3, 32, 32)
    first, second = (NoisedCodec(Codec(), 0.4).encode(image) for _ in range(2))
    assert torch.equal(first, second)
    assert first.std().item() == pytest.approx(0.4, rel=0.02)
    codec = NoisedCodec(Codec(), 0.4)
    assert torch.equal(torch.cat([codec.encode(image[:10]), codec.encode(image[10:])]), first)
