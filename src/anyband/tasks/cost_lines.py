"""What a run costs and what it reached, in lines for people."""

from anyband.tasks.cost_model import RunCost
from anyband.tasks.meter import Reached
from anyband.tasks.precision import precision_note

__all__ = ["cost_lines", "duration", "reached_lines", "scaled"]

_MINUTE_S, _HOUR_S, _DAY_S = 60.0, 3600.0, 86_400.0
# Steps between prefixes of SI.
_THOUSAND = 1000.0


def scaled(value: float, unit: str) -> str:
    """Write a number with three digits and a prefix: 117 GFLOP."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        # 999.6 would be written as 1e+03.
        if abs(value) < _THOUSAND - 0.5:
            return f"{value:.3g} {prefix}{unit}"
        value /= _THOUSAND
    return f"{value:.3g} E{unit}"


def duration(seconds: float) -> str:
    """Write a time in the unit that fits."""
    if seconds < _MINUTE_S:
        return f"{seconds:.3g} s"
    if seconds < _HOUR_S:
        return f"{seconds / _MINUTE_S:.3g} min"
    return f"{seconds / _HOUR_S:.3g} h" if seconds < _DAY_S else f"{seconds / _DAY_S:.3g} days"


def cost_lines(cost: RunCost) -> list[str]:
    """Say what a run is expected to cost."""
    place, seconds = cost.place, cost.seconds
    many = f" × {place.num_processes} processes" if place.num_processes > 1 else ""
    precision = "bf16" if place.where.in_bf16 else "float32"
    free = "" if cost.free_bytes is None else f", {scaled(float(cost.free_bytes), 'B')} are free"
    noun, trained = cost.noun, cost.flops.trained
    parts = (
        f"blocks {duration(seconds.blocks)}, other products {duration(seconds.maps)}, "
        f"preparing {duration(seconds.preparing)}, optimiser {duration(seconds.optimizer)}"
    )
    imitated = precision_note(place.where.device, place.where.precision)
    return [
        f"cost: {scaled(cost.flops_a_sample, 'FLOP')} a {noun}, {scaled(trained, 'FLOP')} a step of {cost.batch_size} "
        f"{noun}s, {scaled(cost.num_steps * trained, 'FLOP')} in {cost.num_steps} steps; "
        f"{cost.num_weights / 1e6:,.1f} million weights",
        f"cost: a matrix product in {precision} reaches {scaled(place.peak_flops_s, 'FLOP/s')} on "
        f"'{place.where.device}'{many} (measured)",
        f"cost: expected {duration(seconds.total)} a step ({parts}), "
        f"{duration(cost.num_steps * seconds.total)} in all, MFU {100 * cost.mfu:.0f} %",
        f"cost: a step needs at least {scaled(float(cost.needed_bytes), 'B')} of memory{free}",
        _reading_line(cost),
        _limit_line(cost),
        *([] if imitated is None else [f"cost: {imitated}"]),
    ]


def _reading_line(cost: RunCost) -> str:
    raw = scaled(cost.raw_bytes, "B")
    if cost.stored_bytes is None:
        return f"cost: a step reads {raw} of stored numbers, {scaled(cost.num_steps * cost.raw_bytes, 'B')} in all"
    return (
        f"cost: a step reads {scaled(cost.stored_bytes, 'B')} ({raw} of stored numbers unpacked), "
        f"{scaled(cost.num_steps * cost.stored_bytes, 'B')} in all; a {cost.noun} "
        f"{scaled(cost.stored_bytes / cost.batch_size, 'B')} ({scaled(cost.raw_bytes / cost.batch_size, 'B')})"
    )


def _limit_line(cost: RunCost) -> str:
    threads = f"{cost.workers} thread{'s' * (cost.workers > 1)}"
    what = (
        f"reading may limit: see data_wait in metrics.csv, and raise run.workers (now {threads})"
        if cost.reading_limits
        else "arithmetic limits"
    )
    return (
        f"cost: {what}; computing takes {cost.computed_samples_s:,.3g} {cost.noun}s a second, and one thread of "
        f"{'each' if cost.place.num_processes > 1 else 'the'} process read {cost.read_samples_s:,.3g} (measured)"
    )


def reached_lines(reached: Reached, expected: RunCost | None) -> list[str]:
    """Say what a run reached; nothing where it did no step."""
    if not reached.num_steps:
        return []
    mfu = "" if reached.mfu is None else f", {100 * reached.mfu:.1f} % of the measured peak (MFU)"
    before = "" if expected is None else f" (expected {duration(expected.seconds.total)})"
    return [
        f"reached: {scaled(reached.flops_s, 'FLOP/s')}{mfu}; {duration(reached.seconds / reached.num_steps)} a step"
        f"{before}; waited for data {100 * reached.data_wait:.1f} % of the time"
    ]
