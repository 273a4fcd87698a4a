#!/usr/bin/env python
"""Kill a small training run at random instants, go on each time, and hold it against one that nothing disturbed.

A tiny `pretrain` run is made with `raexla train`, once undisturbed and once killed N times, half of the times while a
checkpoint is being written. Whatever was killed, the run that went on must be the one that was not disturbed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1]))

from chaos_runs.killing import KINDS, PATIENCE, Aim, Hit, Hunter, plan
from chaos_runs.start import Job, Process, forked

OK, FAILED, REFUSED = 0, 1, 2
WIDTHS = (1, 2, 4)
ENDS = {signal.SIGKILL: -9, signal.SIGTERM: 75}
LOST = 76
"""How the other processes of a job end when one is killed."""

RULES = """\
what must hold
  samples    the list of each step's sample uids is that of the undisturbed run and of the data order itself: none
             missing, none twice
  same       devices and processes as they are: every record of metrics.jsonl (but times), every tensor of the last
             checkpoint and the artifact's hashes are equal bit for bit
  random     another number of devices or processes at each start: over 50 steps losses within 1e-4, parameters within
             2e-4; beyond, no more drift than between undisturbed runs on 1 and 4
  TERM       each process ends with exit code 75 and nothing is taken twice
  processes  when one is killed the others end by themselves with exit code 76

exit status: 0 all of it holds, 1 something does not, 2 the options don't fit together."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    made = argparse.ArgumentParser(
        prog="tools/chaos.py",
        description=f"{summary}\n\n{rest}",
        epilog=RULES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--kills", type=int, default=25, metavar="N", help="how often (default 25)")
    made.add_argument("--seed", type=int, default=0, metavar="S", help="draws the instants (default 0)")
    made.add_argument("--runtime", choices=("eager", "xla"), default="eager", help="back end (default eager)")
    made.add_argument(
        "--devices", choices=("same", "random"), default="same", help="xla: 1 device, or 1, 2 or 4 at each start"
    )
    made.add_argument(
        "--processes", choices=("1", "2", "4", "random"), default="1", help="eager: processes over gloo (default 1)"
    )
    made.add_argument("--signal", choices=("KILL", "TERM"), default="KILL", help="how (default KILL)")
    made.add_argument("--steps", type=int, metavar="N", help="of the run (default 4 a kill, at least 60)")
    made.add_argument("--save-every", type=int, default=3, metavar="N", help="steps between checkpoints (default 3)")
    made.add_argument(
        "--start",
        choices=("fork", "exec"),
        help="fork: copies of this program, which has imported everything (default: eager); exec: the command itself",
    )
    made.add_argument("--out", type=Path, metavar="DIR", help="keep runs and logs there (default: a temporary folder)")
    return made


@dataclass
class Setting:
    """What is run, and where."""

    options: argparse.Namespace
    folder: Path
    steps: int
    recipe: Path
    random_width: bool
    fork: bool
    times: dict[str, float] = field(default_factory=dict)

    def start(self, run: str, width: int) -> Job:
        """Start the run `run` on so many devices or processes."""
        arguments = ["train", str(self.recipe), "--out", str(self.folder / run)]
        processes = width
        if self.options.runtime == "xla":
            arguments += ["--set", f"runtime.devices={width}"]
            processes = 1
        return Job(arguments, processes, self.fork, self.folder / f"{run}.log")

    @property
    def width(self) -> int:
        """Devices or processes where they stay the same."""
        return 1 if self.options.runtime == "xla" or self.random_width else int(self.options.processes)


def recipe_of(made: dict[str, str], options: argparse.Namespace, steps: int, every_checkpoint: bool) -> dict[str, Any]:
    """The run: a model of a few thousand parameters, every step recorded, an evaluation now and then."""
    from tests import stages

    runtime: dict[str, Any] = {"type": "eager", "device": "cpu", "peer_timeout_seconds": 300.0}
    if options.runtime == "xla":
        runtime = {"type": "xla", "platform": "cpu", "devices": 1}
    held_out = [
        {"name": "captions", "path": made["finetune"], "kind": "caption", "weight": 2},
        {"name": "questions", "path": made["understanding"], "kind": "conversation", "weight": 1},
    ]
    evaluation = {"every_steps": 10, "sources": held_out, "batches": 1} if options.runtime == "eager" else {}
    return stages.pretrain(
        made,
        "set-by-out",
        runtime=runtime,
        train={"steps": steps, "global_batch_images": 24},
        checkpoint={"every_steps": options.save_every, "keep": steps if every_checkpoint else 2},
        obs={"log_every_steps": 1, "tensorboard": False, "record_uids": True},
        eval=evaluation,
    )


