"""T10 to T12: closed forms and flows against direct integration, linear algebra, and seeds that train on minibatches."""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp

import amvl_theory as theory
from amvl_theory.checks import Array
from amvl_theory.verification.core import CLOSED_FORM, RELATIVE, THOROUGH, Evidence, Ledger, relative

INTEGRATED = 1e-6
SHORT = "the limit is approached like 1/t; compared at t = 1e5"


def t10(rng: np.random.Generator, instances: int) -> Evidence:
    """T10 Widening."""
    book = Ledger()
    times, few = np.array([1.0, 10.0, 100.0]), min(instances, 40)
    fixed, bound, exact = [], [], []
    for a, b, a_m, b_m, sigma_q, sigma_p, gap in rng.uniform(0.4, 1.5, (few, 7)):
        path = theory.widening_at_fixed_gap(
            times, fixed_gap_var=gap, posterior_rate=a, prior_rate=b, posterior_std=sigma_q, prior_std=sigma_p
        )
        flow = solve_ivp(
            lambda t, x, a=a, b=b, v=gap: [2 * a * (x[1] - x[0] + v), 2 * b * (x[0] - x[1] + v)],
            (0, 100), [sigma_q**2, sigma_p**2], t_eval=times, method="DOP853", rtol=1e-12, atol=1e-13,
        ).y  # fmt: skip
        fixed.append(relative(np.stack([path.posterior_var, path.prior_var]), flow))
        rates, stds = theory.HeadRates(a, b, a_m, b_m), {"posterior_std": sigma_q, "prior_std": sigma_p}
        end = theory.widening([3e3], gap=gap, gamma=1.0, beta=1.0, rates=rates, **stds).posterior_var[0]
        bound.append(max(float(theory.widening_limit(gap, rates=rates, **stds).at_least) / end - 1, 0.0))
        rates = theory.HeadRates(a, a, a_m, b_m)
        end = theory.widening([3e3], gap=gap, gamma=1.0, beta=1.0, rates=rates).posterior_var[0]
        exact.append(abs(end / float(theory.widening_limit(gap, rates=rates).small_gap) - 1))
    book.closed("variances at a constant gap against tight integration", fixed, few)
    integrated = "an integrated flow, run to 1e-9 a step"
    book.closed("final variance of equal rates against the flow", exact, few, INTEGRATED, integrated)
    book.closed("final variance never below the bound", bound, few, INTEGRATED, integrated)
    heads = theory.HeadRates(0.001, 0.002, 0.0015, 0.001)
    for gap, v in ((0.0, 0.4), (0.8, 0.2)):
        seed = int(rng.integers(2**31))
        result = theory.run_widening(
            gap=gap, fixed_gap_var=v, gamma=0.7, rates=heads, seeds=40, batch=16, steps=400, seed=seed
        )
        path = theory.widening([400.0], gap=gap, gamma=0.7, beta=1.0, rates=heads, fixed_gap_var=v)
        for name, mine, flow in zip(("Q", "P"), result, (path.posterior_var, path.prior_var), strict=False):
            error = mine.std() / np.sqrt(len(mine))
            book.sampled(
                f"{name} of seeds on sampled KLs, gap {gap:g}, V {v:g}", mine.mean(), flow[0], error, len(mine)
            )
    uneven = theory.HeadRates(1.0, 0.1, 1.0, 0.1)
    far = np.log(theory.widening([3e3], gap=2.0, gamma=1.0, beta=1.0, rates=uneven).posterior_var[0])
    first = np.log(float(theory.widening_limit(2.0, rates=uneven).small_gap))
    book.departs("first-order exponent", 1 - first / far, "relative", "gap of two widths, rates 1, 0.1, 1, 0.1")
    return book.evidence()


