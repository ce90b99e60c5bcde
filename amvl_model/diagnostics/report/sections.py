"""Text and panels of the diagnostics report, by diagnostic."""

from __future__ import annotations

from collections.abc import Mapping

from amvl_model.diagnostics.report.figures import Panel, Path, words

TITLES: dict[str, str] = {
    "contamination": "Leakage and contamination",
    "slots": "Slot by slot",
    "answer-direction": "What the prior has taken over",
    "cross-modal": "Through the image, through the text",
    "stability": "Stability",
    "interventions": "Do the latents matter?",
    "mediation": "Whose answer do the latents carry?",
    "linear-response": "Linear response",
    "relevance": "Relevance of image tokens and words",
}

ABOUT: dict[str, str] = {
    "contamination": "For every question the posterior of every option is computed. Leaked information is how much it reveals "
    "about which option it was shown: 0 for an answer-blind posterior, at most the bound. Known-answer leakage weighs the "
    "options with known label probabilities; only what the image does not determine counts. Gaps are posterior latents minus "
    "prior latents: below 0, training looks better than inference.",
    "slots": "The same figures for every latent slot alone. Redundancy is what the slots say more than once.",
    "answer-direction": "Displacement of the prior mean from the average of the options' posterior means, along an option's own "
    "direction: 0 at the average, 1 where that option's posterior stands. Contrast is the given option minus the others; what "
    "is above the held-out contrast on training questions is memorised.",
    "cross-modal": "One modality at a time is replaced by another question's. Image and text are Shapley values: they add up to "
    "what the question as a whole contributes to a figure; the remainder is there without it.",
    "stability": "Agreement of answers and latents over latent samples and temperatures, under changes of image and text, and "
    "similarity between slots. Shifts are in prior standard deviations.",
    "interventions": "The answer with latents zeroed, exchanged between questions, or replaced by noise, against the prior mean. "
    "Differences are paired over questions. A sentence speaks of an effect only where the interval leaves out 0 and "
    "the mean reaches a threshold (amvl_model/results/thresholds.py).",
    "mediation": "The answer when Z is the posterior mean of another option, and when single slots are knocked out.",
    "linear-response": "At the prior mean: how hard each answer pulls on the latents (force), how stiff the likelihood of "
    "answers is there (Gauss-Newton curvature in the span of the forces), and the precisions of prior and posterior, all in "
    "prior standard deviations. The theory expects no leak where gamma is above twice the force variance over the curvature "
    "(T6). Negative mass is the share of the true Hessian that is negative and that a Gauss-Newton curvature discards.",
    "relevance": "Integrated gradients from grey images and mean word embeddings: how many nats each image token and word "
    "adds to the movement of the latents' prior mean, and to the log probability of the answer. They add up to the whole change.",
}


PERTURBATIONS = {
    "patch_shuffle": "image: patches permuted",
    "word_shuffle": "text: words permuted",
    "option_order": "text: options reordered",
    "letter_style": "text: other letters",
    "paraphrase": "text: paraphrased",
    "crop": "image: cropped",
    "noise": "image: noise",
    "darker": "image: darker",
    "brighter": "image: brighter",
    "jpeg": "image: JPEG",
    "other_question": "another question",
}
"""Changes of a question and what they are called; the first two leave its answer unknown, the last is another question."""
INTERVENTIONS = {
    "prior_sample": "prior sample",
    "zeroed": "zeros",
    "shuffled": "another question's",
    "noise": "N(0, I) noise",
}
"""What stands in place of the prior mean."""


def _named(
    names: str | Mapping[str, str], *path: str, deep: tuple[str | int, ...] = ()
) -> tuple[tuple[str, Path], ...]:
    """Rows for keys below a path: space-separated, or with a label each."""
    labels = {name: words(name) for name in names.split()} if isinstance(names, str) else names
    return tuple((label, (*path, name, *deep)) for name, label in labels.items())


_SHIFT_UNIT = "shift [1 = the option's own displacement]"
_SHIFT_ROWS = {
    key: _named(
        {
            "given": "given option",
            "others": "other options",
            "contrast": "given minus others",
            "own_label": "own label",
            "leverage": "leverage of the own label",
        },
        key,
        "figures",
    )
    for key in ("held_out", "training")
}