def prepare(options: argparse.Namespace, folder: Path) -> Setting:
    """Make the data, the recipe and the list of samples that the order gives."""
    steps = options.steps or max(60, 4 * options.kills)
    random_width = "random" in (options.devices, options.processes)
    if random_width:  # the step that is compared at must have a checkpoint
        steps = -(-steps // options.save_every) * options.save_every
    setting = Setting(options, folder, steps, folder / "recipe.json", random_width, (options.start or "fork") == "fork")

    def work() -> int:
        from tests import stages

        values = recipe_of(stages.world(folder / "world"), options, steps, random_width)
        setting.recipe.write_text(json.dumps(values, indent=1), encoding="utf-8")
        plain = values | {"runtime": stages.EAGER, "run": {**values["run"], "dir": str(folder / "plain")}}
        task, _ = stages.open_stage(plain)
        with task.open_loader(None) as loader:
            order = [{"step": step + 1, "uids": next(loader).uids} for step in range(steps)]
        (folder / "order.json").write_text(json.dumps(order), encoding="utf-8")
        return 0

    process = Process(forked(work, {}, folder / "prepare.log"), time.monotonic())
    while process.poll() is None:
        time.sleep(0.01)
    if process.code:
        raise RuntimeError((folder / "prepare.log").read_text(encoding="utf-8"))
    return setting


def undisturbed(setting: Setting, run: str, width: int) -> None:
    """A run that nothing happens to; its times are what aims are made of."""
    print(f"undisturbed run {run} ...", flush=True)
    job, hunter, first = setting.start(run, width), Hunter(setting.folder / run, signal.SIGKILL, {}), 0.0
    while not job.ended():
        if not first and hunter.step():
            first = time.monotonic() - job.began
        time.sleep(0.005)
    if any(job.codes):
        raise RuntimeError(f"{run} ended with {job.codes}:\n{_tail(job.log)}")
    metrics = [json.loads(line) for line in (setting.folder / run / "metrics.jsonl").read_text().splitlines()]
    saves = json.loads((setting.folder / run / "run.json").read_text())["saves"]
    setting.times = {
        "start": first,
        "step": 2 * statistics.median(record["seconds"] for record in metrics if "seconds" in record),
        "save": saves["written_seconds"] / max(1, saves["count"]),
    }


def disturbed(setting: Setting, run: str, rng: random.Random) -> tuple[list[Hit], list[int], list[str]]:
    """Kill and go on until all of the plan is done, then let it end; what happened, the widths, what went wrong."""
    number = signal.Signals[f"SIG{setting.options.signal}"]
    hits: list[Hit] = []
    widths: list[int] = []
    wrong: list[str] = []
    aims: list[Aim | None] = [*plan(setting.options.kills, setting.steps, rng), None]
    for aim in aims:
        hunter = Hunter(setting.folder / run, number, setting.times)
        before = hunter.identity()
        widths.append(rng.choice(WIDTHS) if setting.random_width else setting.width)
        job = setting.start(run, widths[-1])
        try:
            hit = hunter.strike(job, aim, before) if aim is not None else None
            if hit is None and not job.wait(PATIENCE):
                raise TimeoutError(f"{run} did not end in {PATIENCE:.0f} s")
        finally:
            job.kill()
        if hit is None:
            if any(job.codes):
                wrong.append(f"a start that was not disturbed ended with {job.codes}:\n{_tail(job.log)}")
                break
            if aim is not None:
                wrong.append(f"the run was done after {len(hits)} of {setting.options.kills} kills: raise --steps")
                break
            continue
        hit.resumes = _newest(setting.folder / run)
        hits.append(hit)
        wrong += judged(hit, number, job)
        print(line_of(hit, len(hits), widths[-1], setting.options), flush=True)
    return hits, widths, wrong


def judged(hit: Hit, number: signal.Signals, job: Job) -> list[str]:
    """What is wrong with how the processes ended."""
    expected = [ENDS[number]] * len(hit.codes)
    if number == signal.SIGKILL:
        expected = [-9 if process == hit.victim else LOST for process in range(len(hit.codes))]
    wrong = []
    if hit.codes != expected:
        wrong.append(
            f"exit codes {hit.codes}, expected {expected}, when struck {KINDS[hit.aim.kind]}:\n{_tail(job.log)}"
        )
    if number == signal.SIGTERM and hit.resumes != hit.step:
        wrong.append(f"a stop lost steps: {hit.step} were taken, the checkpoint is of step {hit.resumes}")
    return wrong


def line_of(hit: Hit, number: int, width: int, options: argparse.Namespace) -> str:
    """One kill for a person."""
    what = "devices" if options.runtime == "xla" else "processes"
    where = f"writing {', '.join(hit.left)}" if hit.in_save else KINDS[hit.aim.kind]
    codes = ",".join(str(code) for code in hit.codes)
    return (
        f"  {number:3d}  {width} {what:9}  after {hit.seconds:6.2f} s  step {hit.step:4d}  goes on from "
        f"{hit.resumes:4d}  exit {codes:12}  {where}"
    )


def _newest(run: Path) -> int:
    """The step of the newest complete checkpoint; 0 for none."""
    found = [path.parent.name for path in (run / "checkpoints").glob("step-*/complete.json")]
    return max((int(name.removeprefix("step-")) for name in found), default=0)


def _tail(log: Path) -> str:
    return "\n".join(f"    {line}" for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])


