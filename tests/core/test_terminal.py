"""Laws of the command line's frame: exit codes, answers, progress, Ctrl-C."""

from __future__ import annotations

import json
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from metalora_core.commands import cli, terminal
from metalora_core.errors import MetaLoRAError, RankMismatch, TrainingCancelled
from metalora_core.evaluation.report.tables import table


@dataclass
class Step:
    step: int
    steps: int = 3
    loss: float = 0.5


def fails(error: BaseException):
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MetaLoRAError("no"), 1),
        (FileNotFoundError("gone"), 1),
        (TrainingCancelled("stopped"), 130),
        (KeyboardInterrupt(), 130),
        (SystemExit(2), 2),
        (SystemExit(None), 0),
    ],
)
def test_exit_codes(error: BaseException, code: int) -> None:
    assert terminal.run(fails(error), as_json=False) == code


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        terminal.run(fails(ZeroDivisionError()), as_json=False)


def test_an_error_is_text_for_people_and_json_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.run(fails(RankMismatch("mid has 3 columns, 4 were expected")), as_json=True)
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"error": "mid has 3 columns, 4 were expected", "kind": "RankMismatch"}
    assert captured.err == "error: mid has 3 columns, 4 were expected\n"


def test_a_terminal_is_given_nothing_of_a_strangers_to_obey(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.answer({}, "name \x1b[2Jcleared\r\nnext \u202eline", as_json=False)
    terminal.remark("called \x07bell")
    assert capsys.readouterr() == ("name  [2Jcleared \nnext  line\n", "note: called  bell\n")


def test_what_the_library_logs_is_a_note_while_a_command_runs(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("metalora_core.training")
    terminal.run(lambda: logger.info("step 100 loss 0.5"), as_json=False)
    logger.info("nobody listens")
    assert capsys.readouterr().err == "note: step 100 loss 0.5\n"


def test_table_columns_line_up() -> None:
    lines = table([("method", "error"), ("plain LoRA", "0.1"), ("x", "12.25")]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[3].endswith("12.25")


def test_first_ctrl_c_ends_after_the_step_and_the_second_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, checkpoint = signal.getsignal(signal.SIGINT), tmp_path / "c.safetensors"
    with terminal.progress_bars(quiet=True, checkpoint=checkpoint) as bars:
        show = bars("learning")
        show(Step(1))
        os.kill(os.getpid(), signal.SIGINT)
        assert "again to stop at once" in capsys.readouterr().err
        with pytest.raises(TrainingCancelled, match="after step 2"):
            show(Step(2))
    for words in ("no step was saved", "resumes from .*c.safetensors"):
        with (
            pytest.raises(TrainingCancelled, match=words),
            terminal.progress_bars(quiet=True, checkpoint=checkpoint),
        ):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        checkpoint.touch()
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_anywhere_else_is_told_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal.run(fails(SystemExit(130)), as_json=False) == 130
    assert "No file was left half-written" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["adapt"], ["inspect"], ["no-such-command"], ["demo", "--photo-count", "9"]])
def test_wrong_usage_exits_with_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("demo", "adapt", "generate", "export", "inspect", "meta-train", "pocket"))


def test_no_word_is_a_question_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([])
    captured = capsys.readouterr()
    assert "demo" in captured.out + captured.err
