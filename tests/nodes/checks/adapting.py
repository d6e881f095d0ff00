"""Adapt Identity: cancelled and continued, kept on disk, and as LORA_MODEL and LOSS_MAP for core's nodes."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from checks.support import adapt, adapt_node, folders, message_of, pack, pocket, prepare


def _files() -> dict[str, bytes]:
    found = folders() / "models" / "metalora_identities" / "adapted"
    return {path.name: path.read_bytes() for path in sorted(found.glob("*"))} if found.is_dir() else {}


def _remove(names: Any) -> None:
    for name in names:
        Path(folders() / "models" / "metalora_identities" / "adapted" / name).unlink()


def check_cancelled_and_queued_again_is_bit_identical() -> dict[str, Any]:
    from comfy import model_management

    settings = {"steps": 8, "seed": 21, "preview_every": 2}
    before = set(_files())
    adapt(**settings)
    unbroken = {name: data for name, data in _files().items() if name not in before}
    _remove(unbroken)
    figures: dict[str, Any] = {"bytes": [len(data) for data in unbroken.values()], "stopped_after": []}
    for stop_at in (2, 6):
        reached = _cancel_at(stop_at, settings)
        assert not model_management.processing_interrupted()
        left = {name for name in _files() if name not in before}
        assert left and all(name.startswith(".") for name in left), f"no checkpoint was left: {left}"
        adapt(**settings)
        resumed = {name: data for name, data in _files().items() if name not in before}
        assert resumed == unbroken, f"cancelled after {stop_at}: {list(resumed)} differ from {list(unbroken)}"
        figures["stopped_after"].append(reached)
        _remove(resumed)
    return figures


def check_cancelled_before_the_first_step_is_no_error() -> None:
    from comfy import model_management

    adapting, settings = pack("nodes.bridge.adapting"), {"steps": 8, "seed": 23}
    tried = adapting.try_out

    def cancelled(*given: Any) -> Any:
        model_management.interrupt_current_processing(True)
        return tried(*given)

    adapting.try_out = cancelled
    try:
        adapt(**settings)
    except model_management.InterruptProcessingException:
        return
    finally:
        adapting.try_out = tried
        model_management.interrupt_current_processing(False)
    raise AssertionError("the run was not interrupted")


def check_other_previews_continue_a_cancelled_run() -> dict[str, Any]:
    settings = {"steps": 8, "seed": 22, "preview_every": 2}
    before = set(_files())
    _cancel_at(4, settings)
    adapt(**settings | {"preview_every": 3})
    left = {name for name in _files() if name not in before}
    assert len([name for name in left if not name.startswith(".")]) == 1, left
    assert not any(".unfinished." in name for name in left), left
    assert [step for step in (2, 3, 4, 6, 8) if any(f".{step}.step." in name for name in left)] == [2, 4, 6, 8], left
    _remove(left)
    return {}


def _cancel_at(step: int, settings: dict[str, Any]) -> int:
    """Press Cancel when the bar reaches a step; the node has to raise ComfyUI's own interruption."""
    from comfy import model_management

    def cancel(done: int) -> None:
        if done == step:
            model_management.interrupt_current_processing(True)

    with steps_shown(cancel) as reached:
        try:
            adapt(**settings)
        except model_management.InterruptProcessingException:
            return reached[-1]
        finally:
            model_management.interrupt_current_processing(False)
    raise AssertionError("the run was not interrupted")


@contextmanager
def steps_shown(on_step: Callable[[int], None] = lambda _: None) -> Generator[list[int]]:
    """The steps that the bar reaches inside."""
    adapting, reached = pack("nodes.bridge.adapting"), list[int]()
    shown = adapting.show_progress

    def noting(done: int, steps: int, picture: Any = None, losses: Any = ()) -> None:
        reached.append(done)
        on_step(done)
        shown(done, steps, picture, losses)

    adapting.show_progress = noting
    try:
        yield reached
    finally:
        adapting.show_progress = shown


