"""Laws of several processes that make one prior together."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from random import Random

import pytest
import torch
import torch.distributed as dist
from core.disk_limits import file_size_limit
from core.test_meta_training import DESIGNS, OPTIONS, same, tensors
from core.toy_host import ToyHost, ToySubjects

from metalora_core import meta_training
from metalora_core.commands import cli
from metalora_core.errors import InvalidOptions, TrainingCancelled
from metalora_core.files.checkpoint import load_checkpoint
from metalora_core.files.prior import Prior, load_prior, save_prior
from metalora_core.files.row_file import row_files
from metalora_core.meta_training import meta_train
from metalora_core.photos.pictures import save_picture, to_pil
from metalora_core.training import ranks as ranks_module
from metalora_core.training.batches import Batch
from metalora_core.training.meta_options import MetaTrainingOptions
from metalora_core.training.progress import MetaTrainingProgress
from metalora_core.training.ranks import Ranks
from metalora_core.training.subject_batches import SubjectBatches

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied")
ROOT = Path(__file__).resolve().parents[2]
SHORT = replace(OPTIONS, steps=12, subjects_per_batch=1, read_every=1, checkpoint_every=1)
_LAUNCHES = count()
Work = Callable[[int], None]


def launch(ranks: int, work: Work, folder: Path, happens: Callable[[list[int]], None] | None = None) -> list[int]:
    """Run something in several copies of this process that know each other; returns their exit codes.

    As torchrun does it: if one does not end well, the others are ended.
    """
    store = f"file://{folder / f'.store-{next(_LAUNCHES)}'}"
    processes = [os.fork() or _be(rank, ranks, store, work) for rank in range(ranks)]
    if happens is not None:
        happens(processes)
    codes = dict[int, int]()
    while len(codes) < ranks:
        process, status = os.wait()
        codes[process] = os.waitstatus_to_exitcode(status)
        for other in processes:
            if codes[process] and other not in codes:
                os.kill(other, signal.SIGKILL)
    return [codes[process] for process in processes]


def _be(rank: int, ranks: int, store: str, work: Work) -> int:
    try:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        wait = timedelta(seconds=60)
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks, timeout=wait)
        work(rank)
        os._exit(0)
    except BaseException:  # noqa: BLE001 - this process is a copy that must not get back into the tests
        traceback.print_exc()
    finally:
        os._exit(1)


def trained(
    folder: Path, ranks: int, options: MetaTrainingOptions, happens: Callable[[list[int]], None] | None = None
) -> list[Prior] | None:
    """The priors that ranks end with, or None if they did not; the checkpoint is in the same folder."""

    def work(rank: int) -> None:
        made = meta_train(ToyHost(), ToySubjects(), options, checkpoint=folder / "c.safetensors", save=lambda own: own)
        save_prior(folder / f"{rank}.prior", made)

    if any(launch(ranks, work, folder, happens)):
        return None
    return [load_prior(folder / f"{rank}.prior") for rank in range(ranks)]


class Both:
    """What two ranks draw, in one batch."""

    def __init__(self, host: ToyHost, subjects: ToySubjects, options: MetaTrainingOptions, ranks: Ranks) -> None:
        self.parts = [SubjectBatches(host, subjects, options, Ranks(rank, 2)) for rank in range(2)]
        self.samples = 2 * self.parts[0].samples

    def encode_captions(self) -> None:
        for part in self.parts:
            part.encode_captions()

    def subjects_at(self, step: int) -> list[int]:
        return [subject for part in self.parts for subject in part.subjects_at(step)]

    def draw(self, subjects: list[int], step: int, role: str, episode: int) -> Batch:
        half = len(subjects) // 2
        owned = zip(self.parts, (subjects[:half], subjects[half:]), strict=True)
        return Batch.joined([part.draw(own, step, role, episode) for part, own in owned])


@pytest.mark.parametrize("design", ["joint", "learned", "on the way"])
def test_two_ranks_end_with_one_prior_that_of_a_process_that_sees_the_subjects_of_both(
    design: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    options = replace(DESIGNS[design], subjects_per_batch=2)
    found = trained(tmp_path, 2, options)
    assert found is not None and same(*found)
    monkeypatch.setattr(meta_training, "SubjectBatches", Both)
    alone = meta_train(ToyHost(), ToySubjects(), options)
    for name, value in tensors(alone).items():
        torch.testing.assert_close(tensors(found[0])[name], value, rtol=1e-2, atol=1e-3)
    assert found[0].metadata.training["final_loss"] == pytest.approx(alone.metadata.training["final_loss"], rel=1e-3)


def test_a_group_of_one_is_a_process_alone(tmp_path: Path):
    found = trained(tmp_path, 1, OPTIONS)
    assert found is not None and same(found[0], meta_train(ToyHost(), ToySubjects(), OPTIONS))


@pytest.mark.parametrize("everybody", [False, True], ids=["one rank", "all"])
def test_killed_at_any_moment_the_next_run_ends_bit_identical_to_unbroken(everybody: bool, tmp_path: Path):
    random, folder = Random(everybody), tmp_path / "broken"
    began = time.monotonic()
    unbroken = trained(tmp_path, 2, SHORT)
    seconds = time.monotonic() - began
    folder.mkdir()

    def kill(processes: list[int]) -> None:
        time.sleep(random.random() * seconds)
        for process in processes if everybody else [random.choice(processes)]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    assert unbroken is not None
    for _ in range(2):
        for _ in range(2):
            trained(folder, 2, SHORT, kill)
        found = trained(folder, 2, SHORT)
        assert found is not None and same(found[0], unbroken[0]) and same(*found)
        left = {path.name for path in folder.iterdir() if not path.name.startswith((".metalora-", ".store-"))}
        assert left == {"0.prior", "1.prior"}


def test_another_number_of_ranks_takes_over_the_rows_of_every_subject(tmp_path: Path):
    path = tmp_path / "c.safetensors"

    def work(rank: int) -> None:
        save_prior(tmp_path / f"{rank}.prior", meta_train(ToyHost(), ToySubjects(), SHORT, checkpoint=path))

    first, rows = None, list[list[tuple[float, int]]]()
    for ranks in (4, 2, 3, 1, 4):
        assert not any(launch(ranks, work, tmp_path))
        assert [one.name for one in row_files(path)] == [f"{path.name}.rows-{i + 1}-of-{ranks}" for i in range(ranks)]
        kept = load_checkpoint(path, kind="meta-training").tensors
        # The second column is a checksum of the row as it was in the rank's memory.
        rows.append(list(zip(kept["bank.visits"].tolist(), kept["bank.rows"][:, 1].tolist(), strict=True)))
        assert rows[-1] == rows[0] and len({*rows[0]}) == len(ToySubjects()) and all(visits for visits, _ in rows[0])
        prior = load_prior(tmp_path / f"{ranks - 1}.prior")
        first = first or prior
        for name, value in tensors(first).items():
            torch.testing.assert_close(tensors(prior)[name], value, rtol=1e-6, atol=1e-8)


def test_what_stops_the_first_rank_stops_all_of_them_and_is_resumed(tmp_path: Path):
    options = replace(SHORT, checkpoint_every=100)
    unbroken = trained(tmp_path, 2, options)

    def stop(progress: MetaTrainingProgress) -> None:
        if progress.step == 5:
            raise TrainingCancelled("enough")

    def work(rank: int) -> None:
        with pytest.raises(TrainingCancelled, match="Another rank stopped" if rank else "enough"):
            meta_train(
                ToyHost(), ToySubjects(), options, checkpoint=tmp_path / "c.safetensors", save=lambda own: own,
                on_progress=None if rank else stop,
            )  # fmt: skip

    assert not any(launch(2, work, tmp_path)) and (tmp_path / "c.safetensors").exists()
    found = trained(tmp_path, 2, options)
    assert found is not None and unbroken is not None and same(found[0], unbroken[0])


@pytest.mark.parametrize("part", [0, 1])
def test_one_damaged_part_lets_all_ranks_start_over(part: int, tmp_path: Path):
    path = tmp_path / "c.safetensors"

    def work(rank: int) -> None:
        logging.getLogger("metalora_core").addHandler(logging.FileHandler(tmp_path / f"{rank}.log"))
        meta_train(ToyHost(), ToySubjects(), replace(SHORT, steps=4), checkpoint=path)

    assert not any(launch(2, work, tmp_path))
    whole = [one.read_bytes() for one in (path, *row_files(path))]
    row_files(path)[part].write_bytes(whole[1 + part][:-1] + b"\x77")
    assert not any(launch(2, work, tmp_path))
    assert [one.read_bytes() for one in (path, *row_files(path))] == whole
    assert len(list(tmp_path.glob("*.damaged"))) == 3
    said = [(tmp_path / f"{rank}.log").read_text() for rank in range(2)]
    assert f"rows-{part + 1}-of-2 was changed" in said[part] and "moved aside" in said[0]
    assert "Another rank failed; its own message says why." in said[1 - part]


def test_a_checkpoint_that_not_every_rank_sees_is_refused_by_all(tmp_path: Path):
    def work(rank: int) -> None:
        meta_train(ToyHost(), ToySubjects(), replace(SHORT, steps=2), checkpoint=tmp_path / "0" / "c.safetensors")
        with pytest.raises(InvalidOptions, match=r"Not every rank sees the checkpoint in .*; put --output on a"):
            meta_train(ToyHost(), ToySubjects(), SHORT, checkpoint=tmp_path / str(rank) / "c.safetensors")

    assert not any(launch(2, work, tmp_path))


def test_latents_that_differ_between_cards_in_their_last_bits_are_the_same_run(tmp_path: Path):
    class Rounded(ToySubjects):
        def latents_of(self, subject: int) -> torch.Tensor:
            return super().latents_of(subject) * (1 + 1e-6 * dist.get_rank())

    def work(rank: int) -> None:
        for _ in range(2):
            meta_train(ToyHost(), Rounded(), replace(SHORT, steps=2), checkpoint=tmp_path / "c.safetensors")

    assert not any(launch(2, work, tmp_path)) and not list(tmp_path.glob("*.damaged"))


@pytest.mark.parametrize("other", ["subjects", "photos", "options"])
def test_ranks_that_were_not_started_alike_all_refuse(other: str, tmp_path: Path):
    def work(rank: int) -> None:
        subjects = ToySubjects(6 - (rank and other == "subjects"), 4 - (rank and other == "photos"))
        options = replace(SHORT, seed=int(rank and other == "options"))
        with pytest.raises(InvalidOptions, match="do not all have the same options, photos and captions; this one has"):
            meta_train(ToyHost(), subjects, options)

    assert not any(launch(2, work, tmp_path))


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_rank_answers(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "mug").mkdir()
    save_picture(to_pil(torch.zeros(3, 64, 64)), tmp_path / "mug" / "photo.png")

    def joined(device: str) -> tuple[Ranks, str]:
        return Ranks(rank, 2), device

    monkeypatch.setattr(ranks_module, "joined", joined)
    words = ["meta-train", str(tmp_path), "--class-word", "mug", "--output", str(tmp_path / "mugs.safetensors")]
    with pytest.raises(SystemExit, match="0"):
        cli.main([*words, "--dry-run", "--json"])
    said = capsys.readouterr().out
    assert json.loads(said)["subjects"] == ["mug"] if rank == 0 else not said


def test_a_disk_that_fills_up_on_one_rank_costs_the_checkpoint_and_not_the_run(tmp_path: Path):
    unbroken = trained(tmp_path, 2, SHORT)
    folder = tmp_path / "full"
    folder.mkdir()

    def work(rank: int) -> None:
        with file_size_limit(100 if rank else 1_000_000):
            made = meta_train(ToyHost(), ToySubjects(), SHORT, checkpoint=folder / "c.safetensors")
        assert unbroken is not None and same(made, unbroken[0])

    assert not any(launch(2, work, folder))
    assert not [path for path in folder.iterdir() if path.name.startswith("c.")]


def test_a_batch_has_to_find_its_subjects_on_every_rank():
    with pytest.raises(InvalidOptions, match="batch size is 2 subjects, but the data set has 6 for 4 ranks"):
        SubjectBatches(ToyHost(), ToySubjects(), replace(OPTIONS, subjects_per_batch=2), Ranks(3, 4))


def test_torchrun_trains_one_prior_and_a_killed_rank_is_resumed(tmp_path: Path):
    for number in range(4):
        (tmp_path / "photos" / f"mug_{number}").mkdir(parents=True)
        photo = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(number))
        save_picture(to_pil(photo), tmp_path / "photos" / f"mug_{number}" / "photo.png")

    def started(name: str) -> subprocess.Popen[str]:
        output = tmp_path / name / "mugs.safetensors"
        words = ["meta-train", str(tmp_path / "photos"), "--class-word", "mug", "--output", str(output)]
        words += ["--size", "32", "--steps", "20", "--batch", "2", "--r-meta", "4", "--r-mid", "2", "--json"]
        words += ["--set", "checkpoint_every=1", "--set", "read_every=1"]
        run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        places = {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [*run, "-m", "metalora_core", *words], cwd=ROOT, env=os.environ | places, stdout=subprocess.PIPE, text=True
        )

    whole = started("whole")
    answer = json.loads(whole.communicate()[0])
    assert whole.returncode == 0 and answer["subjects"] == 4
    broken = started("broken")
    while not (tmp_path / "broken" / "mugs.checkpoint.safetensors").exists() and broken.poll() is None:
        time.sleep(0.05)
    workers = Path(f"/proc/{broken.pid}/task/{broken.pid}/children").read_text().split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    broken.communicate()
    assert broken.returncode and not (tmp_path / "broken" / "mugs.safetensors").exists()
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    again = started("broken")
    again.communicate()
    assert again.returncode == 0 and not list(tmp_path.glob("*/*checkpoint*"))
    broken_off, unbroken = (tmp_path / name / "mugs.safetensors" for name in ("broken", "whole"))
    assert broken_off.read_bytes() == unbroken.read_bytes()