def t11(rng: np.random.Generator, instances: int) -> Evidence:
    """T11 Reading the leak."""
    book = Ledger()
    rates, sign, held = [], [], []
    for gain, curve, eta_w, eta_q, decay, gamma, s in rng.uniform(0.05, 1.5, (instances, 7)):
        model = theory.ReadingModel(gain, curve, eta_w, eta_q, decay)
        a, d = model.damping(s, gamma)
        top = np.linalg.eigvalsh([[-a, gain * np.sqrt(eta_w * eta_q)], [gain * np.sqrt(eta_w * eta_q), -d]])[1]
        rates.append(abs(float(theory.reading_rate(model, s, gamma)) - top) / (a + d))
        limit = float(theory.reading_threshold(model, s))
        sign.append(not theory.reading_rate(model, s, 0.999 * limit) > 0 > theory.reading_rate(model, s, 1.001 * limit))
        weight = float(theory.holding_weight(300, probability=0.2, critical=20.0, model=model, variance=s))
        if weight > 0:
            held.append(
                abs(float(theory.collapse_probability(theory.reading_rate(model, s, weight) * 300, 20.0)) / 0.2 - 1)
            )
    book.closed("growth rate against the eigenvalue of J", rates, instances)
    book.closed("its sign on both sides of the threshold", np.array(sign, dtype=float), instances)
    book.closed(
        "gamma*(T) against the share that it holds", held, len(held), 1e-8, "an exponential of rates times 300 steps"
    )
    seeds, record = 1000 if instances >= THOROUGH else 300, np.array([300, 450, 700])
    for gamma, std in ((0.0, 0.3), (0.02, 0.3), (0.05, 0.4)):
        result, expected, error = collapse_shares(gamma, std, record, seeds, int(rng.integers(2**31)))
        book.sampled(
            f"share of seeds past w a = 0.15^2, gamma {gamma:g}, width {std:g}", result, expected, error, seeds
        )
    narrow = collapse_shares(0.02, 0.2, np.array([900]), seeds, 1, rates=(0.01, 0.03), product=0.32**2)
    book.departs(
        "more seeds collapse than P says",
        narrow[0][0] - narrow[1][0],
        "share",
        "leak wider than the posterior (width 0.2)",
    )
    return book.evidence()


def collapse_shares(
    gamma: float,
    std: float,
    record: Array,
    seeds: int,
    seed: int,
    *,
    rates: tuple[float, float] = (0.02, 0.02),
    product: float = 0.15**2,
) -> tuple[Array, Array, Array]:
    """(share of simulated seeds past a product w a, T11's share without a fit, its standard error), each (times,)."""
    start = theory.Start(0.0, 0.0, std, std)
    ensemble = theory.Ensemble(seeds, 16, decoder_rate=rates[0], posterior_rate=rates[1], start=start)
    run = theory.run_ensemble(ensemble, gamma, steps=int(record[-1]), record=record, seed=seed)
    model = theory.ReadingModel(decoder_rate=rates[0], posterior_rate=rates[1])
    sampling = std / 2 / np.sqrt(ensemble.batch)  # of the batch mean of y z/2
    first = theory.initial_amplitude(model, std**2, gamma, (0.02, 0.02), noise_stds=(sampling, 0.0), times=record)
    critical = theory.amplitude_at_product(model, std**2, gamma, product) / first
    expected = theory.collapse_probability(theory.reading_rate(model, std**2, gamma) * record, critical)
    return run.reached(np.sqrt(product)), expected, np.sqrt(expected * (1 - expected) / seeds) + 0.5 / seeds


