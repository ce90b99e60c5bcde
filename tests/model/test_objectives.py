"""The eight objectives: their formulas, where each sends gradients, and what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from amvl_model.config import ObjectiveConfig
from amvl_model.models.distributions import DiagonalGaussian, answer_nll
from amvl_model.objectives import (
    FORWARD_OF_BOTH,
    NTP,
    OBJECTIVES,
    Loss,
    Objective,
    Term,
    Weights,
    amvl_objective,
    register_objective,
)
from tests.helpers import FREE_BITS, collate, examples, tiny_model

B, K, D = 5, 3, 4
BETA, GAMMA = 0.7, 0.2


def gaussian(seed: int) -> DiagonalGaussian:
    """A random distribution (B, K, D) whose parameters are leaves."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(B, K, D, generator=generator, dtype=torch.float64).requires_grad_()
    log_std = (0.5 * torch.randn(B, K, D, generator=generator, dtype=torch.float64)).requires_grad_()
    return DiagonalGaussian(mean, log_std)


def torch_kl(a: DiagonalGaussian, b: DiagonalGaussian) -> Tensor:
    """KL(a || b) by torch.distributions, (B,)."""
    return kl_divergence(Independent(Normal(a.mean, a.std), 2), Independent(Normal(b.mean, b.std), 2))


def has_gradient(distribution: DiagonalGaussian) -> bool:
    gradients = (distribution.mean.grad, distribution.log_std.grad)
    return any(g is not None and bool(g.any()) for g in gradients)


FORMULAS = {
    "ntp": lambda ntp, forward, reverse: ntp,
    "fwd": lambda ntp, forward, reverse: BETA * forward,
    "rev": lambda ntp, forward, reverse: GAMMA * reverse,
    "ntp+fwd": lambda ntp, forward, reverse: ntp + BETA * forward,
    "ntp+rev": lambda ntp, forward, reverse: ntp + GAMMA * reverse,
    "amvl": lambda ntp, forward, reverse: ntp + BETA * forward + GAMMA * reverse,
    "elbo": lambda ntp, forward, reverse: ntp + BETA * forward,
    "jeffreys": lambda ntp, forward, reverse: ntp + BETA * forward + GAMMA * reverse,
}
# objective: (the prior gets gradient, the posterior gets gradient) from the KL terms
REACHED = {
    "ntp": (False, False),
    "fwd": (True, False),
    "rev": (False, True),
    "ntp+fwd": (True, False),
    "ntp+rev": (False, True),
    "amvl": (True, True),
    "elbo": (True, True),
    "jeffreys": (True, True),
}


POSTERIOR = [name for name, entry in OBJECTIVES.items() if entry.passes == ("posterior",)]


def test_there_are_eight_objectives_with_a_posterior_three_without_and_one_with_both_passes() -> None:
    assert set(POSTERIOR) == set(FORMULAS) and len(POSTERIOR) == 8
    assert {name: OBJECTIVES[name].passes for name in set(OBJECTIVES) - set(POSTERIOR)} == {
        "prior": ("prior",),
        "amvl+prior": ("posterior", "prior"),
        "sft": ("plain",),
        "pause": ("pause",),
    }
    assert OBJECTIVES["amvl"].equation == "NTP + beta KL(sg[q] || p) + gamma KL(sg[p] || q)"


@pytest.fixture
def own_objective() -> Iterator[Objective]:
    """An entry made by a user: AMVL without the stop-gradient of the forward KL, and at least one nat of the reverse KL."""
    yield register_objective(Objective("mine", (NTP, FORWARD_OF_BOTH, FREE_BITS)))
    del OBJECTIVES["mine"]


