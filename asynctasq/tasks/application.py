"""Which task a message's name means: only modules of the application are imported to find out."""

import importlib
import importlib.util
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from asynctasq.errors import UnknownTask
from asynctasq.kernel.messages import bounded_text
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.module_files import WrongFile, files_of_module, folder_of_module, import_from, may_hold_tasks
from asynctasq.tasks.registry import known_names, registered
from asynctasq.tasks.syntax_tree import SourceReader, Unreadable

__all__ = ["Application"]

ERROR_BYTES_MAX = 1_000
NOT_BY_NAME = "a module of that name is not imported because a message names it"
NAME_IT = "if it defines tasks, name it, or its package, with --app"


class _Refused(Exception):
    """Why a module is not imported."""


class Application:
    """The modules that may hold tasks: the named ones and what is below them; if none is named, those in its folders.

    The folders are `root` and `path`; there, source files are read before one is imported. What is imported already is
    known in any case.
    """

    def __init__(self, modules: tuple[str, ...] = (), root: Path | None = None, *, path: tuple[str, ...] = ()) -> None:
        self.modules = modules
        self.root = root
        self.path = path
        folders = [*map(Path, path), *([] if root is None else [root])]
        self._readers = {folder: SourceReader(folder) for folder in folders}
        self._failed: dict[str, str] = {}

    def load(self) -> None:
        """Import the named modules, so that their tasks are known."""
        for module in self.modules:
            importlib.import_module(module)

    def resolve(self, name: str, *, file: str | None = None) -> type[BaseTask[Any]]:
        """Return the task called `name`; if it is not known, import its module, if that belongs to the application.

        With `file`, its module is imported from there: another process of the application has the task from that file.
        A module that could not be imported is not tried again.

        Raises: UnknownTask, naming the nearest known task and what the worker was started with.
        """
        found = registered(name)
        if found is not None:
            return found
        module, _, qualname = name.partition(":")
        try:
            self._import(module, qualname, file)
        except (_Refused, WrongFile) as error:
            raise UnknownTask(self._explain(name, str(error))) from error.__cause__
        except Exception as error:  # of the file system, or of whatever finds modules for Python
            raise UnknownTask(self._explain(name, f"its module can't be looked for: {_text(error)}")) from error
        found = registered(name)
        if found is None:
            raise UnknownTask(self._explain(name))
        return found

    def give_up(self, module: str, why: str) -> None:
        """Do not import this module again; its tasks that are not known stay unknown."""
        self._failed[module] = why

    def _import(self, module: str, qualname: str, file: str | None) -> None:
        if module in self._failed:
            raise _Refused(self._failed[module])
        if module in sys.modules:
            self._import_once(module)  # which runs nothing, but waits for another thread that is importing it
        elif file is not None:
            self._import_from_file(module, Path(file).resolve())
        elif self.modules:
            self._import_named(module)
        else:
            self._import_from_folder(module, qualname)

    def _import_once(self, module: str) -> None:
        if module in self._failed:
            raise _Refused(self._failed[module])
        try:
            importlib.import_module(module)
        except BaseException as error:  # a module's code is the user's and may raise anything, even SystemExit
            self.give_up(module, f"its module can't be imported: {_text(error)}")
            raise _Refused(self._failed[module]) from error

    def _import_from_file(self, module: str, file: Path) -> None:
        folder = folder_of_module(module, file)
        files = files_of_module(module, folder)
        if files is None or files[-1] != file:
            raise _Refused(f"its module can't be imported from {file}")
        if str(folder) not in sys.path:  # which a script does not have that is run in a folder below the project root
            sys.path.append(str(folder))
        import_from(module, files, self._import_once)

    def _import_named(self, module: str) -> None:
        """Import a module that was given with `--app`, or one below it."""
        name = next((known for known in self.modules if f"{module}.".startswith(f"{known}.")), None)
        if name is None:
            raise _Refused(f"its module is in none of those given with --app; {NAME_IT}")
        below = module.removeprefix(name).removeprefix(".")
        if module != name and not may_hold_tasks(below):
            raise _Refused(f"{NOT_BY_NAME}; {NAME_IT}")
        self._import_once(name)
        for part in filter(None, below.split(".")):
            is_package = hasattr(sys.modules[name], "__path__")
            name = f"{name}.{part}"
            if not is_package or importlib.util.find_spec(name) is None:
                raise _Refused(f"there is no module {name!r}")
            self._import_once(name)

    def _import_from_folder(self, module: str, qualname: str) -> None:
        if not may_hold_tasks(module):
            raise _Refused(f"{NOT_BY_NAME}; {NAME_IT}")
        for folder, reader in self._readers.items():
            files = files_of_module(module, folder)
            if files is None:
                continue
            try:
                if not reader.defines_task(module, qualname):
                    raise _Refused(f"as far as can be read, {files[-1]} defines no task {qualname!r}; {NAME_IT}")
            except Unreadable as error:
                raise _Refused(f"its module can't be imported: {files[-1]}: {error}") from None
            import_from(module, files, self._import_once)
            return
        raise _Refused(f"no folder of the project has a source file of its module; {NAME_IT}")

    def _explain(self, name: str, why: str = "") -> str:
        nearest = get_close_matches(name, known_names(), 1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        modules = ", ".join(self.modules) or "none"
        started = f"(modules given with --app: {modules}; project root: {self.root or 'none'})"
        return f"no task {name!r}{hint}{': ' * bool(why)}{why} {started}"


def _text(error: BaseException) -> str:
    try:
        return bounded_text(f"{type(error).__name__}: {error}", ERROR_BYTES_MAX)
    except BaseException as broken:  # noqa: BLE001 - the text of a module's error is user code
        return f"{type(error).__name__}, whose text raised {type(broken).__name__}"
