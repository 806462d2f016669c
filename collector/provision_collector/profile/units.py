"""Durations and sizes as people write them: `15m`, `1h30m`, `100MiB`, `6.9GB`, `>=24GiB`. Pure.

What comes back is exact: seconds as float, bytes as int. What is ambiguous (`1:30`, `100mb`) is refused.
"""

from __future__ import annotations

import re
from decimal import Decimal

NUMBER_PATTERN = r"[0-9]{1,18}(\.[0-9]{1,18})?"
DURATION_PATTERN = rf"({NUMBER_PATTERN}(ms|s|m|h|d))+"
SIZE_PATTERN = rf"{NUMBER_PATTERN} ?(B|[kKMGT]B|[KMGT]iB)"
LINE_PATTERN = rf"{NUMBER_PATTERN} ?([kKMG]bit|B|[kKMGT]B|[KMGT]iB)"

LONGEST_S = 365 * 86400.0
LARGEST_BYTES = 999 * 10**15

_SECONDS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
_BYTES = {
    "B": 1,
    **{f"{letter}B": 1000**power for letter, power in zip("kKMGT", (1, 1, 2, 3, 4), strict=True)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)},
}


def duration_s(value: object) -> float:
    """Read a duration.

    Args:
        value: Seconds as a number or as digits, or text such as ``30s``, ``1.5h``, ``1h30m``.

    Returns:
        Seconds, above 0 and at most a year.

    Raises:
        ValueError: anything else; the message says what is expected.
    """
    seconds = _duration(value)
    if seconds is None:
        raise ValueError(f"{_shown(value)} is no duration: write seconds, or text such as `30s`, `15m`, `1h`")
    if not 0 < seconds <= LONGEST_S:
        raise ValueError(f"a duration of {_shown(value)} is out of range: more than 0, at most 365d")
    return float(seconds)


def size_bytes(value: object) -> int:
    """Read a size.

    Args:
        value: Bytes as an int or as digits, or text such as ``100MiB`` (2^20) or ``6.9GB`` (10^9).

    Returns:
        Bytes, 0 or more; a fraction of a byte is rounded.

    Raises:
        ValueError: anything else; the message says what is expected.
    """
    size = _size(value)
    if size is None:
        raise ValueError(f"{_shown(value)} is no size: write bytes, or text such as `100MiB`, `6.9GB`")
    if not 0 <= size <= LARGEST_BYTES:
        raise ValueError(f"a size of {_shown(value)} is out of range: 0 to 999 PB")
    return size


def line_bytes_per_s(value: object) -> int:
    """Read the rate of a line.

    Args:
        value: Bytes per second as an int or as digits, or text such as ``200Mbit`` (10^6 bits) or ``25MB``.

    Returns:
        Bytes per second.

    Raises:
        ValueError: anything else; the message says what is expected.
    """
    bits = (
        re.fullmatch(rf"({NUMBER_PATTERN}) ?([kKMG])bit", value, re.ASCII) if isinstance(value, str) else None
    )
    try:
        return size_bytes(value if bits is None else f"{Decimal(bits[1]) / 8:f}{bits[3]}B")
    except ValueError:
        raise ValueError(
            f"{_shown(value)} is no rate of a line: write `200Mbit`, `1Gbit` or `25MB/s`"
        ) from None


def condition(value: object, example: str) -> tuple[str, str]:
    """Read the operator of a condition such as ``>=24GiB``.

    Args:
        example: A good one, for the message.

    Returns:
        The operator, one of ``>= > <= < == !=`` (empty: none is written), and what follows it.

    Raises:
        ValueError: it is no text.
    """
    match = re.fullmatch(r"\s*(>=|<=|==|!=|=|>|<|)\s*(.+?)\s*", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f"{_shown(value)} is no condition: write an operator and a value, such as `{example}`"
        )
    return "==" if match[1] == "=" else match[1], match[2]


def bound(value: object, plain: str = "") -> tuple[str, int]:
    """Read a condition such as ``>=24GiB``.

    Args:
        plain: The operator that a size alone means; empty: a size alone is no condition.

    Returns:
        The operator, one of ``>= > <= < == !=``, and bytes.

    Raises:
        ValueError: no operator, or no size after it.
    """
    operator, size = condition(value, ">=24GiB")
    operator = operator or plain
    if not operator:
        raise ValueError(f"{_shown(value)} is no condition: write an operator and a size, such as `>=24GiB`")
    return operator, size_bytes(size)


def as_text(size: int) -> str:
    """*size* in bytes for people, decimal as sources state it: ``18.4 GB``."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _duration(value: object) -> Decimal | None:
    number = _number(value)
    if number is not None:
        return number
    if not isinstance(value, str) or not re.fullmatch(DURATION_PATTERN, value, re.ASCII):
        return None
    parts = re.findall(r"([0-9.]+)(ms|s|m|h|d)", value)
    widths = [_SECONDS[unit] for _, unit in parts]
    if widths != sorted(set(widths), reverse=True):
        return None  # `5m1h` or `5m5m` is a slip of the finger, not a sum
    return sum((Decimal(count) * _SECONDS[unit] for count, unit in parts), Decimal(0))


def _size(value: object) -> int | None:
    number = None if isinstance(value, float) else _number(value)
    if number is not None:
        return int(number) if number == int(number) else None
    if not isinstance(value, str) or not re.fullmatch(SIZE_PATTERN, value, re.ASCII):
        return None
    count, unit = re.split(r" ?(?=[kKMGTB])", value, maxsplit=1)
    return int((Decimal(count) * _BYTES[unit]).to_integral_value())


def _number(value: object) -> Decimal | None:
    if isinstance(value, str) and re.fullmatch(NUMBER_PATTERN, value, re.ASCII):
        return Decimal(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = Decimal(repr(value))
        return number if number.is_finite() else None
    return None


def _shown(value: object) -> str:
    text = str(value)
    return f"`{text if len(text) <= 40 else text[:37] + '…'}`"
