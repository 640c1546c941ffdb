"""The ε and δ of a training, and what of them its steps take."""

from __future__ import annotations

import math
import warnings
from functools import cache
from importlib.util import find_spec

from scipy.optimize import brentq

from ..checks import is_number, shown


MIN_NOISE, MAX_NOISE = 0.3, 1e4  # times the most that one record can change
PRECISION = 0.005  # of the noise
TOLERANCE = 0.01  # of ε: what is said of it is at most this much too large, and never too small


class PrivacyBudget:
    """
    What a training may tell of a single record: with that record or without it, any outcome is as probable up to a
    factor of exp(ε), but for a probability of δ (Dwork & Roth 2014, definition 2.4).

    All that looks at records is a Gaussian mechanism: it adds noise to a sum over records, each of which is drawn with
    some probability. Opacus' accountant of privacy loss distributions (PRV, arXiv 2106.02848) composes them.

    Args:
        epsilon (`float`): ε, above 0.
        delta (`float`): δ, between 0 and 1.

    Raises:
        `ImportError`: where Opacus is not installed.
        `ValueError`: for an ε or a δ that is none.
    """

    def __init__(self, epsilon: float, delta: float):
        if find_spec("opacus") is None:
            raise ImportError("differential privacy takes the package opacus: pip install 'difflm_hf[privacy]'")
        if not is_number(epsilon) or not 0 < epsilon < float("inf"):
            raise ValueError(f"epsilon={shown(epsilon)} is no number above 0; 1 to 10 are usual")
        if not is_number(delta) or not 0 < delta < 1:
            raise ValueError(f"delta={shown(delta)} is no probability; take one far below 1 / the number of records")
        self.epsilon, self.delta = epsilon, delta
        self.spent: list[tuple[float, float, int]] = []

    def noise_multiplier(self, share: float, sample_rate: float, num_steps: int) -> float:
        """
        The least noise by which these steps, and all before them, take a share of ε.

        Args:
            share (`float`): Of ε, from 0 to 1.
            sample_rate (`float`): The probability by which each record is in a step.
            num_steps (`int`): Steps.

        Returns:
            `float`: Standard deviations of the noise, in units of the most that one record can change.

        Raises:
            `ValueError`: when no noise is enough.
        """

        @cache
        def excess(log_noise: float) -> float:
            """By which factor, in logarithms, ε is above that share: about linear."""
            epsilon = self.epsilon_of(*self.spent, (math.exp(log_noise), sample_rate, num_steps))
            return math.log(epsilon / (share * self.epsilon))

        bounds = [0.0]
        while len(bounds) < 2 or excess(bounds[0]) * excess(bounds[-1]) > 0:
            step = excess(bounds[-1])
            bounds = [bounds[-1], max(bounds[-1] + step + math.copysign(0.2, step), math.log(MIN_NOISE))]
            if bounds[0] == bounds[1]:  # so little noise takes less than that share
                return MIN_NOISE
            if bounds[-1] > math.log(MAX_NOISE):
                raise ValueError(f"epsilon={self.epsilon} is too little for {num_steps} steps; raise it")
        root = brentq(excess, *bounds, xtol=PRECISION)
        return math.exp(root if excess(root) <= 0 else root + 2 * PRECISION)

    def spend(self, noise_multiplier: float, sample_rate: float, num_steps: int) -> None:
        """Puts steps on the account."""
        self.spent.append((noise_multiplier, sample_rate, num_steps))

    @property
    def spent_epsilon(self) -> float:
        """The ε of all steps so far."""
        return self.epsilon_of(*self.spent)

    def epsilon_of(self, *mechanisms: tuple[float, float, int]) -> float:
        """The ε of steps, each with the noise multiplier, the sample rate and the number that [`spend`] takes."""
        from opacus.accountants import PRVAccountant

        if not mechanisms:
            return 0.0
        accountant = PRVAccountant()
        accountant.history = list(mechanisms)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of log(0), and of orders of Rényi divergences for a first guess
            return float(accountant.get_epsilon(delta=self.delta, eps_error=TOLERANCE * self.epsilon))
