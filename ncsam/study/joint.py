"""T3, T4 and T5 read together: what each pattern of their verdicts says of the paper's mechanism."""

from __future__ import annotations


def joint_reading(t3: str, t4: str, t5: str) -> str:
    """The sign logic of the compensation, in words.

    ε_SAM already contains +λ g_noise. If g* really resembled g_noise (T4) and g_noise opposed g_clean (T3), adding
    s g* would turn ε further from the clean perturbation, so T5 could not hold: the three together are not the
    mechanism. The paper's own reading, that it undoes the drift −η g_noise of the weights, is not what T5 measures.

    Args:
        t3, t4, t5: verdicts as :func:`ncsam.study.verdicts.judge` gives them.

    >>> joint_reading("supported", "contradicted (opposite)", "contradicted (opposite)")
    'g* is not the noise gradient and the perturbation is not brought back: whatever NCSAM gains, ...'
    """
    if any(v == "not measured" for v in (t3, t4, t5)):
        missing = ", ".join(name for name, v in (("T3", t3), ("T4", t4), ("T5", t5)) if v == "not measured")
        return f"cannot be read together: {missing} not measured (`landscape train --diagnose`, `landscape diagnose`)"
    if "undecided" in (t4, t5):
        return "cannot be read together yet: T4 or T5 is undecided"
    stands_for_noise, comes_back = t4 == "supported", t5 == "supported"
    if stands_for_noise and comes_back:
        if t3 == "supported":
            return (
                "at odds with the sign logic: adding a vector like g_noise to a perturbation that already contains "
                "g_noise brought it back although g_noise opposes g_clean; projection or the wrong-labelled samples' "
                "own true gradient must be what turns it"
            )
        return (
            "consistent only because T3 does not hold: g_noise does not oppose g_clean, so moving along it need not "
            "lead away from the clean perturbation; that is not the paper's picture of opposing gradients"
        )
    if stands_for_noise:
        return (
            "g* is like the noise gradient, and adding it turns the perturbation towards the noise, as the sign logic "
            "says it must; compensation would need the opposite sign"
        )
    if comes_back:
        return (
            "the perturbation comes back although g* is not the noise gradient: g* helps for another reason, such as "
            "temporary labels that are the true ones (see the share of flips to the true label)"
        )
    return (
        "g* is not the noise gradient and the perturbation is not brought back: whatever NCSAM gains, it is not by the "
        "mechanism the paper states; look at the realised ‖ε‖ first"
    )
