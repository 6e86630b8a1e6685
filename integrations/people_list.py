"""Lists of people as they come: a table from a spreadsheet, JSON, or lines pasted from a letter. What holds no text of
people is named with its line and column; nothing is guessed in silence.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import phonenumbers
from email_validator import EmailNotValidError, validate_email

from core.cells import FORMULA
from core.community import LONGEST_ID, is_plain
from core.matching import fold
from core.people import Listed, numbered

MOST_BYTES = 10 * 1024 * 1024
MOST_ROWS = 10_000
LONGEST_CELL = 320  # characters, as many as Wix takes for an address
LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What is wrong with a cell, without a word of what it holds. `row` 0: with the file; `field` "": with the row."""

    row: int
    field: str
    problem: str


@dataclass(frozen=True, slots=True)
class PeopleList:
    """Every row that is not empty is in `rows`, or in `unreadable` once or more. `notes` are for whoever gave it."""

    rows: tuple[Listed, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    notes: tuple[str, ...] = ()
    sheet: Sheet | None = field(default=None, repr=False)

    def params(self) -> list[dict[str, Any]]:
        """As the kind `create_group` takes them."""
        return [
            {"row": row.row}
            | ({"contactId": row.contact} if row.contact else {})
            | ({"email": row.email} if row.email else {})
            | ({"phone": row.phone} if row.phone else {})
            | ({"name": row.name} if row.name else {})
            for row in self.rows
        ]

    def to_fix(self, troubles: Iterable[Mapping[str, Any]]) -> bytes:
        """A file of the same form that holds only the unreadable rows and those in trouble, each with what is wrong.

        `troubles` as in the `to_fix` of the job's result. Mended or not, the file can be read again as it is.
        """
        reasons: dict[int, tuple[str, str]] = {
            trouble["row"]: (trouble["reason"], "; ".join(map(_describe, trouble["candidates"])))
            for trouble in troubles
        }
        for bad in self.unreadable:
            earlier = reasons[bad.row][0] + "; " if bad.row in reasons else ""
            reasons[bad.row] = (f"{earlier}{bad.field}: {bad.problem}" if bad.field else bad.problem, "")
        return self.sheet.to_fix(reasons) if self.sheet else b""


def read_people(data: bytes, *, name: str, region: str = "") -> PeopleList:
    """Never raises; what the file looks like decides how it is read, and `name` only stands in messages.

    `region` (ISO 3166, "DE") is the country of phone numbers without a country code; without it they are unreadable.
    Rows are numbered by the line they begin in, those of JSON by their place.
    """
    try:
        if region and region.upper() not in phonenumbers.SUPPORTED_REGIONS:
            raise _UnfitError(
                "cannot be read with this region: a country in two letters is meant, such as DE"
            )
        text, notes = _decode(data)
        sheet = _from_json(text) or _from_table(text)
        return _read_rows(sheet, region, notes)
    except _UnfitError as exc:
        return PeopleList(unreadable=(Unreadable(0, "", f"{name} {exc}"),))


def list_again(people: Sequence[Mapping[str, Any]]) -> PeopleList:
    """The people of a job's params, in the columns that there are for them: for the `to_fix` of a list whose file is
    not at hand."""
    columns = {"contact id": "contactId", "email": "email", "phone": "phone", "name": "name"}
    cells = {row: [person.get(name) or "" for name in columns.values()] for row, person in numbered(people)}
    return PeopleList(sheet=Sheet(tuple(columns), tuple(columns), ",", cells))


def read_email(text: str) -> str:
    """An address in lower case, as people are compared by it; ValueError with a sentence that says what is wrong."""
    text = _visible(text).strip().removeprefix("mailto:")
    try:
        return validate_email(text, check_deliverability=False).normalized.lower()
    except EmailNotValidError as exc:
        raise ValueError(str(exc)) from None


def read_phone(text: str, region: str = "") -> str:
    """A number in E.164; ValueError with a sentence that says what is wrong."""
    text = _visible(text).strip().removeprefix("tel:").removesuffix(".0")  # as a number cell is exported
    if _SCIENTIFIC.fullmatch(text):
        raise ValueError("A spreadsheet has cut this number: format the column as text and write it anew.")
    if not _ONLY_PHONE.fullmatch(text):
        raise ValueError("A phone number holds digits, spaces and + ( ) - . / only.")
    digits = re.sub(r"\D", "", text)
    if digits.startswith("00") and not text.startswith("+"):
        text = f"+{digits[2:]}"
    if not text.startswith("+") and not region:
        raise ValueError("Without a country code: write it with + in front, or say which region is meant.")
    try:
        number = phonenumbers.parse(text, region.upper() or None)
    except phonenumbers.NumberParseException as exc:
        raise ValueError("This is no phone number.") from exc
    if not phonenumbers.is_possible_number(number):
        raise ValueError("No phone number of its country has so many digits.")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


@dataclass(frozen=True, slots=True)
class Sheet:
    """A file as it came. `fields` says what each of the `columns` holds; `cells` are by row, in JSON the objects."""

    columns: tuple[str, ...]
    fields: tuple[str, ...]
    delimiter: str
    """ "" of JSON."""
    cells: Mapping[int, Any] = field(repr=False)
    notes: tuple[str, ...] = ()

    def to_fix(self, reasons: Mapping[int, tuple[str, str]]) -> bytes:
        rows = [(number, *reasons[number]) for number in sorted(reasons) if number in self.cells]
        if not self.delimiter:
            fixed = [
                {**_as_object(self.cells[number]), "reason": reason, "candidates": candidates}
                for number, reason, candidates in rows
            ]
            text = json.dumps(fixed, ensure_ascii=False, indent=2)
            return text.encode(errors="backslashreplace")  # half a surrogate pair, as JSON writes it
        kept = [place for place, kind in enumerate(self.fields) if kind != _OURS]
        out = io.StringIO(newline="")
        writer = csv.writer(out, delimiter=self.delimiter)
        writer.writerow([*(_defuse(self.columns[place]) for place in kept), "reason", "candidates"])
        for number, reason, candidates in rows:
            cells = [*self.cells[number], *[""] * len(self.columns)]
            row = [*(cells[place] for place in kept), reason, candidates]
            writer.writerow(map(_defuse, row + self.cells[number][len(self.columns) :]))
        return out.getvalue().encode("utf-8-sig")


class _UnfitError(Exception):
    """Nothing of the file can be read; the text goes on after its name."""


_ANY = "any"
"""A column whose cells are known by their form only."""
_OURS = "ours"
"""A column that `to_fix` wrote."""

_HEADERS = {
    "contact id": "contactid contactguid wixcontactid kontaktid idcontacto idcontact idducontact idcontatto"
    " idcontato contatoid contactoid מזההאישקשר",
    "email": "email mail emailaddress mailaddress loginemail primaryemail emailprimary emailadresse mailadresse"
    " adressemail adresseemail adressedemessagerie courriel adressecourriel courrierelectronique"
    " adresseelectronique correo correoelectronico direcciondecorreo direcciondecorreoelectronico"
    " direcciondeemail direccionemail indirizzoemail indirizzomail indirizzodiposta postaelettronica"
    " indirizzodipostaelettronica correioeletronico correioelectronico enderecoemail enderecodeemail"
    " emailadres mailadres epost epostadress דואל דואראלקטרוני אימייל מייל כתובתמייל כתובתאימייל"
    " כתובתדואל כתובתדואראלקטרוני",
    "phone": "phone phonenumber phoneno primaryphone telephone telephonenumber tel telno telnr telefonnr mobile"
    " mobilephone mobilenumber mobileno cell cellphone cellphonenumber cellular homephone whatsapp handy"
    " handynummer handynr telefon telefonnummer telefonmobil rufnummer mobil mobilnummer mobiltelefon"
    " mobilfunk mobilfunknummer telefono telefonomovil movil celular numerodetelefono numerodemovil"
    " numerodecelular telefonocelular numerodetelephone numtel portable telephoneportable telephonemobile"
    " numerodeportable cellulare numeroditelefono numerodicellulare telefonocellulare numerotelefono"
    " telefone telemovel numerodetelefone numerodetelemovel telefonecelular telefoon telefoonnummer mobiel"
    " mobielnummer mobieletelefoon gsm gsmnummer טלפון מספרטלפון טלפוןנייד נייד מספרנייד סלולרי פלאפון",
    "first name": "firstname first givenname forename vorname rufname nombre nombredepila prenom nome primeironome"
    " nomeproprio voornaam roepnaam שםפרטי",
    "last name": "lastname last surname familyname nachname familienname zuname apellido apellidos primerapellido nom"
    " nomdefamille cognome apelido apelidos sobrenome ultimonome achternaam familienaam שםמשפחה משפחה",
    "name": "name fullname displayname membername nickname vollername vollstandigername vornameundnachname"
    " vorundnachname nombrecompleto nombreyapellido nombreyapellidos nomcomplet prenometnom nomecompleto"
    " nomeecognome nominativo nomeesobrenome nomeeapelido naam volledigenaam voorenachternaam שם שםמלא",
    _ANY: "person people column",
    _OURS: "reason candidates",
}
"""What columns are called in English, German, Spanish, French, Italian, Portuguese, Dutch and Hebrew: folded as by
core.matching, without spaces."""
_FIELDS = {header: kind for kind, headers in _HEADERS.items() for header in headers.split()}
_NUMBERED = re.compile(r"\d+(value)?$")  # "E-mail 1 - Value" of Google, "Phone 2" of Outlook
_DELIMITERS = ",;\t|"
_SEPARATOR_LINE = re.compile(r"sep=(.)\s*", re.IGNORECASE)  # Excel's own
_LOOKED_AT = 50  # records, to tell the delimiter

_INVISIBLE = dict.fromkeys(
    [0xAD, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), 0x2060, *range(0x2066, 0x206A), 0xFEFF]
)
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_ADDRESS = re.compile(r"[^\s<>,;|()\"]+@[^\s<>,;|()\"]*")
_GUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)
_PHONE = re.compile(r"(?<![\w.])(?:tel:)?[+(]?\d[\d\s()./-]{4,}\d(?!\w)")
_ONLY_PHONE = re.compile(r"\+?[\d\s()./\u2010-\u2015-]*\d[\d\s()./\u2010-\u2015-]*")
_SCIENTIFIC = re.compile(r"\d(?:[.,]\d+)?E\+?\d+", re.IGNORECASE)
_DATE = re.compile(r"\d{1,2}[./-]\d{1,2}[./-]\d{2,4}|\d{4}[./-]\d{1,2}[./-]\d{1,2}")
_BULLETS = "-–•*· "
_AROUND = _BULLETS + "<>()[]\"',;|"
_LAST_FIRST = re.compile(r"([^,]+),\s+([^,]+)")


