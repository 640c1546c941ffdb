"""How numbers are spread inside quantile steps, and where no numbers lie."""

from __future__ import annotations

import numpy as np


WINDOW = 16  # gaps on either side, by which one is judged
FALSE_GAPS = 0.1  # expected in a field without any
MAX_TILT = 500.0


def empty_gaps(values: np.ndarray) -> np.ndarray:
    """
    Which gaps between values are too wide to be the spacing that is usual there.

    Of n values with exponential tails, the gap of rank i from the nearer end, times i, is exponential with a mean that
    changes slowly (Rényi 1953, "On the theory of order statistics"). If so, a gap is r times the mean of m others with
    probability (1 + r / m)⁻ᵐ. Those with less than `FALSE_GAPS` / n are empty. Each is judged by others that are not.

    Args:
        values (`np.ndarray` of shape `(num_values,)`, `float64`): Distinct values in ascending order.

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
        with np.errstate(divide="ignore", invalid="ignore"):
            found = others * np.log1p(gaps / (means * others))
        is_new = usual & (others > 0) & (found > np.log(num / FALSE_GAPS))
        if not is_new.any():
            return surprise
        surprise[is_new] = found[is_new]


def _place(shares: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Quantiles of densities ∝ exp(rate · t) for t in [0, 1]."""
    down = -np.abs(rates)
    falling = np.where(rates > 0, 1 - shares, shares)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(down < -1e-9, np.log1p(falling * np.expm1(down)) / down, falling)
    t = np.minimum(t, 1)  # which is infinite where exp(down) vanishes beside 1
    return np.where(rates > 0, 1 - t, t)


def _share(t: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """The inverse of `_place`."""
    down = -np.abs(rates)
    falling = np.where(rates > 0, 1 - t, t)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(down < -1e-9, np.expm1(falling * down) / np.expm1(down), falling)
    return np.where(rates > 0, 1 - shares, shares)


def spans(lows: np.ndarray, highs: np.ndarray, tilts: np.ndarray) -> np.ndarray:
    """Logarithms of high / low, by which a law is a power of the magnitude; 0 where it is one of the value."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = highs / lows
        logs = np.log(ratios)
    return np.where((tilts != 0) & (ratios > 0) & np.isfinite(logs), logs, 0)


def draw(uniforms: np.ndarray, lows: np.ndarray, highs: np.ndarray, tilts: np.ndarray) -> np.ndarray:
    """
    Draws values between bounds.

    The density at x is ∝ |x|ᵝ, with β = tilt / log(high / low): this is uniform in values for a tilt of 0, uniform in
    logarithms for β = -1, and a Pareto tail below that. Where zero lies between the bounds or at one, and where these
    are close beside their magnitude, it is exponential: ∝ exp(tilt · x / (high - low)).

    Args:
        uniforms (`np.ndarray` of shape `(num_draws,)`): Random numbers in [0, 1).
        lows, highs, tilts (`np.ndarray` of shape `(num_draws,)`): The laws.

    Returns:
        `np.ndarray` of shape `(num_draws,)`: how far above the low end.
    """
    logs = spans(lows, highs, tilts)
    t = _place(uniforms, tilts + logs)
    return np.where(logs == 0, t * (highs - lows), lows * np.expm1(logs * t))


def cumulative(above: np.ndarray, lows: np.ndarray, highs: np.ndarray, tilts: np.ndarray) -> np.ndarray:
    """The probability of less than what `draw` returns: its inverse."""
    logs = spans(lows, highs, tilts)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(logs == 0, above / (highs - lows), np.log1p(above / lows) / logs)
    return _share(np.nan_to_num(t).clip(0, 1), tilts + logs)


def _log_mean_exp(rates: np.ndarray) -> np.ndarray:
    """log ∫ exp(rate · t) dt over [0, 1]"""
    size = np.maximum(np.abs(rates), 1e-12)
    return np.maximum(rates, 0) + np.log(-np.expm1(-size) / size)


def fit_tilts(means: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> np.ndarray:
    """
    The tilts of laws that have given means.

    Args:
        means (`np.ndarray` of shape `(num_steps,)`): How far above the low ends.
        lows, highs (`np.ndarray` of shape `(num_steps,)`): As of `draw`.

    Returns:
        `np.ndarray` of shape `(num_steps,)`: between -`MAX_TILT` and `MAX_TILT`, with two decimals.
    """
    logs = spans(lows, highs, np.ones(len(means))).clip(-MAX_TILT, MAX_TILT)
    logs = np.where(np.abs(logs) < 1e-4, 1e-4, logs)  # as good as 0, and no division by it
    with np.errstate(invalid="ignore", divide="ignore"):
        wanted = np.nan_to_num(means / (highs - lows), nan=0.5)
    low, high = np.full(len(means), -MAX_TILT), np.full(len(means), MAX_TILT)
    for _ in range(60):
        tilts = (low + high) / 2
        got = np.expm1(_log_mean_exp(tilts + 2 * logs) - _log_mean_exp(tilts + logs)) / np.expm1(logs)
        low, high = np.where(got < wanted, tilts, low), np.where(got < wanted, high, tilts)
    return np.round((low + high) / 2, 2)