PANELS: dict[str, tuple[Panel, ...]] = {
    "contamination": (
        Panel(
            "leaked information",
            "information [nats]",
            _named("leaked_information leakage_bound known_answer_leakage answer_entropy", "measures"),
        ),
        Panel("answer sensitivity", "squared Mahalanobis distance", _named("answer_sensitivity", "measures"), log=True),
        Panel("KL between posterior and prior", "KL [nats]", _named("forward_kl reverse_kl", "measures"), log=True),
        Panel(
            "answer NLL, posterior minus prior latents",
            "difference [nats]",
            _named("nll_gap_mean nll_gap_sample", "measures"),
            zero=True,
        ),
        Panel(
            "accuracy",
            "accuracy [%]",
            _named(
                "accuracy_prior_mean accuracy_prior_sample accuracy_posterior_mean accuracy_posterior_sample",
                "measures",
            ),
            scale=100,
        ),
        Panel(
            "spread", "standard deviation [latent units]", _named("prior_spread posterior_spread", "measures"), log=True
        ),
    ),
    "slots": (
        *(
            Panel(title, unit, (("all slots", ("whole", measure)), ("slot", ("slots", measure))), log=log)
            for measure, title, unit, log in (
                ("leaked_information", "leaked information", "information [nats]", False),
                ("answer_sensitivity", "answer sensitivity", "squared Mahalanobis distance", True),
                ("forward_kl", "forward KL", "KL(q || p) [nats]", True),
            )
        ),
        Panel("redundancy", "information [nats]", _named("redundancy known_redundancy", "whole"), zero=True),
    ),
    "answer-direction": (
        *(
            Panel(f"{title} questions", _SHIFT_UNIT, _SHIFT_ROWS[key], zero=True, shared=True)
            for key, title in (("held_out", "held-out"), ("training", "training"))
        ),
        Panel("contrast: training minus held-out", _SHIFT_UNIT, _named("memorised"), zero=True, shared=True),
    ),
    "cross-modal": (
        *(
            Panel(title, unit, _named("total image text interaction", "shares", measure), scale=scale, zero=True)
            for measure, title, unit, scale in (
                ("leaked_information", "share of the leaked information", "nats", 1.0),
                ("forward_kl", "share of KL(q || p)", "nats", 1.0),
                ("nll_prior_mean", "share of the answer NLL, prior mean", "nats", 1.0),
                ("accuracy_prior_mean", "share of the accuracy, prior mean", "points", 100.0),
            )
        ),
        Panel(
            "NLL change by path, prior mean",
            "nats",
            tuple(
                (f"{what} replaced, {path.replace('_', ' ')}", ("paths", what, "prior", path, "nll_difference"))
                for what in ("image", "text")
                for path in ("total", "through_latents", "direct")
            ),
            zero=True,
        ),
        Panel("option code with and without it", "cosine", _named("image text both", "answer_code")),
    ),
    "stability": (
        *(
            Panel(
                title,
                unit,
                tuple((f"temperature {t}", ("sampling", t, measure)) for t in ("0.5", "1", "2")),
                scale=scale,
            )
            for measure, title, unit, scale in (
                ("answer_agreement", "latent samples", "share of pairs of samples with one answer [%]", 100.0),
                ("latent_cosine", "latents of one sample and another", "cosine [1]", 1.0),
            )
        ),
        Panel(
            "question changed: same answer",
            "questions answered as before [%]",
            _named(PERTURBATIONS, "perturbations", deep=("answer_agreement",)),
            scale=100,
        ),
        Panel(
            "question changed: shift of the prior mean",
            "shift, root mean square [prior std]",
            _named(PERTURBATIONS, "perturbations", deep=("prior_shift",)),
            log=True,
        ),
        Panel(
            "similarity between slots",
            "cosine, mean over pairs [1]",
            _named(
                {
                    "prior": "prior",
                    "posterior": "posterior",
                    "prior_centred": "prior, centred",
                    "posterior_centred": "posterior, centred",
                },
                "off_diagonal",
            ),
        ),
        Panel(
            "spread of each slot",
            "standard deviation [latent units]",
            (("prior, slot", ("spread", "prior")), ("posterior, slot", ("spread", "posterior"))),
            log=True,
        ),
    ),
    "interventions": (
        *(
            Panel(title, unit, _named(INTERVENTIONS, "conditions", deep=(measure,)), scale=scale, zero=zero)
            for measure, title, unit, scale, zero in (
                ("accuracy_difference", "accuracy, change against the prior mean", "change [points]", 100.0, True),
                ("nll_difference", "answer NLL, change against the prior mean", "change [nats]", 1.0, True),
                ("total_variation", "change of the answer distribution", "total variation distance [1]", 1.0, False),
            )
        ),
    ),
    "mediation": (
        Panel(
            "posterior of another option swapped in",
            "share of questions [%]",
            _named(
                {
                    "accuracy_given": "right, own posterior",
                    "accuracy_swapped": "right, swapped posterior",
                    "follows_swapped": "answers the swapped option",
                },
                "swap",
            ),
            scale=100,
        ),
        Panel(
            "log odds of the swapped option",
            "change [nats]",
            _named({"log_odds_shift": "swapped minus own"}, "swap"),
            zero=True,
        ),
        Panel(
            "one slot taken from another question",
            "change of the answer NLL [nats]",
            (
                *((f"slot {i + 1}", ("slots", "other", i, "nll_difference")) for i in range(16)),
                ("all slots", ("whole", "other", "nll_difference")),
            ),
            zero=True,
        ),
    ),
    "linear-response": (
        Panel(
            "answer force (spread: geometric mean)",
            "nats per prior std",
            _named("mean_force force_spread", "measures"),
            log=True,
        ),
        Panel(
            "curvature, trace: geometric mean", "nats per squared prior std", _named("curvature", "measures"), log=True
        ),
        Panel(
            "force variance over curvature: geometric mean",
            "nats",
            _named("force_variance_over_curvature", "measures"),
            log=True,
        ),
        Panel("posterior precision", "per squared prior std", _named("posterior_precision", "measures"), log=True),
        Panel("spread of the options' posterior means", "prior std", _named("posterior_spread", "measures"), log=True),
        Panel(
            "what the span and Gauss-Newton leave out",
            "fraction",
            _named("outside_span negative_mass discarded_curvature other_answers", "measures"),
        ),
    ),
    "relevance": (
        Panel("relevance for the latents", "nats", _named("image text total residual", "parts", "latents"), zero=True),
        Panel("relevance for the answer", "nats", _named("image text total residual", "parts", "answer"), zero=True),
    ),
}
"""Panels by diagnostic; what a checkpoint does not have is left out of them, and everything is in the tables."""