def compared(setting: Setting, references: Sequence[str], run: str) -> list[str]:
    """Hold the run against the undisturbed ones and print the figures; what is wrong."""
    from chaos_runs.compare import bit_for_bit, same_samples, within

    folder, steps = setting.folder, setting.steps
    order = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    wrong = [line for name in (*references, run) for line in same_samples(order, folder / name, steps)]
    print(f"samples: {steps} steps x 24 uids of {run} and {', '.join(references)} against the data order: ", end="")
    print("FAIL" if wrong else "the same, none missing, none twice")
    one = folder / references[0]
    if setting.random_width:
        found = within(one, folder / run, steps, (one, folder / references[1]))
        for name, value in found.figures.items():
            print(f"  {name}: {value:.2e}")
    else:
        found = bit_for_bit(one, folder / run, steps)
        records, count = found.figures["records"], found.figures["tensors"]
        print(f"bit for bit: {records} records, {count} tensors, the artifact: {'FAIL' if found.wrong else 'equal'}")
    left = sorted(path.name for path in (folder / run / "checkpoints").iterdir() if path.name.startswith("."))
    if left:
        wrong.append(f"half-done checkpoints were left behind: {left}")
    return wrong + found.wrong


def refused(options: argparse.Namespace) -> str | None:
    """What does not fit together in the options."""
    if options.runtime == "eager" and options.devices == "random":
        return "the eager back end has one device a process: use --processes random, or --runtime xla"
    if options.runtime == "xla" and options.processes != "1":
        return "several processes cannot form one XLA job on a CPU: use --runtime eager"
    if options.kills < 0:
        return f"--kills is {options.kills}"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = parser().parse_args(arguments)
    problem = refused(options)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return REFUSED
    began = time.monotonic()
    options.start = options.start or ("exec" if options.runtime == "xla" else "fork")
    if options.runtime == "xla":
        from tests.harness import QUICK

        os.environ.setdefault("XLA_FLAGS", QUICK)
    if options.start == "fork":
        _import_what_runs_need(options.runtime)
    folder = options.out or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        wrong = run_all(options, folder.resolve(), began)
    finally:
        if options.out is None:
            shutil.rmtree(folder, ignore_errors=True)
    for line in wrong:
        print(f"FAIL: {line}")
    return FAILED if wrong else OK


def _import_what_runs_need(runtime: str) -> None:
    """Then no copy of this program has to; the larger part of a start of so small a run."""
    import transformers.models.qwen2.modeling_qwen2
    import transformers.models.siglip.modeling_siglip  # noqa: F401

    import raexla.train.stages  # noqa: F401

    if runtime == "xla":
        os.environ["PJRT_DEVICE"] = "CPU"
        import torch_xla.runtime  # noqa: F401  starts no client

    threads = len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").is_dir() else 1
    if threads > 1:
        raise RuntimeError(
            f"{threads} threads run after the imports: a copy of this program would lack them; --start exec"
        )


def run_all(options: argparse.Namespace, folder: Path, began: float) -> list[str]:
    """Everything, in its order; what is wrong."""
    rng = random.Random(options.seed)
    setting = prepare(options, folder)
    references = ["undisturbed"]
    undisturbed(setting, references[0], setting.width)
    if setting.random_width:
        times = setting.times
        references.append("undisturbed-4")
        undisturbed(setting, references[1], 4)
        setting.times = times
    typical = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in setting.times.items())
    print(f"{setting.steps} steps, saved every {options.save_every}; typical: {typical}; seed {options.seed}")
    hits, widths, wrong = disturbed(setting, "disturbed", rng)
    if not wrong:
        wrong = compared(setting, references, "disturbed")
    in_save = sum(hit.in_save for hit in hits)
    again = sum(max(0, hit.step - hit.resumes) for hit in hits)
    kinds = ", ".join(
        f"{sum(h.aim.kind == kind and not h.in_save for h in hits)} {said}" for kind, said in KINDS.items()
    )
    others = [hit.others_seconds for hit in hits if len(hit.codes) > 1]
    print(
        f"SIG{options.signal} x {len(hits)} on {options.runtime} ({options.start}): {in_save} while a checkpoint was "
        f"being written; others, by aim: {kinds}; {again} steps were taken again; widths {sorted(set(widths))}; "
        + (f"the other processes ended within {max(others):.1f} s; " if others else "")
        + f"{time.monotonic() - began:.0f} s"
    )
    return wrong


if __name__ == "__main__":
    sys.exit(main())
