"""Each photographic defect is found where it was made, and photos without one are left in peace."""

from __future__ import annotations

import pytest
import torch
from core.painted_photos import SIDE_PX, PaintedPhoto, paint, varied_set
from torch import Tensor
from torch.nn.functional import interpolate

from metalora_core.errors import UnusableReferences
from metalora_core.references.findings import TITLES, Severity
from metalora_core.references.pixels import blur, luma, shrink
from metalora_core.references.quality import EDGE_WIDTH_PX, measure_photo
from metalora_core.references.report import assess_references
from metalora_core.references.sharpness import measure_sharpness
from metalora_core.references.similarity import fingerprint_picture, near_duplicates
from metalora_core.references.subject_box import estimate_subject


def softened(pixels: Tensor, sigma_px: float) -> Tensor:
    return torch.stack([blur(plane, sigma_px) for plane in pixels])


def shaken(pixels: Tensor, length_px: int) -> Tensor:
    return torch.stack([pixels.roll(offset, dims=2) for offset in range(length_px)]).mean(dim=0)


def codes(pixels: Tensor) -> set[str]:
    """Findings on one photo, without the remark that it is the only one."""
    report = assess_references([PaintedPhoto("a.png", pixels)], training_side_px=SIDE_PX)
    return {finding.code for finding in report.of_photo(0)}


