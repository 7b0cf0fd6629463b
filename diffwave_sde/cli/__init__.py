"""The command line: one program, a module for each verb, imported when it is called so that `--help` is quick."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys

from diffwave_sde import compatibility
from diffwave_sde.cli import cores

VERBS = {
    "fit": ("diffwave_sde.cli.lightning", "train a model, or go on with one (--ckpt_path last)"),
    "validate": ("diffwave_sde.cli.lightning", "the validation loss of a checkpoint, by noise level"),
    "test": ("diffwave_sde.cli.lightning", "the same on the test split"),
    "predict": ("diffwave_sde.cli.lightning", "sounds of the classes of the test split, as tensors"),
    "prepare": ("diffwave_sde.cli.prepare", "turn sounds into a store, ready for training"),
    "sample": ("diffwave_sde.cli.sample", "make new sounds from a checkpoint: WAV files and a page to hear them"),
    "evaluate": ("diffwave_sde.cli.evaluate", "lay generated sounds against real ones: distances, levels, neighbours"),
    "schedule": ("diffwave_sde.cli.schedule", "learn time grids for a model, for any number of steps"),
    "export": ("diffwave_sde.cli.export", "write a model for others to use: weights, what they are, and a card"),
}

USAGE = "usage: diffwave-sde VERB [options]\n\nScore-based diffusion on raw audio.\n\nverbs:\n" + "".join(
    f"  {verb:<10}{text}\n" for verb, (_, text) in VERBS.items()
)


def main(argv: list[str] | None = None) -> None:
    """Run the program; exits with 2 and one clear line on bad input. DIFFWAVE_TRACEBACK=1 shows where it came from."""
    if argv is None:  # a process of its own, whose threads are its own to choose
        argv = sys.argv[1:]
        cores.set_wait_policy()
        cores.start_monitor()
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE + "\n`diffwave-sde VERB --help` lists a verb's options, with units and defaults.")
        return
    verb = argv[0]
    if verb not in VERBS:
        sys.exit(_complain(f"no verb {verb!r}: choose one of {', '.join(VERBS)}"))
    if os.getcwd() not in sys.path:  # where one's own classes are written, for --model.sde=mine.Fade
        sys.path.append(os.getcwd())
    try:
        if any(text.partition("=")[0] == "--config" for text in argv):
            from diffwave_sde.cli.path_options import expand_files  # which needs the parser: `--help` does not wait

            argv = expand_files(argv)
        argv = compatibility.renew_arguments(argv)
        importlib.import_module(VERBS[verb][0]).run(argv)
    except BrokenPipeError:
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(_complain("stopped; nothing is half-written", code=130))
    except Exception as error:
        if os.environ.get("DIFFWAVE_TRACEBACK") or not _expected(error):
            raise
        sys.exit(_complain(_plain(str(error), verb)))


def _plain(message: str, verb: str) -> str:
    """A parser's message in one sentence: which option, what was given, what it may be."""
    known = f"`diffwave-sde {verb} --help` lists the options"
    if message.startswith("unrecognized arguments"):
        return f"{message}; {known}"
    if message.startswith("the following arguments are required"):
        return f"--{message.rpartition(': ')[2]} is needed; {known}"
    # What a class itself says of its arguments stands first among the reasons why a value fits none of the types.
    if own := re.search(r"Errors:\s+- (?!Expected|Problem)(.*)", message):
        return own[1]
    key = ".".join(re.findall(r'[Kk]ey "([^"]+)"', message))
    if not key:
        return message
    if option := re.search(r"given class_path '([\w.]+)':\s+Option '([^']+)' is not accepted", message):
        cls = class_of(option[1])
        has = [name for name in inspect.signature(cls).parameters if name != "self"]
        return f"--{key}.{option[2]}: {cls.__name__} has no such option; it has {', '.join(has) or 'none'}"
    if missing := re.search(r"given class_path '([\w.]+)':\s+the following arguments are required: (\w+)", message):
        return f"--{key}: {missing[1].rpartition('.')[2]} needs {missing[2]}: add --{key}.{missing[2]}=..."
    if typed := re.search(r"Expected a <class '(\w+)'>. Got value: (.*)", message):
        return f"--{key}: {typed[2]!r} is not of type {typed[1]}"
    path = re.search(r"Expected a dot import path string: (\S+)", message)
    bases = re.findall(r"<class '(diffwave_sde[\w.]+)'>", message[: path.start()]) if path else []
    if bases:
        base = class_of(bases[-1])
        choices = sorted(c.__name__ for c in subclasses(base))
        return f"--{key}: no {base.__name__} called {path[1]}: choose one of {', '.join(choices)}"
    if choices := re.findall(r"Literal\[([^\]]+)\]", message.partition("Errors:")[0]):
        given = re.search(r"(?:Got value|Given value): (\S+)\s*$", message)
        return f"--{key}: {given[1] if given else 'the value'} is not one of {', '.join(choices)}"
    if path:
        return f"--{key}: nothing called {path[1]}; {known}"
    return f"{message}; {known}"


def class_of(path: str) -> type:
    """The class at a dotted path."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def subclasses(cls: type) -> list[type]:
    """`cls` and all classes below it, those that can be made."""
    below = [cls, *(c for direct in cls.__subclasses__() for c in subclasses(direct))]
    return [c for c in dict.fromkeys(below) if not inspect.isabstract(c)]


def _expected(error: Exception) -> bool:
    """Whether the error tells a user what to do, and not a programmer."""
    names = {c.__name__ for c in type(error).__mro__}
    return bool(names & {"ValueError", "OSError", "ArgumentError", "ArgumentTypeError", "MisconfigurationException"})


def _complain(message: str, code: int = 2) -> int:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    print(f"diffwave-sde: {' '.join(lines)[:1000]}", file=sys.stderr)
    return code
