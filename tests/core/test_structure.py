"""Which layers are chosen in a model whose family nobody has written down."""

from __future__ import annotations

from metalora_core.model.structure import LayerFacts, dead_layers, role_of, structural_targets


def facts(**changes: LayerFacts) -> dict[str, LayerFacts]:
    """A transformer of two blocks as a trial sees it: 20 tokens, and one vector for what follows the timestep."""
    found = {
        "embedder.proj": LayerFacts((8, 4), 20, True),
        "time.0.linear": LayerFacts((8, 4), 1, True),
        "text.0.linear": LayerFacts((8, 4), 20, True),
        "text.1.linear": LayerFacts((8, 4), 20, True),
        "final": LayerFacts((4, 8), 20, True),
    }
    for block in range(2):
        found[f"blocks.{block}.modulation"] = LayerFacts((48, 8), 1, True)
        found[f"blocks.{block}.attention.qkv"] = LayerFacts((24, 8), 20, True)
        found[f"blocks.{block}.mlp.0.conv"] = LayerFacts((8, 8, 1, 1), 20, True)
        found[f"blocks.{block}.mlp.1.linear"] = LayerFacts((8, 8), 20, True)
    return found | {name.replace("__", "."): fact for name, fact in changes.items()}


BLOCKS = tuple(f"blocks.{block}.{layer}" for block in range(2) for layer in ("attention.qkv", "mlp.1.linear"))


def test_linear_layers_of_repeated_blocks_that_see_tokens_are_chosen():
    assert structural_targets(facts()) == BLOCKS


def test_a_layer_that_nothing_reaches_is_left_out_and_counted():
    dead = facts(blocks__1__attention__qkv=LayerFacts((24, 8), 20, False))
    assert dead_layers(dead) == ("blocks.1.attention.qkv",)
    assert structural_targets(dead | {"blocks.1.out": LayerFacts((8, 8), 20, True)}) == (
        *BLOCKS[:2],
        "blocks.1.mlp.1.linear",
        "blocks.1.out",
    )


def test_an_expert_without_a_token_stays_if_its_like_learns():
    experts = {f"blocks.{n}.experts.{e}.up": LayerFacts((8, 8), 20 * (1 - e), e == 0) for n in range(2) for e in (0, 1)}
    assert dead_layers(experts) == ()
    unused = {"refiner.0.up": LayerFacts((8, 8), 0, False), "refiner.1.up": LayerFacts((8, 8), 0, False)}
    assert dead_layers(experts | unused) == tuple(unused)


def test_without_repeated_blocks_every_living_linear_layer_is_chosen():
    flat = {
        "embed": LayerFacts((8, 4), 20, True),
        "out": LayerFacts((4, 8), 20, True),
        "gone": LayerFacts((4, 8), 9, False),
    }
    assert structural_targets(flat) == ("embed", "out")


def test_a_role_is_the_name_without_the_blocks_numbers():
    assert role_of("double_blocks.12.img_mlp.0") == role_of("double_blocks.3.img_mlp.0") == "double_blocks.N.img_mlp.0"
