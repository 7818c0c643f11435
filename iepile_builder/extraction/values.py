"""
Read a string of a text as a number, a date or one of several choices, where Pydantic is strict.

- Numbers: `1,234.50`, `1 234,50`, `1'234.50`, `1.234,50`, with a sign, full-width digits, and a currency before or
  behind (`$`, `EUR`, `euros`, `元`). One comma before three digits groups them (1,234 is 1234), one point is decimal.
  `3 million`, `5 %` and `5 kg` are no numbers.
- Dates that are complete and leave nothing open, with a year of four digits: `3 March 2024`, `2024/3/3`,
  `2024年3月3日`, `31.12.2023`; not `03/04/2024`.
- Enums and literals in any case; an enum by its value or its name.

Any other string is left as it is, for Pydantic and the model's own validators.
"""

import re
import unicodedata
import warnings
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from iepile_builder.answers.grounding import Mention


_CURRENCY = "(?:[A-Z]{0,3}[$\u00a2-\u00a5\u20a0-\u20cf]|[A-Z]{3}|euros?|dollars?|pounds?|yen|yuan|元)"
_NUMBER = re.compile(
    rf"([+-]?)\s*{_CURRENCY}?\s*([+-]?)(?:"
    r"(?P<english>\d{1,3}(?:,\d{3})+(?:\.\d+)?)|(?P<german>\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,})|"
    r"(?P<spaced>\d{1,3}(?:[ ']\d{3})+(?:[.,]\d+)?)|(?P<plain>\d+(?:[.,]\d+)?(?:[eE][+-]?\d+)?)"
    rf")\s*{_CURRENCY}?"
)
_SIGNS = str.maketrans({"\u2212": "-", "\u2019": "'"})
_YEAR_FIRST = re.compile(r"(\d{4})\s*[-/.年]\s*(\d{1,2})\s*[-/.月]\s*(\d{1,2})\s*日?")
_DEFAULTS = (datetime(2001, 1, 1), datetime(2004, 2, 2))  # what is open differs


def read_value(mention: Mention, types: Sequence[Any]) -> Any:
    """
    Read a mention as Pydantic takes it for a value of one of some types.

    Raises:
        `ValueError`: If Pydantic would misread it: a bare number as a date, in seconds since 1970.
    """
    if list_choices(types):
        return _read_choice(mention.answer, types)
    if str in types:
        return str(mention)
    if any(each in (int, float, Decimal) for each in types):
        return _read_number(mention)
    if any(each in (date, datetime) for each in types):
        return _read_date(mention, datetime in types)
    return str(mention)


def list_choices(types: Sequence[Any]) -> list[str]:
    """List the choices of enums and literals, as a text may have them."""
    return [str(value) for each in types for value, _ in _choices(each)]


def _choices(of_type: Any) -> list[tuple[Any, Any]]:
    """List the strings of each choice of an enum or a literal, with its value."""
    if get_origin(of_type) is Literal:
        return [(each, each) for each in get_args(of_type)]
    if isinstance(of_type, type) and issubclass(of_type, Enum):
        return [(each.value, each) for each in of_type]
    return []


def _read_choice(string: str, types: Sequence[Any]) -> Any:
    choices = [choice for each in types for choice in _choices(each)]
    names = [(each.name.replace("_", " "), each) for _, each in choices if isinstance(each, Enum)]
    wanted = string.casefold().strip()
    return next((value for name, value in (*choices, *names) if str(name).casefold() == wanted), string)


def _read_number(string: str) -> str:
    found = _NUMBER.fullmatch(unicodedata.normalize("NFKC", string).translate(_SIGNS).strip())
    if found is None or (found[1] and found[2]):
        return str(string)
    kind, digits = found.lastgroup, found[found.lastgroup or 0]
    if kind == "english":
        digits = digits.replace(",", "")
    elif kind == "german":
        digits = digits.replace(".", "")
    digits = re.sub("[ ']", "", digits).replace(",", ".")
    return f"{found[1]}{found[2]}{digits}"


def _read_date(string: str, with_time: bool) -> str:
    from dateutil.parser import UnknownTimezoneWarning, parse

    text = unicodedata.normalize("NFKC", string).strip()
    if year_first := _YEAR_FIRST.fullmatch(text):
        year, month, day = map(int, year_first.groups())
        return f"{year:04}-{month:02}-{day:02}"
    if re.fullmatch(r"[+-]?[\d.]+", text) and not re.fullmatch(r"\d{1,2}\.\d{1,2}\.\d{4}", text):
        raise ValueError("a number is no date")
    if re.match(r"\d{4}-\d\d-\d\d", text) or not re.search(r"\d{4}", text):
        return str(string)  # as Pydantic reads it, or incomplete
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UnknownTimezoneWarning)
            read = {parse(text, dayfirst=day, default=default) for day in (True, False) for default in _DEFAULTS}
    except (ValueError, OverflowError, UnknownTimezoneWarning):
        return str(string)
    if len(read) > 1:
        return str(string)
    (only,) = read
    return only.isoformat() if with_time else only.date().isoformat()
