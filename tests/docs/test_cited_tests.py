"""Every test that the documentation cites for a claim exists, and every answer to a question has one."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import PAGES, ROOT, Page, page

_CITED = re.compile(r"tests/[\w/]+\.py(?:::\w+)?")
ANSWERS = {
    "My model behaves differently after measuring it. Was it changed?": [
        "tests/landscape/objective/test_objective.py::test_the_model_and_the_random_state_come_back_untouched_also_after_an_exception",
        "tests/landscape/surfaces/test_surface_evaluation.py::test_the_model_comes_back_bitwise_also_after_an_exception",
    ],
    "BatchNorm and dropout: which function is measured?": [
        "tests/landscape/curvature/test_products.py::test_products_leave_batchnorm_statistics_and_modes_alone",
        "tests/landscape/curvature/test_products.py::test_dropout_in_training_mode_makes_no_two_products_differ",
        "tests/landscape/surfaces/test_surface_evaluation.py::test_recalibrated_statistics_are_those_of_a_fresh_pass_at_the_point",
    ],
    "Does the batch size change the result?": [
        "tests/landscape/objective/test_objective.py::test_loss_does_not_depend_on_batch_size_or_order",
        "tests/landscape/curvature/test_products.py::test_the_last_short_batch_is_weighted_by_its_size",
    ],
    "My loss is not a plain mean": [
        "tests/landscape/objective/test_objective.py::test_a_loss_that_is_not_a_mean_is_refused",
        "tests/landscape/objective/test_contract.py::test_a_normalizer_that_is_a_little_wrong_is_refused_even_where_all_losses_are_alike",
    ],
    "My model or loss was refused": [
        "tests/docs/test_contract_page.py::test_a_quoted_message_is_in_the_code",
        "tests/landscape/objective/test_contract.py::test_outputs_that_depend_on_the_batch_are_refused",
    ],
    "My layer has a custom backward pass": [
        "tests/landscape/objective/test_contract.py::test_second_derivatives_that_are_not_the_gradients_are_refused_by_name",
        "tests/landscape/objective/test_contract.py::test_finite_differences_serve_where_nothing_else_does",
    ],
    "Can several threads measure one model?": [
        "tests/landscape/objective/test_isolation.py::test_threads_that_share_a_model_wait_for_each_other",
    ],
    "Results differ from call to call": [
        "tests/landscape/objective/test_objective.py::test_two_different_evaluations_at_one_point_are_an_error",
        "tests/landscape/objective/test_objective.py::test_datasets_and_loaders_equal_tensors_and_keep_the_random_state",
    ],
    "The largest eigenvalue is negative, or a positive one is missing": [
        "tests/landscape/spectrum/test_eigenpairs.py::test_a_peers_fault_magnitude_order_hides_a_positive_eigenvalue",
    ],
    "The same eigenvalue appears several times": [
        "tests/landscape/spectrum/test_eigenpairs.py::test_a_long_run_makes_no_ghost_copies",
        "tests/landscape/spectrum/test_eigenpairs.py::test_a_peers_fault_ghosts_after_three_hundred_products",
    ],
    "An eigenvalue that I know is there was not found": [
        "tests/landscape/spectrum/test_eigenpairs.py::test_one_start_sees_one_copy_and_a_block_or_a_search_all",
        "tests/landscape/spectrum/test_eigenpairs.py::test_unseen_bounds_hold_as_often_as_they_say",
    ],
    "Has it converged?": [
        "tests/landscape/spectrum/test_eigenpairs.py::test_what_did_not_converge_is_said",
        "tests/landscape/spectrum/test_eigenpairs.py::test_every_bound_holds",
    ],
    "The trace or the density jumps around": [
        "tests/landscape/spectrum/test_estimators.py::test_errors_of_the_trace_cover_it_whatever_it_is_deflated_by",
        "tests/landscape/spectrum/test_density.py::test_known_outliers_are_put_in_exactly",
    ],
    "A smaller λ₁: is the minimum flatter?": [
        "tests/landscape/surfaces/test_line_and_plane.py::test_adaptive_sharpness_follows_its_formula_and_ignores_rescaling",
    ],
    "NaN in the plane": [
        "tests/landscape/surfaces/test_line_and_plane.py::test_nonfinite_points_are_kept_and_marked",
        "tests/landscape/surfaces/test_refinement.py::test_what_is_not_finite_is_never_interpolated_over",
    ],
    "The axes are off by a step, or the centre is not my model": [
        "tests/landscape/surfaces/test_surface_evaluation.py::test_labelled_coordinates_are_the_measured_displacements",
        "tests/landscape/surfaces/test_line_and_plane.py::test_surfaces_of_a_quadratic_on_asymmetric_grids",
        "tests/landscape/surfaces/test_surface_evaluation.py::test_the_centre_agrees_with_plain_evaluation_and_the_hessian",
        "tests/landscape/surfaces/test_surface_evaluation.py::test_a_disagreement_is_warned_of",
    ],
    "Which range should I draw?": [
        "tests/landscape/surfaces/test_surface_evaluation.py::test_the_span_of_a_rise",
    ],
    "The picture is different each time": [
        "tests/landscape/surfaces/test_line_and_plane.py::test_the_same_seed_is_the_same_draw_for_other_weights_and_dtypes",
        "tests/landscape/surfaces/test_directions.py::test_hashes_and_cosines",
    ],
    "Are the two directions orthogonal?": [
        "tests/landscape/surfaces/test_line_and_plane.py::test_surfaces_of_a_quadratic_on_asymmetric_grids",
        "tests/landscape/surfaces/test_line_and_plane.py::test_every_filter_of_a_direction_has_the_norm_of_its_weights",
    ],
    "Biases, norm layers, convolutions in three dimensions": [
        "tests/landscape/surfaces/test_directions.py::test_filters_are_the_slices_along_dim_0_of_every_layer_type",
        "tests/landscape/surfaces/test_directions.py::test_fresh_batchnorm_is_left_in_place_by_default_and_a_zero_shift_under_any_policy",
    ],
    "The trajectory leaves the contours": [
        "tests/landscape/surfaces/test_trajectory.py::test_explained_share_and_distances_of_the_principal_plane",
    ],
    "The Hessian says flat, the picture says steep": [
        "tests/landscape/surfaces/test_surface_evaluation.py::test_kinks_are_told_from_faults",
    ],
    "BatchNorm statistics move twice a step": [
        "tests/ncsam/optimizers/test_step.py::test_batchnorm_statistics_move_once_a_step",
    ],
    "After resuming, training continues differently": [
        "tests/ncsam/optimizers/test_resume.py::test_resume_is_bitwise",
        "tests/ncsam/optimizers/test_resume.py::test_a_state_that_does_not_fit_is_refused",
    ],
    "The learning-rate schedule does not reach the base optimizer": [
        "tests/ncsam/optimizers/test_step.py::test_schedulers_reach_the_base",
        "tests/ncsam/optimizers/test_resume.py::test_groups_state_and_defaults_stay_the_bases_after_loading_and_copying",
    ],
    "Mixed precision, `GradScaler`": [
        "tests/ncsam/optimizers/test_precision.py::test_a_power_of_two_as_loss_scale_changes_not_one_bit",
        "tests/ncsam/optimizers/test_precision.py::test_an_overflow_at_the_perturbed_weights_alone_backs_off_too",
    ],
    "Gradient accumulation": [
        "tests/ncsam/optimizers/test_step.py::test_microbatches_change_nothing_but_the_rounding",
        "tests/ncsam/optimizers/test_loss_mean.py::test_weighted_means_are_summed_exactly_over_microbatches",
    ],
    "A parameter without gradient; a NaN in the loss": [
        "tests/ncsam/optimizers/test_step.py::test_parameters_without_gradient_stay_put",
        "tests/ncsam/optimizers/test_step.py::test_what_is_not_finite_skips_the_step_and_says_so",
    ],
    "NCSAM is no better than SGD, and a warning mentions the projection": [
        "tests/ncsam/optimizers/test_step.py::test_the_projection_warning_comes_once_per_optimizer_and_after_the_update",
    ],
    "The realised rate is not the one I asked for": [
        "tests/ncsam/noise/test_kinds.py::test_inclusive_flips_less_by_the_share_that_lands_on_the_true_class",
        "tests/ncsam/noise/test_kinds.py::test_exact_flips_exactly_so_many",
        "tests/ncsam/noise/test_kinds.py::test_the_record_describes_what_was_done",
    ],
    "Asymmetric flips that feed on each other": [
        "tests/ncsam/noise/test_kinds.py::test_each_class_is_observed_with_the_frequencies_of_its_row",
    ],
    "Human labels in another order than the images": [
        "tests/ncsam/noise/test_human.py::test_another_order_or_another_set_is_refused",
    ],
    "Best epoch or last epoch? Which accuracy is it?": [
        "tests/ncsam/sweep/test_sweep.py::test_tuning_tries_as_much_for_every_arm_and_overrides_the_reported_cells",
    ],
    "The process was killed. Is the file lost?": [
        "tests/store/test_crash_points.py::test_committed_rows_survive_every_crash",
        "tests/store/test_kill.py::test_a_kill_loses_nothing_that_was_reported",
        "tests/landscape/surfaces/test_surface_evaluation.py::test_a_resumed_plane_is_bitwise_the_undisturbed_one",
    ],
    "Can I trust a file from someone else?": [
        "tests/store/test_damage.py::test_every_flipped_bit_is_found",
        "tests/store/test_damage.py::test_hostile_files_are_refused",
    ],
    "Do I need this package to read the files?": [
        "tests/store/test_docs.py::test_a_stranger_can_read_a_record",
        "tests/store/test_round_trip.py::test_h5dump_of_distributions_opens_the_files",
    ],
}
"""The tests that check what each answer of docs/faq.md says."""


def exists(cited: str) -> bool:
    path, _, name = cited.partition("::")
    return (ROOT / path).is_file() and (not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [p for p in PAGES if _CITED.search(p.text)], ids=lambda page: page.name)
def test_cited_tests_exist(page: Page) -> None:
    assert [cited for cited in _CITED.findall(page.text) if not exists(cited)] == []


def test_every_answer_to_a_question_is_checked_by_a_test() -> None:
    titles = re.findall(r"^### (.+)$", page("docs/faq.md").text, flags=re.MULTILINE)
    assert titles == list(ANSWERS)
    assert [(title, cited) for title, tests in ANSWERS.items() for cited in tests if not exists(cited)] == []
    assert [title for title, tests in ANSWERS.items() if not tests] == []


def test_answers_name_no_tests() -> None:
    assert not _CITED.search(page("docs/faq.md").text)
