"""Lists of people as people keep them, read, and given back to be mended."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.matching import fold
from core.people import Listed
from integrations.people_list import (
    _HEADERS,
    PeopleList,
    Unreadable,
    read_email,
    read_people,
    read_phone,
)

CANDIDATES = [
    {"member": "m-1", "contact": "c-1", "address": "a…@example.com"},
    {"member": "", "contact": "c-2", "address": ""},
]


def read(text: str | bytes, region: str = "") -> PeopleList:
    return read_people(text if isinstance(text, bytes) else text.encode(), name="list.csv", region=region)


def rows(text: str | bytes, region: str = "") -> list[dict[str, Any]]:
    """What was read, when all of it could be."""
    found = read(text, region)
    assert found.unreadable == ()
    return found.params()


def problems(text: str | bytes, region: str = "") -> list[tuple[int, str, str]]:
    return [(bad.row, bad.field, bad.problem) for bad in read(text, region).unreadable]


ANA = {"row": 2, "email": "ana@example.com", "phone": "+12025550101", "name": "Ana Cruz"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_a_table_is_read_however_a_spreadsheet_saves_it(delimiter: str, newline: str, encoding: str) -> None:
    lines = ["Name;Email;Phone", "José García;jose@example.com;+1 202 555 0101", "Bo, jr.;bo@example.com;"]
    table = io.StringIO(newline="")
    csv.writer(table, delimiter=delimiter, lineterminator=newline).writerows(
        line.split(";") for line in lines
    )
    bom = b"\xfe\xff" if encoding == "utf-16-be" else b""
    assert rows(bom + table.getvalue().encode(encoding)) == [
        {"row": 2, "email": "jose@example.com", "phone": "+12025550101", "name": "José García"},
        {"row": 3, "email": "bo@example.com", "name": "jr. Bo"},
    ]


@pytest.mark.parametrize(
    "header",
    [
        "First Name;Last Name;E-mail;Phone",
        "first_name;SURNAME;email address;Mobile phone",
        "Given Name;Family Name;E-mail 1 - Value;Phone 1 - Value",
        "Vorname;Nachname;E-Mail-Adresse;Handy",
        "Vorname;Name;Mailadresse;Telefonnummer",
        "Nombre;Apellidos;Correo electrónico;Teléfono móvil",
        "nombre;apellido;CORREO ELECTRONICO;MOVIL",
        "Prénom;Nom;Adresse e-mail;Téléphone portable",
        "prenom;nom de famille;Courriel;Tél.",
        "Nome;Cognome;Indirizzo e-mail;Cellulare",
        "Nome;Sobrenome;Endereço de e-mail;Telemóvel",
        "Voornaam;Achternaam;E-mailadres;Mobiel nummer",
        'שם פרטי;שם משפחה;דוא"ל;טלפון נייד',
        "Name;;Mail;Tel",
    ],
)
def test_columns_are_known_by_their_names_in_many_languages(header: str) -> None:
    first = "Ana;Cruz" if not header.startswith("Name;;") else "Ana Cruz;"
    assert rows(f"{header}\n{first};Ana@Example.COM;+1 (202) 555-0101\n") == [
        ANA | {"email": "ana@example.com"}
    ]


def test_every_name_of_a_column_is_written_in_the_form_it_is_looked_up_in() -> None:
    names = [name for names in _HEADERS.values() for name in names.split()]
    assert [name for name in names if fold(name).replace(" ", "") != name] == []
    assert len(set(names)) == len(names)


def test_columns_may_stand_in_any_order_among_others_which_are_named() -> None:
    found = read("City;E-Mail;Since;contact_id\nRome;ana@example.com;2020;c-1\n")
    assert found.rows == (Listed(2, contact="c-1", email="ana@example.com"),)
    assert found.notes == ("Not read: the columns City, Since.",)


def test_lines_are_counted_as_an_editor_counts_them() -> None:
    text = 'sep=;\nName;Email\n\n"Ana\nCruz";ana@example.com\n;;\nBo;bo@example.com'
    assert rows(text) == [
        {"row": 4, "email": "ana@example.com", "name": "Ana Cruz"},
        {"row": 7, "email": "bo@example.com", "name": "Bo"},
    ]


def test_a_table_without_a_header_is_known_by_what_its_cells_look_like() -> None:
    found = read(
        "Ana;Cruz;ana@example.com;12.03.1990\nBo;Meier;;+49 170 1234567\nEve;;;5c5b2c5e-0000-4000-8000-0123456789ab"
    )
    assert found.params() == [
        {"row": 1, "email": "ana@example.com", "name": "Ana Cruz"},
        {"row": 2, "phone": "+491701234567", "name": "Bo Meier"},
        {"row": 3, "contactId": "5c5b2c5e-0000-4000-8000-0123456789ab", "name": "Eve"},
    ]
    assert found.notes[0].startswith("There is no line with the names of columns")


def test_of_a_table_without_a_header_no_name_is_made_from_three_texts() -> None:
    assert rows("Ana;Cruz;Rome;ana@example.com\nBo;Meier;Oslo;bo@example.com") == [
        {"row": 1, "email": "ana@example.com"},
        {"row": 2, "email": "bo@example.com"},
    ]


@pytest.mark.parametrize(
    ("line", "person"),
    [
        ("Ana Cruz <ana@example.com>", {"email": "ana@example.com", "name": "Ana Cruz"}),
        ('"Cruz, Ana" <Ana@example.com>;', {"email": "ana@example.com", "name": "Ana Cruz"}),
        ("Cruz, Ana <ana@example.com>,", {"email": "ana@example.com", "name": "Ana Cruz"}),
        ("ana@example.com", {"email": "ana@example.com"}),
        ("  - ana@example.com  ", {"email": "ana@example.com"}),
        ("mailto:ana@example.com", {"email": "ana@example.com"}),
        ("Ana Cruz, ana@example.com, +1 202 555 0101",
         {"email": "ana@example.com", "phone": "+12025550101", "name": "Ana Cruz"}),
        ("+1 202 555 0101", {"phone": "+12025550101"}),
        ("+1 (202) 555-0101 Ana", {"phone": "+12025550101", "name": "Ana"}),
        ("00491701234567", {"phone": "+491701234567"}),
        ("Ana Cruz", {"name": "Ana Cruz"}),
        ("Cruz, Ana", {"name": "Ana Cruz"}),
        ("5C5B2C5E-0000-4000-8000-0123456789AB", {"contactId": "5C5B2C5E-0000-4000-8000-0123456789AB"}),
    ],
)  # fmt: skip
def test_a_pasted_line_is_one_person(line: str, person: dict[str, str]) -> None:
    assert rows(f"Eve Adams\n\n{line}\nIda\n")[1] == {"row": 3} | person


@pytest.mark.parametrize(
    "lines",
    [
        "Cruz, Ana <ana@example.com>\nMeier, Bo <bo@example.com>",
        "Ana Cruz, ana@example.com\nBo Meier, bo@example.com",
        '"Cruz, Ana", ana@example.com\nBo Meier, "bo@example.com"',
        'Email, Name\nana@example.com, "Cruz, Ana"\nbo@example.com, "Bo Meier"',
    ],
)
def test_commas_part_columns_or_names_as_the_whole_list_shows(lines: str) -> None:
    assert [(row.name, row.email) for row in read(lines).rows] == [
        ("Ana Cruz", "ana@example.com"),
        ("Bo Meier", "bo@example.com"),
    ]
    assert [row.name for row in read("Cruz, Ana\nMeier, Bo\n").rows] == ["Ana Cruz", "Bo Meier"]


def test_json_is_a_list_of_people_or_has_one() -> None:
    people = [
        {"contactId": "c-1", "email": None, "name": {"first": "Ana", "last": "Cruz"}},
        {"e_mail": "bo@example.com", "nickname": "Bo", "age": 7},
        {},
        "Eve <eve@example.com>",
        {"phone": 12025550101},
    ]
    expected = [
        {"row": 1, "contactId": "c-1", "name": "Ana Cruz"},
        {"row": 2, "email": "bo@example.com", "name": "Bo"},
        {"row": 4, "email": "eve@example.com", "name": "Eve"},
        {"row": 5, "phone": "+12025550101"},
    ]
    assert rows(json.dumps(people), "US") == expected
    assert rows("\ufeff " + json.dumps({"group": "x", "people": people}), "US") == expected


def test_what_windows_wrote_is_read_and_said_aloud() -> None:
    found = read("Vorname;Nachname\nJörg;Müller\n".encode("cp1252"))
    assert found.params() == [{"row": 2, "name": "Jörg Müller"}]
    assert "Windows-1252" in found.notes[0]


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (b"", "list.csv holds nobody"),
        (b"\n ; \n", "list.csv holds nobody"),
        (b"name;email\n", "list.csv holds nobody"),
        (b"[]", "list.csv holds nobody"),
        (b"sep=;", "list.csv holds nobody"),
        (b"PK\x03\x04\x14\x00", "list.csv is a spreadsheet or an archive: save it as CSV (UTF-8)"),
        (b"\xff\xfea", "list.csv is no text in UTF-8, UTF-16 or Windows-1252: save it as CSV (UTF-8)"),
        (b"\x81\x8d", "list.csv is no text in UTF-8, UTF-16 or Windows-1252: save it as CSV (UTF-8)"),
        (b'[\n{"email": }]', "list.csv begins as JSON and is none (line 2)"),
        (b"[" * 100_000, "list.csv begins as JSON and is none"),
        (b'{"persons": []}', 'list.csv is JSON, but neither a list of people nor {"people": [...]}'),
        (b'name;email\nAna;a@example.com\n"Bo;b@example.com\nEve;e@example.com\n',
         "list.csv opens a quote in line 3 and never closes it"),
        (b'name;email\n"' + b"x" * 200_000, "list.csv opens a quote in line 2 and never closes it"),
        (b"x" * (10 * 1024 * 1024 + 1), "list.csv is larger than 10 MB"),
        (b"Bo\n" * 10_001, "list.csv holds more than 10000 people"),
        (b"email\n" + b"x\n" * 10_001, "list.csv holds more than 10000 people"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_at_all_is_refused_with_the_reason(file: bytes, problem: str) -> None:
    found = read(file)
    assert (found.rows, problems(file)) == ((), [(0, "", problem)])
    assert found.to_fix([]) == b""


def test_ten_thousand_people_are_read() -> None:
    assert len(read(b"Bo\n" * 10_000).rows) == 10_000


def test_a_region_that_is_none_is_refused() -> None:
    assert problems("Ana", "Germany") == [
        (0, "", "list.csv cannot be read with this region: a country in two letters is meant, such as DE")
    ]


@pytest.mark.parametrize(
    ("cells", "field", "problem"),
    [
        ("ana.example.com;;", "Mail", "An email address must have an @-sign."),
        ("ana@localhost;;", "Mail", "The part after the @-sign is not valid. It should have a period."),
        (f"{'a' * 400}@example.com;;", "Mail", "Longer than 320 characters; perhaps a quote before it is not closed."),
        ("a\0na@example.com;;", "Mail", "Holds a control character (U+0000)."),
        (";0170 1234567;", "Handy", "Without a country code: write it with + in front, or say which region is meant."),
        (";+1;", "Handy", "This is no phone number."),
        (";+1 202 555;", "Handy", "No phone number of its country has so many digits."),
        (";4,91701E+11;", "Handy", "A spreadsheet has cut this number: format the column as text and write it anew."),
        (";+1 800 FLOWERS;", "Handy", "A phone number holds digits, spaces and + ( ) - . / only."),
        (";;12345", "Name", "There is no letter in this name."),
        (f";;{'x' * 201}", "Name", "Longer than 200 characters."),
        ("a@example.com;;Cruz;Ana", "",
         "There are 4 cells in 3 columns: a cell that holds the delimiter stands in quotes."),
    ],
)  # fmt: skip
def test_an_unreadable_row_is_named_with_line_and_column_and_what_is_wrong(
    cells: str, field: str, problem: str
) -> None:
    found = read(f"Mail;Handy;Name\nok@example.com;;\n{cells}\n")
    assert [row.row for row in found.rows] == [2]
    assert [(bad.row, bad.field, bad.problem) for bad in found.unreadable] == [(3, field, problem)]


def test_a_row_that_names_nobody_is_unreadable_and_says_so() -> None:
    assert problems("Email;City\nana@example.com;Rome\n;Oslo\n") == [
        (3, "", "There is no contact id, address, phone or name.")
    ]
    assert problems("contact id\nc 1\n") == [(2, "contact id", "A contact id has no spaces and no accents.")]
    assert problems('[{"email": ["a"]}, 7]') == [
        (1, "email", "This is no text."),
        (2, "", "There is no contact id, address, phone or name."),
    ]
    assert problems("a@example.com b@example.com") == [
        (1, "person", "There is more than one address: each person needs a line.")
    ]


def test_every_wrong_cell_of_a_row_is_named() -> None:
    assert [field for _, field, _ in problems("Email;Tel\nx;y\n")] == ["Email", "Tel"]


@pytest.mark.parametrize(
    ("written", "region", "number"),
    [
        ("+1 202-555-0101", "", "+12025550101"),
        ("\u202a+1 202\u00a0555\u20110101\u202c", "", "+12025550101"),  # as copied from a phone's contacts
        ("tel:+12025550101", "", "+12025550101"),
        ("+49 (0)170 1234567", "", "+491701234567"),
        ("0049 170 1234567", "US", "+491701234567"),
        ("0170/1234567", "DE", "+491701234567"),
        ("0170 1234567", "de", "+491701234567"),
        ("(202) 555-0101", "US", "+12025550101"),
        ("12025550101.0", "US", "+12025550101"),
        ("+972-50-123-4567", "", "+972501234567"),
    ],
)
def test_numbers_are_read_as_people_of_their_country_write_them(
    written: str, region: str, number: str
) -> None:
    assert read_phone(written, region) == number


def test_addresses_are_the_same_in_any_case_and_with_what_nobody_sees() -> None:
    assert read_email(" \u200bAna.Cruz@Example.COM\ufeff ") == "ana.cruz@example.com"
    with pytest.raises(ValueError, match="reserved"):
        read_email("ana@club.test")


def test_what_a_row_holds_is_in_no_repr() -> None:
    found = read("Email;Tel;Name\nana@example.com;+12025550101;Ana\nbad,address;1;Bo\n")
    for secret in ("ana@example.com", "2025550101", "Ana", "bad,address", "Bo"):
        assert secret not in repr(found)


# Files to fix


def mended(found: PeopleList, troubles: list[dict[str, Any]]) -> PeopleList:
    return read_people(found.to_fix(troubles), name="to-fix.csv")


def test_a_file_to_fix_has_the_same_columns_and_two_more_and_only_what_is_to_fix() -> None:
    found = read(
        "City;Mail;Tel\nRome;ana@example.com;\nOslo;;+1 202 555 0101\nParis;no;\nLyon;x@example.com;\n"
    )
    fixed = found.to_fix([{"row": 3, "reason": "2 people have this phone", "candidates": CANDIDATES}])
    assert fixed.decode("utf-8-sig").splitlines() == [
        "City;Mail;Tel;reason;candidates",
        'Oslo;;\'+1 202 555 0101;2 people have this phone;"c-1 (member m-1, a…@example.com); c-2 (no account)"',
        "Paris;no;;Mail: An email address must have an @-sign.;",
    ]
    again = read(fixed)
    assert again.params() == [{"row": 2, "phone": "+12025550101"}]
    assert again.notes == ("Not read: the columns City.",)
    second = again.to_fix([{"row": 2, "reason": "still", "candidates": []}]).decode("utf-8-sig")
    assert second.splitlines()[:2] == ["City;Mail;Tel;reason;candidates", "Oslo;;'+1 202 555 0101;still;"]


@pytest.mark.parametrize("formula", ["=1+1", "+1 202 555 0101", "-2", "@SUM(A1)", "\t=1", " =1", "＝1"])
def test_no_cell_of_a_file_to_fix_is_a_formula(formula: str) -> None:
    found = read(f'Name,Note,"{formula}"\nAna,"{formula}",x\n'.replace("＝", "="))
    cells = list(
        csv.reader(
            io.StringIO(found.to_fix([{"row": 2, "reason": "=1", "candidates": []}]).decode("utf-8-sig"))
        )
    )
    assert not [cell for row in cells for cell in row if cell.strip().startswith(("=", "+", "-", "@"))]


def test_a_pasted_list_and_one_without_a_header_come_back_with_one() -> None:
    pasted = read("Ana <ana@example.com>\nCruz, Bo\n")
    trouble = [{"row": 2, "reason": "unknown", "candidates": []}]
    assert pasted.to_fix(trouble).decode("utf-8-sig").splitlines() == [
        "person,reason,candidates",
        '"Cruz, Bo",unknown,',
    ]
    assert mended(pasted, trouble).params() == [{"row": 2, "name": "Bo Cruz"}]
    table = read("Ana;ana@example.com\nBo;bo@example.com\n")
    assert table.to_fix(trouble).decode("utf-8-sig").splitlines()[0] == "column 1;column 2;reason;candidates"
    assert mended(table, trouble).params() == [{"row": 2, "email": "bo@example.com", "name": "Bo"}]


def test_json_comes_back_as_json() -> None:
    found = read(json.dumps([{"name": "Ana", "age": 7}, "Bo", {"email": "\ud800"}]))
    fixed = found.to_fix([{"row": row, "reason": "unknown", "candidates": CANDIDATES} for row in (1, 2)])
    assert [each.get("age") for each in json.loads(fixed)] == [7, None, None]
    assert read(fixed).params() == [{"row": 1, "name": "Ana"}, {"row": 2, "name": "Bo"}]
    assert problems(fixed) == [(3, "email", "Holds a control character (U+D800).")]


def all_to_fix(found: PeopleList) -> list[dict[str, Any]]:
    return [{"row": row.row, "reason": "-", "candidates": []} for row in found.rows]


def values(found: PeopleList) -> list[Listed]:
    return [replace(row, row=0) for row in found.rows]


def kind(bad: Unreadable) -> tuple[str, str]:
    return bad.field, re.sub(r"\d+ c", "", bad.problem)  # there are more columns now


cells = st.one_of(
    st.sampled_from(
        ["", "Ana", "Cruz, Bo", "a@example.com", "+12025550101", "'+12025550101", "=x()", "0170", "\0"]
    ),
    st.text(max_size=12),
    st.text(st.sampled_from("a1@.,;\"'\n\r\t |=+-<>[]{} "), max_size=12),
)
headers = st.sampled_from(
    ["Email", "Phone", "Name", "Vorname", "Nachname", "contact id", "City", "reason", "person", ""]
)


@st.composite
def tables(draw: st.DrawFn) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=draw(st.sampled_from(",;\t|")))
    header = draw(st.lists(headers, min_size=1, max_size=5))
    writer.writerow(header)
    writer.writerows(draw(st.lists(st.lists(cells, max_size=len(header) + 1), max_size=6)))
    return out.getvalue()


@given(tables())
@example('contact id\r\n"\r="\r\n')
def test_a_file_to_fix_is_read_as_the_list_it_came_from(table: str) -> None:
    found = read(table.encode(errors="surrogatepass"))
    again = mended(found, all_to_fix(found))
    assert values(again) == values(found)
    if found.rows:
        assert [kind(bad) for bad in again.unreadable] == [kind(bad) for bad in found.unreadable]


@given(
    st.one_of(
        st.binary(), st.text().map(lambda text: text.encode()), st.lists(cells).map("\n".join).map(str.encode)
    )
)
@example(b"\xff\xfe\x00\xd8\n\x00")
@example("\ufeff\ufeff=\n\u2028@\x85".encode())
def test_nothing_that_is_given_makes_reading_raise(data: bytes) -> None:
    found = read(data)
    assert found.rows or found.unreadable
    again = mended(found, all_to_fix(found))
    assert values(again) == values(found)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | cells,
        lambda inner: st.lists(inner) | st.dictionaries(headers, inner),
    )
)
def test_no_json_makes_reading_raise(value: Any) -> None:
    found = read(json.dumps(value))
    assert values(mended(found, all_to_fix(found))) == values(found)


# A list of five hundred, with every kind of trouble


def a_long_list(seed: int = 4) -> tuple[str, dict[str, int]]:
    """500 lines of people under one header, and how many there are of each kind. The same every time."""
    chance = random.Random(seed)
    kinds = {
        "by contact id": "c-{n};;;;",
        "by address": ";p{n}@example.com;;;",
        "by phone": ";;+1 202 555 {n:04};;",
        "by name": ";;;Pia;Number{n}",
        "with everything": "c-{n};P{n}@EXAMPLE.com;001202555{n:04};Pia;Number{n}",
        "over two lines": ';p{n}@example.com;;"Pia\n";Number{n}',
        "empty": " ; ;;;",
        "bad address": ";p{n}example.com;;Pia;",
        "national number": ";;0170 {n:07};;",
        "cut number": ";;4,917{n:03}E+11;;",
        "control character": ";p{n}\x07@example.com;;;",
        "too long": ";;;" + "x" * 321 + ";",
        "too many cells": ";p{n}@example.com;;Pia;Number;{n}",
        "a formula": ';p{n}@example.com;;"=HYPERLINK(""x"")";Number{n}',
        "twice": ";p1@example.com;;;",
        "unknown": ";gone{n}@example.com;;;",
        "two people": ";p{n}@example.com;+1 202 555 0001;;",
    }
    lines, counts, written = [], dict.fromkeys(kinds, 0), 1
    while written < 500:
        kind = chance.choice(list(kinds))
        line = kinds[kind].format(n=written)
        if written + 1 + line.count("\n") > 500:
            kind, line = "by address", ";last@example.com;;;"
        lines.append(line)
        counts[kind] += 1
        written += 1 + line.count("\n")
    return "\n".join(["Contact ID;E-Mail;Phone;First name;Last name", *lines]) + "\n", counts


UNREADABLE = [
    "bad address",
    "national number",
    "cut number",
    "control character",
    "too long",
    "too many cells",
]


def test_a_list_of_five_hundred_lines_with_every_trouble_is_read_to_its_end_and_back() -> None:
    text, counts = a_long_list()
    assert text.count("\n") == 500
    assert min(counts.values()) > 0
    found = read(text)
    bad = {each.row for each in found.unreadable}
    assert len(bad) == sum(counts[kind] for kind in UNREADABLE)
    assert len(found.rows) == sum(counts.values()) - len(bad) - counts["empty"]
    lines = text.split("\n")
    for row in found.rows:
        assert row.email.removesuffix("@example.com") in lines[row.row - 1].lower()
    again = mended(found, all_to_fix(found))
    assert values(again) == values(found)
    assert len(again.unreadable) == len(found.unreadable)
