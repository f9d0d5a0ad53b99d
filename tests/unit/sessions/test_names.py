"""Whose name it is, whatever strangers register, rename and delete."""

from collections.abc import Iterable
from datetime import UTC, datetime

from morpheus_sessions.names import Changes, Holder, Naming, changes_of, claims_of, naming_of
from morpheus_sessions.router import ChainModel

GONE = datetime(2026, 11, 1, tzinfo=UTC)


def model(number: int, name: str, created_at: int | None = None) -> ChainModel:
    return ChainModel(
        id=f"0x{number:064x}",
        name=name,
        owner="0x" + "0a" * 20,
        tags=("LLM",),
        type="LLM",
        created_at=1_000 + number if created_at is None else created_at,
        is_deleted=False,
    )


class Book:
    """What is written down, reading by reading."""

    def __init__(self, known: dict[str, Holder] | None = None, **pinned: str) -> None:
        self.known = known or {}
        self.pinned = pinned

    def read(self, *models: ChainModel) -> Naming:
        claims = claims_of(models)
        changes = changes_of(claims, self.known)
        self._write(changes)
        assert not changes_of(claims, self.known), "the same market again changes nothing"
        return naming_of(claims, self.known, self.pinned)

    def _write(self, changes: Changes) -> None:
        self.known |= changes.taken
        self.known |= {name: Holder(h.model_id, h.registered_at, GONE) for name, h in changes.gone.items()}
        self.known |= {name: Holder(h.model_id, h.registered_at) for name, h in changes.back.items()}

    def forget(self, name: str) -> None:
        """What the database does thirty days later."""
        del self.known[name]


def holders(naming: Naming, *models: ChainModel) -> list[ChainModel]:
    return [each for each in models if each.id in naming.holders]


def ids(models: Iterable[ChainModel]) -> list[str]:
    return [each.id for each in models]


def test_a_contested_name_belongs_to_the_first_that_registered_it() -> None:
    late, first = model(1, "mistral", created_at=900), model(2, "Mistral", created_at=100)
    assert holders(Book().read(late, first), late, first) == [first]


def test_of_two_that_registered_in_the_same_second_all_workers_choose_the_same() -> None:
    one, other = model(1, "mistral", created_at=5), model(2, "mistral", created_at=5)
    for market in ((one, other), (other, one)):
        assert holders(Book().read(*market), one, other) == [one]


def test_the_name_of_a_deleted_model_is_not_inherited() -> None:
    first, stranger = model(1, "llama"), model(2, "LLaMA")
    book = Book()
    book.read(first, stranger)
    after = book.read(stranger)
    assert holders(after, stranger) == []
    assert after.withheld == ["llama"]
    assert after.slugs == {}

    newcomer = model(3, "llama")
    assert holders(book.read(stranger, newcomer), stranger, newcomer) == []

    book.forget("llama")
    assert holders(book.read(stranger, newcomer), stranger, newcomer) == [stranger]


def test_the_slug_of_a_deleted_model_is_not_inherited_either() -> None:
    first, stranger = model(1, "llama-3.3"), model(2, "llama 3 3")
    book = Book()
    book.read(first)
    after = book.read(stranger)
    assert holders(after, stranger) == [stranger]
    assert after.slugs == {}
    assert after.withheld == ["llama-3.3"]


def test_a_model_that_is_back_has_its_name_again() -> None:
    """A reading that lacked models, whyever, gives their names to nobody."""
    first, stranger = model(1, "llama"), model(2, "llama")
    book = Book()
    book.read(first, stranger)
    assert holders(book.read(), first) == []
    assert holders(book.read(first, stranger), first, stranger) == [first]


def test_an_old_model_that_is_renamed_takes_no_name_from_its_holder() -> None:
    """A renamed model keeps the time at which it was registered (proxy-router contract: CreatedAt)."""
    old, holder = model(1, "nothing", created_at=1), model(2, "llama", created_at=500)
    book = Book()
    book.read(old, holder)
    renamed = model(1, "llama", created_at=1)
    after = book.read(renamed, holder)
    assert holders(after, renamed, holder) == [holder]
    assert after.withheld == ["nothing"]


def test_a_holder_that_is_renamed_leaves_its_name_withheld() -> None:
    first, stranger = model(1, "llama"), model(2, "llama")
    book = Book()
    book.read(first, stranger)
    renamed = model(1, "llama-4")
    after = book.read(renamed, stranger)
    assert ids(holders(after, renamed, stranger)) == [first.id]
    assert after.slugs == {first.id: "llama-4"}
    assert after.withheld == ["llama"]


def test_at_the_first_start_nothing_is_withheld() -> None:
    first, second = model(1, "llama"), model(2, "qwen")
    naming = Book().read(first, second)
    assert naming.withheld == []
    assert holders(naming, first, second) == [first, second]


def test_an_operator_pins_a_contested_name_to_another() -> None:
    squatter, real = model(1, "Llama"), model(2, "llama")
    naming = Book(LLAMA=real.id).read(squatter, real)
    assert holders(naming, squatter, real) == [real]
    assert naming.slugs == {real.id: "llama"}


def test_a_pinned_name_whose_model_is_away_means_none() -> None:
    squatter = model(1, "llama")
    naming = Book(llama=model(2, "x").id).read(squatter)
    assert holders(naming, squatter) == []
    assert naming.withheld == ["llama"]


def test_a_pin_gives_no_model_a_name_that_it_does_not_have() -> None:
    other = model(1, "qwen")
    naming = Book(llama=other.id).read(other)
    assert naming.withheld == ["llama"]
    assert naming.slugs == {other.id: "qwen"}


def test_without_its_pin_a_name_is_who_registered_it_first_again() -> None:
    squatter, real = model(1, "llama"), model(2, "llama")
    book = Book(llama=real.id)
    book.read(squatter, real)
    assert holders(Book(book.known).read(squatter, real), squatter, real) == [squatter]


def test_a_slug_belongs_to_the_first_whose_name_has_it() -> None:
    spaced, dashed = model(1, "foo bar"), model(2, "foo-bar")
    naming = Book().read(dashed, spaced)
    assert holders(naming, spaced, dashed) == [spaced, dashed]
    assert naming.slugs == {spaced.id: "foo-bar"}


def test_odd_names_are_claimed_by_nobody() -> None:
    odd = ("a\u200bb", "0xabc", "allmodels", "x" * 129)
    book = Book()
    naming = book.read(*(model(number, name) for number, name in enumerate(odd)))
    assert naming.holders == frozenset()
    assert book.known == {}
