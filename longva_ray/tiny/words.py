"""The words of the tiny world: the vocabulary of its tokenizer."""

from longva_ray.tiny.world import COLOURS, THINGS


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SCENE_WORDS = (*COLOURS, *THINGS)


QUESTION_WORDS = _words(
    """
    a the is what colour which letter digit shape there not shown comes after first last
    system user assistant You are helpful
    """
)


NIAH_WORDS = _words(
    "The magic number of in city book What Question Answer Based on content This very long story"
)


MANNERS = _words("old young small tall quiet gentle wise brave")


PEOPLE = _words("man woman child farmer sailor painter teacher king queen doctor baker friend")


DEEDS = _words("saw found lost made took kept sold painted opened watched remembered crossed")


PLACES = _words("river hill road garden forest bridge market tower window door lake village")


PREPOSITIONS = _words("by near under over beside behind from at")


ESSAY_WORDS = MANNERS + PEOPLE + DEEDS + PLACES + PREPOSITIONS


CITIES = _words(
    """
    Paris London Berlin Madrid Rome Vienna Athens Lisbon Dublin Oslo Cairo Nairobi
    Tokyo Seoul Delhi Bangkok Jakarta Manila Sydney Chicago Boston Toronto Havana Lima
    """
)


PAIRS = tuple(f"{number:02d}" for number in range(100))


def vocabulary() -> tuple[str, ...]:
    """The texts that are tokens beside the bytes: every word with a space before it, and those that
    may begin a line without."""
    begin = QUESTION_WORDS + NIAH_WORDS
    words = SCENE_WORDS + begin + ESSAY_WORDS + CITIES + tuple("0123456789") + PAIRS
    forms = [f" {word}" for word in words]
    return tuple(dict.fromkeys([*forms, *(word for word in begin + PAIRS if len(word) > 1)]))