def _decode(data: bytes) -> tuple[str, list[str]]:
    if len(data) > MOST_BYTES:
        raise _UnfitError(f"is larger than {MOST_BYTES // 1024**2} MB")
    if data.startswith(b"PK\x03\x04"):
        raise _UnfitError("is a spreadsheet or an archive: save it as CSV (UTF-8)")
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ["utf-16"] if wide else ["utf-8-sig", "cp1252"]:
        try:
            text = data.decode(encoding)
        except UnicodeError:
            continue
        if encoding != "cp1252":
            return text, []
        return text, [
            "The file is not in UTF-8 and was read as Windows-1252: see whether its accents are right."
        ]
    raise _UnfitError("is no text in UTF-8, UTF-16 or Windows-1252: save it as CSV (UTF-8)")


def _from_json(text: str) -> Sheet | None:
    """None when it does not look like JSON at all."""
    if not re.match(r"\s*(?:\[\s*[\[{\"\d\]]|\{\s*[\"}])", text):
        return None
    try:
        people = json.loads(text)
    except (ValueError, RecursionError) as exc:
        where = f" (line {exc.lineno})" if isinstance(exc, json.JSONDecodeError) else ""
        raise _UnfitError(f"begins as JSON and is none{where}") from exc
    if isinstance(people, dict):
        people = people.get("people", people)
    if not isinstance(people, list):
        raise _UnfitError('is JSON, but neither a list of people nor {"people": [...]}')
    return Sheet((), (), "", dict(enumerate(people, start=1)))


