"""What learning took: time, device, and energy where the device counts it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from ..checks import NOT_NEGATIVE, optional, plain_line, refuse
from ..errors import MissingDependency
from .audit_entry import AuditEntry, Detail
from .permission import IDENTITY_LEARNED, PRIOR_TRAINED

if TYPE_CHECKING:
    import torch

Effort: TypeAlias = Mapping[str, Detail]
"""Time, device and energy of a training, as an entry of the audit log has them."""

SECONDS, DEVICE, ENERGY, RANKS = "seconds", "device", "energy_wh", "ranks"
"""Details of the entry of a training; entries of older versions have none of them, and a process alone has no ranks."""

HEAD = ("device", "runs", "minutes", "energy in Wh", "how the energy is known", "cost")
NOT_RECORDED, TOTAL = "time not recorded", "total"


def device_name(device: torch.device) -> str:
    """What a training ran on, as the log says it."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {os.cpu_count()} cores" if device.type == "cpu" else device.type


class Meter:
    """Counts from now on.

    Args:
        device: That learns.
        ranks: Processes that learn together, each on such a device; the energy of several is not counted.
    """

    def __init__(self, device: torch.device, ranks: int = 1) -> None:
        self._device, self._ranks = device, ranks
        self._began, self._energy_j = time.monotonic(), _counted_j(device)

    def read(self) -> Effort:
        """Seconds, the device's name, and its energy in Wh if it counts that, or the ranks; for an entry of the log."""
        details: dict[str, Detail] = {
            SECONDS: round(time.monotonic() - self._began, 3),
            DEVICE: device_name(self._device),
        }
        if self._ranks > 1:
            return details | {RANKS: self._ranks}
        now = _counted_j(self._device)
        if now is not None and self._energy_j is not None:
            details[ENERGY] = round((now - self._energy_j) / 3600, 6)
        return details


def _counted_j(device: torch.device) -> float | None:
    """Energy that a card has used since its driver was loaded, by whatever program; None if it does not say."""
    if device.type != "cuda":
        return None
    import torch

    try:
        nvml: Any = optional("pynvml", "Measuring energy")
    except MissingDependency:
        return None
    try:
        nvml.nvmlInit()
        # By its own id: programs may see the cards in another order than the driver does.
        card = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return nvml.nvmlDeviceGetTotalEnergyConsumption(card) / 1000
    except (nvml.NVMLError, AttributeError):  # an old card, a part of one, or an old torch
        return None


@dataclass(frozen=True)
class Prices:
    """What the user pays; 0 for what is not known.

    Args:
        per_kwh: Of energy.
        per_hour: Of the machine.
        watts: Power to assume where no energy was measured.
    """

    per_kwh: float = 0.0
    per_hour: float = 0.0
    watts: float = 0.0

    def check(self) -> None:
        """Raises InvalidOptions with everything that is wrong."""
        refuse("this report", NOT_NEGATIVE.findings(self, "per_kwh", "per_hour", "watts"))


@dataclass
class _Sum:
    """Runs of one device."""

    runs: int = 0
    seconds: float = 0.0
    measured: int = 0
    energy_wh: float = 0.0
    unmeasured_s: float = 0.0

    def add(self, other: _Sum) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def row(self, device: str, prices: Prices) -> tuple[str, ...]:
        estimated_wh = prices.watts * self.unmeasured_s / 3600
        energy_wh, rest = self.energy_wh + estimated_wh, self.runs - self.measured
        known = [f"measured for {self.measured}"] if self.measured else []
        if rest:
            known.append(f"estimated at {prices.watts:g} W for {rest}" if prices.watts else f"unknown for {rest}")
        cost = prices.per_kwh * energy_wh / 1000 + prices.per_hour * self.seconds / 3600
        least = "at least " if rest and not prices.watts and prices.per_kwh else ""
        priced = f"{least}{cost:.4g}" if prices.per_kwh or prices.per_hour else ""
        energy = f"{energy_wh:.4g}" if self.measured or prices.watts else ""
        return device, str(self.runs), f"{self.seconds / 60:.4g}", energy, ", ".join(known), priced


@dataclass
class _Runs:
    devices: dict[str, _Sum] = field(default_factory=dict[str, _Sum])
    without_time: int = 0
    priors: set[Detail] = field(default_factory=set[Detail])

    def add(self, entry: AuditEntry) -> None:
        seconds, energy_wh = (_amount(entry.details.get(name)) for name in (SECONDS, ENERGY))
        prior = entry.details.get("prior") if entry.event == PRIOR_TRAINED else None
        if seconds is None:
            # A prior has an entry for each record that covers it; the first one has the time.
            self.without_time += prior is None or prior not in self.priors
            return
        self.priors.add(prior)
        seconds *= max(_amount(entry.details.get(RANKS)) or 1, 1)  # the time of all cards
        own = _Sum(1, seconds, 0, 0.0, seconds) if energy_wh is None else _Sum(1, seconds, 1, energy_wh, 0.0)
        self.devices.setdefault(plain_line(str(entry.details.get(DEVICE, "")), 120), _Sum()).add(own)


def _amount(value: Detail) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 else None


def cost_table(entries: Iterable[AuditEntry], prices: Prices) -> Sequence[tuple[str, ...]]:
    """Runs that learned an identity or a prior, by device, with time, energy and cost; the head first.

    Args:
        entries: Of the audit log.
        prices: What the user pays.
    """
    runs, total = _Runs(), _Sum()
    for entry in entries:
        if entry.event in (IDENTITY_LEARNED, PRIOR_TRAINED):
            runs.add(entry)
    for one in runs.devices.values():
        total.add(one)
    rows = [one.row(device, prices) for device, one in sorted(runs.devices.items())]
    rest = [(NOT_RECORDED, str(runs.without_time), "", "", "", "")] if runs.without_time else []
    return [HEAD, *rows, *rest, *([total.row(TOTAL, prices)] if rows else [])]
