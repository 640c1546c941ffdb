"""How numbers are spread inside quantile steps, and where no numbers lie."""

from __future__ import annotations

import numpy as np


WINDOW = 32  # gaps on either side, by which one is judged
MAX_SPAN = MAX_TILT = 500.0


def empty_gaps(values: np.ndarray, probability: float) -> np.ndarray:
    """
    Which gaps between values are too wide to be the spacing that is usual there.

    Of n values with exponential tails, the gap of rank i from the nearer end, times i, is exponential with a mean that
    changes slowly (Rényi 1953, "On the theory of order statistics"). If so, a gap is r times the mean of m others with
    probability (1 + r / m)⁻ᵐ, and where that is too little, it is empty. Each is judged by others that are not.

    Args:
        values (`np.ndarray` of shape `(num_values,)`, `float64`): Distinct values in ascending order.
        probability (`float`): How probable a gap has to be if it is not empty.

    Returns:
        `np.ndarray` of shape `(num_values - 1,)`: 0 for gaps that are not empty; for others, how little they are by
        chance: minus the logarithm of the probability.
    """
    num = len(values)
    rank = np.minimum(np.arange(1, num), np.arange(num - 1, 0, -1))
    gaps = np.diff(values / max(1.0, np.abs(values).max())) * rank  # which does not overflow
    first = np.maximum(np.arange(num - 1) - WINDOW, 0)
    last = np.minimum(np.arange(num - 1) + WINDOW + 1, num - 1)
    surprise = np.zeros(num - 1)
    while True:
        usual = surprise == 0
        totals, counts = (np.append(0, np.cumsum(of)) for of in (gaps * usual, usual))
        others = np.maximum(counts[last] - counts[first] - usual, 0)
        # Sums of numbers of all sizes round: less than a part in 10¹⁵ of all is none.
        means = np.maximum(totals[last] - totals[first] - gaps * usual, 1e-15 * totals[-1]) / np.maximum(others, 1)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            found = others * np.log1p(gaps / (means * others))
        is_new = usual & (others > 0) & (found > -np.log(probability))
        if not is_new.any():
            return surprise
        surprise[is_new] = found[is_new]


quiet = np.errstate(over="ignore", divide="ignore", invalid="ignore")  # where `np.where` takes the other branch


@quiet
def _place(shares: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Quantiles of densities ∝ exp(rate · t) for t in [0, 1]."""
    down = -np.abs(rates)
    falling = np.where(rates > 0, 1 - shares, shares)
    t = np.where(down < -1e-9, np.log1p(falling * np.expm1(down)) / down, falling)
    t = np.minimum(t, 1)  # which is infinite where exp(down) vanishes beside 1
    return np.where(rates > 0, 1 - t, t)


@quiet
def _share(t: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """The inverse of `_place`."""
    down = -np.abs(rates)
    falling = np.where(rates > 0, 1 - t, t)
    shares = np.where(down < -1e-9, np.expm1(falling * down) / np.expm1(down), falling)
    return np.where(rates > 0, 1 - shares, shares)


@quiet
def _spans(lows: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """log(high / low), or 0 where these do not have the same sign, or are of more different sizes than floats bear."""
    logs = np.log1p(widths / lows)
    return np.where(np.abs(logs) < MAX_SPAN, logs, 0)


@quiet
def draw(uniforms: np.ndarray, lows: np.ndarray, widths: np.ndarray, tilts: np.ndarray) -> np.ndarray:
    """
    Draws numbers between bounds.

    The density at x is ∝ |x|ᵝ, with β = tilt / log(high / low): this is uniform in numbers for a tilt of 0, uniform in
    logarithms for β = -1, and a Pareto tail below that. If zero lies between the bounds, or is one, the density is
    exponential, ∝ exp(tilt · x / width), to which the other tends where bounds lie close together.

    Args:
        uniforms (`np.ndarray` of shape `(num_draws,)`): Random numbers in [0, 1).
        lows, widths, tilts (`np.ndarray` of shape `(num_draws,)`): The laws.

    Returns:
        `np.ndarray` of shape `(num_draws,)`: how far above the low end.
    """
    logs = np.where(tilts == 0, 0, _spans(lows, widths))
    t = _place(uniforms, tilts + logs)
    return np.where(logs == 0, t * widths, lows * np.expm1(logs * t))


@quiet
def cumulative(above: np.ndarray, lows: np.ndarray, widths: np.ndarray, tilts: np.ndarray) -> np.ndarray:
    """The probability of less than what `draw` returns: its inverse."""
    logs = np.where(tilts == 0, 0, _spans(lows, widths))
    t = np.where(logs == 0, above / widths, np.log1p(above / lows) / logs)
    return _share(np.nan_to_num(t).clip(0, 1), tilts + logs)


def _log_mean_exp(rates: np.ndarray) -> np.ndarray:
    """log ∫ exp(rate · t) dt over [0, 1]"""
    size = np.maximum(np.abs(rates), 1e-12)
    return np.maximum(rates, 0) + np.log(-np.expm1(-size) / size)


@quiet
def fit_tilts(means: np.ndarray, lows: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """
    The tilts of laws that have given means.

    Args:
        means (`np.ndarray` of shape `(num_steps,)`): How far above the low ends.
        lows, widths (`np.ndarray` of shape `(num_steps,)`): As of `draw`.

    Returns:
        `np.ndarray` of shape `(num_steps,)`: with two decimals.
    """
    logs = _spans(lows, widths)
    logs = np.where(np.abs(logs) < 1e-4, 1e-4, logs)  # as good as 0, and no division by it
    high = MAX_TILT * np.maximum(1, np.abs(logs))
    low = -high
    for _ in range(60):
        tilts = (low + high) / 2
        got = np.expm1(_log_mean_exp(tilts + 2 * logs) - _log_mean_exp(tilts + logs)) / np.expm1(logs)
        low, high = np.where(got < means / widths, tilts, low), np.where(got < means / widths, high, tilts)
    return np.round(tilts, 2)