def compiled_by(backend: Any) -> Any:
    """The pocket model as core's Torch Compile Model leaves it, with a backend of choice."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    with torch.inference_mode():
        model = pocket()[0].clone()
        set_torch_compile_wrapper(model=model, backend=backend)
    return model


def check_compiled_passes_learn_the_same() -> dict[str, Any]:
    graphs: list[int] = []

    def counting(graph: Any, _inputs: Any) -> Any:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    before = set(_files())
    plain = adapt(seed=41, steps=3)[2]["loss"]
    _remove(set(_files()) - before)
    for _ in range(2):  # the second run may find passes compiled, but must not meet the first one's chains in them
        compiled = adapt(seed=41, steps=3, model=compiled_by(counting))[2]["loss"]
        assert max(abs(a - b) for a, b in zip(plain, compiled, strict=True)) < 1e-4, (plain, compiled)
        _remove(set(_files()) - before)
    assert graphs, "nothing was compiled"
    return {"plain": plain, "compiled": compiled}


def check_passes_that_cannot_be_compiled_are_told() -> dict[str, Any]:
    def broken(_graph: Any, _inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    report = adapt(seed=43, steps=2, model=compiled_by(broken))[3]
    assert "The passes could not be compiled" in report and "no compiler here" in report, report
    assert "resuming from step 0" in report, report
    return {"report": report}


def check_same_inputs_never_train_twice() -> dict[str, Any]:
    first = adapt(seed=31)
    files = _files()
    again = adapt(seed=31)
    assert _files() == files
    assert "Learned before" in again[3], again[3]
    assert again[2] == first[2], "the losses of the first run are shown again"
    other = adapt(seed=32)
    results = [[name for name in found if not name.startswith(".")] for found in (files, _files())]
    assert len(results[1]) == len(results[0]) + 1 and "Learned before" not in other[3]
    return {"report": again[3], "losses": len(first[2]["loss"])}


@contextmanager
def steps_taken() -> Generator[list[int]]:
    """The optimizer steps that are taken inside."""
    trainer, taken = pack("metalora_core.training.chain_trainer").ChainTrainer, list[int]()
    step = trainer.step

    def counting(self: Any) -> None:
        taken.append(self.steps)
        step(self)

    trainer.step = counting
    try:
        yield taken
    finally:
        trainer.step = step


def check_a_chosen_step_is_used_bit_for_bit_and_nothing_is_trained() -> dict[str, Any]:
    identity_files, settings = pack("metalora_core.files.identity"), {"steps": 8, "seed": 36, "preview_every": 2}
    before = set(_files())
    first = adapt_node(**settings)
    assert [sample["step"] for sample in first.ui["samples"]] == [2, 4, 6, 8], first.ui["samples"]
    assert all(sample["picture"].startswith("data:image/jpeg;base64,") for sample in first.ui["samples"])
    assert first.ui["use"] == [{"step": 8, "last": 8, "steps": 8}]
    result = folders() / "models/metalora_identities/adapted" / f"{first.args[0].identity.metadata.name}.safetensors"
    steps = pack("metalora_core.files.kept_steps").kept_steps(result)
    kept = {n: identity_files.load_identity(steps[n]) for n in (4, 8)}
    with steps_taken() as taken:
        last, fourth = first.args[0].identity, adapt_node(**settings, use_step=4)
        chosen = fourth.args[0].identity
        assert identity_files.layers_sha256(chosen) == identity_files.layers_sha256(kept[4])
        assert (
            identity_files.layers_sha256(last) == identity_files.layers_sha256(kept[8]) != fourth.args[0].layers_sha256
        )
        assert (chosen.metadata.steps, chosen.metadata.metrics["chosen_step"]) == (4, 4)
        assert chosen.metadata.metrics["base_weights"] == last.metadata.metrics["base_weights"]
        assert "Step 4 of 8 is used" in fourth.args[3] and "Learned before" in fourth.args[3], fourth.args[3]
        assert fourth.ui["use"] == [{"step": 4, "last": 8, "steps": 8}] and fourth.ui["course"] == first.ui["course"]
        assert adapt(**settings, use_step=8)[0].layers_sha256 == adapt(**settings)[0].layers_sha256
        left = set(_files()) - before
        refused = [message_of(lambda: adapt(**settings, use_step=5))]
        refused.append(message_of(lambda: adapt(**settings | {"seed": 37}, use_step=5)))
        assert set(_files()) - before == left, "a step that is not kept is refused before any work"
        _remove(name for name in left if name.startswith("."))
        assert adapt(**settings, use_step=4)[0].layers_sha256 == fourth.args[0].layers_sha256, "a used step stays"
        refused.append(message_of(lambda: adapt(**settings, use_step=6)))
    assert taken == [], "choosing a step trained again"
    assert all("kept of this run are 2, 4, 6, 8." in text for text in refused[:2]), refused
    assert "kept of this run are 8." in refused[2], refused
    return {"refused": refused}


def check_zero_takes_the_preset_and_the_priors_size() -> dict[str, Any]:
    """Steps and rates for this number of photos; the pictures as large as the prior knows them."""
    request = pack("nodes.bridge.adapting").Request
    preset = pack("metalora_core.training.step_preset").step_preset
    model, clip, vae, prior, photos = pocket()[:5]
    host = pack("nodes.bridge.host.comfy_host").ComfyHost(model, clip, vae, resolution=128)
    larger = torch.nn.functional.interpolate(photos.movedim(-1, 1), scale_factor=4).movedim(1, -1)
    references = prepare(larger, prior=prior)[0]
    options = request(references, prior, learning_rate=2.0).options(host)
    wanted = preset(prior, len(photos))
    assert (options.steps, options.r_mid, options.final_rate) == (wanted.steps, wanted.r_mid, wanted.final_rate)
    assert options.up_learning_rate == 2 * wanted.up_learning_rate
    assert request(references, prior, steps=7).options(host).steps == 7
    mirrored = [request(references, prior, mirror=choice).options(host).flip for choice in ("auto", "on", "off")]
    assert mirrored == [wanted.flip, True, False]
    assert references.usual_resolution(prior) == 128
    report = adapt(references=references, seed=35)[3]
    assert "at 128 px" in report and "metalora_identities/adapted/ohwx_" in report, report
    assert str(folders()) not in report, "the report names a folder of this machine"
    return {"report": report}


def check_photos_are_judged_at_the_priors_size() -> dict[str, str]:
    prior, photos = pocket()[3], pocket()[4]
    told = {"with the prior": prepare(photos, prior=prior)[2], "without": prepare(photos)[2]}
    assert "512 px" not in told["with the prior"] and "512 px" in told["without"], told
    return told


def check_base_is_unchanged_by_adaptation() -> None:
    model = pocket()[0]
    before = {name: parameter.detach().clone() for name, parameter in model.model.named_parameters()}
    adapt(seed=33)
    after = dict(model.model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def check_lora_model_has_only_pairs_that_core_reads() -> None:
    import comfy.lora

    learned, lora, losses, _ = adapt(seed=34)
    keys = comfy.lora.model_lora_keys_unet(pocket()[0].model, {})
    patches = comfy.lora.load_lora(dict(lora), keys)
    assert len(patches) == len(learned.identity.layers)
    assert len(losses["loss"]) == 6 and all(isinstance(loss, float) for loss in losses["loss"])


def check_a_rising_loss_is_told_and_its_text_agrees_with_its_line() -> dict[str, str]:
    told: dict[str, str] = {}
    for rate in (1.0, 20.0):
        done = adapt_node(steps=50, seed=35, learning_rate=rate)
        report, course = done.args[3], done.ui["course"]
        assert done.ui["text"] == (report,)
        assert f"loss {course[0][1]:.4f} to {course[-1][1]:.4f}." in report, report
        assert ("The loss rose after step" in report) == (rate > 1), report
        told[f"{rate:g} times the rate"] = report
    again = adapt_node(steps=50, seed=35, learning_rate=20.0).args[3]
    assert "Learned before" in again and "The loss rose after step" in again, again
    return told
