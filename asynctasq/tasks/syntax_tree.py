"""Whether a source file defines a task, read from its syntax tree; nothing of the file is run."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asynctasq.tasks.module_files import files_of_module

__all__ = ["SourceReader", "Unreadable"]

SOURCE_BYTES_MAX = 1_000_000
"""Larger files are not read."""

_HOMES = ("asynctasq", "asynctasq.tasks", "asynctasq.tasks.base", "asynctasq.tasks.functions")
"""The modules that the names below can be imported from."""
_BASES = frozenset({"AsyncTask", "SyncTask", "AsyncProcessTask", "SyncProcessTask", "BaseTask", "Task"})
_DECORATORS = frozenset({"task"})
_STAR = "*"


class Unreadable(Exception):
    """A source file can't be parsed."""


@dataclass(frozen=True, slots=True, eq=False)
class _Imported:
    """What an import binds: a name of a module, or with `name` None the module itself."""

    module: str
    name: str | None


_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Binding = ast.ClassDef | _Function | ast.expr | _Imported
_Scope = Mapping[str, Sequence[_Binding]]


@dataclass(slots=True)
class SourceReader:
    """Answers for the modules of one folder. What it has read is kept until a file changes."""

    folder: Path
    _read: dict[Path, tuple[tuple[int, int], _Scope]] = field(
        default_factory=dict[Path, tuple[tuple[int, int], "_Scope"]]
    )

    def defines_task(self, module: str, qualname: str) -> bool:
        """Return whether the module has a class of that name that derives from a task class, or a `@task` function.

        Base classes and decorators are followed through the modules of the folder, also under other names.

        Raises: Unreadable.
        """
        *outer, last = qualname.split(".")
        scopes = [self._scope(module)]
        for name in outer:
            classes = [found for found in scopes[-1].get(name, ()) if isinstance(found, ast.ClassDef)]
            if not classes:
                return False
            scopes.append(_bindings(classes[-1].body, module, is_package=False))
        return any(_Query(self, scopes).is_task(found) for found in scopes[-1].get(last, ()))

    def scope(self, module: str) -> _Scope:
        """Return what a module of the folder binds at its top level; nothing of one that can't be read."""
        try:
            return self._scope(module)
        except Unreadable:
            return {}

    def _scope(self, module: str) -> _Scope:
        files = files_of_module(module, self.folder)
        if files is None:
            return {}
        path = files[-1]
        try:
            status = path.stat()
            signature = (status.st_mtime_ns, status.st_size)
            if path not in self._read or self._read[path][0] != signature:
                if status.st_size > SOURCE_BYTES_MAX:
                    raise Unreadable(f"it has more than {SOURCE_BYTES_MAX:,} bytes")
                tree = ast.parse(path.read_bytes(), str(path))
                bindings = _bindings(tree.body, module, is_package=path.name == "__init__.py")
                self._read[path] = (signature, bindings)
            return self._read[path][1]
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise Unreadable(f"{type(error).__name__}: {error}") from error


@dataclass(slots=True)
class _Query:
    """One question, so that a name that leads back to itself is met once.

    `scopes` are that of the module and those of the classes around what is asked for.
    """

    reader: SourceReader
    scopes: Sequence[_Scope]
    met: set[int] = field(default_factory=set[int])

    def is_task(self, definition: _Binding) -> bool:
        match definition:
            case ast.ClassDef():
                return any(self._means(base, self.scopes, _BASES) for base in definition.bases)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return any(self._means(each, self.scopes, _DECORATORS) for each in definition.decorator_list)
            case _:
                return False

    def _means(self, expression: ast.expr, scopes: Sequence[_Scope], wanted: frozenset[str]) -> bool:
        """Return whether an expression is one of the wanted names of asynctasq, or a class derived from one."""
        match expression:
            case ast.Subscript(value=value):  # AsyncTask[None]
                return self._means(value, scopes, wanted)
            case ast.Call(func=function) if wanted is _DECORATORS:  # @task(queue="mail")
                return self._means(function, scopes, wanted)
            case ast.Name(id=name):
                return self._name_means(name, scopes, wanted)
            case ast.Attribute(value=value, attr=name):
                return any(self._member_means(module, name, wanted) for module in self._modules(value, scopes))
            case _:
                return False

    def _name_means(self, name: str, scopes: Sequence[_Scope], wanted: frozenset[str]) -> bool:
        bindings = next((scope[name] for scope in reversed(scopes) if name in scope), None)
        if bindings is not None:
            return any(self._binding_means(binding, scopes, wanted) for binding in bindings)
        stars = [binding for binding in scopes[0].get(_STAR, ()) if isinstance(binding, _Imported)]
        return any(self._member_means(star.module, name, wanted) for star in stars)

    def _binding_means(self, binding: _Binding, scopes: Sequence[_Scope], wanted: frozenset[str]) -> bool:
        if id(binding) in self.met:
            return False
        self.met.add(id(binding))
        match binding:
            case ast.ClassDef():
                return wanted is _BASES and any(self._means(base, scopes, wanted) for base in binding.bases)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return False
            case _Imported():
                return binding.name is not None and self._member_means(binding.module, binding.name, wanted)
            case _:
                return self._means(binding, scopes, wanted)

    def _member_means(self, module: str, name: str, wanted: frozenset[str]) -> bool:
        if module in _HOMES:
            return name in wanted
        return self._name_means(name, [self.reader.scope(module)], wanted)

    def _modules(self, expression: ast.expr, scopes: Sequence[_Scope]) -> Iterator[str]:
        """Yield the modules that a dotted name may mean."""
        match expression:
            case ast.Name(id=name):
                bindings = next((scope[name] for scope in reversed(scopes) if name in scope), ())
                for binding in bindings:
                    if isinstance(binding, _Imported):
                        yield binding.module if binding.name is None else f"{binding.module}.{binding.name}"
            case ast.Attribute(value=value, attr=name):
                for module in self._modules(value, scopes):
                    yield f"{module}.{name}"
            case _:
                return


def _bindings(body: Sequence[ast.stmt], module: str, *, is_package: bool) -> _Scope:
    found: dict[str, list[_Binding]] = {}
    for statement in _statements(body):
        for name, binding in _bound_by(statement, module, is_package=is_package):
            found.setdefault(name, []).append(binding)
    return found


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a scope, also those under `if`, `try` and `with`."""
    for statement in body:
        yield statement
        if not isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for part in ("body", "handlers", "orelse", "finalbody"):
                yield from _statements(getattr(statement, part, ()))


def _bound_by(statement: ast.stmt, module: str, *, is_package: bool) -> Iterator[tuple[str, _Binding]]:
    match statement:
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            yield statement.name, statement
        case ast.Import(names=names):
            for alias in names:
                bound = alias.asname or alias.name.partition(".")[0]
                yield bound, _Imported(alias.name if alias.asname else bound, None)
        case ast.ImportFrom(names=names):
            source = _imported_from(statement, module, is_package=is_package)
            for alias in names:
                yield alias.asname or alias.name, _Imported(source, alias.name)
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            yield name, value
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            yield name, value
        case _:
            return


def _imported_from(statement: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    if not statement.level:
        return statement.module or ""
    parts = module.split(".")
    kept = parts[: max(0, len(parts) - statement.level + is_package)]
    return ".".join([*kept, *([statement.module] if statement.module else [])])
