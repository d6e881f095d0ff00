"""Edit and inpaint models: reference and mask reach the model as core's own nodes give them, or are refused."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from families.building import families, tried
from families.columns import CAPTIONS, Case, apply, gradient_cosine_min, meta_train, removal

from checks.support import folders, message_of, pack, prepare

EDITS = (
    *("flux_kontext", "qwen_image_edit", "flux2_klein_edit", "longcat_image", "omnigen2", "boogu", "joyimage"),
    *("mage_flow", "z_image", "sd15_ip2p", "flux_canny_control"),
)
FILLS = ("flux_fill", "sd15_inpaint", "sdxl_inpaint")


@functools.cache
def _case(name: str) -> Case:
    """A family's tiny model with nothing given by the stand-in encoder."""
    folders()
    family = families()[name]
    text = {key: value for key, value in family.text.items() if key != "reference_latents"}
    return Case.of(replace(family, text=text))


def _known(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if tried(families()[name])]


def _pictures(count: int = 1, side: int = 128, seed: int = 5) -> torch.Tensor:
    """IMAGE of smooth pictures."""
    small = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, (side, side), mode="bicubic").clamp(0, 1).movedim(1, -1)


def _mask(side: int = 128, left: bool = True) -> torch.Tensor:
    """MASK of one half."""
    mask = torch.zeros(1, side, side)
    mask[..., : side // 2 if left else side] = 1
    return mask if left else mask - _mask(side)


def _given(case: Case, reference: Any = None, mask: Any = None, photos: int = 1) -> list[Any]:
    """The captions that the node makes."""
    given = pack("nodes.bridge.given").GivenPictures.connected(reference, mask)
    photo = pack("metalora_core.photos.images").Photo
    kept = [photo(str(n), picture, "") for n, picture in enumerate(_pictures(photos).movedim(-1, 1))]
    channels = case.host.channels
    given.check(case.model, channels, kept, case.side)
    return list(given.captions(kept, [CAPTIONS[0]] * photos, case.side, channels.fills))


def _cores(case: Case) -> Any:
    """The same by core's nodes, on pictures of the training's size."""
    from comfy_extras.nodes_edit_model import ReferenceLatent
    from comfy_extras.nodes_ip2p import InstructPixToPixConditioning

    import nodes

    fit = pack("metalora_core.photos.images").fit
    positive = case.clip.encode_from_tokens_scheduled(CAPTIONS[0])
    positive[0][1]["guidance"] = 1.0
    if case.host.channels.fills:
        photo = fit(_pictures()[0].movedim(-1, 0), case.side).movedim(0, -1)[None]
        conditioned = nodes.InpaintModelConditioning().encode(positive, positive, photo, case.vae, _mask(), True)
        return conditioned[0]
    reference = fit(_pictures(seed=6)[0].movedim(-1, 0), case.side).movedim(0, -1)[None]
    if case.host.channels.starts_from_picture:
        made = InstructPixToPixConditioning()
        return getattr(made, "encode", getattr(made, "execute", None))(positive, positive, reference, case.vae)[0]
    return ReferenceLatent.execute(positive, {"samples": case.vae.encode(reference)})[0]


def _denoised(case: Case, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """The picture that core's sampler takes for what is in noise."""
    import comfy.samplers
    from comfy.sampler_helpers import convert_cond

    base, cpu = case.model.model, torch.device("cpu")
    case.model.pre_run()
    conds = comfy.samplers.process_conds(base, x, {"positive": convert_cond(_cores(case))}, cpu, torch.zeros_like(x))
    return comfy.samplers.calc_cond_batch(base, [conds["positive"]], x, level, {"transformer_options": {}})[0]


def check_what_is_given_is_what_core_gives() -> dict[str, float]:
    """The host's prediction for a caption with its pictures is that of core's sampler after core's nodes."""
    worst: dict[str, float] = {}
    for name in _known((*EDITS, *FILLS)):
        case = _case(name)
        given = {"mask": _mask()} if name in FILLS else {"reference": _pictures(seed=6)}
        with torch.inference_mode():
            captions = case.host.encode_prompts(_given(case, **given))
            form = pack("nodes.bridge.host.latents").LatentFormat(case.model.model)
            latents, noise, levels, _ = case.drawn(1)
            noisy = case.host.objective.make_noisy(latents, noise, levels)
            prediction = case.host.predict(noisy, levels, captions)
            ours, _ = case.host.objective.picture_and_noise(noisy, prediction, levels)
            rules = case.model.get_model_object("model_sampling")
            mixed = rules.noise_scaling(levels, noise.clone(), latents.clone())
            theirs = form.folded(_denoised(case, form.unfolded(mixed), levels))
            plain = case.host.predict(noisy, levels, case.host.encode_prompts([CAPTIONS[0]]))
        worst[name] = float((ours - theirs).abs().max() / theirs.abs().max())
        assert worst[name] < 1e-4, worst
        assert not torch.equal(plain, prediction), f"{name}: what is given changes nothing"
    return worst


def check_gradients_beside_what_is_given() -> dict[str, float]:
    """Every trained tensor against float64, with a reference and with a mask."""
    worst: dict[str, float] = {}
    for name, given in (("flux_kontext", {"reference": _pictures()}), ("sd15_inpaint", {"mask": _mask()})):
        case = Case.of(_case(name).family)
        case.host.pictures = _given(case, **given)[0].pictures
        worst[name] = gradient_cosine_min(case)
        assert worst[name] >= 0.99999, worst
    return worst


def _learned(case: Case, photos: int = 1, **inputs: Any) -> Any:
    """Adapt Identity in two steps."""
    if case.prior is None:
        meta_train(case)
    references = prepare(_pictures(photos), class_word="dog", caption=CAPTIONS[0])[0]
    settings = {"steps": 2, "seed": 0, "resolution": case.side, "learning_rate": 5.0, "checkpointing": "off"}
    parts = {"model": case.model, "clip": case.clip, "vae": case.vae, "prior": case.prior, "references": references}
    with torch.inference_mode():
        return pack("nodes.adapt").AdaptIdentity.execute(**parts, **settings, **inputs).args


def check_edit_and_inpaint_models_learn_apply_and_come_off() -> None:
    for name, given in (
        ("flux_kontext", {"reference": _pictures()}),
        ("qwen_image_edit", {"reference": _pictures()}),
        ("flux_fill", {"mask": _mask()}),
    ):
        if not tried(families()[name]):
            continue
        case = _case(name)
        before = {key: parameter.clone() for key, parameter in case.model.model.named_parameters()}
        case.learned, _, losses, report = _learned(case, **given)
        assert all(loss == loss for loss in losses["loss"]) and "connect" not in report, report
        assert all(torch.equal(before[key], kept) for key, kept in case.model.model.named_parameters()), name
        assert apply(case) and removal(case), name


def check_photos_with_the_same_words_keep_their_own_masks() -> None:
    """Also where the photo is mirrored."""
    case, mirror = _case("sd15_inpaint"), pack("metalora_core.photos.training_set").mirror_caption
    left, right = _given(case, mask=torch.cat([_mask(), _mask(left=False)]), photos=2)
    with torch.inference_mode():
        numbers = case.host.encode_prompts([left, right, mirror(left), left])
        size = (case.side // case.host.downscale,) * 2
        masks = case.host.captions.joined(numbers, size)["c_concat"][:, 0]
    assert torch.equal(masks[0], masks[3]) and torch.equal(masks[1], masks[2])
    assert bool((masks[0] + masks[1] == 1).all()) and 0 < float(masks[0].mean()) < 1


def check_encoders_that_look_at_pictures_see_the_reference() -> None:
    """Told from others by the tokenizer's own argument, as core's edit nodes use it."""
    import comfy.sd1_clip
    from comfy.text_encoders.qwen_image import QwenImageTokenizer

    sees = pack("nodes.bridge.host.conditioning")._sees
    case = Case.of(_case("qwen_image_edit").family)
    shown: list[Any] = []
    tokenize = case.clip.tokenize
    case.clip.tokenize = lambda text, images=(): (shown.append(images), tokenize(text))[1]
    case.clip.tokenizer = object.__new__(comfy.sd1_clip.SD1Tokenizer)
    assert not sees(case.clip)
    case.clip.tokenizer = object.__new__(QwenImageTokenizer)
    assert sees(case.clip)
    with torch.inference_mode():
        case.host.encode_prompts([*_given(case, reference=_pictures()), "no picture"])
    assert [len(images) for images in shown] == [1, 0] and shown[0][0].shape == (1, case.side, case.side, 3)


def check_what_a_model_cannot_use_is_refused() -> dict[str, str]:
    calls = {
        "mask for a model that fills nothing": ("flux_dev", {"mask": _mask()}),
        "reference without a place": ("sd15", {"reference": _pictures()}),
        "reference without an effect": ("chroma", {"reference": _pictures()}),
        "reference in another form": ("hidream_o1", {"reference": _pictures()}),
        "empty mask": ("sd15_inpaint", {"mask": torch.zeros(1, 64, 64)}),
        "three for two": ("flux_dev", {"reference": _pictures(3), "photos": 2}),
    }
    if not tried(families()["flux2_klein_edit"]):  # an older ComfyUI's Chroma wants what its encoder does not give
        del calls["reference without an effect"], calls["reference in another form"]
    told = {
        what: message_of(lambda given=given, name=name: _learned(_case(name), **given))
        for what, (name, given) in calls.items()
    }
    assert "is no inpaint model" in told["mask for a model that fills nothing"], told
    assert "makes no use of it" in told["reference without a place"], told
    assert "makes no use of it" in told.get("reference without an effect", "makes no use of it"), told
    assert "another form than latents" in told.get("reference in another form", "another form than latents"), told
    assert "a mask is empty" in told["empty mask"], told
    assert "3 pictures; connect one for all 2 photos" in told["three for two"], told
    return told


def check_a_mask_that_the_crop_leaves_nothing_of_is_refused() -> dict[str, str]:
    case, mask = _case("sd15_inpaint"), torch.zeros(1, 32, 64)
    mask[..., :8] = 1  # of a wide photo, of which the middle square is learned
    wide = pack("metalora_core.photos.images").Photo("photo 1", torch.zeros(3, 32, 64), "")
    given = pack("nodes.bridge.given").GivenPictures.connected(None, mask)
    told = message_of(lambda: given.check(case.model, case.host.channels, [wide], case.side))
    assert "empty in the middle square of photo 1" in told, told
    return {"told": told}


def check_a_model_that_is_given_nothing_says_so() -> None:
    """And an inpaint model learns with everything masked, as core's node gives it for a mask of ones."""
    case = _case("flux_fill")
    assert "no mask is connected" in _learned(case)[3]
    assert "none is connected to reference" in _learned(_case("sd15_ip2p"))[3]
    assert "connected" not in _learned(_case("flux_dev"))[3]
    with torch.inference_mode():
        whole = _given(case, mask=torch.ones(1, 8, 8))[0]
        both = case.host.captions.joined(case.host.encode_prompts([whole, "another"]), (8, 8))["c_concat"]
    assert torch.equal(both[0], both[1])


def check_other_pictures_are_learned_on_their_own() -> None:
    case = _case("flux_kontext")
    for given in ({}, {"reference": _pictures(seed=8)}, {"reference": _pictures(seed=9)}):
        assert "Learned before" not in _learned(case, **given)[3]
        assert "Learned before" in _learned(case, **given)[3]