def test_an_objective_of_ones_own_is_one_entry(own_objective: Objective) -> None:
    prior, posterior, ntp = gaussian(0), gaussian(1), torch.rand(B, dtype=torch.float64)
    terms = amvl_objective(prior, posterior, ntp, BETA, GAMMA, objective="mine")
    reverse = torch_kl(prior, posterior).clamp(min=1.0)
    torch.testing.assert_close(terms.total, ntp + BETA * torch_kl(posterior, prior) + GAMMA * reverse)
    torch.testing.assert_close(terms.named()["free_bits"], reverse)
    torch.testing.assert_close(terms.named()["weighted_free_bits"], GAMMA * reverse)
    assert own_objective.equation == "NTP + beta KL(q || p) + gamma max(KL(sg[p] || q), 1)"
    settings = ObjectiveConfig(name="mine", beta=0.5, gamma=0.25)
    assert settings.weights(1.0) == (0.5, 0.25)


def test_an_objective_of_ones_own_trains_a_model(own_objective: Objective) -> None:
    model, batch = tiny_model(), collate(examples())
    output = model(**batch, loss=ObjectiveConfig(name="mine").loss(1.0), latents="posterior_mean")
    assert torch.equal(output.loss, output.terms.total.mean())
    output.loss.backward()
    assert model.posterior_head.linear.weight.grad.any()


def test_entries_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="the objective 'amvl' is already registered: NTP"):
        register_objective(Objective("amvl", (NTP,)))
    with pytest.raises(ValueError, match="terms of different names"):
        Objective("twice", (NTP, NTP))
    with pytest.raises(ValueError, match="weight must be one of beta, gamma, alpha, got 'delta'"):
        Objective("unknown", (Term("x", "x", "posterior", lambda out: out.answer_nll["posterior"], weight="delta"),))


def test_prior_sample_training_has_no_posterior_and_its_gradient_reaches_the_prior() -> None:
    model, batch = tiny_model(), collate(examples())
    loss = ObjectiveConfig(name="prior").loss(0.5)
    output = model(**batch, loss=loss, latents="prior_mean")
    with torch.no_grad():
        other = model(**batch, latents="prior_mean")
    torch.testing.assert_close(output.answer_nll, other.answer_nll)
    assert output.posterior_mean is None and output.terms.forward_kl is None
    output.loss.backward()
    assert model.prior_head.linear.weight.grad.any() and model.posterior_head.linear.weight.grad is None
    with pytest.raises(ValueError, match="pass answer_ids to get a posterior"):
        _ = output.posterior


def test_a_loss_that_needs_a_pass_the_model_does_not_compute_is_refused() -> None:
    with pytest.raises(ValueError, match="computes the passes prior and posterior; the loss needs plain"):
        tiny_model()(**collate(examples()), loss=ObjectiveConfig(name="sft").loss(0.0))


@pytest.mark.parametrize("objective", POSTERIOR)
def test_total_is_the_formula_of_its_terms(objective: str) -> None:
    prior, posterior, ntp = gaussian(0), gaussian(1), torch.rand(B, dtype=torch.float64)
    terms = amvl_objective(prior, posterior, ntp, BETA, GAMMA, objective=objective)
    expected = FORMULAS[objective](ntp, torch_kl(posterior, prior), torch_kl(prior, posterior))
    torch.testing.assert_close(terms.total, expected)
    parts = terms.weighted_forward + terms.weighted_reverse + (0 if objective in ("fwd", "rev") else terms.ntp)
    torch.testing.assert_close(terms.total, parts)


@pytest.mark.parametrize("objective", POSTERIOR)
def test_both_kls_are_reported_whether_or_not_they_are_trained(objective: str) -> None:
    prior, posterior, ntp = gaussian(0), gaussian(1), torch.rand(B, dtype=torch.float64)
    terms = amvl_objective(prior, posterior, ntp, BETA, GAMMA, objective=objective)
    torch.testing.assert_close(terms.forward_kl, torch_kl(posterior, prior))
    torch.testing.assert_close(terms.reverse_kl, torch_kl(prior, posterior))
    assert terms.ntp is ntp