def _from_table(text: str) -> Sheet:
    """Columns when there are any, else one line for each person."""
    lines = list(io.StringIO(text, newline=""))
    skipped, delimiters = 0, _DELIMITERS
    if lines and (stated := _SEPARATOR_LINE.fullmatch(lines[0])):
        skipped, delimiters = 1, stated[1]
    tables = [(_records(lines[skipped:], delimiter, _LOOKED_AT), delimiter) for delimiter in delimiters]
    (sample, _), delimiter = max(tables, key=lambda table: _likeness(table[0][0]))
    header = sample[0][1] if sample else []
    known = bool(_hits(header))
    if not known and not _is_table(sample, delimiter):
        numbered = enumerate(lines[skipped:], start=1 + skipped)
        pasted = {number: [line.rstrip("\r\n")] for number, line in numbered if line.strip()}
        return Sheet(("person",), (_ANY,), ",", pasted)
    records, open_quote = _records(lines[skipped:], delimiter)
    if open_quote:
        raise _UnfitError(f"opens a quote in line {open_quote + skipped} and never closes it")
    cells = {number + skipped: record for number, record in records[known:]}
    notes: list[str] = []
    if known:
        fields = tuple(map(_field, header))
        unknown = [label for label, kind in zip(header, fields, strict=True) if not kind and label.strip()]
        if unknown:
            notes.append(f"Not read: the columns {', '.join(unknown)}.")
    else:
        header = [f"column {place + 1}" for place in range(max(map(len, cells.values())))]
        fields = (_ANY,) * len(header)
        notes.append(
            "There is no line with the names of columns: addresses, numbers and contact ids were known"
            " by their form, and all else was read as first and last names."
        )
    return Sheet(tuple(header), fields, delimiter, cells, tuple(notes))


