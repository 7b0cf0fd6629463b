"""What a parser says of bad input, in one sentence: which option, what was given, what it may be.

jsonargparse's messages are long and name its own types. Each function below knows one of them; `tests/test_messages.py`
provokes each from the parsers of this program, so that another version's wording is found there.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass

from diffwave_sde.cli.classes import class_of, subclasses


@dataclass(frozen=True)
class Complaint:
    """A parser's message.

    text: all of it.
    key: the option that it is about, without its dashes; "" if it names none.
    """

    text: str
    key: str

    def search(self, pattern: str) -> re.Match | None:
        """The first place where a pattern is found in it."""
        return re.search(pattern, self.text)

    @property
    def given(self) -> str | None:
        """The value that was given, if it stands at the end."""
        found = self.search(r"(?:Got value|Given value): (.*?)\s*$")
        return found and found[1]


def plain(message: str, verb: str) -> str:
    """A parser's message in one sentence; one that none of the functions below knows stays as it is."""
    key = ".".join(re.findall(r'[Kk]ey "([^"]+)"', message))
    complaint = Complaint(message, key)
    help_ = f"`diffwave-sde {verb} --help` lists the options"
    for translate in (unknown_option, missing_option, own_words):
        if said := translate(complaint):
            return said if translate is own_words else f"{said.replace(f'--{verb}.', '--')}; {help_}"
    if not key:
        return message
    for translate in TRANSLATIONS:
        if said := translate(complaint):
            return f"--{key}: {said}"
    nothing = complaint.search(r"Expected a dot import path string: (\S+)")
    return f"--{key}: nothing called {nothing[1]}; {help_}" if nothing else f"{message}; {help_}"


def unknown_option(complaint: Complaint) -> str | None:
    """An option, or a key of a YAML file, that there is not."""
    if complaint.text.startswith("unrecognized arguments"):
        return complaint.text
    key = not complaint.key and complaint.search(
        r"(?:Option '([^']+)' is not accepted|does not accept option '([^']+)')"
    )
    return f"no option {key[1] or key[2]}" if key else None


def missing_option(complaint: Complaint) -> str | None:
    """An option that must be given."""
    if not complaint.text.startswith("the following arguments are required"):
        return None
    return f"--{complaint.text.rpartition(': ')[2]} is needed"


def own_words(complaint: Complaint) -> str | None:
    """What a class itself says of its arguments: it stands first among the reasons why a value fits no type."""
    own = complaint.search(r"Errors:\s+- (?!Expected|Problem)(.*)")
    return own and own[1]


def missing_file(complaint: Complaint) -> str | None:
    """A YAML file that is not there, or is none."""
    why = {
        "File does not exist": "no such file",
        "Path is not a file": "not a file",
        "File is not readable": "no access",
    }
    found = complaint.search(rf"({'|'.join(why)}): '(.*)'")
    return f"{found[2]}: {why[found[1]]}" if found else None


def option_of_a_class(complaint: Complaint) -> str | None:
    """An option that a class has not."""
    option = complaint.search(r"given class_path '([\w.]+)':\s+Option '([^']+)' is not accepted")
    if not option:
        return None
    cls = class_of(option[1])
    has = [name for name in inspect.signature(cls).parameters if name != "self"]
    return f"{cls.__name__} has no option {option[2]}; it has {', '.join(has) or 'none'}"


def argument_of_a_class(complaint: Complaint) -> str | None:
    """An argument that a class must be given."""
    missing = complaint.search(r"given class_path '([\w.]+)':\s+the following arguments are required: (\w+)")
    if not missing:
        return None
    return f"{missing[1].rpartition('.')[2]} needs {missing[2]}: add --{complaint.key}.{missing[2]}=..."


def not_text(complaint: Complaint) -> str | None:
    """Text that YAML reads as a number or as true and false: it has to stand in quotes."""
    if not complaint.search(r"Expected a <class 'str'>") or complaint.given is None:
        return None
    given = complaint.given
    if given in ("True", "False"):
        return f'true and false, on and off, yes and no are not text in YAML: write it in quotes, "{given.lower()}"'
    if re.fullmatch(r"[-+.\w]+", given) and complaint.search(r"\d"):
        return f'{given} is a number, not text, in YAML: write it in quotes, "{given}"'
    return None


def not_a_list(complaint: Complaint) -> str | None:
    """One value where several may stand."""
    if complaint.given is None or not complaint.search(r"Expected a <class '(?:list|collections.abc.Sequence)'>"):
        return None
    return f"{complaint.given} is not a list: write [{complaint.given}]"


def wrong_type(complaint: Complaint) -> str | None:
    """A value of another type."""
    typed = complaint.search(r"(?m)Expected a <class '(\w+)'>. Got value: (.*?)(?:\. Got value: Namespace\(.*)?$")
    return f"{typed[2]!r} is not of type {typed[1]}" if typed else None


def unknown_class(complaint: Complaint) -> str | None:
    """The name of no class, where one of this program's has a place."""
    path = complaint.search(r"Expected a dot import path string: (\S+)")
    bases = re.findall(r"<class '(diffwave_sde[\w.]+)'>", complaint.text[: path.start()]) if path else []
    if not bases:
        return None
    base = class_of(bases[-1])
    choices = sorted(c.__name__ for c in subclasses(base))
    return f"no {base.__name__} called {path[1]}: choose one of {', '.join(choices)}"


def unknown_choice(complaint: Complaint) -> str | None:
    """None of a few words."""
    choices = re.findall(r"Literal\[([^\]]+)\]", complaint.text.partition("Errors:")[0])
    return f"{complaint.given or 'the value'} is not one of {', '.join(choices)}" if choices else None


def not_options(complaint: Complaint) -> str | None:
    """A text where other options have a place."""
    text = complaint.search(r"Unable to load config ['\"](.*?)['\"](?:\s|$)")
    return f"{text[1]!r} is not options, NAME: VALUE" if text else None


TRANSLATIONS: tuple[Callable[[Complaint], str | None], ...] = (
    missing_file,
    option_of_a_class,
    argument_of_a_class,
    not_text,
    wrong_type,
    not_a_list,
    unknown_class,
    unknown_choice,
    not_options,
)
"""Those that tell of one option, in the order in which they are tried."""


def is_lost_process(error: Exception) -> bool:
    """Whether an error is that of a process whose partner in training is gone, as Gloo and NCCL tell it."""
    told = f"{type(error).__name__}: {error}"
    return isinstance(error, RuntimeError) and bool(re.search(r"gloo|nccl|DistNetworkError", told, re.IGNORECASE))


def lost_process(error: Exception) -> str:
    """The line for it."""
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    why = re.sub(r"^\[[^\]]*\]\s*", "", first).partition(". ")[0][:120]
    return (
        f"another process of this training has ended, or cannot be reached ({why}): its own words, above, say why; go "
        "on from the last checkpoint, with --ckpt_path last"
    )
