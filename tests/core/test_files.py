"""Laws of the file formats: what is saved comes back, the same content gives the same bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from metalora_core.errors import IncompatibleBaseModel, InvalidOptions, RankMismatch, UnreadableFile
from metalora_core.files.atomic import atomic_save_safetensors, safetensors_bytes
from metalora_core.files.bounded import read_safetensors
from metalora_core.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from metalora_core.files.identity import (
    Identity,
    IdentityLayer,
    IdentityMetadata,
    chain_factors,
    load_identity,
    save_identity,
)
from metalora_core.files.prior import (
    Prior,
    PriorLayer,
    PriorMetadata,
    load_prior,
    prior_sha256,
    save_prior,
    targets_of_prior,
)
from metalora_core.model.targets import Part, Target
from metalora_core.references.domain import picture_features, statistics_of

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64, torch.bool]
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda s: s != "__metadata__")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def make_prior(seed: int = 0, **changes: object) -> Prior:
    generator = torch.Generator().manual_seed(seed)
    layers = {
        "double_blocks.0.img_attn.qkv": PriorLayer(
            meta_down=torch.randn(4, 8, generator=generator),
            mid_init=torch.randn(2, 4, generator=generator),
            up_init=torch.randn(24, 2, generator=generator),
            step_size=torch.tensor([1.0, 2.0]),
        ),
        "input_blocks.1.0.in_layers.2": PriorLayer(torch.randn(4, 6, 3, 3, generator=generator)),
    }
    fields: dict[str, object] = {
        "name": "mugs",
        "family": "flux",
        "base_fingerprint": "0" * 64,
        "domain": "products",
        "r_meta": 4,
        "r_mid": 2,
    }
    features = statistics_of(picture_features(torch.rand(12, 3, 64, 64, generator=generator)))
    return Prior(
        layers, PriorMetadata.model_validate(fields | {"scale": 0.5, "training": {"steps": 3}} | changes), features
    )


def make_identity(prior: Prior) -> Identity:
    layers = {
        "double_blocks.0.img_attn.qkv": IdentityLayer(torch.randn(2, 4), torch.randn(24, 2)),
        "input_blocks.1.0.in_layers.2": IdentityLayer(torch.randn(2, 4), torch.randn(10, 2)),
    }
    metadata = IdentityMetadata(
        prior_sha256=prior_sha256(prior),
        prior_name="mugs",
        base_fingerprint="0" * 64,
        family="flux",
        trigger="ohwx",
        class_word="mug",
        settings={"lr": 0.001},
        photo_hashes=["a" * 64],
    )
    return Identity(layers, metadata)


@st.composite
def tensor(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    return torch.arange(int(torch.tensor(shape).prod()) if shape else 1).reshape(shape).to(dtype)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, tensor(), max_size=5), st.dictionaries(NAMES, TEXT, max_size=4))
def test_any_content_comes_back_here_and_in_the_safetensors_library(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, torch.Tensor], metadata: dict[str, str]
) -> None:
    assume(tensors or not metadata)  # no file of ours; the library wrote it wrongly before 0.4.5
    path = tmp_path_factory.mktemp("any") / "a.safetensors"
    sha256 = atomic_save_safetensors(path, tensors, metadata)
    file = read_safetensors(path)
    assert file.sha256 == sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert file.metadata == metadata
    theirs = safetensors.torch.load(path.read_bytes())
    for read in (file.tensors, theirs):
        assert read.keys() == tensors.keys()
        for name, value in tensors.items():
            assert read[name].dtype == value.dtype and torch.equal(read[name], value)


def test_a_file_of_the_safetensors_library_reads_here(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(3, 2), "a": torch.randn(1).half(), "empty": torch.zeros(0, 3)}
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", {"k": "ü"})
    file = read_safetensors(tmp_path / "x.safetensors")
    assert file.metadata == {"k": "ü"} and all(torch.equal(file.tensors[k], v) for k, v in tensors.items())


def test_our_bytes_do_not_depend_on_the_order_of_keys() -> None:
    a, b = torch.randn(2), torch.randn(3)
    one = safetensors_bytes({"a": a, "b": b}, {"x": "1", "y": "2"})
    assert one == safetensors_bytes({"b": b, "a": a}, {"y": "2", "x": "1"})


def test_every_kind_of_file_has_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    script = (
        "import sys, torch; sys.path.append('tests'); torch.manual_seed(0)\n"
        "from pathlib import Path\n"
        "from core.test_files import make_identity, make_prior\n"
        "from metalora_core.files.checkpoint import Checkpoint, save_checkpoint\n"
        "from metalora_core.files.export import export_lora\n"
        "from metalora_core.files.identity import save_identity\n"
        "from metalora_core.files.prior import save_prior\n"
        "prior, folder = make_prior(license='MIT'), Path(sys.argv[1])\n"
        "identity = make_identity(prior)\n"
        "save_prior(folder / 'prior', prior)\n"
        "save_identity(folder / 'identity', identity)\n"
        "export_lora(folder / 'export', identity, prior)\n"
        "state = {'losses': [0.5], 'optimizer': {0: torch.ones(2)}}\n"
        "save_checkpoint(folder / 'checkpoint', Checkpoint('adaptation', 1, 'd', {'a': torch.ones(3)}, state))\n"
    )
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        environment = os.environ | {"PYTHONHASHSEED": seed}
        words = [sys.executable, "-c", script, str(tmp_path / seed)]
        subprocess.run(words, cwd=Path(__file__).parents[2], env=environment, check=True)
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == ["checkpoint", "export", "identity", "prior"]
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes(), path.name


def test_tensors_that_share_memory_are_saved_each_by_itself(tmp_path: Path) -> None:
    one = torch.arange(6.0)
    shared = {"whole": one, "again": one, "part": one[2:4], "turned": one.reshape(2, 3).t()}
    atomic_save_safetensors(tmp_path / "t.safetensors", shared)
    read = read_safetensors(tmp_path / "t.safetensors").tensors
    assert all(torch.equal(read[name], tensor) for name, tensor in shared.items())


def test_non_contiguous_tensors_are_saved_as_they_look(tmp_path: Path) -> None:
    view = torch.arange(12.0).reshape(3, 4).t()
    atomic_save_safetensors(tmp_path / "t.safetensors", {"t": view})
    assert torch.equal(read_safetensors(tmp_path / "t.safetensors").tensors["t"], view)


def test_prior_save_load_save_is_byte_identical_and_known_by_its_hash_before_saving(tmp_path: Path) -> None:
    prior = make_prior()
    expected = prior_sha256(prior)
    saved = save_prior(tmp_path / "p.safetensors", prior)
    loaded = load_prior(tmp_path / "p.safetensors")
    save_prior(tmp_path / "q.safetensors", loaded)
    assert (tmp_path / "p.safetensors").read_bytes() == (tmp_path / "q.safetensors").read_bytes()
    assert saved.sha256 == loaded.sha256 == expected
    assert loaded.metadata == prior.metadata
    assert loaded.features is not None and torch.equal(loaded.features.covariance, prior.features.covariance)


def test_identity_save_load_save_is_byte_identical(tmp_path: Path) -> None:
    identity = make_identity(make_prior())
    save_identity(tmp_path / "i.safetensors", identity)
    loaded = load_identity(tmp_path / "i.safetensors")
    save_identity(tmp_path / "j.safetensors", loaded)
    assert (tmp_path / "i.safetensors").read_bytes() == (tmp_path / "j.safetensors").read_bytes()
    assert loaded.metadata == identity.metadata


def test_chain_factors_join_an_identity_to_its_prior() -> None:
    prior = make_prior()
    identity = make_identity(prior)
    factors = chain_factors(identity, prior, strength=0.25)
    assert list(factors) == list(identity.layers)
    for name, chain in factors.items():
        assert chain.meta_down is prior.layers[name].meta_down and chain.up is identity.layers[name].up
        assert (chain.scale, chain.strength) == (0.5, 0.25)


def test_chain_factors_refuse_another_prior() -> None:
    with pytest.raises(IncompatibleBaseModel, match="Load the prior it was learned with"):
        chain_factors(make_identity(make_prior(0)), make_prior(1))


def test_chain_factors_refuse_another_rank() -> None:
    prior = make_prior()
    identity = make_identity(prior)
    wrong = IdentityLayer(torch.ones(2, 5), torch.ones(24, 2))
    layers = dict(identity.layers) | {"double_blocks.0.img_attn.qkv": wrong}
    with pytest.raises(RankMismatch, match="rank 4"):
        chain_factors(Identity(layers, identity.metadata), prior)


def test_a_prior_for_another_base_is_refused_with_names_and_sizes() -> None:
    available = (Target("double_blocks.0.img_attn.qkv", (24, 16), (Part("x", 0, 24),)),)
    with pytest.raises(IncompatibleBaseModel) as caught:
        targets_of_prior(make_prior(base_name="FLUX.1-dev"), available)
    message = str(caught.value)
    assert "FLUX.1-dev" in message and "(16,), not (8,)" in message and "2 of 2 layers" in message


def test_a_fitting_prior_gives_its_targets_in_order() -> None:
    available = tuple(
        Target(name, shape, (Part("x", 0, shape[0]),))
        for name, shape in [
            ("input_blocks.1.0.in_layers.2", (10, 6, 3, 3)),
            ("other", (3, 3)),
            ("double_blocks.0.img_attn.qkv", (24, 8)),
        ]
    )
    assert [t.name for t in targets_of_prior(make_prior(), available)] == list(make_prior().layers)


def test_checkpoint_brings_back_optimizer_and_generator_bit_for_bit(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(3))
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    weight.grad = torch.randn(3)
    optimizer.step()
    generator = torch.Generator().manual_seed(5)
    state = {
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "losses": [0.1, float("inf")],
        "best": None,
        0: torch.ones(1),
        "0": torch.zeros(1),
    }
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, Checkpoint("adaptation", 7, "d" * 64, {"a.mid": weight.detach()}, state))
    loaded = load_checkpoint(path, kind="adaptation", digest="d" * 64)
    assert loaded.step == 7 and torch.equal(loaded.tensors["a.mid"], weight)
    assert torch.equal(loaded.state["generator"], generator.get_state())
    assert loaded.state["losses"] == state["losses"] and loaded.state["best"] is None
    ours, theirs = loaded.state["optimizer"], optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert all(torch.equal(ours["state"][0][k], v) for k, v in theirs["state"][0].items())
    assert loaded.state[0] == 1 and loaded.state["0"] == 0  # type: ignore[index]


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, Checkpoint("adaptation", 1, "a" * 64, {"a": torch.ones(1)}))
    with pytest.raises(InvalidOptions, match="other options or photos, another prior or base"):
        load_checkpoint(path, kind="adaptation", digest="b" * 64)
    with pytest.raises(UnreadableFile, match="expected one of a meta-training"):
        load_checkpoint(path, kind="meta-training")


def test_checkpoint_refuses_what_would_need_a_pickle(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptions, match="object"):
        save_checkpoint(tmp_path / "c.safetensors", Checkpoint("adaptation", 1, "a", {}, {"x": object()}))
    assert not os.listdir(tmp_path)
