"""What colours mean on the dashboard."""

WELL = "green"
ILL = "bold red"
ASIDE = "yellow"
"""Neither: on its way, or so by an operator's will."""
