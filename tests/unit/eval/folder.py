"""A folder as the demo leaves it, made up: runs with curves and sheets, samples, scores, data."""

import json
from pathlib import Path

import numpy as np

from raexla.checkpoint.files import write_json
from raexla.data.nano.samples import prompts
from raexla.data.nano.write import write_nano
from raexla.eval.nano import as_json, prompt_set_hash
from raexla.eval.scenes import evaluate, score
from raexla.eval.understanding import judge, questions
from raexla.sampling.sheet import save_png, save_sheet, to_image

PROMPTS = [
    "a red circle",
    "two blue squares",
    "a ring left of a cross",
    "a photo of a white triangle & a <b>bold</b> one",
]


def make_run(folder: Path, stage: str, steps: int, seed: int, data: Path) -> None:
    """A run directory with metrics, run.json and sample sheets."""
    rng = np.random.default_rng(seed)
    (folder / "samples").mkdir(parents=True)
    source = {"name": "nano", "path": str(data), "kind": "caption"}
    (folder / "recipe.yaml").write_text(json.dumps({"stage": stage, "data": {"sources": [source]}}))
    lines = []
    for step in range(10, steps + 1, 10):
        loss = 0.4 + 2 * np.exp(-3 * step / steps) + 0.05 * rng.normal()
        rates = {"seconds": 0.2 + 0.01 * rng.random(), "images_per_second": 160.0, "input_wait_seconds": 0.002}
        rates |= {"mfu": 0.31, "goodput": 0.8, "compile_seconds": 20.0, "compilations": 4.0}
        values = {"loss": loss, "loss/diffusion": loss / 2, "loss/language": loss / 3, "phase": "train", **rates}
        lines.append({"step": step, **values})
        if step % (steps // 4) == 0:
            lines.append({"step": step, "validation/loss": loss + 0.1, "validation/psnr": 20 + 5 * step / steps})
            images = to_image(np.stack([p.image for p in prompts(1, seed=step)]))
            noisy = images + rng.normal(size=images.shape) * (1 - step / steps) * 0.5
            save_sheet(folder / "samples" / f"step-{step:08d}.png", noisy, [p.caption for p in prompts(1, seed=step)])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    note = {"goodput": 0.83, "seconds": {"elapsed": 140.0, "compile": 21.0}, "step": steps, "recipe_sha256": "ab" * 32}
    note |= {"mesh": {"data": 4, "fsdp": 1, "tensor": 1}, "peak_flops": [1.1e11, "measured"], "flops_per_step": 1e9}
    write_json(folder / "run.json", note)


def make_scores(folder: Path, per_task: int = 8) -> None:
    """What `raexla score` writes, from real renders that were spoilt to a degree."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for name, spoil in (
        ("guided", 0.4),
        ("unguided", 0.6),
        ("held_out", 0.7),
        ("real", 0.0),
        ("reconstructions", 0.02),
    ):
        chosen = prompts(per_task, held_out=name == "held_out")
        pixels = np.stack([p.image for p in chosen])
        swap = rng.random(len(chosen)) < spoil
        pixels[swap] = pixels[rng.permutation(len(chosen))][swap]
        (folder / name).mkdir()
        examples = []
        for prompt, image in zip(chosen, pixels, strict=True):
            save_png(folder / name / f"{prompt.key}.png", to_image(image))
            right = bool(score(image, prompt.spec))
            where = {"image": f"{name}/{prompt.key}.png", "task": prompt.spec["task"]}
            examples.append({**where, "caption": prompt.caption, "right": right})
        line = {"name": name, "tasks": as_json(evaluate(list(pixels), [p.spec for p in chosen])), "examples": examples}
        line["protocol"] = {"samples": len(chosen), "resolution": 32, "prompt_set_sha256": prompt_set_hash(chosen)}
        lines.append(line)
    lines[-1] |= {"psnr_db": 25.4, "ssim": 0.93}
    asked = questions(40, 1)
    answers = [q.answer if rng.random() < 0.7 else "red" for q in asked]
    (folder / "understanding").mkdir()
    examples = []
    for question, answer in list(zip(asked, answers, strict=True))[:12]:
        save_png(folder / f"understanding/{question.key}.png", to_image(question.image))
        shown = {"image": f"understanding/{question.key}.png", "question": question.question, "answer": answer}
        examples.append({**shown, "truth": question.answer, "kind": question.kind, "right": answer == question.answer})
    model = {"model": "runs/nano/finetune/artifact", "model_digest": "cd" * 32, "resolution": 32, "dtype": "float32"}
    understanding = {"tasks": as_json(judge(asked, answers)), "examples": examples, "protocol": {"samples": 40}}
    result = {"format": 1, "benchmark": "nano", "model": model, "scores": lines, "understanding": understanding}
    write_json(folder / "scores.json", result | {"seconds": 12.0, "created": "2026-01-01T00:00:00Z"})


def make_samples(folder: Path, *, by_class: bool = False) -> None:
    """What `raexla sample` writes."""
    folder.mkdir(parents=True)
    entries = []
    for row, prompt in enumerate(PROMPTS):
        save_png(folder / f"{row:04d}.png", np.full((3, 32, 32), row / 4))
        asked = {"class": row} if by_class else {"prompt": prompt}
        entries.append({"file": f"{row:04d}.png", **asked, "row": row, "sha256": ""})
    sampling = {"sampler": {"type": "euler", "steps": 25}, "guidance": {"type": "cfg", "scale": 2.0}}
    write_json(
        folder / "manifest.json",
        {"sampling": sampling, "seed": 0, "model": "runs/nano/finetune/artifact", "images": entries},
    )


def make_reconstructions(folder: Path) -> None:
    """What `raexla reconstruct` writes, as far as it is shown."""
    folder.mkdir(parents=True)
    save_png(folder / "sheet.png", np.full((3, 64, 64), 0.5))
    psnr = {"mean": 26.32, "low": 25.69, "high": 26.95, "count": 58, "equal": 2}
    ssim = {"mean": 0.8806, "low": 0.8703, "high": 0.8909, "count": 60, "equal": 0}
    protocol = {"reference_sha256": "ab" * 32, "images": 60, "refused": 1}
    lines = [{"name": name, "psnr": psnr, "ssim": ssim, "protocol": protocol} for name in ("web", "text", "overall")]
    result = {"sources": lines[:2], "overall": lines[2], "codec": {"name": "runs/nano/decoder"}}
    write_json(folder / "reconstruct.json", {**result, "sheet": {"file": "sheet.png", "sha256": ""}})


def make_demo(root: Path) -> Path:
    """The whole folder."""
    data, runs = root / "data", root / "runs"
    write_nano(data, {"pretrain": 60}, processes=1)
    for seed, (stage, steps) in enumerate((("pretrain", 800), ("finetune", 200), ("decoder", 400))):
        make_run(runs / stage, stage, steps, seed, data / "pretrain")
    make_scores(runs / "score")
    make_samples(runs / "samples")
    return runs