@pytest.mark.parametrize("objective", POSTERIOR)
def test_kls_send_gradient_only_where_the_objective_says(objective: str) -> None:
    prior, posterior = gaussian(0), gaussian(1)
    terms = amvl_objective(prior, posterior, torch.zeros(B, dtype=torch.float64), BETA, GAMMA, objective=objective)
    if objective == "ntp":
        assert not terms.total.requires_grad  # nothing but the likelihood, which is a constant here
        return
    terms.total.sum().backward()
    assert (has_gradient(prior), has_gradient(posterior)) == REACHED[objective]


@pytest.mark.parametrize("objective", ["amvl", "jeffreys"])
def test_the_stop_gradient_is_what_tells_amvl_from_jeffreys(objective: str) -> None:
    prior, posterior = gaussian(0), gaussian(1)
    amvl_objective(
        prior, posterior, torch.zeros(B, dtype=torch.float64), BETA, GAMMA, objective=objective
    ).total.sum().backward()
    p, q = gaussian(0), gaussian(1)
    if objective == "amvl":
        (BETA * torch_kl(q.detach(), p) + GAMMA * torch_kl(p.detach(), q)).sum().backward()
    else:
        (BETA * torch_kl(q, p) + GAMMA * torch_kl(p, q)).sum().backward()
    for got, expected in ((prior, p), (posterior, q)):
        torch.testing.assert_close(got.mean.grad, expected.mean.grad)
        torch.testing.assert_close(got.log_std.grad, expected.log_std.grad)


@pytest.mark.parametrize("objective", POSTERIOR)
def test_kls_and_their_gradients_are_zero_where_prior_and_posterior_agree(objective: str) -> None:
    prior, posterior = gaussian(3), gaussian(3)
    terms = amvl_objective(prior, posterior, torch.ones(B, dtype=torch.float64), BETA, GAMMA, objective=objective)
    assert not terms.forward_kl.any() and not terms.reverse_kl.any()
    if terms.total.requires_grad:
        terms.total.sum().backward()
        for distribution in (prior, posterior):
            for leaf in (distribution.mean, distribution.log_std):
                assert leaf.grad is None or leaf.grad.abs().max() < 1e-12


def test_kl_reduction_mean_divides_by_slots_and_dimensions() -> None:
    prior, posterior, ntp = gaussian(0), gaussian(1), torch.rand(B, dtype=torch.float64)
    summed = amvl_objective(prior, posterior, ntp, BETA, GAMMA)
    mean = amvl_objective(prior, posterior, ntp, BETA, GAMMA, kl_reduction="mean")
    torch.testing.assert_close(mean.forward_kl, summed.forward_kl / (K * D))
    torch.testing.assert_close(mean.reverse_kl, summed.reverse_kl / (K * D))
    torch.testing.assert_close(mean.total, ntp + BETA * mean.forward_kl + GAMMA * mean.reverse_kl)


def test_weights_of_zero_leave_the_likelihood_alone() -> None:
    ntp = torch.rand(B, dtype=torch.float64)
    assert torch.equal(amvl_objective(gaussian(0), gaussian(1), ntp, 0.0, 0.0).total, ntp)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["beta", "gamma"])
def test_a_negative_or_infinite_weight_is_refused(name: str, weight: float) -> None:
    weights: dict[str, Any] = {"beta": 1.0, "gamma": 1.0, name: weight}
    with pytest.raises(ValueError, match=f"{name} must be finite and at least 0, got {weight}"):
        amvl_objective(gaussian(0), gaussian(1), torch.zeros(B), **weights)


