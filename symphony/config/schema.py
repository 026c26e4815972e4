"""Turns parsed TOML, YAML or JSON into msgspec structs, and finds everything that is wrong with it.

msgspec converts a whole document fast, but stops at the first mistake. So it is asked first; only when it refuses
does the walk below go over the document next to the type's description and collect every finding. The walk
builds nothing and decides nothing: a document that it finds no fault with, but msgspec does, is reported in
msgspec's words.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from symphony.config.problem import Problem
from symphony.config.wording import alternatives, found, join_place, nearest, quoted

T = TypeVar("T")


def convert(value: object, type_: type[T], place: str = "") -> tuple[T | None, list[Problem]]:
    """Convert `value` to `type_`; return it with no problems, or None with all of them.

    `place` is put before the places inside `value`.
    """
    try:
        return msgspec.convert(value, type_), []
    except msgspec.ValidationError as error:
        problems: list[Problem] = []
        described: Any = type_
        _walk(value, _description(described), place, problems)
        return None, problems or [Problem(place, str(error))]


def convert_or_none(value: object, type_: type[T]) -> T | None:
    """Convert `value` to `type_` where that is possible, and say nothing where it is not."""
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError:
        return None


@cache
def _description(type_: Any) -> inspect.Type:
    return inspect.type_info(type_)


def _walk(value: object, type_: inspect.Type, place: str, problems: list[Problem]) -> None:
    check = _CHECKS.get(type(type_))
    if check is not None:
        check(value, type_, place, problems)


def _mismatch(value: object, expected: str, place: str, problems: list[Problem]) -> None:
    problems.append(Problem(place, f"expected {expected}, found {found(value)}"))


def _metadata(value: object, type_: inspect.Metadata, place: str, problems: list[Problem]) -> None:
    _walk(value, type_.type, place, problems)


def _struct(value: object, type_: inspect.StructType, place: str, problems: list[Problem]) -> None:
    if not isinstance(value, dict):
        _mismatch(value, "a table", place, problems)
        return
    fields = {field.encode_name: field for field in type_.fields}
    for key, item in value.items():
        field = fields.get(key) if isinstance(key, str) else None
        if field is not None:
            _walk(item, field.type, join_place(place, key), problems)
        elif key != type_.tag_field and type_.forbid_unknown_fields:
            known = sorted(fields, key=lambda name: not fields[name].required)
            problems.append(_unknown_key(key, [*known, *filter(None, [type_.tag_field])], place))
    for name, field in fields.items():
        if field.required and name not in value:
            problems.append(Problem(join_place(place, name), f"is missing: expected {_expected(field.type)}"))


def _unknown_key(key: object, known: list[str], place: str) -> Problem:
    suggestion = nearest(key, known)
    hint = f"did you mean {quoted(suggestion)}?" if suggestion else f"expected {alternatives(known)}"
    return Problem(join_place(place, key), f"unknown key; {hint}")


def _array(
    value: object, type_: inspect.VarTupleType | inspect.ListType, place: str, problems: list[Problem]
) -> None:
    if not isinstance(value, list | tuple):
        _mismatch(value, _expected(type_), place, problems)
        return
    for index, item in enumerate(value):
        _walk(item, type_.item_type, f"{place}[{index}]", problems)
    _length(len(value), "elements", type_.min_length, type_.max_length, place, problems)


def _mapping(value: object, type_: inspect.DictType, place: str, problems: list[Problem]) -> None:
    if not isinstance(value, dict):
        _mismatch(value, "a table", place, problems)
        return
    for key, item in value.items():
        _walk(key, type_.key_type, join_place(place, key), problems)
        _walk(item, type_.value_type, join_place(place, key), problems)


def _integer(value: object, type_: inspect.IntType, place: str, problems: list[Problem]) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        _mismatch(value, _expected(type_), place, problems)
    else:
        _range(value, type_, place, problems)


def _float(value: object, type_: inspect.FloatType, place: str, problems: list[Problem]) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _mismatch(value, _expected(type_), place, problems)
    else:
        _range(value, type_, place, problems)


def _range(
    value: int | float, type_: inspect.IntType | inspect.FloatType, place: str, problems: list[Problem]
) -> None:
    # Stated as what must hold, so that NaN, which compares to nothing, is out of every range.
    inside = (
        (type_.ge is None or value >= type_.ge)
        and (type_.gt is None or value > type_.gt)
        and (type_.le is None or value <= type_.le)
        and (type_.lt is None or value < type_.lt)
    )
    if not inside:
        _mismatch(value, _expected(type_), place, problems)


def _boolean(value: object, type_: inspect.BoolType, place: str, problems: list[Problem]) -> None:
    if not isinstance(value, bool):
        _mismatch(value, _expected(type_), place, problems)


def _string(value: object, type_: inspect.StrType, place: str, problems: list[Problem]) -> None:
    if not isinstance(value, str):
        _mismatch(value, _expected(type_), place, problems)
    else:
        _length(len(value), "characters", type_.min_length, type_.max_length, place, problems)


def _none(value: object, type_: inspect.NoneType, place: str, problems: list[Problem]) -> None:
    if value is not None:
        _mismatch(value, "null", place, problems)


def _length(
    length: int, unit: str, least: int | None, most: int | None, place: str, problems: list[Problem]
) -> None:
    if least is not None and length < least:
        problems.append(Problem(place, f"expected at least {least} {unit}, found {length}"))
    if most is not None and length > most:
        problems.append(Problem(place, f"expected at most {most} {unit}, found {length}"))


def _choice(
    value: object, type_: inspect.LiteralType | inspect.EnumType, place: str, problems: list[Problem]
) -> None:
    known = _values(type_)
    if value not in known:
        suggestion = nearest(value, [item for item in known if isinstance(item, str)])
        hint = f"; did you mean {quoted(suggestion)}?" if suggestion else ""
        shown = quoted(value) if isinstance(value, str) else found(value)
        problems.append(Problem(place, f"expected {_expected(type_)}, found {shown}{hint}"))


def _values(type_: inspect.LiteralType | inspect.EnumType) -> list[object]:
    if isinstance(type_, inspect.EnumType):
        return [member.value for member in type_.cls]
    return list(type_.values)


def _union(value: object, type_: inspect.UnionType, place: str, problems: list[Problem]) -> None:
    members = [_bare(member) for member in type_.types]
    if value is None and any(isinstance(member, inspect.NoneType) for member in members):
        return
    members = [member for member in members if not isinstance(member, inspect.NoneType)]
    structs = [member for member in members if isinstance(member, inspect.StructType)]
    if isinstance(value, dict) and len(structs) > 1:
        _tagged(value, structs, place, problems)
    elif len(members) == 1:
        _walk(value, members[0], place, problems)
    else:
        attempts: list[list[Problem]] = []
        for member in members:
            attempt: list[Problem] = []
            _walk(value, member, place, attempt)
            attempts.append(attempt)
        if all(attempts):
            # Findings inside the value mean that its kind fits; otherwise name all kinds that would.
            inner = [attempt for attempt in attempts if attempt[0].place != place]
            if inner:
                problems.extend(inner[0])
            else:
                _mismatch(value, _expected(type_), place, problems)


def _tagged(
    value: dict[object, object], structs: list[inspect.StructType], place: str, problems: list[Problem]
) -> None:
    field = structs[0].tag_field
    assert field is not None, "msgspec takes several structs in a union only with tags"
    by_tag = {struct.tag: struct for struct in structs}
    names = [str(tag) for tag in by_tag]
    expected = alternatives(quoted(name) for name in names)
    if field not in value:
        problems.append(Problem(join_place(place, field), f"is missing: expected {expected}"))
        return
    tag = value[field]
    struct = by_tag.get(tag) if isinstance(tag, str | int) else None
    if struct is not None:
        _struct(value, struct, place, problems)
        return
    suggestion = nearest(tag, names)
    hint = f"; did you mean {quoted(suggestion)}?" if suggestion else ""
    shown = quoted(tag) if isinstance(tag, str) else found(tag)
    problems.append(Problem(join_place(place, field), f"expected {expected}, found {shown}{hint}"))


def _bare(type_: inspect.Type) -> inspect.Type:
    return _bare(type_.type) if isinstance(type_, inspect.Metadata) else type_


def _expected(type_: inspect.Type) -> str:
    """Say what a value of `type_` looks like, limits included."""
    match _bare(type_):
        case inspect.IntType() as number:
            return "an integer" + _limits(number)
        case inspect.FloatType() as number:
            return "a number" + _limits(number)
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType():
            return "a string"
        case inspect.NoneType():
            return "null"
        case inspect.StructType() | inspect.DictType():
            return "a table"
        case inspect.VarTupleType() | inspect.ListType() as array:
            return f"an array of {_plural(array.item_type)}"
        case inspect.LiteralType() | inspect.EnumType() as choice:
            return alternatives(quoted(str(value)) for value in _values(choice))
        case inspect.UnionType() as union:
            members = [member for member in union.types if not isinstance(_bare(member), inspect.NoneType)]
            return alternatives(dict.fromkeys(_expected(member) for member in members))
        case other:
            return f"a value of {type(other).__name__}"


def _plural(type_: inspect.Type) -> str:
    return _expected(type_).removeprefix("an ").removeprefix("a ") + "s"


def _limits(number: inspect.IntType | inspect.FloatType) -> str:
    if number.ge is not None and number.le is not None:
        return f" from {number.ge} to {number.le}"
    bounds = [
        f"{word} {bound}"
        for word, bound in (
            ("of at least", number.ge),
            ("above", number.gt),
            ("of at most", number.le),
            ("below", number.lt),
        )
        if bound is not None
    ]
    return " " + " and ".join(bounds) if bounds else ""


_CHECKS: dict[type[inspect.Type], Callable[[Any, Any, str, list[Problem]], None]] = {
    inspect.Metadata: _metadata,
    inspect.StructType: _struct,
    inspect.VarTupleType: _array,
    inspect.ListType: _array,
    inspect.DictType: _mapping,
    inspect.IntType: _integer,
    inspect.FloatType: _float,
    inspect.BoolType: _boolean,
    inspect.StrType: _string,
    inspect.NoneType: _none,
    inspect.LiteralType: _choice,
    inspect.EnumType: _choice,
    inspect.UnionType: _union,
}
