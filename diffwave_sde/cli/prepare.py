"""`diffwave-sde prepare`: sounds to a store."""

from __future__ import annotations

from jsonargparse import ArgumentParser

from diffwave_sde.names import listed


def run(argv: list[str]) -> None:
    from diffwave_sde.data.module import AudioDataModule

    parser = ArgumentParser(prog="diffwave-sde prepare", description=__doc__, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file with values of these options")
    parser.add_class_arguments(AudioDataModule, "data")
    config = parser.parse_args(argv[1:])
    data = parser.instantiate_classes(config).data
    data.prepare_data()
    data.setup("fit")
    store = data.store
    print(f"{store.path}: {len(store)} clips of {listed(store.labels)}")
