# SPDX-License-Identifier: Apache-2.0
"""The document has every endpoint that there is, and no other; what it says of it is tried on a node elsewhere."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest
from starlette.routing import Route

from memkv_server.admin import create_app
from memkv_server.dashboard.routes import Dashboard
from memkv_server.drain_admin import DrainAdmin
from memkv_server.drive_admin import DriveAdmin
from memkv_server.key_admin import KeyAdmin
from memkv_server.namespace_admin import NamespaceAdmin
from memkv_server.openapi import OPERATIONS, document


def served() -> dict[tuple[str, str], bool]:
    """(method, path) of what a node's application answers under /v1/."""
    more = [
        *DriveAdmin([], lambda lane: []).routes(), *NamespaceAdmin([]).routes(), *KeyAdmin([]).routes(),
        *DrainAdmin(cast(Any, None)).routes(),
    ]  # fmt: skip
    pages = Dashboard(cast(Any, None), ["a token"]).routes()
    routes = [route for route in create_app(cast(Any, None), [], more, pages).routes if isinstance(route, Route)]
    return {
        (method, re.sub(r":\w+}", "}", route.path)): True
        for route in routes
        if route.path.startswith("/v1/")
        for method in (route.methods or set()) - {"HEAD"}
    }


def test_every_endpoint_is_in_it_and_no_other() -> None:
    assert {(each.method, each.path) for each in OPERATIONS} == set(served())


def test_it_is_an_openapi_document() -> None:
    whole = document()
    assert whole["openapi"].startswith("3.1")
    operations = [each for path in whole["paths"].values() for each in path.values()]
    assert len(operations) == len(OPERATIONS)
    names = [each["operationId"] for each in operations]
    assert len(set(names)) == len(names)
    for path, methods in whole["paths"].items():
        for operation in methods.values():
            in_path = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
            assert in_path == set(re.findall(r"{(\w+)}", path))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: f"{each.method} {each.path}")
def test_what_needs_the_token_says_so(operation: Any) -> None:
    said = document()["paths"][operation.path][operation.method.lower()]
    assert ("401" in said["responses"]) is not operation.open
    assert bool(said["security"]) is not operation.open