DEFECTS = {
    "soft": lambda pixels: softened(pixels, 3.0),
    "motion_blur": lambda pixels: shaken(pixels, 11),
    "underexposed": lambda pixels: pixels * 0.25,
    "overexposed": lambda pixels: (pixels * 0.3 + 0.76).clamp(0, 1),
    "highlights_clipped": lambda pixels: (pixels * 2.2).clamp(0, 1),
    "low_contrast": lambda pixels: pixels * 0.09 + 0.45,
    "blank": lambda pixels: torch.full_like(pixels, 0.5),
    "resolution_small": lambda pixels: shrink(pixels, SIDE_PX // 2),
    "resolution_too_small": lambda pixels: shrink(pixels, SIDE_PX // 6),
    "extreme_aspect": lambda pixels: torch.cat([pixels, pixels, pixels], dim=2),
    "not_finite": lambda pixels: pixels.where(pixels > 0.3, torch.nan),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_found(defect: str, seed: int):
    photo = paint(turn=0.4 * seed, light=-0.6 + 0.4 * seed, seed=seed)
    assert codes(photo) == set()
    assert defect in codes(DEFECTS[defect](photo))


@pytest.mark.parametrize("sigma_px", [12.0, 24.0])
def test_a_blur_that_leaves_no_edge_to_measure_is_a_warning(sigma_px: float):
    report = assess_references([PaintedPhoto("a.png", softened(paint(), sigma_px))], training_side_px=SIDE_PX)
    assert [(f.code, f.severity) for f in report.of_photo(0)] == [("no_detail", Severity.WARNING)]


def test_a_good_set_gets_no_finding_at_all():
    report = assess_references(varied_set(), training_side_px=SIDE_PX)
    assert report.findings == ()
    assert report.headline == "4 photos, 4 good"
    report.require_usable()


@pytest.mark.parametrize("sigma_px", [1.5, 2.0, 3.0])
def test_edge_width_is_the_blur_in_pixels(sigma_px: float):
    measured = measure_sharpness(luma(softened(paint(seed=1), sigma_px)))
    assert measured is not None
    assert measured.width_px == pytest.approx(sigma_px, rel=0.2)


def test_sharpness_is_judged_at_the_training_size():
    large = paint(seed=2, side_px=4 * SIDE_PX)
    blurred = softened(large, 3.0)
    at_training_size = measure_photo(blurred, SIDE_PX).sharpness
    at_full_size = measure_photo(blurred, 4 * SIDE_PX).sharpness
    assert at_training_size is not None and at_full_size is not None
    assert at_training_size.width_px < EDGE_WIDTH_PX < at_full_size.width_px


def test_sharpness_does_not_depend_on_contrast():
    photo = luma(softened(paint(seed=3), 2.0))
    full, reduced = measure_sharpness(photo), measure_sharpness(photo * 0.5 + 0.2)
    assert full is not None and reduced is not None
    assert reduced.width_px == pytest.approx(full.width_px, abs=0.1)


@pytest.mark.parametrize("shade", [0.0, 1.0], ids=["black", "white"])
def test_a_studio_backdrop_is_no_defect(shade: float):
    photo = paint(seed=1, background=(shade, shade, shade))
    assert codes(photo) == set()


def test_blocked_shadows_on_the_subject_are_found_before_a_bright_wall():
    photo = paint(light=-0.8, seed=2, background=(0.75, 0.75, 0.8))
    assert codes(photo) == set()
    assert "shadows_clipped" in codes(((photo - 0.5) * 2.5 + 0.4).clamp(0, 1))


def test_a_small_subject_is_found_and_a_large_one_is_not():
    small = estimate_subject(paint(seed=1, size=0.2))
    assert small is not None and small.right - small.left == pytest.approx(0.2, abs=0.06)
    assert "subject_small" in codes(paint(seed=1, size=0.2))
    assert "subject_small" not in codes(paint(seed=1, size=0.5))


def test_a_subject_beside_the_square_crop_is_found():
    photo = paint(seed=1, size=0.5)
    wall = paint(seed=1, size=0.001)[:, :, : SIDE_PX * 3 // 4]
    assert "subject_off_centre" in codes(torch.cat([photo, wall], dim=2))
    assert "subject_off_centre" not in codes(torch.cat([wall[:, :, :70], photo, wall[:, :, :70]], dim=2))


def test_nothing_is_said_of_a_subject_that_cannot_be_told_apart():
    clutter = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    assert estimate_subject(interpolate(clutter[None], size=160, mode="nearest")[0]) is None


COPIES = {
    "resized": lambda pixels: shrink(pixels, 80),
    "brighter": lambda pixels: (pixels * 1.15).clamp(0, 1),
    "mirrored": lambda pixels: pixels.flip(-1),
    "cropped": lambda pixels: pixels[:, 3:-3, 3:-3],
    "noisy": lambda pixels: (
        pixels + 0.03 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1))
    ).clamp(0, 1),
}


@pytest.mark.parametrize("change", COPIES)
def test_a_changed_copy_is_a_near_duplicate(change: str):
    photo = paint(turn=0.3, light=0.5, seed=5)
    copies = [fingerprint_picture(photo), fingerprint_picture(COPIES[change](photo))]
    found = near_duplicates(copies)
    assert [(pair.first, pair.second, pair.mirrored) for pair in found] == [(0, 1, change == "mirrored")]


def test_different_photos_are_no_duplicates():
    assert near_duplicates([fingerprint_picture(photo.pixels) for photo in varied_set()]) == []


def test_a_duplicate_names_the_photo_it_repeats():
    photos = varied_set()
    report = assess_references([*photos, PaintedPhoto("again.png", photos[1].pixels)], training_side_px=SIDE_PX)
    (finding,) = report.of_photo(4)
    assert (finding.code, finding.name) == ("duplicate", "again.png")
    assert "photo 2 (ball_1.png)" in finding.found


def ball_before(wall: Tensor, seed: int = 0) -> Tensor:
    """A painted ball before a wall of shape (3, side, side) that has no grain."""
    dark, grey = (paint(seed=seed, background=(shade, shade, shade)) for shade in (0.0, 0.5))
    return torch.where((dark - grey).abs().sum(dim=0) < 0.3, dark, wall)


def crowded(seed: int = 0) -> Tensor:
    """A ball before a wall of light and dark fields up to the frame."""
    generator = torch.Generator().manual_seed(seed)
    light = torch.rand(1, 1, 9, 9, generator=generator) > 0.4
    wall = interpolate(light * 0.42 + 0.06, size=(SIDE_PX, SIDE_PX), mode="nearest")[0].expand(3, -1, -1)
    return ball_before(wall + 0.01 * torch.randn(wall.shape, generator=generator), seed).clamp(0, 1)


def test_a_photo_that_is_mostly_burnt_out_is_no_studio_photo():
    photo = crowded()
    assert codes(photo) == set()
    burnt = (photo * 6).clamp(0, 1)
    assert float((luma(burnt) > 0.98).float().mean()) > 0.6
    assert "highlights_clipped" in codes(burnt)


def test_fine_stripes_are_no_camera_shake():
    down, right = torch.arange(SIDE_PX)[:, None], torch.arange(SIDE_PX)[None, :]
    striped = 0.5 + 0.2 * (down * (2 * torch.pi / 48)).sin() + 0.1 * (right // 3 % 2 - 0.5)
    striped = (striped - 0.12 * ((down >= 70) & (down < 110))).expand(3, -1, -1)
    measured = measure_sharpness(luma(striped))
    assert measured is not None and measured.detail < 1.2 and measured.evenness < 0.1
    assert "motion_blur" not in codes(striped)
    assert "motion_blur" in codes(shaken(striped.mT, 11).mT)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_an_enlarged_photo_shows_its_size(mode: str):
    small = interpolate(paint(seed=2, side_px=384)[None], size=48, mode="bilinear", antialias=True)
    large = interpolate(small, size=512, mode=mode, align_corners=False).clamp(0, 1)[0]
    report = assess_references([PaintedPhoto("face.png", large)])
    (found,) = [finding.found for finding in report.of_photo(0) if finding.code == "soft"]
    named = int(found.split("picture of ")[1].split(" px")[0])
    assert 35 < named < 65


def cut_out(colour: tuple[float, float, float]) -> Tensor:
    """A ball with every pixel of the background in one colour, as under a transparency that was dropped."""
    return ball_before(torch.tensor(colour)[:, None, None].expand(3, SIDE_PX, SIDE_PX), seed=1)


@pytest.mark.parametrize(("colour", "name"), [((0.0, 0.0, 0.0), "#000000"), ((1.0, 0.0, 1.0), "#ff00ff")])
def test_a_cut_out_without_its_transparency_is_found(colour: tuple[float, float, float], name: str):
    report = assess_references([PaintedPhoto("mug.png", cut_out(colour))], training_side_px=SIDE_PX)
    (finding,) = [finding for finding in report.of_photo(0) if finding.code == "flat_backdrop"]
    assert name in finding.found and "Join Image with Alpha" in finding.remedy


def test_a_cut_out_on_white_is_good_photography():
    assert codes(cut_out((1.0, 1.0, 1.0))) == set()


@pytest.mark.parametrize("enlarged", [False, True])
def test_cuts_of_one_photo_are_found(enlarged: bool):
    photo = crowded(seed=4)
    corners = [(0, 0), (0, 60), (60, 0), (60, 60)]
    cuts = [photo[:, top : top + 132, left : left + 132] for top, left in corners]
    if enlarged:
        cuts = [interpolate(cut[None], size=SIDE_PX + 20 * n, mode="bilinear")[0] for n, cut in enumerate(cuts)]
    photos = [PaintedPhoto(f"{n}.png", cut) for n, cut in enumerate(cuts)]
    report = assess_references(photos, training_side_px=SIDE_PX)
    assert all("same_crop" in {finding.code for finding in report.of_photo(n)} for n in (1, 2, 3))
    assert "same_crop" not in {finding.code for finding in report.of_photo(0)}


UNIFORM = {
    "same_angle": [(0.0, -0.2, (0.3, 0.4, 0.6)), (0.02, 0.2, (0.6, 0.4, 0.3)), (-0.02, 0.0, (0.3, 0.6, 0.3))],
    "same_light": [(0.0, 0.0, (0.3, 0.4, 0.6)), (0.02, 0.0, (0.6, 0.4, 0.3)), (-0.02, 0.0, (0.3, 0.6, 0.3))],
    "same_background": [(0.0, -0.8, (0.4, 0.4, 0.6)), (0.9, 0.8, (0.4, 0.4, 0.6)), (-0.9, 0.0, (0.4, 0.4, 0.6))],
}


@pytest.mark.parametrize("code", UNIFORM)
def test_missing_variety_is_found(code: str):
    photos = [PaintedPhoto(f"{n}.png", paint(*scene, seed=3)) for n, scene in enumerate(UNIFORM[code])]
    found = {finding.code for finding in assess_references(photos, training_side_px=SIDE_PX).of_photo(None)}
    # A photo from one spot in one light has one angle as well; nothing else may be claimed.
    allowed = {"same_light", "same_angle"} if code == "same_light" else {code}
    assert code in found and found <= allowed


def test_every_finding_names_photo_and_remedy():
    photos = [PaintedPhoto(f"{defect}.png", make(paint(seed=1))) for defect, make in DEFECTS.items()]
    report = assess_references(photos, training_side_px=SIDE_PX)
    assert all(
        finding.found and finding.expected and finding.remedy and finding.code in TITLES for finding in report.findings
    )
    assert all(finding.name in finding.text for finding in report.findings if finding.photo is not None)
    with pytest.raises(UnusableReferences, match=r"blank\.png.*not_finite\.png"):
        report.require_usable()


def test_counts_of_photos():
    assert [f.code for f in assess_references([]).findings] == ["no_photos"]
    assert assess_references([]).severity_of(None) is Severity.BLOCKING
    single = assess_references(varied_set()[:1], training_side_px=SIDE_PX)
    assert [f.code for f in single.findings] == ["single_photo"]
    single.require_usable()
