"""The loop of `play`: read a line, and answer it or run it as a command, until input ends."""

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
"""Returns the next line; raises EOFError at the end of input, KeyboardInterrupt on Ctrl-C."""


class Loop:
    """A session: its settings, and its exchanges, which are kept in memory only.

    Attributes:
        settings: the settings of the next answer.
        exchanges: finished and interrupted exchanges, oldest first.
    """

    def __init__(self, player: Player, settings: Settings, console: Console) -> None:
        """Begin a session."""
        self.settings = settings
        self.exchanges: list[Exchange] = []
        self._player = player
        self._console = console

    def run(self, read_line: ReadLine) -> None:
        """Read lines until input ends or `/quit`; print errors of cna_lens and go on."""
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
        """Answer a prompt or run a command; return whether to go on.

        Raises:
            InputError: the command is unknown, or does not accept its value.
            KeyboardInterrupt: the user stopped an answer; its text so far is kept.
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
