"""`stallwatch analyze` from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from stallwatch.detector.cli import build


def analyze(*arguments: object) -> Result:
    """The command as a user gives it, in this process."""
    given = ["analyze", *map(str, arguments)]
    return CliRunner().invoke(build(given), given)


def curve(size: int = 1200, flat_from: float = 1.0, seed: int = 1) -> np.ndarray:
    steps = np.arange(size)
    loss = 1 + 4 * (1 + steps / 20) ** -0.7
    loss[int(flat_from * size) :] = loss[min(int(flat_from * size), size - 1)]
    return loss + np.random.default_rng(seed).normal(0, 0.01, size)


def write(path: Path, loss: np.ndarray) -> Path:
    rows = "".join(
        f"{step},{value:.6f},{1.7e9 + step * 30:.0f}\n" for step, value in enumerate(loss.tolist())
    )
    path.write_text(f"step,loss,timestamp\n{rows}")
    return path


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """A log that is flat after 30 %."""
    return write(tmp_path / "flat.csv", curve(flat_from=0.3))


@pytest.fixture
def falling(tmp_path: Path) -> Path:
    """A log that falls to its end."""
    return write(tmp_path / "falling.csv", curve())


def test_a_plateau_is_told_with_its_cost_and_what_to_do(flat: Path):
    """Verdict, onset, reason, forecast, cost and next step, on standard output; exit code 3."""
    result = analyze(flat)
    assert result.exit_code == 3
    for words in ("Plateau since step", "Why", "Forecast", "of the run without learning", "Next"):
        assert words in result.stdout
    assert " h of 10.0 h" in result.stdout
    assert not result.stderr


def test_a_run_that_learns_ends_with_zero(falling: Path):
    """Nothing wrong found."""
    result = analyze(falling)
    assert result.exit_code == 0
    assert "mproving" in result.stdout


def test_json_of_one_run_is_an_object_and_of_several_an_array(flat: Path, falling: Path):
    """The shape that scripts rely on."""
    one = json.loads(analyze(flat, "--json").stdout)
    assert one["summary"]["state"] == one["states"][-1]["state"] == "plateau"
    assert one["axis"] == "step"
    assert 250 <= one["states"][-1]["since_step"] <= one["states"][-1]["from_step"] <= 1199
    several = json.loads(analyze("--json", flat, falling).stdout)
    assert [entry["file"] for entry in several] == [str(flat), str(falling)]


def test_several_runs_are_compared_in_a_table(tmp_path: Path, flat: Path, falling: Path):
    """A folder is all its logs; the worst decides the exit code."""
    result = analyze(tmp_path)
    assert result.exit_code == 3
    assert "2 runs, 1 of them no longer learning at their end." in result.stdout


def test_evaluations_beside_the_training_loss_are_heard(tmp_path: Path):
    """Training falls, evaluation rises: that is a finding of its own."""
    loss = curve(2000)
    path = tmp_path / "run.csv"
    noise = np.random.default_rng(4).normal(0, 0.05, 40)
    rows = [f"{step},{value}," for step, value in enumerate(loss.tolist())]
    for index, step in enumerate(range(0, 2000, 50)):
        held_out = 2 + 3 * np.exp(-index / 3) + 0.03 * max(0, index - 12) + noise[index]
        rows.append(f"{step},,{held_out}")
    rows.sort(key=lambda row: int(row.split(",")[0]))
    path.write_text("\n".join(["step,loss,eval_loss", *rows]) + "\n")
    document = json.loads(analyze(path, "--json").stdout)
    assert "overfitting" in {finding["kind"] for finding in document["findings"]}


def test_nan_in_the_log_is_a_critical_finding(tmp_path: Path):
    """What the source logged as NaN is told with its step, and is no invalid JSON."""
    loss = curve(400)
    loss[300:] = np.nan
    document = json.loads(
        analyze(write(tmp_path / "nan.csv", loss), "--json").stdout, parse_constant=pytest.fail
    )
    (finding,) = [finding for finding in document["findings"] if finding["kind"] == "non_finite"]
    assert (finding["severity"], finding["since_step"], finding["status"]) == ("critical", 300, "firing")


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_single_point_is_too_early_to_say(tmp_path: Path, arguments: tuple[str, ...]):
    """Little data is no error."""
    path = tmp_path / "run.csv"
    path.write_text("step,loss\n1,2\n")
    result = analyze(path, *arguments)
    assert result.exit_code == 0
    assert "too few" in result.stdout


@pytest.mark.parametrize("value", ["2", "nan"])
def test_a_constant_or_missing_loss_has_a_verdict(tmp_path: Path, value: str):
    """Degenerate logs end in a sentence, never in a traceback."""
    path = tmp_path / "run.csv"
    path.write_text("step,loss\n" + "".join(f"{step},{value}\n" for step in range(300)))
    assert analyze(path).exit_code in {0, 3}
    assert analyze(path, "--json").exit_code in {0, 3}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.csv", "", "the file is empty"),
        ("other.csv", "step,reward\n1,2\n", "no loss column found; name it with --loss"),
        ("text.csv", "step,loss\n1,3\n2,oops\n", "line 3, column 'loss': 'oops' is not a number"),
        ("settings.json", '{"layers": 2}', "not a training log of a known kind"),
        ("notes.txt", "hello\n", "not a training log of a known kind"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_and_exit_code_two(
    tmp_path: Path, name: str, content: str, says: str
):
    """On standard error, naming the file."""
    path = tmp_path / name
    path.write_text(content)
    result = analyze(path)
    assert result.exit_code == 2
    assert not result.stdout
    assert result.stderr.startswith(f"stallwatch analyze: {path}: ")
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_wrong_usage_is_exit_code_two(tmp_path: Path, flat: Path):
    """No path, a path that is not there, an unknown kind of picture, a column that is not there."""
    for arguments in (
        (),
        (tmp_path / "nowhere",),
        (flat, "--plot", "x.gif"),
        (flat, "--loss", "nll"),
        (flat, "--total-steps", 0),
    ):
        assert analyze(*arguments).exit_code == 2


def test_one_bad_file_among_good_ones_is_said_and_passed_over(tmp_path: Path, falling: Path):
    """The others are told; the exit code says that one was missed."""
    (tmp_path / "bad.csv").write_text("step,loss\n1,oops\n")
    result = analyze(falling, tmp_path / "bad.csv")
    assert result.exit_code == 2
    assert "falling" in result.stdout
    assert "bad.csv: line 2" in result.stderr


def test_other_files_in_a_folder_are_counted_and_passed_over(tmp_path: Path, falling: Path):
    """Settings and rewards lie beside every log."""
    (tmp_path / "config.json").write_text('{"layers": 2}')
    result = analyze(tmp_path)
    assert result.exit_code == 0
    assert "passed over 1 file without a training log" in result.stderr


def test_columns_can_be_told_on_the_command_line(tmp_path: Path):
    """Names that say nothing."""
    path = tmp_path / "run.csv"
    path.write_text("a,b\n" + "".join(f"{index * 10},{3 - index / 100}\n" for index in range(100)))
    document = json.loads(analyze(path, "--json", "--loss", "b", "--step", "a").stdout)
    assert document["summary"]["last_step"] == 990


@pytest.mark.parametrize("suffix", [".png", ".svg", ".html"])
def test_pictures_are_drawn(tmp_path: Path, flat: Path, falling: Path, suffix: str):
    """One run or several; HTML holds everything itself."""
    pytest.importorskip("matplotlib")
    file = tmp_path / f"curve{suffix}"
    assert analyze(flat, falling, "--plot", file).exit_code == 3
    content = file.read_bytes()
    if suffix == ".png":
        assert content.startswith(b"\x89PNG")
        return
    text = content.decode()
    assert "<svg" in text
    if suffix == ".html":
        assert text.count("<svg") == 2
        assert "src=" not in text
        assert "<script" not in text
        assert "flat" in text


def test_heavy_libraries_are_left_alone_for_a_small_file(falling: Path):
    """Starting fast is part of the command: a script may call it for each of hundreds of files."""
    script = (
        "import sys; from stallwatch.detector.cli import build\n"
        f"given = ['analyze', '--json', {str(falling)!r}]\n"
        "build(given)(given, standalone_mode=False)\n"
        "heavy = {'torch', 'ray', 'pandas', 'matplotlib', 'tensorboard', 'grpc', 'rich.console', 'scipy.stats'}\n"
        "sys.exit(', '.join(sorted(heavy & sys.modules.keys())) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [("--json",), ("--plot", "curve.png"), ("-v",)])
def test_the_extra_of_analyze_is_enough(tmp_path: Path, falling: Path, arguments: tuple[str, ...]):
    """With nothing importable but what `stallwatch[analyze]` names, and what that brings along."""
    pytest.importorskip("matplotlib")
    script = (
        "import sys\n"
        "barred = {'ray', 'grpc', 'google', 'msgspec', 'pydantic_settings', 'sqlalchemy', 'starlette', 'uvicorn', 'httpx', 'jinja2', "
        "'cryptography', 'prometheus_client', 'torch'}\n"
        "class Bar:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in barred: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Bar())\n"
        "from stallwatch.detector.cli import build\n"
        f"given = ['analyze', {str(falling)!r}, *{list(arguments)!r}]\n"
        "build(given)(given, standalone_mode=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_several_runs_are_sorted_and_their_differences_shown(tmp_path: Path):
    """The best loss first; settings that lie beside the logs say why."""
    for name, level, rate in (("a", 3.0, 0.1), ("b", 1.0, 0.01)):
        folder = tmp_path / name
        folder.mkdir()
        write(folder / "metrics.csv", curve(300) + level)
        (folder / "args.json").write_text(json.dumps({"lr": rate, "model": {"layers": 4}}))
    said = analyze(tmp_path).stdout
    assert said.index("\nb ") < said.index("\na ")
    (row,) = [line for line in said.splitlines() if line.startswith("lr ")]
    assert row.split() == ["lr", "0.01", "0.1"]
    assert "model.layers" not in said
    given = analyze(tmp_path, "--sort", "name").stdout
    assert given.index("\na ") < given.index("\nb ")
    assert analyze(tmp_path, "--sort", "colour").exit_code == 2


def test_json_lines_are_an_object_a_line(flat: Path, falling: Path):
    """For one run as for several."""
    assert len(analyze(flat, "--json-lines").stdout.splitlines()) == 1
    files = [json.loads(line)["file"] for line in analyze(flat, falling, "--json-lines").stdout.splitlines()]
    assert files == [str(flat), str(falling)]


def test_how_a_log_was_read_is_said_on_request(tmp_path: Path):
    """Which key played which role, example lines, and what was left."""
    path = tmp_path / "train.log"
    path.write_text("hello\n" + "".join(f"step {i} loss {3 - i / 100:.3f}\n" for i in range(50)))
    said = analyze(path, "-v").stdout
    for words in (
        "loss: 'loss'",
        "step: 'step'",
        "50 lines with step, loss: step 0 loss 3.000",
        "1 of 51 lines were left",
    ):
        assert words in said


def test_losses_can_be_added_up_on_the_command_line(tmp_path: Path):
    """`--loss` may be given several times."""
    path = tmp_path / "train.log"
    path.write_text("".join(f"step {i} a_loss 1.5 b_loss {3 - i / 100:.3f} c_loss 9\n" for i in range(50)))
    document = json.loads(analyze(path, "--json", "--loss", "a_loss", "--loss", "b_loss").stdout)
    assert document["summary"]["column"] == "a_loss+b_loss"
