"""The tokens file: what is taken, what is refused with which words, and who is found by what."""

from __future__ import annotations

import math
import stat
from collections import Counter
from datetime import datetime, timezone

import pytest

from stallwatch.detector.auth import files, tokens
from stallwatch.detector.auth.access import Scope
from stallwatch.detector.auth.gate import Gate
from stallwatch.detector.auth.throttle import BURST, MOST_ADDRESSES, PER_SECOND, Throttle
from stallwatch.detector.errors import UnauthenticatedError, UsageError

SECRET = "swt_" + "x" * 43
OTHER = "swt_" + "y" * 43


def entry(secret: str = SECRET, name: str = "one", **fields: str) -> str:
    """A table of the file; fields as TOML."""
    given = {"name": f'"{name}"', "hash": f'"{tokens.hash_of(secret)}"', "scopes": '["write"]', **fields}
    return "[[token]]\n" + "".join(f"{key} = {value}\n" for key, value in given.items())


def test_a_token_is_random_and_recognisable():
    """256 bits, and a prefix that scanners know."""
    made = {tokens.new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(each.startswith("swt_") and len(each) == 47 for each in made)
    counts = Counter("".join(each[4:46] for each in made))
    entropy = -sum(n / 4200 * math.log2(n / 4200) for n in counts.values())
    assert entropy > 5.9


def test_an_entry_says_everything_that_it_can():
    """All fields."""
    fields = {
        "scopes": '["write", "read"]',
        "runs": '["bert-*", "gpt"]',
        "expires": "2027-01-31T12:00:00Z",
        "max_streams": "8",
        "max_bytes_per_second": "1_000_000",
        "max_runs": "3",
    }
    (found,) = tokens.parse(entry(**fields).encode(), "f").entries
    who = found.principal
    assert (who.name, who.scopes, who.runs) == ("one", {Scope.WRITE, Scope.READ}, ("bert-*", "gpt"))
    assert (who.max_streams, who.max_bytes_per_second, who.max_runs) == (8, 1_000_000, 3)
    assert found.expires_at == datetime(2027, 1, 31, 12, tzinfo=timezone.utc).timestamp()


@pytest.mark.parametrize(
    ("written", "end"),
    [
        ("2027-01-31", datetime(2027, 2, 1, tzinfo=timezone.utc)),
        ("2027-01-31T12:00:00", datetime(2027, 1, 31, 12, tzinfo=timezone.utc)),
        ("2027-01-31T12:00:00+02:00", datetime(2027, 1, 31, 10, tzinfo=timezone.utc)),
    ],
)
def test_a_date_is_the_last_day_and_a_time_is_utc_unless_it_says_otherwise(written, end):
    """Of `expires`."""
    (found,) = tokens.parse(entry(expires=written).encode(), "f").entries
    assert found.expires_at == end.timestamp()
    assert not found.is_expired(end.timestamp() - 1)
    assert found.is_expired(end.timestamp())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[[token]\n", "is no TOML: see line 1"),
        (f'name = "{SECRET}"\n', "it has a field that is none: the fields are token"),
        (entry().replace("scopes", "scope"), "token[0]"),
        (entry(scopes='["admin"]'), "token[0].scopes[0]: input should be 'write', 'read' or 'administer'"),
        (entry(scopes="[]"), "token[0].scopes: tuple should have at least 1 item"),
        (entry(runs="[]"), "token[0].runs: tuple should have at least 1 item"),
        (entry(runs='[""]'), "token[0].runs[0]"),
        (entry(expires='"2027-01-31"'), "token[0].expires: it must be a date without quotes"),
        (entry(hash=f'"{SECRET}"'), "token[0].hash: string should match pattern"),
        (entry(name="a b"), "token[0].name: string should match pattern"),
        (entry(max_streams="0"), "token[0].max_streams: input should be greater than or equal to 1"),
        (entry() + entry(name="two"), "token[1].hash is that of another token, too"),
        (entry() + entry(OTHER), "token[1].name is that of another token, too"),
        ("\ufeff\x00", "is no TOML"),
        ("a = " + "[" * 50_000, "is no TOML"),
    ],
)
def test_what_is_wrong_is_named_and_never_shown(content, says):
    """The field and the fix; not the value, which may be a token in the wrong place."""
    with pytest.raises(UsageError, match="tokens file f") as raised:
        tokens.parse(content.encode(), "f")
    assert says in str(raised.value)
    assert SECRET not in str(raised.value)
    assert tokens.hash_of(SECRET) not in str(raised.value)