def _records(
    lines: Sequence[str], delimiter: str, most: int | None = None
) -> tuple[list[tuple[int, list[str]]], int]:
    """Records that are not empty, by the number of their first line; and that of one that never ends, or 0."""
    records: list[tuple[int, list[str]]] = []
    ended = [""]  # one more record, which an open quote swallows
    reader = csv.reader(chain(lines, ended), delimiter=delimiter, skipinitialspace=True)
    began, record = 1, [""]
    try:
        for record in reader:
            if any(cell.strip() for cell in record):
                records.append((began, record))
                if len(records) == most:
                    return records, 0
            last, began = began, reader.line_num + 1
    except csv.Error:  # a cell of more than 128 KiB
        return records, began
    return (records[:-1], last) if record else (records, 0)


def _likeness(records: Sequence[tuple[int, list[str]]]) -> tuple[int, float]:
    """How much it looks as if these were cut at the right places."""
    if not records:
        return 0, 0.0
    widths = [len(record) for _, record in records]
    hits = _hits(records[0][1])
    width = widths[0] if hits else max(widths, key=widths.count)
    return hits, widths.count(width) / len(widths) if hits or width > 1 else 0.0


def _is_table(records: Sequence[tuple[int, list[str]]], delimiter: str) -> bool:
    """Whether lines without a header have columns; "Cruz, Ana <ana@example.com>" has none."""
    _, even = _likeness(records)
    cells = [cell for _, record in records for cell in record]
    letters = sum("<" in cell and "@" in cell for cell in cells)
    if even < 0.8 or letters * 2 > len(records):
        return False
    return delimiter != "," or any("@" in cell or _PHONE.search(cell) or _GUID.search(cell) for cell in cells)


def _hits(header: Sequence[str]) -> int:
    if any("@" in label for label in header):
        return 0
    return len({kind for label in header if (kind := _field(label))})


def _field(label: str) -> str:
    return _FIELDS.get(_NUMBERED.sub("", fold(label).replace(" ", "")), "")


def _read_rows(sheet: Sheet, region: str, notes: Sequence[str]) -> PeopleList:
    rows: list[Listed] = []
    unreadable: list[Unreadable] = []
    several = False
    for number, cells in sheet.cells.items():
        row = _Row(number, region)
        for label, kind, text in _columns(sheet, cells):
            row.take(label, kind, text)
        if row.is_empty:
            continue
        if sheet.delimiter and any(extra.strip() for extra in cells[len(sheet.columns) :]):
            columns = f"{len(cells)} cells in {len(sheet.columns)} columns"
            row.spoil("", f"There are {columns}: a cell that holds the delimiter stands in quotes.")
        listed = row.listed()
        several |= row.several
        if row.problems:
            unreadable += row.problems
        else:
            rows.append(listed)
        if len(rows) + len({bad.row for bad in unreadable}) > MOST_ROWS:
            raise _UnfitError(f"holds more than {MOST_ROWS} people")
    if not rows and not unreadable:
        raise _UnfitError("holds nobody")
    notes = [*notes, *sheet.notes]
    if several:
        notes.append("Of several addresses or numbers of one person, the first was taken.")
    return PeopleList(tuple(rows), tuple(unreadable), tuple(notes), sheet)


def _columns(sheet: Sheet, cells: Any) -> Iterator[tuple[str, str, Any]]:
    """What it is called, what it holds, and its value."""
    if sheet.delimiter:
        yield from zip(sheet.columns, sheet.fields, cells, strict=False)
        return
    for key, value in _as_object(cells).items():
        if isinstance(value, dict) and _field(key) == "name":
            yield from ((part, _field(part), text) for part, text in value.items())
        else:
            yield key, _field(key), value


def _as_object(item: Any) -> dict[str, Any]:
    return item if isinstance(item, dict) else {"person": item}


