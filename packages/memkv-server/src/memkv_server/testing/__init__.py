# SPDX-License-Identifier: Apache-2.0
"""A drive that fails on purpose, and the simulation of a store on it (extra ``testing``: needs hypothesis).

* ``disk``: a medium beneath a page cache that forgets: what a process's end or a power cut leaves;
* ``faulty_drive``: the engine's ``Drive`` over such a disk, with a fault armed at its n-th access;
* ``model``: which values may be found under a key after all that, and which may not;
* ``simulation``: random histories of an engine on it, against the model;
* ``simulate``: many of them from given seeds, as a command.
"""