def test_unknown_names_and_shapes_that_do_not_fit_are_refused() -> None:
    prior, posterior, ntp = gaussian(0), gaussian(1), torch.zeros(B)
    with pytest.raises(ValueError, match="objective must be one of .*amvl.*, got 'vae'"):
        amvl_objective(prior, posterior, ntp, 1, 1, objective="vae")
    with pytest.raises(ValueError, match="kl_reduction must be 'sum' or 'mean'.*got 'none'"):
        amvl_objective(prior, posterior, ntp, 1, 1, kl_reduction="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"answer_nll \(batch,\), got .*\(1,\)"):
        amvl_objective(prior, posterior, ntp[:1], 1, 1)
    with pytest.raises(ValueError, match="one shape"):
        amvl_objective(DiagonalGaussian(prior.mean[:, :1], prior.log_std[:, :1]), posterior, ntp, 1, 1)


def test_the_log_holds_the_batch_means_of_every_term() -> None:
    terms = amvl_objective(gaussian(0), gaussian(1), torch.rand(B, dtype=torch.float64), BETA, GAMMA)
    logged = terms.mean()
    assert set(logged) == {"total", "ntp", "forward_kl", "reverse_kl", "weighted_forward", "weighted_reverse"}
    assert all(type(value) is float for value in logged.values())
    assert logged["total"] == pytest.approx(logged["ntp"] + logged["weighted_forward"] + logged["weighted_reverse"])
    assert logged["weighted_forward"] == pytest.approx(BETA * logged["forward_kl"])


def test_answer_nll_is_the_cross_entropy_of_the_real_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(B, 6, 11, generator=generator, dtype=torch.float64)
    ids = torch.randint(0, 11, (B, 6), generator=generator)
    lengths = torch.tensor([1, 6, 3, 2, 5])
    mask = (torch.arange(6) < lengths[:, None]).long()
    nll = answer_nll(logits, ids, mask)
    for i, n in enumerate(lengths.tolist()):
        expected = torch.nn.functional.cross_entropy(logits[i, :n], ids[i, :n], reduction="sum")
        torch.testing.assert_close(nll[i], expected)
    torch.testing.assert_close(answer_nll(logits, ids, mask, reduction="token_mean"), nll / lengths)
    with pytest.raises(ValueError, match="nll_reduction must be 'sum' or 'token_mean', got 'mean'"):
        answer_nll(logits, ids, mask, reduction="mean")


def test_answer_nll_ignores_what_stands_at_padded_places() -> None:
    logits, ids = torch.randn(2, 4, 7), torch.randint(0, 7, (2, 4))
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    other_ids = torch.where(mask.bool(), ids, 6 - ids)
    other_logits = torch.where(mask.bool().unsqueeze(-1), logits, 100 - logits)
    assert torch.equal(answer_nll(logits, ids, mask), answer_nll(other_logits, other_ids, mask))


def test_answer_nll_of_low_precision_logits_is_computed_in_float32() -> None:
    logits = (5 * torch.randn(3, 20, 50)).bfloat16()
    ids, mask = torch.randint(0, 50, (3, 20)), torch.ones(3, 20, dtype=torch.long)
    nll = answer_nll(logits, ids, mask)
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll, answer_nll(logits.double(), ids, mask).float())


def test_the_prior_s_sample_is_an_added_term_with_a_weight_of_its_own() -> None:
    prior, posterior, ntp = gaussian(1), gaussian(2), torch.rand(B, dtype=torch.float64)
    sampled = torch.full_like(ntp, 2.0)
    weights = Weights(BETA, GAMMA, alpha=0.5)
    terms = Loss(OBJECTIVES["amvl+prior"], weights)({"posterior": ntp, "prior": sampled}, prior, posterior)
    torch.testing.assert_close(terms.total, amvl_objective(prior, posterior, ntp, BETA, GAMMA).total + 1.0)
    assert terms.named()["weighted_prior_ntp"].mean() == 1.0
    settings = ObjectiveConfig(name="amvl+prior", alpha=0.25)
    assert settings.loss(0.0).weights.alpha == 0.25  # it has no schedule
    assert ObjectiveConfig(alpha=0.25).loss(1.0).weights.alpha == 0.0  # amvl has no such term