class _Row:
    """One person, cell by cell."""

    def __init__(self, number: int, region: str) -> None:
        self.problems: list[Unreadable] = []
        self.is_empty = True
        self.several = False
        self._number = number
        self._region = region
        self._given: dict[str, tuple[str, str]] = {}  # field -> what its column is called, and the text
        self._loose: list[str] = []

    def spoil(self, label: str, problem: str) -> None:
        self.problems.append(Unreadable(self._number, label, problem))

    def take(self, label: str, kind: str, value: Any) -> None:
        text = _plain(value).strip(_AROUND if kind == _ANY else None) if isinstance(value, str) else value
        if kind == _OURS or text in ("", None):
            return
        self.is_empty = False
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            if kind:
                self.spoil(label, "This is no text.")
            return
        if len(value) > LONGEST_CELL:
            self.spoil(
                label, f"Longer than {LONGEST_CELL} characters; perhaps a quote before it is not closed."
            )
        elif control := _CONTROL.search(value):
            self.spoil(label, f"Holds a control character (U+{ord(control[0]):04X}).")
        elif kind == _ANY:
            self._recognise(label, _plain(value))
        elif kind:
            self._give(kind, label, _plain(value))

    def listed(self) -> Listed:
        """Whom the row names; of no use when there are `problems` afterwards."""
        contact = self._read("contact id", _read_contact)
        email = self._read("email", read_email)
        phone = self._read("phone", lambda text: read_phone(text, self._region))
        name = self._name(loosely=not (contact or email or phone))
        if not self.problems and not (contact or email or phone or name):
            self.spoil("", "There is no contact id, address, phone or name.")
        return Listed(self._number, contact, email, phone, name)

    def _give(self, kind: str, label: str, text: str) -> None:
        _, earlier = self._given.setdefault(kind, (label, text))
        self.several |= earlier != text and kind in ("email", "phone")

    def _read(self, kind: str, read: Callable[[str], str]) -> str:
        label, text = self._given.get(kind, (kind, ""))
        try:
            return read(text) if text else ""
        except ValueError as exc:
            self.spoil(label, str(exc))
            return ""

    def _name(self, *, loosely: bool) -> str:
        label, last = self._given.get("last name", ("", ""))
        label, first = self._given.get("first name", (label, ""))
        label, name = self._given.get("name", (label, ""))
        if first and not last and name and f" {fold(first).strip()} " not in fold(name):
            last, name = name, ""  # "Vorname" and "Name"
        if not name:
            name = f"{first} {last}"
        if self._loose and (loosely or len(self._loose) <= 2):
            name = " ".join(self._loose)
        if parted := _LAST_FIRST.fullmatch(name.strip()):
            name = f"{parted[2]} {parted[1]}"
        name = " ".join(name.replace(",", " ").split())
        if name and not any(letter.isalpha() for letter in name):
            self.spoil(label, "There is no letter in this name.")
        elif len(name) > LONGEST_NAME:
            self.spoil(label, f"Longer than {LONGEST_NAME} characters.")
        return name

    def _recognise(self, label: str, text: str) -> None:
        """Find an address, a contact id and a number; what is left is a name."""
        text = text.lstrip(_BULLETS) if text[1:2] == " " else text
        addresses = {found.strip(".'") for found in _ADDRESS.findall(text)}
        text = _ADDRESS.sub(" ", text)
        if "@" in text:
            addresses.add(text)
            text = ""
        if len(addresses) > 1 or (
            addresses and self._given.get("email", ("", ""))[1] not in ("", *addresses)
        ):
            self.spoil(label, "There is more than one address: each person needs a line.")
            return
        for address in addresses:
            self._give("email", label, address)
        for contact in _GUID.findall(text):
            self._give("contact id", label, contact)
        text = _GUID.sub(" ", text)
        for number in _PHONE.findall(text):
            if not _DATE.fullmatch(number.strip()):
                self._give("phone", label, number)
        text = _PHONE.sub(" ", text).strip(_AROUND)
        if any(letter.isalpha() for letter in text):
            self._loose.append(text)


def _read_contact(text: str) -> str:
    if not is_plain(text, LONGEST_ID):
        raise ValueError("A contact id has no spaces and no accents.")
    return text


def _plain(text: str) -> str:
    """Without what nobody sees, and without the mark that keeps a spreadsheet from calculating."""
    text = " ".join(_visible(text).split())
    bare = text.removeprefix("'").lstrip()
    return bare if bare.startswith(FORMULA) else text


def _visible(text: str) -> str:
    return unicodedata.normalize("NFC", text.translate(_INVISIBLE))


def _defuse(cell: str) -> str:
    return f"'{cell}" if _visible(cell).lstrip().startswith(FORMULA) else cell


def _describe(candidate: Mapping[str, str]) -> str:
    """The contact id first: with it in its column the row is decided."""
    known = [f"member {candidate['member']}" if candidate["member"] else "no account", candidate["address"]]
    known += [f"since {candidate['since']}"] if "since" in candidate else []
    return f"{candidate['contact'] or '?'} ({', '.join(filter(None, known))})"
