"""Tables of results, for the documentation."""

from rich.table import Table


def markdown(table: Table) -> str:
    """A table as Markdown."""
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    lines = ["| " + " | ".join(row) + " |" for row in zip(*columns, strict=True)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]]) + "\n"
