# SPDX-License-Identifier: Apache-2.0
"""Measures a running cluster from the client's side, beside what the machine and redis do in the same run."""

from __future__ import annotations
