"""Imported at first, so that Hydra composes the files of ``conf/`` once for each set of choices of a command.

A tiny run takes two seconds, and composing its configuration took a fifth of a second, three times.
"""

import pickle
from dataclasses import astuple
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra._internal.hydra import Hydra
from omegaconf import DictConfig

OURS = {("pkg", "hydra.conf"), ("pkg", "skinkd.conf"), ("structured", "")}
"""The places whose files no test changes; with another folder everything is composed anew."""

_create_defaults_list = config_loader_impl.create_defaults_list
_merge = ConfigLoaderImpl._compose_config_from_defaults_list
_get_mode = Hydra.get_mode
_chosen: dict[object, tuple[Any, Any, dict[str, Any]]] = {}
_merged: dict[object, bytes] = {}


def _ours(repo: Any) -> bool:
    return {(source.scheme(), source.path) for source in repo.get_sources()} <= OURS


def create_defaults_list(*, repo: Any, config_name: str, overrides_list: list[Any], **how: Any) -> DefaultsList:
    """Hydra's function: which files a configuration is made of. That follows from the overrides that are no settings."""
    overrides = Overrides(repo=repo, overrides_list=overrides_list)
    settings = {id(override) for override in overrides.config_overrides}
    choices = tuple(override.input_line for override in overrides_list if id(override) not in settings)
    key = (config_name, choices, *how.items())
    if key not in _chosen or not _ours(repo):
        found = _create_defaults_list(repo=repo, config_name=config_name, overrides_list=overrides_list, **how)
        if _ours(repo):
            _chosen[key] = found.defaults, found.defaults_tree, dict(found.overrides.known_choices)
        return found
    defaults, tree, known = _chosen[key]
    overrides.known_choices = dict(known)
    return DefaultsList(defaults, tree, overrides.config_overrides, overrides)


def merge(self: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> DictConfig:
    """Hydra's method: these files as one configuration, before any setting."""
    if not _ours(repo):
        return _merge(self, defaults, repo)
    key = tuple(astuple(default) for default in defaults)
    if key not in _merged:
        _merged[key] = pickle.dumps(_merge(self, defaults, repo))
    found: DictConfig = pickle.loads(_merged[key])
    return found


def get_mode(self: Hydra, config_name: str, overrides: list[str]) -> Any:
    """Hydra's method, which composes everything for ``hydra.mode``; no file of ``conf/`` sets that."""
    return _get_mode(self, config_name, overrides) if any("hydra" in override for override in overrides) else None


config_loader_impl.create_defaults_list = create_defaults_list  # type: ignore[assignment]
ConfigLoaderImpl._compose_config_from_defaults_list = merge  # type: ignore[method-assign]
Hydra.get_mode = get_mode  # type: ignore[method-assign]
