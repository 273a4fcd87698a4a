"""The command line: verbs on recipes, one line for every user error, exit codes."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raexla import cli
from raexla.recipe import BadDataError, StopRequested, UserError, load_text, show
from tests.unit.recipe.toy import BASE, STAGES


@pytest.fixture(autouse=True)
def toy_stages(tmp_path, monkeypatch):
    """The toy stages instead of the real ones, in a folder with one recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "stage_types", lambda: STAGES)
    Path("base.yaml").write_text(BASE)


def run(*arguments: str) -> int:
    return cli.main(arguments)


def test_recipe_show_prints_what_loads_back(capsys):
    assert run("recipe", "show", "base.yaml", "--set", "train.steps=7", "--set", "mesh.data=2") == 0
    out = capsys.readouterr().out
    assert out == show(load_text(BASE, STAGES, ["train.steps=7", "mesh.data=2"]))


def test_recipe_schema_prints_json(capsys):
    assert run("recipe", "schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "raexla recipe"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["recipe", "show", "bsae.yaml"], "error: no recipe bsae.yaml; did you mean base.yaml?"),
        (
            ["recipe", "show", "base.yaml", "--set", "train.stps=1"],
            "error: --set train.stps=1: train.stps: unknown key; did you mean 'steps'?",
        ),
        (["recipe", "show"], "error: Missing argument 'RECIPE' (see raexla recipe show --help)"),
        (
            ["recipe", "show", "base.yaml", "x"],
            "error: Got unexpected extra argument(s) (x) (see raexla recipe show --help)",
        ),
        (["recipe", "shwo"], "error: No such command 'shwo'. Did you mean 'show'? (see raexla recipe --help)"),
        (["nonesuch"], "error: No such command 'nonesuch' (see raexla --help)"),
        (["--nope"], "error: No such option: --nope (see raexla --help)"),
    ],
)
def test_a_user_error_is_one_line_and_exit_code_2(capsys, arguments, line):
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", line + "\n")


def test_a_missing_file_is_said_before_the_models_are_imported(monkeypatch, capsys):
    monkeypatch.setattr(cli, "stage_types", lambda: pytest.fail("imported"))
    assert run("recipe", "show", "nope.yaml") == 2
    assert capsys.readouterr().err.startswith("error: no recipe nope.yaml")


def test_several_problems_are_a_line_each(capsys):
    Path("child.yaml").write_text("extends: base.yaml\ntrain: {steps: x, clip: y}\n")
    assert run("recipe", "show", "child.yaml") == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: the recipe has 2 problems",
        "  child.yaml:2: train.steps: is 'x', must be a whole number",
        "  child.yaml:2: train.clip: is 'y', must be a number",
    ]


@pytest.mark.parametrize(
    ("raised", "code", "err"),
    [
        (UserError("no such thing"), 2, "error: no such thing\n"),
        (BadDataError("6% of 100 images, over 5%"), 3, "error: 6% of 100 images, over 5%\n"),
        (StopRequested("saved step 12"), 75, "saved step 12\n"),
        (StopRequested(), 75, "stopped as requested and saved; the same command resumes\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_exit_codes(monkeypatch, capsys, raised, code, err):
    def stages():
        raise raised

    monkeypatch.setattr(cli, "stage_types", stages)
    assert run("recipe", "schema") == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", err)


def test_anything_else_is_a_bug_with_its_traceback(monkeypatch, capsys):
    def stages():
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(cli, "stage_types", stages)
    assert run("recipe", "schema") == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "ZeroDivisionError: oops" in err
    assert "please report it" in err.splitlines()[-1]


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("raexla 0.")


def test_without_a_verb_the_help_is_printed(capsys):
    assert run() == 2
    captured = capsys.readouterr()
    assert "Usage: raexla" in captured.out
    assert captured.err == ""


def test_help_is_quick_and_imports_no_torch():
    code = (
        "import sys\nfrom raexla.cli import main\nassert main(['--help']) == 0\n"
        "assert not {'torch', 'numpy', 'pydantic', 'transformers'} & set(sys.modules)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    assert seconds < 5  # about 0.5 on an idle core; the bound leaves room for a busy machine


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "raexla", "no-such-verb"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: No such command 'no-such-verb' (see raexla --help)\n"
