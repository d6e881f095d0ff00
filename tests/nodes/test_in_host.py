"""The checks of tests/nodes/checks, run in one process of each real ComfyUI."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from comfy_host import run_in_comfyui

sys.path.append(str(Path(__file__).resolve().parent))
from comfy_versions import each_version, folder_of
from run_checks import MARK

pytestmark = [pytest.mark.comfy, pytest.mark.slow]
FOLDERS = [str(folder) for folder in Path(__file__).resolve().parents[:2]]
SCRIPT = f"sys.path += {FOLDERS!r}\nimport run_checks\nrun_checks.run_all(ARGUMENTS)\n"
EXACT = 0.99999
CHECKS = (
    "check_gradients_in_half_precision",
    "check_training_leaves_no_trace",
    "check_patch_and_bypass_agree",
    "check_strength_zero_is_no_node",
    "check_bypasses_stack_and_come_off_in_any_order",
    "check_window_limits_the_identity",
    "check_eight_bit_weights_keep_the_identity",
    "check_packed_weights_train_and_apply",
    "check_another_finetune_is_told_in_one_line",
    "check_wrong_base_is_refused_in_words",
    "check_a_changed_layer_is_refused_before_the_first_step",
    "check_the_trial_costs_less_than_two_steps",
    "check_rows_and_overwriting_are_found_out",
    "check_cancelled_and_queued_again_is_bit_identical",
    "check_cancelled_before_the_first_step_is_no_error",
    "check_compiled_passes_learn_the_same",
    "check_passes_that_cannot_be_compiled_are_told",
    "check_other_previews_continue_a_cancelled_run",
    "check_same_inputs_never_train_twice",
    "check_a_chosen_step_is_used_bit_for_bit_and_nothing_is_trained",
    "check_no_prior_is_a_choice",
    "check_without_a_prior_a_cancelled_run_ends_bit_identical",
    "check_without_a_prior_zero_takes_the_usual_steps_of_a_lora",
    "check_a_prior_from_folders_heeds_the_limit_and_knows_its_photos",
    "check_a_prior_cancelled_at_its_last_step_is_there_when_queued_again",
    "check_a_prior_is_trained_without_a_compiler_that_fails",
    "check_zero_takes_the_preset_and_the_priors_size",
    "check_photos_are_judged_at_the_priors_size",
    "check_base_is_unchanged_by_adaptation",
    "check_a_rising_loss_is_told_and_its_text_agrees_with_its_line",
    "check_lora_model_has_only_pairs_that_core_reads",
    "check_all_ways_give_the_same_latents",
    "check_an_export_carries_strength_author_and_thumbnail",
    "check_masks_of_ones_and_zeros",
    "check_photos",
    "check_audit_log",
    "check_consent",
    "check_what_ends_while_the_page_is_open_is_refused_at_the_next_seed",
    "check_a_record_of_all_photos_needs_the_subjects_name",
    "check_every_node_asks",
    "check_lora_model_is_given_out_only_where_sharing_is_permitted",
    "check_a_prior_of_a_revoked_record_is_not_loaded",
    "check_people_need_a_record_unless_the_user_chose_a_reminder",
    "check_an_identity_stays_tied_to_its_record",
    "check_a_revoked_record_is_not_recorded_again_by_the_same_graph",
    "check_a_record_names_its_evidence_and_who_entered_it_once",
    "check_one_run_is_one_entry",
    "check_files",
    "check_any_seed_is_taken_and_a_size_off_the_grid_is_refused_by_name",
    "check_settings",
    "check_wrong_base",
    "check_text_encoder_and_vae_of_another_model",
    "check_lists_match_the_record",
    "check_configured_folders_come_first",
    "check_each_photo_of_a_list_has_its_own_caption",
    "check_consent_covers_every_photo_of_a_list",
    "check_pictures_of_a_list_are_scored_together",
    "check_several_values_for_one_set_are_refused",
    "check_the_nodes_work_without_the_command_lines_packages",
    "check_one_small_photo_does_not_make_the_others_small",
    "check_every_change_of_the_model_is_learned_on_its_own",
    "check_every_change_of_the_text_encoder_is_learned_on_its_own",
    "check_what_cannot_be_compared_is_trained_each_time",
    "check_a_model_that_would_be_saved_without_its_identity_says_so",
    "check_what_is_given_is_what_core_gives",
    "check_gradients_beside_what_is_given",
    "check_edit_and_inpaint_models_learn_apply_and_come_off",
    "check_photos_with_the_same_words_keep_their_own_masks",
    "check_encoders_that_look_at_pictures_see_the_reference",
    "check_what_a_model_cannot_use_is_refused",
    "check_a_mask_that_the_crop_leaves_nothing_of_is_refused",
    "check_a_model_that_is_given_nothing_says_so",
    "check_other_pictures_are_learned_on_their_own",
    "check_the_pocket_model_says_which_photos_it_cannot_draw",
    "check_nothing_saved_is_replaced_unless_asked_for",
    "check_the_name_in_a_file_is_the_one_it_was_saved_under",
    "check_a_saved_identity_keeps_the_last_sample_as_its_picture",
    "check_a_prior_of_the_same_name_is_kept",
    "check_loras_of_three_layouts_give_one_prior_on_every_family",
    "check_a_folder_and_loras_become_a_measured_prior",
    "check_a_quick_prior_asks_for_a_licence_and_a_source",
    "check_a_folder_is_learned_once_and_comes_out_as_a_list",
    "check_a_folder_without_a_prior_gives_identities_that_need_no_other_file",
    "check_dropped_photos_are_those_that_could_be_connected",
    "check_dropped_photos_go_before_connected_ones_and_the_node_says_so",
    "check_a_dropped_photo_that_is_gone_or_outside_is_named_before_any_work",
    "check_a_changed_file_is_read_again",
    "check_saved_pictures_are_those_of_core_and_their_manifest_is_valid",
    "check_identities_of_the_model_are_named_while_they_are_permitted",
    "check_what_cannot_be_signed_is_refused_before_the_first_step",
)


@functools.cache
def _results(folder: Path) -> dict[str, Any]:
    done = run_in_comfyui(folder, SCRIPT, timeout_s=900)
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    assert lines, f"ComfyUI's process said nothing:\n{done.stderr[-4000:]}"
    return json.loads(lines[-1].removeprefix(MARK))


def _figures(version: str, check: str) -> Any:
    result = _results(folder_of(version))[check]
    assert "error" not in result, result["error"]
    return result["figures"]


@pytest.mark.parametrize("version", each_version())
@pytest.mark.parametrize("family", ["flux", "sd3", "unet", "sdxl"])
def test_gradients_are_exact(version: str, family: str) -> None:
    """Every trained tensor against float64, blocks kept and recomputed, and float64 against a finite difference."""
    figures = _figures(version, "check_gradients")[family]
    assert figures["plain"] >= EXACT, figures
    assert figures["checkpointed"] >= EXACT, figures
    assert figures["finite_difference"] < 1e-2, figures


@pytest.mark.parametrize("version", each_version())
@pytest.mark.parametrize("check", CHECKS)
def test_in_real_comfyui(version: str, check: str) -> None:
    _figures(version, check)


@pytest.mark.parametrize("version", each_version())
def test_every_check_is_listed(version: str) -> None:
    assert set(_results(folder_of(version))) == {"check_gradients", *CHECKS}
