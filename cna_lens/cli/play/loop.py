"""The loop of `play`: read a line, answer it or obey it, until the end of input."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from cna_lens.cli.play.commands import read_command
from cna_lens.cli.play.exchange import Exchange, save_exchanges
from cna_lens.cli.play.player import Player
from cna_lens.cli.play.screen import exchange_table, help_table, neuron_table
from cna_lens.cli.play.settings import Settings
from cna_lens.errors import CnaLensError

ReadLine = Callable[[], str]
"""Gives the next line; EOFError at the end, KeyboardInterrupt when a line is given up."""


class Loop:
    """What has been said in a session, in memory alone, and the settings as they are.

    Attributes:
        settings: of the next answer.
        exchanges: finished and interrupted ones, oldest first.
    """

    def __init__(self, player: Player, settings: Settings, console: Console) -> None:
        """Begin a session."""
        self.settings = settings
        self.exchanges: list[Exchange] = []
        self._player = player
        self._console = console

    def run(self, read_line: ReadLine) -> None:
        """Go on until the input ends or `/quit`; an error of ours is a message, not the end."""
        going = True
        while going:
            try:
                going = self.take(read_line().strip())
            except EOFError:
                return
            except KeyboardInterrupt:
                self._say("interrupted; /quit or Ctrl-D ends")
            except CnaLensError as error:
                self._say(str(error))

    def take(self, line: str) -> bool:
        """Answer or obey one line; whether to go on.

        Raises:
            InputError: a command that cannot be obeyed.
            KeyboardInterrupt: from an answer that was stopped; what there is of it is kept.
        """
        if not line:
            return True
        if not line.startswith("/"):
            self._answer(line)
            return True
        command = read_command(line, self.settings, len(self._player.circuit))
        self.settings = command.settings
        if command.action == "set":
            self._say(str(self.settings))
        elif command.action == "top":
            self._console.print(neuron_table(self._player.strongest(self.settings.k)))
        elif command.action == "help":
            self._console.print(help_table())
        elif command.action == "save":
            self._save(Path(command.path).expanduser())
        return command.action != "quit"

    def _answer(self, prompt: str) -> None:
        exchange = Exchange(prompt, self.settings)
        try:
            with (
                closing(self._player.answer(prompt, self.settings)) as exchanges,
                Live(exchange_table(exchange), console=self._console, auto_refresh=False) as live,
            ):
                for exchange in exchanges:
                    live.update(exchange_table(exchange), refresh=True)
        finally:
            if exchange.unsteered.log_odds is not None:
                self.exchanges.append(exchange)

    def _save(self, path: Path) -> None:
        if not self.exchanges:
            self._say("there is no answer yet; nothing was saved")
            return
        try:
            save_exchanges(path, self.exchanges)
        except OSError as error:
            self._say(f"{path} cannot be written: {error.strerror}")
            return
        self._say(f"{len(self.exchanges)} prompts with their answers are in {path}")

    def _say(self, text: str) -> None:
        self._console.print(Text(text, style="dim"), soft_wrap=True)
