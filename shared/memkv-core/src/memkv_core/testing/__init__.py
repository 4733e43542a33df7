# SPDX-License-Identifier: Apache-2.0
"""The public testing kit (extra ``testing``): the only part of core that imports pytest and hypothesis.

* ``conformance``: ``EngineTests`` and ``TransportTests``; a new engine or transport fills in a few hooks;
* ``loopback``: a cluster in one process, without a network;
* ``socket_server``: the same servers behind real sockets;
* ``faults``: a transport that fails on purpose, from a seed;
* ``memory_engine``, ``clock``, ``vectors``: a model engine, virtual time, the protocol's golden vectors.
"""
