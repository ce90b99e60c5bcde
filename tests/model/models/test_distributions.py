"""Diagonal Gaussians and the heads that make them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from amvl_model.models.distributions import LOG_STD_BOUND, DiagonalGaussian, GaussianHead, kl_per_dimension


def gaussian(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> DiagonalGaussian:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(*shape, generator=generator, dtype=dtype)
    return DiagonalGaussian(mean, torch.randn(*shape, generator=generator, dtype=dtype))


def test_kl_of_every_dimension_equals_torch_distributions() -> None:
    a, b = gaussian(4, 3, 5, seed=0), gaussian(4, 3, 5, seed=1)
    torch.testing.assert_close(a.kl(b), kl_divergence(Normal(a.mean, a.std), Normal(b.mean, b.std)))
    torch.testing.assert_close(kl_per_dimension(b, a), kl_divergence(Normal(b.mean, b.std), Normal(a.mean, a.std)))
    assert (a.kl(b) > 0).all()


def test_kl_is_exactly_zero_between_equal_distributions() -> None:
    a = gaussian(4, 3, 5, seed=0, dtype=torch.float32)
    assert not a.kl(DiagonalGaussian(a.mean.clone(), a.log_std.clone())).any()


@pytest.mark.parametrize("difference", [1e-3, 1e-4, 1e-5])
def test_kl_between_close_distributions_keeps_its_digits_in_float32(difference: float) -> None:
    zero = torch.zeros(1)
    close = DiagonalGaussian(zero, torch.full((1,), difference)).kl(DiagonalGaussian(zero, zero)).item()
    assert close == pytest.approx(difference**2, rel=0.05)  # (expm1(2 e) - 2 e) / 2 = e^2 + O(e^3)


def test_kl_agrees_with_samples_within_four_standard_errors() -> None:
    a, b = gaussian(2, 2, 3, seed=0), gaussian(2, 2, 3, seed=1)
    noise = torch.randn(200_000, *a.mean.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    z = a.mean + a.std * noise
    ratio = Normal(a.mean, a.std).log_prob(z) - Normal(b.mean, b.std).log_prob(z)
    error = ratio.std(0) / math.sqrt(len(z))
    assert ((ratio.mean(0) - a.kl(b)).abs() < 4 * error).all()


def test_samples_have_the_mean_and_the_tempered_spread() -> None:
    one = gaussian(1, 2, 3, seed=0)
    many = one.repeat_interleave(100_000)
    z = many.rsample(temperature=0.5, generator=torch.Generator().manual_seed(1))
    error = 0.5 * one.std[0] / math.sqrt(len(z))
    assert ((z.mean(0) - one.mean[0]).abs() < 4 * error).all()
    torch.testing.assert_close(z.std(0), 0.5 * one.std[0], rtol=4 / math.sqrt(2 * len(z)), atol=0)


def test_temperature_zero_is_the_mean_bit_for_bit() -> None:
    a = gaussian(2, 2, 3, seed=0)
    assert torch.equal(a.rsample(temperature=0), a.mean)


def test_a_seed_fixes_the_sample_and_another_changes_it() -> None:
    a = gaussian(2, 2, 3, seed=0)
    first, again, other = (a.rsample(generator=torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_samples_carry_gradient_to_mean_and_spread() -> None:
    mean, log_std = torch.zeros(1, 1, 4, requires_grad=True), torch.zeros(1, 1, 4, requires_grad=True)
    z = DiagonalGaussian(mean, log_std).rsample(generator=torch.Generator().manual_seed(0))
    z.sum().backward()
    assert mean.grad is not None and torch.equal(mean.grad, torch.ones_like(mean))
    torch.testing.assert_close(log_std.grad, z.detach())  # dz / dlog_std = std * noise = z here
    assert not DiagonalGaussian(mean, log_std).detach().rsample().requires_grad


def test_a_negative_temperature_and_unequal_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        gaussian(1, 1, 2, seed=0).rsample(temperature=-1)
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3\) and \(2, 4\)"):
        DiagonalGaussian(torch.zeros(2, 3), torch.zeros(2, 4))


def test_variance_is_the_square_of_the_standard_deviation() -> None:
    a = gaussian(2, 2, 3, seed=0)
    torch.testing.assert_close(a.variance, a.std**2)


def head(hidden: int = 16, latent: int = 4) -> GaussianHead:
    torch.manual_seed(0)
    return GaussianHead(hidden, latent)


def test_the_head_is_its_equation() -> None:
    module, hidden = head(), torch.randn(2, 3, 16, dtype=torch.float64)
    torch.nn.init.normal_(module.norm_weight)
    x = hidden / (hidden.square().mean(-1, keepdim=True) + module.eps).sqrt() * module.norm_weight.double()
    weight, bias = module.linear.weight.double(), module.linear.bias.double()
    out = module(hidden)
    torch.testing.assert_close(out.mean, x @ weight[:4].T + bias[:4])
    torch.testing.assert_close(out.log_std, 5 * torch.tanh((x @ weight[4:].T + bias[4:]) / 5))
    assert out.mean.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_head_computes_in_float32_whatever_the_backbone_does(dtype: torch.dtype) -> None:
    module, hidden = head(), torch.randn(2, 3, 16).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(hidden)
    assert out.mean.dtype == out.log_std.dtype == torch.float32
    torch.testing.assert_close(out.mean, module(hidden.float()).mean, rtol=0, atol=0)


def test_the_log_standard_deviation_stays_in_its_bounds() -> None:
    module = head()
    with torch.no_grad():
        module.linear.bias.fill_(1e4)
    out = module(torch.randn(2, 3, 16))
    assert out.log_std.max() <= LOG_STD_BOUND and out.kl(DiagonalGaussian(-out.mean, -out.log_std)).isfinite().all()