def t12(rng: np.random.Generator, instances: int) -> Evidence:
    """T12 No resting point with a decoder that learns."""
    book = Ledger()
    few, unit = 3 if instances < THOROUGH else 10, theory.ReadingModel(1.0, 1.0)
    snr, width, rest, charge = [], [], [], []
    for gamma in rng.uniform(0.03, 0.3, few):
        for decoder, model in (("linear", unit), ("logistic", theory.ReadingModel())):
            begin = theory.Start(0.1, 0.1, 0.3, 0.3)
            path = theory.coadapted_trajectory([1e5], model=model, gamma=gamma, decoder=decoder, start=begin)
            limit = theory.coadapted_asymptotics(model, gamma, decoder=decoder)
            snr.append(abs(path.snr[0] / limit.snr - 1))
            width.append(abs(np.sqrt(path.prior_var[0] / (limit.prior_var_rate * 1e5)) - 1))
            elbo = theory.coadapted_trajectory(
                [0.0, 1e6], model=model, gamma=0.0, beta=gamma, decoder=decoder, objective="elbo", start=begin
            )
            limit = theory.coadapted_asymptotics(model, gamma, decoder=decoder, objective="elbo")
            rest.append(abs(elbo.snr[1] / limit.snr - 1))
            at_rest = theory.scale_charge(elbo, model=model)
            charge.append(abs(at_rest[1] / at_rest[0] - 1))
    book.closed("dual KL: rho at t = 1e5 against its limit", snr, 2 * few, 0.03, SHORT)
    book.closed("dual KL: sigma_p at t = 1e5 against its limit", width, 2 * few, 0.03, SHORT)
    book.closed("ELBO: rho at t = 1e6 against its rest", rest, 2 * few, 0.03, "it rests slowly at small beta")
    book.add("ELBO: N is conserved", CLOSED_FORM, charge, 2 * few, INTEGRATED, RELATIVE, "an integrated flow")
    route, model = theory.XRoute(1.0, 1.0, 0.002), theory.ReadingModel(1.0, 1.0, 0.02, 0.02)
    path = theory.coadapted_trajectory(
        [8e5], model=model, gamma=0.03, route=route, start=theory.Start(0.01, 0.01, 0.5, 0.5)
    )
    expected = float(theory.prior_latent_accuracy(route.snr, theory.late_leak(model, 0.03, route.snr)))
    result = float(theory.accuracy_with_prior_latents(path, route)[0])
    book.closed("accuracy with prior latents beside a route from x", abs(result / expected - 1), 1, 0.01, SHORT)
    for decoder in ("linear", "logistic"):
        start, seeds = theory.Start(0.3, 0.3, 0.5, 0.5), 100
        ensemble = theory.Ensemble(seeds, 32, decoder=decoder, start=start, decoder_std=0.0, leak_std=0.0)
        run = theory.run_ensemble(ensemble, 0.1, steps=800, record=[800], seed=int(rng.integers(2**31)))
        model = theory.ReadingModel(*((1.0, 1.0) if decoder == "linear" else (0.5, 0.25)), 0.02, 0.02)
        flow = theory.coadapted_trajectory(
            [800.0], model=model, gamma=0.1, std_rates=(0.02, 0.02), decoder=decoder, start=start
        )
        gap = np.abs(run.prior_var.mean() / flow.prior_var[0] - 1)
        reason = "100 seeds on minibatches of 32; steps of 0.02"
        book.simulated(f"sigma_p^2 of seeds on minibatches, {decoder} decoder", gap, seeds, 0.05, reason)
    start = theory.Start(0.3, 0.3, 0.5, 0.5)
    *_, prior = theory.run_softmax(
        3, gamma=0.1, start=start, seeds=50, batch=32, steps=800, seed=int(rng.integers(2**31))
    )
    flow = theory.coadapted_trajectory(
        [800.0], model=theory.ReadingModel.of_variance(1 / 3, decoder_rate=0.02, posterior_rate=0.02), gamma=0.1,
        std_rates=(0.02, 0.02), decoder="softmax", start=start,
    )  # fmt: skip
    gap = np.abs(prior.mean() / flow.prior_var[0] - 1)
    book.simulated("sigma_p^2 of seeds on minibatches, three answers", gap, 50, 0.05, "50 seeds on minibatches of 32")
    swing = theory.edge_of_stability(unit, 0.1)[0] / theory.coadapted_asymptotics(unit, 0.1).snr - 1
    book.departs("rho where plain steps end the growth", swing, "relative", "eta_w k P = 2, linear decoder, gamma 0.1")
    return book.evidence()