def test_who_sends_what_is_not_known_is_refused_without_being_quoted(tmp_path):
    """None, wrong, malformed, hash in place of the token, expired: each says what it is."""
    path = tmp_path / "tokens.toml"
    path.write_text(entry() + entry(OTHER, "old", expires="2020-01-01"))
    gate = Gate(path)
    assert gate.authenticate(f"Bearer {SECRET}").principal.name == "one"
    assert gate.authenticate(f"bearer  {SECRET} ").principal.name == "one"
    sent = {
        None: "no token was sent",
        "": "no token was sent",
        SECRET: "authorization must be `Bearer TOKEN`",
        f"Basic {SECRET}": "authorization must be `Bearer TOKEN`",
        "Bearer ": "authorization must be `Bearer TOKEN`",
        "Bearer " + "x" * 100_000: "authorization must be `Bearer TOKEN`",
        f"Bearer {SECRET[:-1]}": "the token is not known here",
        f"Bearer {SECRET}x": "the token is not known here",
        f"Bearer {tokens.hash_of(SECRET)}": "the token is not known here",
        "Bearer \udcff\u20ac": "the token is not known here",
        f"Bearer {OTHER}": "token old has expired",
    }
    for header, says in sent.items():
        with pytest.raises(UnauthenticatedError) as raised:
            gate.authenticate(header)
        assert says in str(raised.value)
        assert SECRET[:-1] not in str(raised.value)
        assert OTHER not in str(raised.value)


def test_a_file_that_became_unusable_changes_nothing_until_it_is_right_again(tmp_path, caplog):
    """It is said once; a session follows what the file says of its token."""
    path = tmp_path / "tokens.toml"
    path.write_text(entry(runs='["a"]'))
    gate = Gate(path)
    session = gate.authenticate(f"Bearer {SECRET}")
    for broken in ("[[token", None):
        path.write_text(broken) if broken else path.unlink()
        for _ in range(3):
            assert not gate.refresh()
        assert gate.problem
        assert gate.renew(session).may(Scope.WRITE, "a")
    errors = [record for record in caplog.records if "still hold" in record.getMessage()]
    assert len(errors) == 2
    path.write_text(entry(runs='["b"]'))
    assert gate.refresh()
    assert gate.problem is None
    assert not gate.renew(session).may(Scope.WRITE, "a")
    path.write_text("")
    assert gate.refresh()
    with pytest.raises(UnauthenticatedError):
        gate.renew(session)


def test_a_session_ends_with_its_token(tmp_path):
    """Nothing has to be read again for that."""
    path = tmp_path / "tokens.toml"
    path.write_text(entry(expires="2027-01-31T00:00:00Z"))
    end = datetime(2027, 1, 31, tzinfo=timezone.utc).timestamp()
    now = [end - 1]
    gate = Gate(path, clock=lambda: now[0])
    session = gate.authenticate(f"Bearer {SECRET}")
    now[0] = end
    with pytest.raises(UnauthenticatedError, match="token one has expired"):
        gate.renew(session)


def test_what_else_stands_in_a_file_stays(tmp_path):
    """Comments, order and layout, when entries are added and taken away; its group may read it as before."""
    path = tmp_path / "tokens.toml"
    before = "# Ours.\ntoken = []\n"
    path.write_text(
        before.replace("token = []\n", "\n") + entry() + "  # who is this?\n\n" + entry(OTHER, "two")
    )
    path.chmod(0o640)
    original = path.read_text()
    third = tokens.entry_of(
        {"name": "three", "hash": tokens.hash_of("z"), "scopes": ["read"], "runs": ["ü\U0001f600"]}
    )
    files.add(path, third)
    assert path.read_text().startswith(original)
    assert [each.name for each in files.read(path).entries] == ["one", "two", "three"]
    assert files.read(path).entries[2] == third
    files.remove(path, "one")
    assert path.read_text().startswith("# Ours.\n")
    files.remove(path, "three")
    files.remove(path, "two")
    assert path.read_text() == "# Ours.\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_new_file_is_its_owners_only_and_a_link_stays_one(tmp_path):
    """As the secret files of other tools."""
    real, link = tmp_path / "real.toml", tmp_path / "link.toml"
    link.symlink_to(real)
    files.add(link, tokens.entry_of({"name": "one", "hash": tokens.hash_of(SECRET), "scopes": ["read"]}))
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("text", ['token = [{name = "one", hash = "HASH", scopes = ["read"]}]\n'])
def test_a_file_that_only_its_author_understands_is_left_to_them(tmp_path, text):
    """What cannot be taken out for certain is not taken out at all."""
    path = tmp_path / "tokens.toml"
    path.write_text(text.replace("HASH", tokens.hash_of(SECRET)))
    with pytest.raises(UsageError, match="take token one out by hand"):
        files.remove(path, "one")
    assert path.read_text() == text.replace("HASH", tokens.hash_of(SECRET))


def test_failures_are_counted_by_address_and_memory_is_bounded():
    """So many at once, then so many a second; who fails from elsewhere is not affected."""
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    assert [throttle.fail("a") for _ in range(BURST + 2)] == [True] * BURST + [False] * 2
    assert throttle.fail("b")
    now[0] += 1 / PER_SECOND
    assert throttle.fail("a")
    assert not throttle.fail("a")
    for number in range(MOST_ADDRESSES + 100):
        throttle.fail(str(number))
    assert len(throttle) == MOST_ADDRESSES
