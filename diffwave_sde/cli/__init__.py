"""The command line: one program, a module for each verb, imported when it is called so that `--help` is quick."""

from __future__ import annotations

import codecs
import importlib
import os
import sys
from typing import NoReturn

from diffwave_sde import compatibility, names, trust
from diffwave_sde.cli import config_files, cores, messages

VERBS = {
    "fit": ("diffwave_sde.cli.lightning", "train a model, or go on with one (--ckpt_path last)"),
    "validate": ("diffwave_sde.cli.lightning", "the validation loss of a checkpoint, by noise level"),
    "test": ("diffwave_sde.cli.lightning", "the same on the test split"),
    "predict": ("diffwave_sde.cli.lightning", "sounds of the classes of the test split, as tensors"),
    "prepare": ("diffwave_sde.cli.prepare", "turn sounds into a store, ready for training"),
    "sample": ("diffwave_sde.cli.sample", "make new sounds from a checkpoint: WAV files and a page to hear them"),
    "edit": ("diffwave_sde.cli.edit", "change a given sound: inpaint, vary, interpolate, extend, restore"),
    "kit": ("diffwave_sde.cli.kit", "make a drum kit to take away: SFZ, Hydrogen, Decent Sampler, WAV files"),
    "demo": ("diffwave_sde.cli.demo", "open a page to play with: pads, a sequencer, a kit to take away"),
    "evaluate": ("diffwave_sde.cli.evaluate", "lay generated sounds against real ones: distances, levels, neighbours"),
    "likelihood": ("diffwave_sde.cli.likelihood", "how probable a model finds sounds; --rank lists the odd ones"),
    "doctor": ("diffwave_sde.cli.doctor", "what is wrong with the files of a data set: copies, clipping, labels, ..."),
    "page": ("diffwave_sde.cli.page", "the page of a run, or one file of it to send: sounds, figures, spikes"),
    "replay": ("diffwave_sde.cli.replay", "make a loss spike of a run again, and say what made it"),
    "compare": ("diffwave_sde.cli.compare", "the same noises through two models or more, on one page"),
    "schedule": ("diffwave_sde.cli.schedule", "learn time grids for a model, for any number of steps"),
    "export": ("diffwave_sde.cli.export", "write a model for others to use: weights, what they are, and a card"),
}

TRUST = "--trust"
TRUST_HELP = (
    "with any verb: a model may run code of your own or of somebody else, which its configuration names (default: this "
    "program's classes alone, and modules that the command line names)"
)

USAGE = "usage: diffwave-sde VERB [options]\n\nScore-based diffusion on raw audio.\n\nverbs:\n" + "".join(
    f"  {verb:<12}{text}\n" for verb, (_, text) in VERBS.items()
)
USAGE += f"\n  {TRUST}   {TRUST_HELP}\n"


def main(argv: list[str] | None = None) -> None:
    """Run the program; exits with 2 and one clear line on bad input. DIFFWAVE_TRACEBACK=1 shows where it came from."""
    if argv is None:  # a process of its own, whose threads are its own to choose
        argv = sys.argv[1:]
        cores.set_wait_policy(argv[0] if argv else "")
        cores.start_monitor()
    codecs.register_error("spell", names.unencodable)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what stands in its place may have no encoding
            stream.reconfigure(errors="spell")
    argv = [names.spell_bytes(argument) for argument in argv]
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE + "\n`diffwave-sde VERB --help` lists a verb's options, with units and defaults.")
        return
    verb = argv[0]
    if verb not in VERBS:
        sys.exit(_complain(f"no verb {verb!r}: choose one of {', '.join(VERBS)}"))
    if os.getcwd() not in sys.path:  # where one's own classes are written, for --model.sde=mine.Fade
        sys.path.append(os.getcwd())
    given = argv  # for complaints
    try:
        if any(text.partition("=")[0] == "--config" for text in argv):
            from diffwave_sde.cli.path_options import expand_files  # which needs the parser: `--help` does not wait

            argv = expand_files(argv)
            given = argv
            config_files.check(argv, VERBS[verb][0].endswith("lightning"))
        argv = compatibility.renew_arguments(argv)
        trust.reset()
        trust.allow(trust.named_in(argv), everything=TRUST in argv)
        argv = [text for text in argv if text != TRUST]
        importlib.import_module(VERBS[verb][0]).run(argv)
    except SystemExit as stop:
        if not stop.code and {"-h", "--help"} & set(argv):  # it is no option of the verb, whose values are recorded
            try:
                print(f"\n  {TRUST}   {TRUST_HELP}", flush=True)
            except BrokenPipeError:
                _reader_gone()
        raise
    except BrokenPipeError:
        _reader_gone()
    except KeyboardInterrupt:
        sys.exit(_complain("stopped; nothing is half-written", code=130))
    except Exception as error:
        if not os.environ.get("DIFFWAVE_TRACEBACK") and messages.is_lost_process(error):
            sys.exit(_complain(messages.lost_process(error), code=1))
        if os.environ.get("DIFFWAVE_TRACEBACK") or not _expected(error):
            raise
        said = messages.plain(str(error), verb)
        said = config_files.blame(said, given, parsing="Argument" in type(error).__name__)
        sys.exit(_complain(said))


def _expected(error: Exception) -> bool:
    """Whether the error tells a user what to do, and not a programmer."""
    names = {c.__name__ for c in type(error).__mro__}
    return bool(
        names & {"ValueError", "OSError", "ArgumentError", "ArgumentTypeError", "MisconfigurationException", "Diverged"}
    )


def _reader_gone() -> NoReturn:
    """End, since nobody reads what is printed any more, as after `| head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains as it empties its buffer at the end
    sys.exit(1)


def _complain(message: str, code: int = 2) -> int:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    print(f"diffwave-sde: {names.printable(' '.join(lines)[:1000])}", file=sys.stderr)
    return code
