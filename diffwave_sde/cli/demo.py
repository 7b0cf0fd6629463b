"""Open a page to play with: sixteen pads, a sequencer, and a kit to take away. It runs until Ctrl-C."""

from __future__ import annotations

import importlib.util
import sys

from jsonargparse import ArgumentParser, Namespace

from diffwave_sde.cli import model_options
from diffwave_sde.cli.path_options import parse
from diffwave_sde.progress import progress_bar


def run(argv: list[str]) -> None:
    """Run `diffwave-sde demo`."""
    server = prepare(parse(parser(), argv[1:]))
    try:
        print(f"open {server.launch()}  (Ctrl-C ends it)", flush=True)
        server.wait()
        print()  # after ^C
    finally:
        server.close()


def prepare(config: Namespace):
    """The server that the options ask for, with its first kit made; it does not listen yet."""
    if not 0 <= config.port <= 65535:
        raise ValueError(f"--port {config.port}: choose 1 to 65535, or 0 for a free one")
    if config.password == "":
        raise ValueError("--password is empty: give one, or leave it out")
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the page needs Gradio: `make demo` installs it, or pip install -c constraints.txt '.[demo]'")
    sampler = parser().instantiate_classes(config).sampler
    model = model_options.load(config, "play with", cascade=True, latent=True)
    from diffwave_sde.demo import server  # with Gradio, which takes two seconds to import
    from diffwave_sde.demo.start import cache_folder, starting_kit
    from diffwave_sde.demo.studio import Studio

    if config.host not in server.LOOPBACK:
        open_to = "whoever knows the password" if config.password else "anybody, since there is no --password"
        print(
            f"warning: --host {config.host} lets in all who reach this machine: {open_to}; what they send is not "
            "encrypted",
            file=sys.stderr,
        )
    server.free_port(config.host, config.port)  # which fails before the work is done
    studio = Studio(model, sampler, config.clip)
    with progress_bar("sounds") as progress:
        task = progress.add_task("the first kit", total=16)
        start = starting_kit(
            studio,
            config.seed,
            config.batch_size,
            lambda done, total: progress.update(task, completed=done),
            cache_folder(),
        )
    return server.Server(studio, start, config.subtype, config.host, config.port, config.password)


def parser() -> ArgumentParser:
    """The options of the verb."""
    p = ArgumentParser(prog="diffwave-sde demo", description=__doc__, exit_on_error=False)
    p.add_argument("--config", action="config", help="YAML file with values of these options")
    model_options.add(p)
    p.set_defaults({"subtype": "PCM_24"})
    p.add_argument("--port", type=int, default=7860, help="TCP port to listen on; 0 for one that is free")
    p.add_argument(
        "--host",
        type=str,
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 lets in other machines, and should have a --password",
    )
    p.add_argument(
        "--password", type=str | None, help="what a browser has to give, with any user name (default: none is asked)"
    )
    return p
